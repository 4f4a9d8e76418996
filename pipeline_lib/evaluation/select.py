"""Stage "select": the checkpoint with the best declared weighted score on validation, and why.

With longer training search and classification rise while similarity falls (paper, section 4.2), so that each metric alone
would choose another checkpoint; the score weighs them. Of checkpoints whose scores lie within the noise of their queries the
last is taken: they cost the same to run, and the later has seen more.

A task counts by its value divided by the best value that any checkpoint has on it: one per cent below the best costs one per
cent of the task's weight, whatever the metric's scale, so that no task rules by its size. A kind's weight is shared among its
tasks, so that none rules by the number of its tasks. Scaling by the range instead would blow up noise where all are nearly
equal.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np

from pipeline_lib.config.evaluation import SelectConfig
from pipeline_lib.errors import UserError
from pipeline_lib.evaluation.metrics import (
    FEW_QUERIES,
    PRIMARY_METRIC,
    Interval,
    Queries,
    read_evaluations,
    read_queries,
    require_finite,
    resampled,
)
from pipeline_lib.store.artifact import Artifact
from pipeline_lib.store.records import Outcome, Stage, draft_part
from pipeline_lib.store.store import Store

Weights = dict[str, float]


@dataclass(frozen=True)
class TaskResult:
    """One checkpoint on one task, by its primary metric."""

    kind: str
    value: float
    queries: Queries


class Standing:
    """One checkpoint's results on all tasks that may be selected on.

    Args:
        label: of the checkpoint.
        evaluations: of stage "evaluate_suite", all on one split.
    """

    def __init__(self, label: str, evaluations: Sequence[Artifact]) -> None:
        self.label = label
        self.step = max(int(evaluation.manifest.config["step"]) for evaluation in evaluations)
        self.tasks: dict[str, TaskResult] = {}
        for evaluation in evaluations:
            if not evaluation.manifest.facts.get("reported_only"):
                self.tasks |= _results(evaluation)

    @cached_property
    def kinds(self) -> dict[str, float]:
        """The mean value of each kind's tasks, for curves and tables."""
        found: dict[str, list[float]] = {}
        for result in self.tasks.values():
            found.setdefault(result.kind, []).append(result.value)
        return {kind: float(np.mean(found[kind])) for kind in PRIMARY_METRIC if kind in found}


def task_weights(standings: Sequence[Standing], config: SelectConfig) -> Weights:
    """What each task counts for, summing to 1: its kind's weight, shared by the kind's tasks in proportion to their own.

    Tasks that a checkpoint was not measured on do not count.
    """
    of_kind = {str(kind): weight for kind, weight in config.weights.items() if weight > 0}
    shares: dict[str, Weights] = {}
    for name in sorted(set.intersection(*(set(standing.tasks) for standing in standings))):
        kind, share = standings[0].tasks[name].kind, config.task_weights.get(name, 1.0)
        if kind in of_kind and share > 0:
            shares.setdefault(kind, {})[name] = share
    total = sum(of_kind[kind] for kind in shares)
    return {
        name: of_kind[kind] / total * share / sum(tasks.values())
        for kind, tasks in shares.items()
        for name, share in tasks.items()
    }


def kind_weights(standings: Sequence[Standing], weights: Mapping[str, float]) -> Weights:
    """The tasks' weights summed by kind, in the order of the kinds."""
    found = dict.fromkeys(PRIMARY_METRIC, 0.0)
    for name, weight in weights.items():
        found[standings[0].tasks[name].kind] += weight
    return {kind: weight for kind, weight in found.items() if weight > 0}


def best_values(standings: Sequence[Standing], weights: Mapping[str, float]) -> dict[str, float]:
    """The best value of each task, where it is above zero: a correlation that none gets above zero tells none apart."""
    best = {name: max(standing.tasks[name].value for standing in standings) for name in weights}
    return {name: value for name, value in best.items() if value > 0}


