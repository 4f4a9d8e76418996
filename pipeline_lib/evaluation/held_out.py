"""What a run's figures are of, in the words of its corpus: what was held out, and what the figures do not show."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline_lib.config.data import SourceConfig
from pipeline_lib.config.run import RunConfig

FEW_QUERIES = 200  # the 95 % interval of an MRR of 0.5 is then some 0.1 wide

PLUMBING = "This run tests the plumbing: its sizes are the smallest that exercise every stage, and its figures mean nothing."


@dataclass(frozen=True)
class HeldOut:
    """The unit of the split, as curation recorded it.

    Attributes:
        unit: "group" or "document".
        groups: what a group of this corpus is, in the plural.
        reason: why it was split so.
    """

    unit: str
    groups: str
    reason: str

    @classmethod
    def of(cls, facts: Mapping[str, Any], source: SourceConfig) -> HeldOut:
        """The split of a `curate` artifact by its facts."""
        groups = "groups" if source.dump else "top-level folders" if source.folder else "packages"
        return cls(facts.get("split_unit", "group"), groups, facts.get("split_reason", ""))

    @property
    def units(self) -> str:
        """What was held out whole, in the plural."""
        return "documents" if self.unit == "document" else self.groups

    @property
    def group(self) -> str:
        """One of the groups."""
        return self.groups.removesuffix("s")

    def sentence(self) -> str:
        """What training has seen of what the figures are measured on."""
        if self.unit == "group":
            return f"Measured on {self.units} of which nothing was seen in training."
        return (
            f"The corpus was split by document ({self.reason}): training saw other documents of the {self.groups} that it is "
            "tested on. Set these figures beside those of no other corpus."
        )


def notes(
    config: RunConfig, held_out: HeldOut, tasks: Mapping[str, Mapping[str, Any]], figures: Iterable[Mapping[str, Any]]
) -> list[str]:
    """What whoever reads the figures must know first, a sentence or two each; none where there is nothing.

    Args:
        config: of the run.
        held_out: how its corpus was split.
        tasks: name to facts, of the test split.
        figures: rows of the chosen model on the test split.
    """
    found = [PLUMBING] if config.tests_plumbing else []
    if held_out.unit == "document":
        found.append(held_out.sentence())
    fewer = [
        f"{_said(task['kind'])} ranks {task['candidates']:,}"
        for task in tasks.values()
        if task.get("candidates", config.evaluate.candidates) < config.evaluate.candidates
    ]
    if fewer:
        found.append(
            f"Fewer candidates than the {config.evaluate.candidates:,} that were asked for ({', '.join(fewer)}): "
            "the fewer there are, the higher the figures."
        )
    few = {row["kind"]: row["n"] for row in figures if row["n"] < FEW_QUERIES}
    if few:
        counts = ", ".join(f"{_said(kind)} {n:,}" for kind, n in few.items())
        found.append(f"Measured on fewer than {FEW_QUERIES} texts ({counts}): these figures and their intervals are rough.")
    return found


def _said(kind: str) -> str:
    return kind.replace("_", " ")
