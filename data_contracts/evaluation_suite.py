"""Contract of results (rows of schemas.EVALUATIONS)."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_contracts.suite import NOT_BLANK, ContractSuite, is_true, matches, one_of, within

CONTRACT_VERSION = 1

EVALUATION_KINDS = ("code_search", "text_search", "classification", "similarity", "bias")
EVALUATION_SPLITS = ("train", "validation", "test")

# correlations reach down to -1; every other metric of the field that is reported here is a share, from 0 to 1
SIGNED_METRICS = r"spearman|pearson|correlation|matthews|difference"

ROUNDING = 1e-9  # means of resamples of equal values differ in the last bits


def evaluation_suite() -> ContractSuite:
    """The contract of a result: a figure outside these bounds is an error of the metric's code, not a bad model."""
    return ContractSuite(
        name="evaluations",
        version=CONTRACT_VERSION,
        expectations=(
            matches("model", NOT_BLANK, "model_blank", "a checkpoint's or a baseline's name"),
            matches("task", NOT_BLANK, "task_blank", "the task's name"),
            matches("metric", NOT_BLANK, "metric_blank", "the metric's name"),
            within("step", -1, None, "step_below_baseline", "a step, or -1 for a baseline"),
            one_of("split", EVALUATION_SPLITS, "split_unknown", f"one of {', '.join(EVALUATION_SPLITS)}"),
            one_of("kind", EVALUATION_KINDS, "kind_unknown", f"one of {', '.join(EVALUATION_KINDS)}"),
            is_true("in_range", "value_out_of_range", "0 to 1, -1 to 1 for a correlation, any for an effect size"),
            is_true("is_ordered", "interval_disordered", "low <= value <= high, all finite"),
            within("n", 1, None, "n_below_one", "at least 1 query, text or pair behind the figure"),
        ),
        advice="look at the metric's code: the figure cannot be",
    )


def evaluation_facts(table: pa.Table) -> pa.Table:
    """The columns that `evaluation_suite` looks at, row for row."""
    strings = {name: table[name].fill_null("") for name in ("model", "split", "kind", "task", "metric")}
    value, low, high = (_numbers(table[name]) for name in ("value", "low", "high"))
    signed = pc.match_substring_regex(strings["metric"], SIGNED_METRICS).to_numpy()
    floor = np.where(signed.astype(bool), -1.0, 0.0)
    # a mean over a standard deviation has no bound
    unbounded = pc.equal(strings["metric"], "effect_size").to_numpy()
    return pa.table(
        {
            **strings,
            "step": table["step"].fill_null(-2),
            "n": table["n"].fill_null(0),
            "in_range": pa.array(unbounded | ((value >= floor - ROUNDING) & (value <= 1 + ROUNDING))),
            # comparisons with NaN are False, so that an absent bound is disorder too
            "is_ordered": pa.array((low <= value + ROUNDING) & (value <= high + ROUNDING) & np.isfinite(low + high)),
        }
    )


def _numbers(column: pa.ChunkedArray) -> np.ndarray:
    return column.fill_null(float("nan")).to_numpy()