def score(standing: Standing, weights: Mapping[str, float], best: Mapping[str, float]) -> float:
    """The weighted mean of value / best value, from 0 to 1."""
    return sum(weights[name] * max(standing.tasks[name].value, 0.0) / value for name, value in best.items())


def score_difference(
    a: Standing, b: Standing, weights: Mapping[str, float], best: Mapping[str, float], config: SelectConfig
) -> Interval:
    """Score of a less score of b with its 95 % interval.

    Raises:
        UserError: the two were measured on different queries.
    """
    factors = {name: weights[name] / value for name, value in best.items()}
    return _difference(a, b, factors, score(a, weights, best) - score(b, weights, best), config)


def kind_difference(a: Standing, b: Standing, kind: str, weights: Mapping[str, float], config: SelectConfig) -> Interval:
    """Mean over the kind's tasks of a's value less b's with its 95 % interval.

    Raises:
        UserError: the two were measured on different queries.
    """
    names = [name for name in weights if a.tasks[name].kind == kind]
    mean = float(np.mean([a.tasks[name].value - b.tasks[name].value for name in names]))
    return _difference(a, b, dict.fromkeys(names, 1 / len(names)), mean, config)


def _difference(a: Standing, b: Standing, factors: Mapping[str, float], found: float, config: SelectConfig) -> Interval:
    """A sum over tasks with its 95 % interval."""
    low, high = (float(bound) for bound in np.percentile(drawn_differences(a, b, factors, config), [2.5, 97.5]))
    return Interval(found, min(low, found), max(high, found), sum(len(a.tasks[name].queries.ids) for name in factors))


def drawn_differences(a: Standing, b: Standing, factors: Mapping[str, float], config: SelectConfig) -> np.ndarray:
    """Paired bootstrap of a weighted sum over tasks (R,): queries drawn again, the same for both; tasks independently.

    Raises:
        UserError: the two were measured on different queries.
    """
    drawn_R = np.zeros(config.bootstrap)
    for number, (name, factor) in enumerate(sorted(factors.items())):
        mine, theirs = a.tasks[name].queries, b.tasks[name].queries
        if mine.ids != theirs.ids:
            raise UserError(
                f"{a.label} and {b.label} were measured on different queries of {name}; evaluate both on the same data"
            )
        seed = config.seed + number
        drawn_R += factor * (_drawn(mine, config.bootstrap, seed) - _drawn(theirs, config.bootstrap, seed))
    return drawn_R


def _drawn(queries: Queries, resamples: int, seed: int) -> np.ndarray:
    return resampled(queries.metric, queries.values, queries.targets, resamples, seed)


def _results(evaluation: Artifact) -> dict[str, TaskResult]:
    """The headline tasks by their primary metrics; a suite's parts (SUITE:PART) are inside its headline already.

    Raises:
        UserError: a value is not finite.
    """
    queries = {task: found for (_, task), found in read_queries(evaluation).items() if ":" not in task}
    results = {
        row["task"]: TaskResult(row["kind"], row["value"], queries[row["task"]])
        for row in read_evaluations([evaluation])
        if row["task"] in queries and row["metric"] == queries[row["task"]].metric
    }
    for task, result in results.items():  # a NaN would rank below nothing and above nothing
        where = f"{evaluation.manifest.config['model']} on {task}"
        require_finite(result.queries.values, where, "the value", result.queries.ids)
        require_finite(np.array([result.value]), where, result.queries.metric, ("the figure",))
    return results


STAGE = Stage(name="select", version=4)
RULE = (
    "the highest weighted mean of value / best value of each task, each kind's weight shared by its tasks; "
    "of all whose score is within the noise of the highest (paired bootstrap over queries, 95 %) the latest checkpoint"
)

_EQUAL_SCORES = 1e-12  # two sums of the same terms may differ in the last bits


@dataclass(frozen=True)
class CheckpointScore:
    """A checkpoint's mean value by kind, its value by task, its weighted score, and how far the highest is ahead of it."""

    label: str
    step: int
    score: float
    kinds: dict[str, float]
    tasks: dict[str, float]
    behind: float
    behind_low: float
    behind_high: float

    @property
    def is_within_noise(self) -> bool:
        """True if the highest score is not surely higher than this one."""
        return self.behind_low <= _EQUAL_SCORES


