"""The records that artifacts consist of: a file, a part, a manifest; frozen, and deterministic to the byte."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field

from pipeline_lib.store.files import digest_of

MANIFEST_VERSION = 1


class Record(BaseModel):
    """A frozen record that refuses unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Stage(Record):
    """A step of the pipeline. Raise `version` whenever its output changes for the same input."""

    name: str
    version: int


class File(Record):
    """One file of a part: its name inside the part's folder, and what its bytes must be."""

    name: str
    bytes: int
    sha256: str
    rows: int | None = None


class Counts(Record):
    """Where every row went: n_in == n_out + sum(dropped) + quarantined."""

    n_in: int = 0
    n_out: int = 0
    dropped: dict[str, int] = Field(default_factory=dict)
    quarantined: int = 0

    def check(self, where: str) -> Self:
        """Assert the accounting identity; a stage that loses or invents a row fails here."""
        accounted = self.n_out + sum(self.dropped.values()) + self.quarantined
        assert self.n_in == accounted, f"{where}: {self.n_in} rows came in, {accounted} are accounted for: {self}"
        return self

    def __add__(self, other: Counts) -> Counts:
        dropped = Counter(self.dropped) + Counter(other.dropped)
        return Counts(
            n_in=self.n_in + other.n_in,
            n_out=self.n_out + other.n_out,
            dropped=dict(sorted(dropped.items())),
            quarantined=self.quarantined + other.quarantined,
        )


class Part(Record):
    """The output for one input file, bundle or hash partition."""

    stage: str
    key: str
    label: str  # what a person calls it: "numpy 2.4.6 [2/3]", "train", "step-000400"
    folder: str  # below the store's root
    files: tuple[File, ...]
    counts: Counts = Counts()
    facts: dict[str, Any] = Field(default_factory=dict)  # deterministic figures of this part

    @property
    def digest(self) -> str:
        return digest_of([(file.name, file.sha256) for file in self.files])


class Manifest(Record):
    """Only what is deterministic: two runs over the same input write the same bytes."""

    manifest_version: int = MANIFEST_VERSION
    stage: str
    stage_version: int
    key: str
    config: dict[str, Any]
    inputs: dict[str, str]  # name -> content digest
    parts: tuple[Part, ...]
    counts: Counts
    facts: dict[str, Any] = Field(default_factory=dict)


class Outcome(Record):
    """What a stage's function returns: its parts, and figures about the whole."""

    parts: tuple[Part, ...]
    counts: Counts = Counts()
    facts: dict[str, Any] = Field(default_factory=dict)


def draft_part(
    stage: Stage,
    key: str,
    label: str,
    counts: Counts | None = None,
    rows: Mapping[str, int] | None = None,
    facts: Mapping[str, Any] | None = None,
) -> Part:
    """A part that is not on disk yet: what `Store.commit_part` completes with its folder and files."""
    files = tuple(File(name=name, bytes=0, sha256="", rows=n) for name, n in (rows or {}).items())
    return Part(
        stage=stage.name,
        key=key,
        label=label,
        folder="",
        files=files,
        counts=counts or Counts(),
        facts=dict(facts or {}),
    )


def to_json(record: Record) -> bytes:
    """The bytes that a record is written as."""
    return json.dumps(record.model_dump(mode="json"), sort_keys=True, indent=1).encode() + b"\n"


def sum_counts(parts: Iterable[Part]) -> Counts:
    """The counts of several parts together."""
    total = Counts()
    for part in parts:
        total = total + part.counts
    return total
