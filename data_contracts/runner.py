"""Runner of contracts: Great Expectations over the facts of a table. The only file that imports the library.

The import takes 4.5 s and happens in functions; one validation costs 0.2-0.4 s however few its rows, so that
`check_many` takes the facts of several parts at once.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa

from data_contracts.suite import ContractSuite, Expect

MAX_VALUE_CHARACTERS = 80  # of a bad value that is quoted in a detail


@dataclass(frozen=True)
class Verdict:
    """Verdict of a contract on a table.

    Args:
        suite: the contract's name.
        rows: that were looked at.
        flagged: row number -> its reasons, in the contract's order.
        details: row number -> got, expected and what to do, of each reason.
    """

    suite: str
    rows: int
    flagged: dict[int, tuple[str, ...]] = field(default_factory=dict)
    details: dict[int, str] = field(default_factory=dict)

    @property
    def success(self) -> bool:
        """True where no row breaks the contract."""
        return not self.flagged

    @property
    def reasons(self) -> dict[str, int]:
        """Rows a reason, by name; a row with two reasons counts under both."""
        return dict(sorted(Counter(reason for reasons in self.flagged.values() for reason in reasons).items()))

    @property
    def good(self) -> np.ndarray:
        """A flag a row: True where it keeps the contract."""
        mask = np.ones(self.rows, dtype=bool)
        mask[list(self.flagged)] = False
        return mask


def check(facts: pa.Table, suite: ContractSuite) -> Verdict:
    """Run the contract over the facts of one table.

    Args:
        facts: the columns that the suite looks at, without nulls (see the `*_facts` functions beside each suite).
    """
    return check_many([facts], suite)[0]


def check_many(facts: Sequence[pa.Table], suite: ContractSuite) -> list[Verdict]:
    """Run the contract once over several tables' facts; a verdict each, with row numbers of its own table.

    Every bad row is listed, because each must be quarantined: the caller bounds the memory by how much it hands over
    (a listed row costs about 100 bytes a reason).
    """
    table = pa.concat_tables(facts)
    hits = _bad_rows(table, suite) if table.num_rows else []
    starts = np.concatenate([[0], np.cumsum([part.num_rows for part in facts])])
    verdicts = [Verdict(suite.name, part.num_rows) for part in facts]
    for expect, rows in hits:
        values = table[expect.column].take(pa.array(rows, pa.int64())).to_pylist()
        owners = np.searchsorted(starts, rows, side="right") - 1
        for row, value, owner in zip(rows, values, owners, strict=True):
            _flag(verdicts[owner], int(row - starts[owner]), expect, value)
    return [_finish(verdict, suite) for verdict in verdicts]


def _flag(verdict: Verdict, row: int, expect: Expect, value: Any) -> None:
    shown = repr(value)
    if len(shown) > MAX_VALUE_CHARACTERS:
        shown = shown[:MAX_VALUE_CHARACTERS] + "..."
    detail = f"{expect.reason}: got {expect.column}={shown}, expected {expect.expected}"
    earlier = verdict.details.get(row)
    verdict.flagged[row] = (*verdict.flagged.get(row, ()), expect.reason)
    verdict.details[row] = f"{earlier}; {detail}" if earlier else detail


def _finish(verdict: Verdict, suite: ContractSuite) -> Verdict:
    return Verdict(
        suite=verdict.suite,
        rows=verdict.rows,
        flagged=dict(sorted(verdict.flagged.items())),
        details={row: f"{detail}; {suite.advice}" for row, detail in sorted(verdict.details.items())},
    )


def _bad_rows(table: pa.Table, suite: ContractSuite) -> list[tuple[Expect, list[int]]]:
    batch = _batch_definition().get_batch({"dataframe": table.to_pandas()})
    answer = batch.validate(
        to_gx(suite),
        result_format={"result_format": "COMPLETE", "partial_unexpected_count": 0, "return_unexpected_index_query": False},
    )
    bad: dict[str, list[int]] = {}
    for result in answer.results:
        reason = result.expectation_config.meta["reason"]
        crashed = result.exception_info.get("raised_exception", True)
        assert not crashed, f"contract {suite.name}: {reason} could not be computed: {result.exception_info}"
        bad[reason] = [int(row) for row in result.result.get("unexpected_index_list") or ()]
        assert len(bad[reason]) == result.result["unexpected_count"], f"contract {suite.name}: {reason} lost rows"
    return [(expect, bad[expect.reason]) for expect in suite.expectations if bad[expect.reason]]


def to_gx(suite: ContractSuite) -> Any:
    """The suite as Great Expectations' own object, whose `to_json_dict` other tools read."""
    gx = _library()
    return gx.ExpectationSuite(
        name=suite.name,
        expectations=[
            getattr(gx.expectations, expect.type)(
                column=expect.column, meta={"reason": expect.reason, "expected": expect.expected}, **expect.options
            )
            for expect in suite.expectations
        ],
        meta={"version": suite.version},
    )


@cache
def _library() -> Any:
    os.environ["GX_ANALYTICS_ENABLED"] = "false"  # read when the context is made: no calls to the network
    import great_expectations

    return great_expectations


@cache
def _batch_definition() -> Any:
    context = _library().get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    asset = context.data_sources.add_pandas("facts").add_dataframe_asset("facts")
    return asset.add_batch_definition_whole_dataframe("whole")