@dataclass(frozen=True)
class Peak:
    """Peak of each kind alone, and by how much the chosen checkpoint stays behind there (paired, 95 %)."""

    kind: str
    label: str
    value: float
    ahead_of_chosen: float
    low: float
    high: float


@dataclass(frozen=True)
class Selection:
    """What selection.json holds."""

    chosen: str
    step: int
    score: float
    sentence: str
    rule: str
    split: str
    weights: dict[str, float]
    task_weights: dict[str, float]
    checkpoints: tuple[CheckpointScore, ...]
    peaks: tuple[Peak, ...]


def select(store: Store, evaluations: Sequence[Artifact], config: SelectConfig) -> Artifact:
    """Choose among the evaluated checkpoints; baselines and other models among the evaluations are passed over.

    Args:
        evaluations: of stage "evaluate_suite", of one split, which must not be the test.

    Returns:
        An artifact whose one part "selection" holds selection.json.

    Raises:
        UserError: no checkpoint among them, or evaluations on the test split or on several splits.
    """
    used = [evaluation for evaluation in evaluations if evaluation.manifest.config["step"] >= 0]
    split = _one_split(used)
    inputs = {"{model} {suite}".format_map(evaluation.manifest.config): evaluation for evaluation in used}

    def make(key: str) -> Outcome:
        selection = choose(list(inputs.values()), split, config)
        scratch = store.scratch(STAGE.name)
        content = json.dumps(asdict(selection), indent=1, sort_keys=True, ensure_ascii=False)
        (scratch / "selection.json").write_text(content + "\n", encoding="utf-8")
        draft = draft_part(STAGE, key, "selection", facts={"chosen": selection.chosen})
        return Outcome(parts=(store.commit_part(draft, scratch),), facts={"chosen": selection.chosen})

    return store.build(STAGE, config, inputs, make)


def read_selection(selected: Artifact) -> dict[str, Any]:
    """The content of selection.json."""
    return json.loads((selected.part_folder() / "selection.json").read_text(encoding="utf-8"))


def choose(evaluations: Sequence[Artifact], split: str, config: SelectConfig) -> Selection:
    """The decision over evaluations of checkpoints on one split, with the figures behind it."""
    by_label: dict[str, list[Artifact]] = {}
    for evaluation in evaluations:
        by_label.setdefault(str(evaluation.manifest.config["model"]), []).append(evaluation)
    standings = sorted((Standing(label, found) for label, found in by_label.items()), key=lambda s: (s.step, s.label))
    weights = task_weights(standings, config)
    scores = _scores(standings, weights, config)
    chosen = [found for found in scores if found.is_within_noise][-1]
    kinds = kind_weights(standings, weights)
    by_name = {standing.label: standing for standing in standings}
    peaks = tuple(_peak(kind, by_name, chosen.label, weights, config) for kind in kinds)
    return Selection(
        chosen=chosen.label,
        step=chosen.step,
        score=chosen.score,
        sentence=_sentence(chosen, scores, peaks, split) + _smallness(standings, weights, split),
        rule=RULE,
        split=split,
        weights=kinds,
        task_weights=weights,
        checkpoints=tuple(scores),
        peaks=peaks,
    )


def _one_split(evaluations: Sequence[Artifact]) -> str:
    splits = sorted({str(evaluation.manifest.config["split"]) for evaluation in evaluations})
    if not splits:
        raise UserError("no evaluated checkpoint to choose from; evaluate at least one on validation")
    if splits != ["validation"]:
        raise UserError(
            f"selection reads validation only, got evaluations on: {', '.join(splits)}; "
            "the test is opened once, for the chosen checkpoint"
        )
    return splits[0]


