"""Choose a checkpoint by a declared weighted score on validation, and say why.

With longer training search and classification rise while similarity falls (paper, section 4.2), so that each metric alone
would choose another checkpoint. The score of a checkpoint is the weighted mean over the kinds of its value divided by the
best value of that kind: one per cent below a kind's best costs one per cent of the kind's weight, whatever the metric's
scale; scaling by the range instead would blow up noise where all checkpoints are nearly equal.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from pipeline_lib.artifact import Artifact, Outcome, Stage, Store, draft_part
from pipeline_lib.config import SelectConfig
from pipeline_lib.errors import UserError
from pipeline_lib.evaluation.compare import Queries, difference, read_evaluations, read_queries
from pipeline_lib.evaluation.measure import PRIMARY_METRIC

STAGE = Stage(name="select", version=1)
RULE = "the highest weighted mean of value / best value of each kind; of equal scores the later checkpoint"

_EQUAL_SCORES = 1e-12  # two sums of the same terms may differ in the last bits


@dataclass(frozen=True)
class CheckpointScore:
    """A checkpoint's mean value by kind, and its weighted score."""

    label: str
    step: int
    score: float
    kinds: dict[str, float]


@dataclass(frozen=True)
class Peak:
    """Where a kind alone is best, and by how much the chosen checkpoint stays behind there (paired, 95 %)."""

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
    checkpoints: tuple[CheckpointScore, ...]
    peaks: tuple[Peak, ...]


def select(store: Store, evaluations: Sequence[Artifact], config: SelectConfig) -> Artifact:
    """Choose among the evaluated checkpoints; baselines among the evaluations are passed over.

    Args:
        evaluations: of one split, which must not be the test.

    Returns:
        An artifact whose one part "selection" holds selection.json.

    Raises:
        UserError: no checkpoint among them, or evaluations on the test split or on several splits.
    """
    checkpoints = {str(e.manifest.config["model"]): e for e in evaluations if e.manifest.config["model"] != "baselines"}
    split = _one_split(list(checkpoints.values()))

    def make(key: str) -> Outcome:
        selection = choose(list(checkpoints.values()), split, config)
        scratch = store.scratch(STAGE.name)
        content = json.dumps(asdict(selection), indent=1, sort_keys=True, ensure_ascii=False)
        (scratch / "selection.json").write_text(content + "\n", encoding="utf-8")
        draft = draft_part(STAGE, key, "selection", facts={"chosen": selection.chosen})
        return Outcome(parts=(store.commit_part(draft, scratch),), facts={"chosen": selection.chosen})

    return store.build(STAGE, config, checkpoints, make)


def read_selection(selected: Artifact) -> dict[str, Any]:
    """The content of selection.json."""
    return json.loads((selected.part_folder() / "selection.json").read_text(encoding="utf-8"))


def choose(evaluations: Sequence[Artifact], split: str, config: SelectConfig) -> Selection:
    """The decision over evaluations of checkpoints on one split, with the figures behind it."""
    steps = {str(e.manifest.config["model"]): _step_of(e) for e in evaluations}
    values = _values_by_checkpoint(evaluations)
    weights = _normalised({kind: weight for kind, weight in config.weights.items() if _in_all(values, kind)})
    scores = [
        CheckpointScore(label, steps[label], _score(values, label, weights), values[label])
        for label in sorted(values, key=lambda label: (steps[label], label))
    ]
    best = max(score.score for score in scores)
    chosen = [score for score in scores if score.score >= best - _EQUAL_SCORES][-1]
    peaks = tuple(_peak(kind, scores, chosen, evaluations, config) for kind in weights)
    return Selection(
        chosen=chosen.label,
        step=chosen.step,
        score=chosen.score,
        sentence=_sentence(chosen, scores, peaks, split),
        rule=RULE,
        split=split,
        weights=weights,
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


def _step_of(evaluation: Artifact) -> int:
    label = str(evaluation.manifest.config["model"])
    digits = label.removeprefix("step-")
    return int(digits) if digits.isdigit() else 0


def _values_by_checkpoint(evaluations: Sequence[Artifact]) -> dict[str, dict[str, float]]:
    values: dict[str, dict[str, float]] = {}
    for evaluation in evaluations:
        primary: dict[str, list[float]] = {}
        for row in read_evaluations([evaluation]):
            if row["metric"] == PRIMARY_METRIC[row["kind"]]:
                primary.setdefault(row["kind"], []).append(row["value"])
        label = str(evaluation.manifest.config["model"])
        values[label] = {kind: float(np.mean(primary[kind])) for kind in PRIMARY_METRIC if kind in primary}
    return values


def _in_all(values: Mapping[str, Mapping[str, float]], kind: str) -> bool:
    return all(kind in kinds for kinds in values.values())


def _normalised(weights: Mapping[str, float]) -> dict[str, float]:
    total = sum(weights.values())
    return {kind: weight / total for kind, weight in weights.items() if weight > 0}


def _score(values: Mapping[str, Mapping[str, float]], label: str, weights: Mapping[str, float]) -> float:
    score = 0.0
    for kind, weight in weights.items():
        best = max(kinds[kind] for kinds in values.values())
        if best > 0:  # a correlation that no checkpoint gets above zero tells none of them apart
            score += weight * max(values[label][kind], 0.0) / best
    return score


def _peak(
    kind: str,
    scores: Sequence[CheckpointScore],
    chosen: CheckpointScore,
    evaluations: Sequence[Artifact],
    config: SelectConfig,
) -> Peak:
    top = max(score.kinds[kind] for score in scores)
    peak = chosen if chosen.kinds[kind] == top else next(score for score in scores if score.kinds[kind] == top)
    if peak is chosen:
        return Peak(kind, peak.label, top, 0.0, 0.0, 0.0)
    by_label = {str(e.manifest.config["model"]): e for e in evaluations}
    ours, theirs = (_queries_of_kind(by_label[score.label], kind) for score in (chosen, peak))
    found = [difference(theirs[task], ours[task], config.bootstrap, config.seed) for task in theirs]
    ahead, low, high = (float(np.mean([getattr(interval, name) for interval in found])) for name in ("value", "low", "high"))
    return Peak(kind, peak.label, top, ahead, low, high)


def _queries_of_kind(evaluation: Artifact, kind: str) -> dict[str, Queries]:
    return {task: queries for (_, task), queries in read_queries(evaluation).items() if queries.kind == kind}


def _sentence(chosen: CheckpointScore, scores: Sequence[CheckpointScore], peaks: Sequence[Peak], split: str) -> str:
    if not peaks:
        return f"{chosen.label} was chosen because it is the last: {split} has too little for any task."
    others = sorted((score for score in scores if score is not chosen), key=lambda score: -score.score)
    runner_up = f", ahead of {others[0].label} with {others[0].score:.3f}" if others else ""
    reached = ", ".join(f"{_said(peak.kind)} {chosen.kinds[peak.kind]:.3f}" for peak in peaks)
    text = f"{chosen.label} was chosen: weighted score {chosen.score:.3f}{runner_up}, with {reached} on {split}."
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


def _said(kind: str) -> str:
    return kind.replace("_", " ")


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
