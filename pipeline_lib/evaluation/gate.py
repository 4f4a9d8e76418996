"""Promotion gate: a candidate against the champion of its name, on the same queries of validation.

The rule is that of selection: the weighted score, tasks scaled by the better of the two, with the paired bootstrap over
queries. The candidate passes if its score is the higher one in so large a share of the resamples, and no kind's mean is below
the champion's by more than its margin. The test split is never read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from pipeline_lib.config.evaluation import SelectConfig
from pipeline_lib.config.run import PromoteConfig
from pipeline_lib.errors import UserError
from pipeline_lib.evaluation.select import Standing, best_values, drawn_differences, kind_weights, score, task_weights
from pipeline_lib.store.artifact import Artifact

_EQUAL = 1e-12  # two sums of the same terms may differ in the last bits


@dataclass(frozen=True)
class Check:
    """One thing that a candidate is checked for, a row of the table that people compare it by.

    Attributes:
        champion, candidate: their figures; None: there is none.
        difference: candidate less champion, with its interval at the gate's confidence.
        asked: what is asked for, in words.
        passed: None: it is only shown.
        reason: what held the candidate back; empty: nothing.
    """

    what: str
    champion: float | None = None
    candidate: float | None = None
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    asked: str = ""
    passed: bool | None = None
    reason: str = ""

    def row(self) -> dict[str, Any]:
        """The check as a row of a table or of JSON."""
        return asdict(self)


def compare(
    champion: Sequence[Artifact], candidate: Sequence[Artifact], config: SelectConfig, rule: PromoteConfig
) -> list[Check]:
    """Checks of the weighted score and of each kind.

    Args:
        champion, candidate: their evaluations of stage "evaluate_suite", on validation of the same corpus.

    Raises:
        UserError: they are on another split, or the two were measured on different queries.
    """
    splits = {str(evaluation.manifest.config["split"]) for evaluation in (*champion, *candidate)}
    if splits - {"validation"}:
        raise UserError(f"the gate reads validation only, got evaluations on: {', '.join(sorted(splits))}")
    if not champion or not candidate:
        return [_nothing_to_compare()]
    old, new = Standing("the champion", champion), Standing("the candidate", candidate)
    weights = task_weights([old, new], config)
    if not weights:
        return [_nothing_to_compare()]
    kinds = kind_weights([old, new], weights)
    return [_score(old, new, weights, config, rule), *(_kind(old, new, kind, weights, config, rule) for kind in kinds)]


def _nothing_to_compare() -> Check:
    reason = "validation has too little for any task, so that nothing tells the two apart"
    return Check("weighted score", asked="a task to compare them on", passed=False, reason=reason)


def _score(old: Standing, new: Standing, weights: Mapping[str, float], config: SelectConfig, rule: PromoteConfig) -> Check:
    best = best_values([old, new], weights)
    before, after = (score(standing, weights, best) for standing in (old, new))
    factors = {name: weights[name] / value for name, value in best.items()}
    low, high = _bounds(drawn_differences(new, old, factors, config), rule)
    passed = low > _EQUAL and after - before > _EQUAL
    reason = "" if passed else (
        f"weighted score {after:.3f} against {before:.3f}, {after - before:+.3f} [{low:+.3f}, {high:+.3f}]:"
        f" not surely better (asked for: in {rule.confidence:.0%} of the resamples)"
    )  # fmt: skip
    asked = f"above 0 in {rule.confidence:.0%} of the resamples"
    return Check("weighted score", before, after, after - before, low, high, asked, passed, reason)


def _kind(
    old: Standing, new: Standing, kind: str, weights: Mapping[str, float], config: SelectConfig, rule: PromoteConfig
) -> Check:
    names = [name for name in weights if new.tasks[name].kind == kind]
    before, after = (float(np.mean([of.tasks[name].value for name in names])) for of in (old, new))
    low, high = _bounds(drawn_differences(new, old, dict.fromkeys(names, 1 / len(names)), config), rule)
    margin = {str(named): value for named, value in rule.margins.items()}.get(kind, 0.0)
    passed, said = after - before >= -margin - _EQUAL, kind.replace("_", " ")
    reason = "" if passed else f"{said} {after:.3f} against {before:.3f}: worse by more than {margin:g}"
    return Check(said, before, after, after - before, low, high, f"not below by more than {margin:g}", passed, reason)


def _bounds(drawn_R: np.ndarray, rule: PromoteConfig) -> tuple[float, float]:
    """Bounds that the difference is above, and below, in so large a share of the resamples."""
    low, high = np.quantile(drawn_R, [1 - rule.confidence, rule.confidence])
    return float(low), float(high)