def _scores(standings: Sequence[Standing], weights: Mapping[str, float], config: SelectConfig) -> list[CheckpointScore]:
    best = best_values(standings, weights)
    found = {standing.label: score(standing, weights, best) for standing in standings}
    highest = max(found.values())
    # of equal scores the later, so that it is nobody's runner-up
    top = [standing for standing in standings if found[standing.label] >= highest - _EQUAL_SCORES][-1]
    rows = []
    for standing in standings:
        gap = Interval(0.0, 0.0, 0.0, 0)
        if standing is not top:
            gap = score_difference(top, standing, weights, best, config)
        tasks = {name: standing.tasks[name].value for name in weights}
        rows.append(
            CheckpointScore(
                standing.label, standing.step, found[standing.label], standing.kinds, tasks, gap.value, gap.low, gap.high
            )
        )
    return rows


def _peak(
    kind: str, standings: Mapping[str, Standing], chosen: str, weights: Mapping[str, float], config: SelectConfig
) -> Peak:
    top = max(standing.kinds[kind] for standing in standings.values())
    if standings[chosen].kinds[kind] == top:
        return Peak(kind, chosen, top, 0.0, 0.0, 0.0)
    peak = next(standing for standing in standings.values() if standing.kinds[kind] == top)
    ahead = kind_difference(peak, standings[chosen], kind, weights, config)
    return Peak(kind, peak.label, top, ahead.value, ahead.low, ahead.high)


def _sentence(chosen: CheckpointScore, scores: Sequence[CheckpointScore], peaks: Sequence[Peak], split: str) -> str:
    if not peaks:
        return f"{chosen.label} was chosen because it is the last: {split} has too little for any task."
    reached = ", ".join(f"{_said(peak.kind)} {chosen.kinds[peak.kind]:.3f}" for peak in peaks)
    text = f"{chosen.label} was chosen: weighted score {chosen.score:.3f}{_rivals(chosen, scores)}, with {reached} on {split}."
    here = [_said(peak.kind) for peak in peaks if peak.label == chosen.label]
    if here:
        text += f" {_listed(here).capitalize()} peaked there."
    for peak in peaks:
        if peak.label != chosen.label:
            within = "within" if peak.low <= 0 <= peak.high else "outside"
            text += (
                f" {_said(peak.kind).capitalize()} alone peaked at {peak.label} with {peak.value:.3f}, "
                f"{peak.ahead_of_chosen:+.3f} [{peak.low:+.3f}, {peak.high:+.3f}] against the chosen one: "
                f"{within} the noise of its queries."
            )
    return text


def _smallness(standings: Sequence[Standing], weights: Mapping[str, float], split: str) -> str:
    """A warning where the noise of few queries decides: no weighted task but of similarity has `FEW_QUERIES`."""
    tasks = standings[0].tasks
    used = [tasks[name] for name in weights if tasks[name].kind != "similarity"]
    sizes = {task.kind: len(task.queries.ids) for task in sorted(used, key=lambda task: len(task.queries.ids))}
    if len(standings) < 2 or not sizes or max(sizes.values()) >= FEW_QUERIES:
        return ""
    counts = ", ".join(f"{_said(kind)} {size:,}" for kind, size in sizes.items())
    return (
        f" The {split} split is small ({counts}; fewer than {FEW_QUERIES} queries): its noise hides the differences between "
        "checkpoints, so that the latest is nearly always the one chosen."
    )


def _rivals(chosen: CheckpointScore, scores: Sequence[CheckpointScore]) -> str:
    """Who came next, or why the chosen one is taken although another scores higher."""
    others = sorted((found for found in scores if found is not chosen), key=lambda found: -found.score)
    if not others:
        return ""
    first = others[0]
    if first.score <= chosen.score:
        return f", ahead of {first.label} with {first.score:.3f}"
    return (
        f", the latest of {sum(found.is_within_noise for found in scores)} whose score is within the noise of the highest "
        f"({first.label} with {first.score:.3f}, {chosen.behind:+.3f} [{chosen.behind_low:+.3f}, {chosen.behind_high:+.3f}])"
    )


def _said(kind: str) -> str:
    return kind.replace("_", " ")


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
