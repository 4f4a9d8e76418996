"""Content of a report: plain rows, so that it can be written from any run, and in parts."""

from __future__ import annotations

import json
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from pipeline_lib.evaluation.held_out import HeldOut
from pipeline_lib.store.artifact import Artifact

Row = dict[str, Any]


class StageRow(BaseModel):
    """One stage of the run: its artifact, where its rows went, and what making it cost.

    Attributes:
        reused: it was found done, made before this run began: its cost is not of this run.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    stage: str
    key: str = ""
    digest: str = ""
    parts: int = 0
    bytes: int = 0
    n_in: int = 0
    n_out: int = 0
    dropped: dict[str, int] = Field(default_factory=dict)
    quarantined: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    peak_memory_bytes: int = 0
    reused: bool = False

    @classmethod
    def of(cls, artifact: Artifact, name: str = "", began_at: float = 0.0) -> StageRow:
        """The row of an artifact, its costs from run.json; `name` tells apart artifacts of one stage.

        Args:
            began_at: when the run began (seconds since 1970); what was made earlier was reused.
        """
        manifest, run = artifact.manifest, _run_record(artifact)
        return cls(
            stage=name or manifest.stage,
            key=manifest.key,
            digest=artifact.digest,
            parts=len(manifest.parts),
            bytes=sum(file.bytes for part in manifest.parts for file in part.files),
            n_in=manifest.counts.n_in,
            n_out=manifest.counts.n_out,
            dropped=manifest.counts.dropped,
            quarantined=manifest.counts.quarantined,
            seconds=run.get("seconds", 0.0),
            cpu_seconds=run.get("cpu_seconds", 0.0),
            peak_memory_bytes=run.get("peak_memory_bytes", 0),
            reused=run.get("started_at", began_at) < began_at,
        )


class QuarantineReason(BaseModel):
    """Rows of one reason that a contract or a reader refused; `samples` are rows of schemas.QUARANTINE."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    stage: str
    reason: str
    count: int
    samples: tuple[Row, ...] = ()


class ReportData(BaseModel):
    """Everything that a report may show; a section without data is left out.

    Attributes:
        preset: the named configuration that the run began as.
        held_out: how its corpus was split.
        attempts: starts that it took; its costs are those of all.
        counts: documents, code_pairs, text_pairs, and what else was counted.
        stages: in the order of the run.
        funnel: (name, rows) step by step, largest first: documents, pairs, validated, ...
        training: rows of metrics.jsonl (step, loss, temperature, gradient_norm, padding_share, ...).
        pace: rows of the clock (step, pairs_per_second, tokens_per_second, memory_bytes).
        evaluations: rows of schemas.EVALUATIONS, of all models and splits.
        differences: rows of `compare.differences`.
        tasks: split -> the facts of its evaluation: tasks, skipped.
        selection: the content of selection.json.
        searches: rows of query and hits; a hit has rank, score, kind, name, path, line, doc, id.
        negatives: the content of negatives.json.
        verdicts: a row a contract, any columns.
        batch: facts of the artifact `batch_advice` of the chosen checkpoint.
        near_twins: test_functions, with_near_twin, share, jaccard: those with a near copy in training.
        contamination: evaluation suite -> its texts in the dump: texts, texts_found, pairs, samples.
        tracked: of the demo, whether it was measured on the tracked candidates (`candidates.compare`).
        export, index: their folders.
        notes: sentences to read before the figures (`held_out.notes`).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    preset: str = ""
    held_out: HeldOut = HeldOut("group", "groups", "")
    commit: str = ""
    machine: Row = Field(default_factory=dict)
    config: Row = Field(default_factory=dict)
    attempts: int = 1
    seconds_total: float = 0.0
    cpu_seconds: float = 0.0
    peak_memory_bytes: int = 0
    counts: dict[str, int] = Field(default_factory=dict)
    stages: tuple[StageRow, ...] = ()
    funnel: tuple[tuple[str, int], ...] = ()
    training: tuple[Row, ...] = ()
    pace: tuple[Row, ...] = ()
    evaluations: tuple[Row, ...] = ()
    differences: tuple[Row, ...] = ()
    tasks: dict[str, Row] = Field(default_factory=dict)
    selection: Row = Field(default_factory=dict)
    searches: tuple[Row, ...] = ()
    negatives: tuple[Row, ...] = ()
    quarantine: tuple[QuarantineReason, ...] = ()
    verdicts: tuple[Row, ...] = ()
    batch: Row = Field(default_factory=dict)
    near_twins: Row = Field(default_factory=dict)
    contamination: dict[str, Row] = Field(default_factory=dict)
    tracked: Row = Field(default_factory=dict)
    export: str = ""
    index: str = ""
    notes: tuple[str, ...] = ()

    @property
    def chosen(self) -> str:
        """The model that the report is about: the selected one, else the last that was evaluated."""
        if self.selection:
            return str(self.selection["chosen"])
        labels = [(row["step"], row["model"]) for row in self.evaluations if row["step"] >= 0]
        return max(labels)[1] if labels else ""


def _run_record(artifact: Artifact) -> Row:
    content = artifact.note("run.json")
    return json.loads(content) if content else {}
