"""Stage "select": the checkpoint with the best declared weighted score on validation, and why.

With longer training search and classification rise while similarity falls (paper, section 4.2), so that each metric alone
would choose another checkpoint; the score weighs them (checkpoint_scores.py). Of checkpoints whose scores lie within the noise
of their queries the last is taken: they cost the same to run, and the later has seen more.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pipeline_lib.config.evaluation import SelectConfig
from pipeline_lib.errors import UserError
from pipeline_lib.evaluation.checkpoint_scores import (
    Standing,
    best_values,
    kind_difference,
    kind_weights,
    score,
    score_difference,
    task_weights,
)
from pipeline_lib.evaluation.metrics import FEW_QUERIES, Interval
from pipeline_lib.store.artifact import Artifact
from pipeline_lib.store.records import Outcome, Stage, draft_part
from pipeline_lib.store.store import Store

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
