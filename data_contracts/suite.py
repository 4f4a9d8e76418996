"""Contracts as data: expectations over small columns, each with the one word that a bad row is counted under.

A suite names classes of Great Expectations and is itself plain data: reading a contract costs no import of the
library; `runner` builds and runs it. Expectations look at *facts*: the short columns of a table, and numbers and flags
derived from the long ones with pyarrow, so that no text goes through pandas.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

HEX_ID = r"^[0-9a-f]{32}$"
NOT_BLANK = r"\S"


@dataclass(frozen=True)
class Expect:
    """One expectation on one column.

    Args:
        type: class name in `great_expectations.expectations`.
        column: of the facts.
        reason: short snake_case word; the meta of the expectation, and what quarantined rows are counted by.
        expected: what the value should be, in words that complete "expected ...".
        options: further arguments of the expectation.
    """

    type: str
    column: str
    reason: str
    expected: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ContractSuite:
    """A contract: a name, its version, what a good row is, and what to do about a bad one."""

    name: str
    version: int
    expectations: tuple[Expect, ...]
    advice: str

    @property
    def reasons(self) -> tuple[str, ...]:
        """The words that its bad rows are counted under."""
        return tuple(expect.reason for expect in self.expectations)


def matches(column: str, regex: str, reason: str, expected: str) -> Expect:
    """The text holds a match of the expression."""
    return Expect("ExpectColumnValuesToMatchRegex", column, reason, expected, {"regex": regex})


def lacks(column: str, regex: str, reason: str, expected: str) -> Expect:
    """The text holds no match of the expression."""
    return Expect("ExpectColumnValuesToNotMatchRegex", column, reason, expected, {"regex": regex})


def one_of(column: str, values: Sequence[Any], reason: str, expected: str) -> Expect:
    """The value is one of those."""
    return Expect("ExpectColumnValuesToBeInSet", column, reason, expected, {"value_set": list(values)})


def within(column: str, low: float | None, high: float | None, reason: str, expected: str) -> Expect:
    """The number lies between low and high, both included; None is no bound."""
    bounds = {name: value for name, value in (("min_value", low), ("max_value", high)) if value is not None}
    return Expect("ExpectColumnValuesToBeBetween", column, reason, expected, bounds)


def is_true(column: str, reason: str, expected: str) -> Expect:
    """The derived flag is set."""
    return one_of(column, [True], reason, expected)
