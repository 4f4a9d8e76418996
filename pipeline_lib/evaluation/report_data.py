"""Data of a run's report, in plain rows, and the sentences that a reader of its figures must know first."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from pipeline_lib.config.data import SourceConfig
from pipeline_lib.config.run import RunConfig
from pipeline_lib.evaluation.metrics import FEW_QUERIES, PRIMARY_METRIC
from pipeline_lib.export.method import Method
from pipeline_lib.store.artifact import Artifact
from pipeline_lib.store.files import digest_of

Row = dict[str, Any]

PLUMBING = "This run tests the plumbing: its sizes are the smallest that exercise every stage, and its figures mean nothing."
NOT_TESTED = "It was held back, and its test split was not opened: the figures are of validation, which the gate has read."


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
        tasks: name to facts, of the split that the figures are of.
        figures: rows of the chosen model on it.
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
    return found + _lengths_note(config)


def _lengths_note(config: RunConfig) -> list[str]:
    """The lengths that a model reads, where they are not those of its training."""
    shards, read = config.shards, config.read
    trained = (shards.max_x_tokens, shards.max_y_tokens)
    x_tokens, y_tokens = read.max_x_tokens or trained[0], read.max_y_tokens or trained[1]
    if (x_tokens, y_tokens) == trained:
        return []
    return [
        f"The model reads queries of up to {x_tokens:,} tokens and documents of up to {y_tokens:,}; in training they were cut "
        f"at {trained[0]:,} and {trained[1]:,}."
    ]


def precision_note(trained: Artifact, evaluated: Sequence[Artifact]) -> list[str]:
    """The precision that a run's figures were computed in, where it is not float32 throughout.

    Args:
        trained: the run's checkpoints.
        evaluated: what was measured of one of them.
    """
    training = trained.manifest.config.get("config", {}).get("precision", "float32")
    found = {str(artifact.manifest.facts.get("precision", "float32")) for artifact in evaluated} or {"float32"}
    if {training, *found} == {"float32"}:
        return []
    return [
        f"Matrix products were computed in {training} in training and in {' and '.join(sorted(found))} in evaluation; on a "
        "machine without fast bfloat16, which computes in float32, figures come out a few thousandths higher or lower."
    ]


def by_dimension(figures: Iterable[Row], model: str, width: int, index_bytes: Callable[[int], int]) -> list[Row]:
    """A model's primary figures, the shortest prefix of its vectors first and the whole vector last; nothing of that alone.

    Args:
        figures: rows of schemas.EVALUATIONS of one split; those of a prefix are of MODEL@DIM.
        width: dimensions of the whole vector.
        index_bytes: of an index of so many dimensions.
    """
    dims: dict[int, dict[str, Row]] = {}
    for row in figures:
        name, _, dim = str(row["model"]).rpartition("@")
        if row["metric"] == PRIMARY_METRIC[row["kind"]] and model in (row["model"], name):
            told = {key: row[key] for key in ("metric", "value", "low", "high")}
            dims.setdefault(width if row["model"] == model else int(dim), {})[row["kind"]] = told
    rows = [{"dim": dim, "index_bytes": index_bytes(dim), "kinds": kinds} for dim, kinds in sorted(dims.items())]
    return rows if len(rows) > 1 else []


def _said(kind: str) -> str:
    return kind.replace("_", " ")


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
        manifest, run = artifact.manifest, artifact.run_record
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

    @classmethod
    def of_all(cls, artifacts: Sequence[Artifact], name: str, began_at: float = 0.0) -> StageRow:
        """One row of several artifacts, such as the suites of one model: costs and counts add up, peaks do not."""
        rows = [cls.of(artifact, name, began_at) for artifact in artifacts]
        sums = ("parts", "bytes", "n_in", "n_out", "quarantined", "seconds", "cpu_seconds")
        return cls(
            stage=name,
            key=" ".join(row.key for row in rows),
            digest=digest_of([row.digest for row in rows]),
            peak_memory_bytes=max(row.peak_memory_bytes for row in rows),
            reused=all(row.reused for row in rows),
            **{field: sum(getattr(row, field) for row in rows) for field in sums},
        )


def split_facts(evaluations: Sequence[Artifact]) -> Row:
    """The tasks of one model's evaluations on a split, and for each kind without one the reason."""
    facts = [artifact.manifest.facts for artifact in evaluations]
    return {name: {key: row for found in facts for key, row in found.get(name, {}).items()} for name in ("tasks", "skipped")}


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
        method: what of the run is the paper's method and what is not; None: not known.
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
        searches: rows of query and hits; a hit has what `cpt search --json` prints of it.
        negatives: the content of negatives.json.
        verdicts: a row a contract, any columns.
        batch: facts of the artifact `batch_advice` of the chosen checkpoint.
        language_model: held-out figures of the language model that was made as the start, its `sentence` and `warning`.
        near_twins: test_functions, with_near_twin, share, jaccard: those with a near copy in training.
        contamination: evaluation suite -> its texts in the dump: texts, texts_found, pairs, samples.
        tracked: of the demo, whether it was measured on the tracked candidates (`candidates.compare`).
        promotion: what became of the model in the registry: name, event, sentence, reasons, comparison with the champion.
        dimensions: rows of the whole vector and its prefixes: dim, index_bytes, and per kind its figure (`by_dimension`).
        int8: what queries lose by 8-bit weights and take on this machine: `sentence`, `milliseconds`; empty: there are none.
        export, index: their folders.
        notes: sentences to read before the figures (`notes`).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    preset: str = ""
    held_out: HeldOut = HeldOut("group", "groups", "")
    method: Method | None = None
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
    language_model: Row = Field(default_factory=dict)
    near_twins: Row = Field(default_factory=dict)
    contamination: dict[str, Row] = Field(default_factory=dict)
    tracked: Row = Field(default_factory=dict)
    promotion: Row = Field(default_factory=dict)
    dimensions: tuple[Row, ...] = ()
    int8: Row = Field(default_factory=dict)
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
