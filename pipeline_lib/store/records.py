"""Records of artifacts: file, part and manifest, which are deterministic to the byte; and the record of the run that made one.

What may differ between two runs that make the same bytes (seconds, host, memory, commit) stands in the last alone.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import subprocess
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field

from pipeline_lib.runtime.machine import cpu_seconds
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

    name: str  # inside the part's folder
    bytes: int  # size on disk
    sha256: str  # hexadecimal
    rows: int | None = None  # of a table; null where it is none


class Counts(Record):
    """Counts of rows by where they went: n_in == n_out + sum(dropped) + quarantined."""

    n_in: int = 0  # rows that came in
    n_out: int = 0  # rows that came out
    dropped: dict[str, int] = Field(default_factory=dict)  # rows that a rule left out, by reason
    quarantined: int = 0  # rows that could not be read or broke their contract; each is in quarantine.parquet

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

    stage: str  # that made it
    key: str  # of its input, its stage's config and version
    label: str  # what a person calls it: "numpy 2.4.6 [2/3]", "train", "step-000240"
    folder: str  # below the store's root
    files: tuple[File, ...]  # each with its size and hash
    counts: Counts = Counts()  # rows by where they went
    facts: dict[str, Any] = Field(default_factory=dict)  # deterministic figures of this part

    @property
    def digest(self) -> str:
        return digest_of([(file.name, file.sha256) for file in self.files])


class Manifest(Record):
    """An artifact's list of parts. Only what is deterministic: two runs over the same input write the same bytes."""

    manifest_version: int = MANIFEST_VERSION  # of this list of fields
    stage: str  # that made it
    stage_version: int  # raised whenever the stage's output changes for the same input
    key: str  # digest of stage, version, config and inputs; the name of its folder
    config: dict[str, Any]  # settings that can change the output
    inputs: dict[str, str]  # name -> content digest
    parts: tuple[Part, ...]  # may lie in the folders of earlier artifacts
    counts: Counts  # of all parts together
    facts: dict[str, Any] = Field(default_factory=dict)  # deterministic figures of the whole


class Outcome(Record):
    """Result of a stage's function: its parts, and figures about the whole."""

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
    """A part that is not on disk yet, which `Store.commit_part` completes with its folder and files."""
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


@dataclass
class RunRecord:
    """Seconds, CPU seconds, memory, host and commit of one stage's making."""

    started_at: float
    cpu_at_start: float = field(repr=False, default=0.0)
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    peak_memory_bytes: int = 0
    host: str = ""
    python: str = ""
    commit: str = ""
    worker: str = ""  # of Prefect, that ran the flow; empty: a terminal

    @classmethod
    def start(cls) -> RunRecord:
        """Begin to count."""
        return cls(
            started_at=time.time(),
            cpu_at_start=cpu_seconds(),
            host=platform.node(),
            python=platform.python_version(),
            commit=git_commit(),
            worker=os.environ.get("PREFECT__WORKER_NAME", ""),
        )

    def finish(self) -> RunRecord:
        """The record with what has been used since `start`; of children, those that were waited for."""
        self.seconds = time.time() - self.started_at
        self.cpu_seconds = cpu_seconds() - self.cpu_at_start
        self.peak_memory_bytes = 1024 * max(
            resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
        )
        return self

    def to_json(self) -> bytes:
        record = asdict(self)
        record.pop("cpu_at_start")
        return json.dumps(record, indent=1, sort_keys=True).encode() + b"\n"


def git_commit() -> str:
    """The commit of the checkout that this code runs from; empty outside a checkout or without git."""
    try:
        answer = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        return ""
    return answer.stdout.strip() if answer.returncode == 0 else ""
