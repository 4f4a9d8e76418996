"""Report of a run as a task: what came in, what became of it, how good the model is, what it cost."""

from __future__ import annotations

import json
import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_contracts.data_loss import DataLosses
from data_contracts.verdicts import loss_verdicts, verdict_rows
from pipeline_lib.config.run import RunConfig
from pipeline_lib.curation.near_twins import near_twins_in
from pipeline_lib.evaluation.candidates import compare, is_tracked
from pipeline_lib.evaluation.metrics import HYBRID, differences, read_evaluations
from pipeline_lib.evaluation.negatives import read_negatives
from pipeline_lib.evaluation.report import keep_newest, report_name, results_table, write_report
from pipeline_lib.evaluation.report_data import (
    NOT_TESTED,
    HeldOut,
    QuarantineReason,
    ReportData,
    StageRow,
    notes,
    precision_note,
    split_facts,
)
from pipeline_lib.evaluation.report_page import headline
from pipeline_lib.evaluation.select import read_selection
from pipeline_lib.evaluation.suites.held_out_tasks import draw_tasks
from pipeline_lib.export.card import FILE, Cost, model_folder, with_measured_cost
from pipeline_lib.export.exported import TorchQueries
from pipeline_lib.export.method import method_of_run
from pipeline_lib.model.checkpoint import labels_of_run
from pipeline_lib.runtime.cost import Meter
from pipeline_lib.runtime.machine import cores, has_fast_bfloat16, has_gpu
from pipeline_lib.runtime.progress import WARNING
from pipeline_lib.search.hits import ID_DIGITS, hit_facts
from pipeline_lib.search.query import Searcher
from pipeline_lib.search.registry import Candidate, as_pair
from pipeline_lib.sources import python_installation
from pipeline_lib.store.artifact import Artifact
from pipeline_lib.store.records import git_commit
from pipeline_lib.store.store import SHOWN_DIGITS
from pipeline_lib.train.language_text import sentence_of, warning_of
from pipeline_lib.train.tracking import link_report
from tasks.evaluation import Evaluations, dimension_rows
from tasks.int8 import int8_told, with_measured_speed
from tasks.ui import StageProgress, show_link, show_markdown, show_picture, show_table, stage_task

_CONTRACTS = {  # by the name of the stage that ran it
    "validate": "pairs and documents",
    "check_shards": "token shards",
    "check validation": "figures on validation",
    "check test": "figures on test",
}

SAMPLES_A_REASON, SEARCH_HITS, CARD = 3, 5, "model_card.md"


@dataclass(frozen=True)
class RunArtifacts:
    """Everything that a run left, by the name of its stage; several evaluations by checkpoint."""

    stages: Mapping[str, Artifact]
    validation: Mapping[str, Evaluations]
    test: Mapping[str, Evaluations]
    chosen: str
    promotion: Mapping[str, Any] = field(default_factory=dict)

    @property
    def shown(self) -> tuple[str, Mapping[str, Evaluations]]:
        """The split that the report's figures are of, and these; the test split of what was held back is not opened."""
        return ("test", self.test) if self.test else ("validation", self.validation)

    def rows(self, began_at: float = 0.0) -> list[StageRow]:
        """A row a stage, in the order of the run, which began at `began_at` (seconds since 1970)."""
        evaluations = {
            f"{split} {label}": found
            for split, by_label in (("validation", self.validation), ("test", self.test))
            for label, found in by_label.items()
        }
        return [
            *(StageRow.of(artifact, name, began_at) for name, artifact in self.stages.items()),
            *(StageRow.of_all(found, name, began_at) for name, found in evaluations.items()),
        ]

    def lineage(self) -> dict[str, str]:
        """Name to content digest: two runs with the same lineage have the same report."""
        return {row.stage: row.digest for row in self.rows()}


@stage_task("report")
def report_task(home: Path, config: RunConfig, run: RunArtifacts, meter: Meter) -> dict[str, Any]:
    """Write the report and the model card, unless those of this very lineage are there; show its tables in the UI.

    They are written again if a file of them is gone, or if something else became of the model, with the cost of the run that
    made what they tell of. If another run of the same name was reported since, they become the newest.

    Returns:
        The content of report.json; and under "now", where that run was an earlier one, what this one took to find all done.
    """
    folder = home / "reports" / config.name
    lineage = run.lineage()
    own = folder / report_name(run.stages["train"].manifest.key, lineage)
    found = next((report for place in (own, folder) if _lineage_of(report := _read(place / "report.json")) == lineage), {})
    total = meter.close()
    now = {"now": total} if found else {}
    run = replace(run, promotion=_told_promotion(run.promotion, found.get("promotion", {})))
    if found and _is_newest(folder, own) and found.get("promotion", {}) == run.promotion:
        _link(own, config.name)
        return found | now
    progress = StageProgress("report")
    data = _collect(config, run, _costs_told(found) if found else total)
    if found:
        reused = {name: row.get("reused", False) for name, row in found["lineage"].items()}
        data = data.model_copy(
            update={"stages": tuple(row.model_copy(update={"reused": reused[row.stage]}) for row in data.stages)}
        )
    keep_newest(folder, own.name, {CARD: _model_card(run, data)})
    page = write_report(folder, data)
    link_report(run.stages, run.chosen, own / "report.html", progress.tell)
    if data.tracked:
        progress.tell(("" if data.tracked["comparable"] else WARNING) + data.tracked["sentence"])
    progress.finish(str(page))
    _show(folder, data, run.shown[0])
    _link(own, config.name)
    return json.loads((folder / "report.json").read_text()) | now


def _told_promotion(now: Mapping[str, Any], before: Mapping[str, Any]) -> Mapping[str, Any]:
    """What became of the model; of one that was in use already what was told when it came to be."""
    return before if before and now.get("event") in ("in use", "tried") and before.get("name") == now.get("name") else now


def _lineage_of(report: Mapping[str, Any]) -> dict[str, str]:
    return {name: row["digest"] for name, row in report.get("lineage", {}).items()}


def _is_newest(folder: Path, own: Path) -> bool:
    """True where every file of the run's report is there, and stands for the newest one."""
    places = [place / name for place in (folder, own) for name in (CARD, "report.html", "report.json")]
    return all(path.is_file() for path in places) and _read(folder / "report.json") == _read(own / "report.json")


def _show(folder: Path, data: ReportData, split: str) -> None:
    """The report's tables in the UI, under the run's name: another corpus has its own beside them, not in their history."""
    sentence = str(data.selection.get("sentence", ""))
    results = results_table(data.evaluations, data.differences, data.chosen, split)
    show_table(f"results-{data.name}", results, " ".join((*data.notes, sentence)))
    show_table(f"selection-{data.name}", data.selection.get("checkpoints", []), sentence)
    picture = "Search, classification and similarity over steps"
    show_picture(f"selection-curves-{data.name}", folder / "selection.png", picture)
    if "curve" in data.batch:
        show_table(f"batch-size-{data.name}", data.batch["curve"], data.batch["sentence"])
    stages = [row.model_dump(exclude={"dropped", "digest"}) for row in data.stages]
    show_table(f"stages-{data.name}", stages, "Stages and the cost of making each; a reused one was found done")
    negatives = [_negative_row(row) for row in data.negatives]
    show_table(f"hardest-negatives-{data.name}", negatives, "In-batch negatives that score highest")
    show_markdown(f"sample-searches-{data.name}", searches_markdown(data.searches), "What search finds now")
    show_markdown(
        f"model-{data.name}", model_markdown(folder, data, split), "The model: what it is, where it lies, how to use it"
    )


def _link(own: Path, name: str) -> None:
    """Links to the pages of this very run, which a later run of the same name leaves as they are."""
    show_link(f"report-{name}", own / "report.html", "Report", f"The report of {name}")
    show_link(f"model-card-{name}", own / CARD, "Model card", f"The model card of {name}")


def _costs_told(report: Mapping[str, Any]) -> dict[str, float]:
    """What a report says that its run took, as `Meter.total` says it."""
    names = ("attempts", "cpu_seconds", "peak_memory_bytes")
    return {name: report.get(name, 1) for name in names} | {"seconds": report["seconds"]["total"], "began_at": 0.0}


def _model_card(run: RunArtifacts, data: ReportData) -> bytes:
    """The export's card with what the making cost: all attempts of this run, and the stages that it found done."""
    card = (run.stages["card"].part_folder() / FILE).read_text(encoding="utf-8")
    training = StageRow.of(run.stages["train"])
    cost = Cost(
        cpu_seconds=data.cpu_seconds + sum(row.cpu_seconds for row in data.stages if row.reused),
        training_cpu_seconds=training.cpu_seconds,
        gpu_seconds=training.seconds * _trainers(run.stages["train"]) if has_gpu() else 0.0,
        attempts=data.attempts,
    )
    return with_measured_speed(with_measured_cost(card, cost), data.int8).encode()


def _trainers(trained: Artifact) -> int:
    """Trainer processes of a run, as its last checkpoint records them."""
    return int(_read(trained.part_folder(labels_of_run(trained)[-1]) / "state.json")["world_size"])


def searches_markdown(searches: Sequence[Mapping[str, Any]]) -> str:
    """A heading and a table of hits for each query; what would break a table or be markup is escaped."""
    lines = []
    for found in searches:
        lines.append(f"\n## {_cell(found['query'])}\n\n| score | name | where | pair | doc |\n|---|---|---|---|---|")
        for hit in found["hits"]:
            cells = (f"{hit['score']:.3f}", hit["name"], f"{hit['path']}:{hit['line']}", hit["id"][:ID_DIGITS], hit["doc"])
            lines.append(f"| {' | '.join(map(_cell, cells))} |")
    return "\n".join(lines)


def model_markdown(folder: Path, data: ReportData, split: str) -> str:
    """The published model on one page: its checkpoint, its headline, where it and its report lie, and the next commands."""
    key = next(stage.key for stage in data.stages if stage.stage == "train")
    return "\n".join(
        [
            f"# {_cell(data.name)}",
            f"\n{_cell(headline(data))}\n",
            f"- checkpoint: `{key}/{data.chosen}`",
            f"- report: `{folder / 'report.html'}`",
            f"- model, with its card: `{data.export}`",
            *([f"- `{data.promotion['name']}`: {_cell(data.promotion['sentence'])}"] if data.promotion else []),
            "\n```sh",
            f'cpt search "parse an ISO 8601 date"{_by_name(data)}',
            f"cpt evaluate --checkpoint {key[:SHOWN_DIGITS]}/{data.chosen} --split {split}",
            "cpt runs",
            "```",
        ]
    )


def _by_name(data: ReportData) -> str:
    """What a search names it by, as long as another model may be the one without a name."""
    return f" --name {data.promotion['name']}" if data.promotion else ""


def _collect(config: RunConfig, run: RunArtifacts, total: Mapping[str, float]) -> ReportData:
    stages = run.stages
    extracted, trained = stages["extract"], stages["train"]
    model = run.shown[1][run.chosen]
    evaluated = {"validation": run.validation, "test": run.test}
    figures = read_evaluations(artifact for found in evaluated.values() for of_model in found.values() for artifact in of_model)
    twins, int8 = near_twins_in(stages["curate"]), int8_told(stages, config)
    tracked, language_model = _tracked(config, run), _language_model(stages)
    held_out = HeldOut.of(stages["curate"].manifest.facts, config.source)
    return ReportData(
        name=config.name,
        preset=config.preset,
        held_out=held_out,
        attempts=int(total["attempts"]),
        commit=git_commit(),
        machine=_machine(),
        config=config.model_dump(mode="json"),
        method=method_of_run(config, trained, stages["export"]),
        seconds_total=total["seconds"],
        cpu_seconds=total["cpu_seconds"],
        peak_memory_bytes=int(total["peak_memory_bytes"]),
        counts=_counts(extracted),
        stages=tuple(run.rows(total["began_at"])),
        funnel=_funnel(stages),
        training=tuple(_json_lines((trained.part_folder("metrics") / "metrics.jsonl").read_bytes())),
        pace=tuple(_json_lines(trained.note("timing.jsonl") or b"")),
        evaluations=tuple(figures),
        differences=tuple(_differences(run, config)),
        tasks={split: split_facts(found[run.chosen]) for split, found in evaluated.items() if found},
        selection=read_selection(stages["select"]) if "select" in stages else {},
        searches=tuple(_searches(stages, config)),
        promotion=dict(run.promotion),
        batch=stages["batch_advice"].manifest.facts,
        language_model=language_model,
        negatives=tuple(read_negatives(stages["negatives"])),
        quarantine=tuple(_quarantine([extracted, stages["validate"]])),
        verdicts=tuple(_verdicts(stages)),
        near_twins={
            "test_functions": twins.n, "with_near_twin": twins.count, "share": twins.share, "jaccard": twins.threshold,
        },
        contamination=stages["curate"].manifest.facts.get("contamination", {}),
        tracked=tracked,
        dimensions=tuple(dimension_rows(run.shown[1], run.chosen, stages)), int8=int8,
        export=str(model_folder(stages["export"], stages["card"])),
        index=str(stages["index"].part_folder()),
        notes=(
            *([] if run.test else [NOT_TESTED]),
            *notes(config, held_out, split_facts(model)["tasks"], read_evaluations(model)),
            *precision_note(trained, model),
            *([language_model["warning"]] if language_model.get("warning") else []),
            *stages["curate"].manifest.facts.get("split_warnings", ()),
            *([trained.manifest.facts["stopped_early"]] if "stopped_early" in trained.manifest.facts else []),
            *([tracked["sentence"]] if tracked and (tracked["differ"] or tracked["corpus"]) else []),
            *([int8["sentence"]] if int8 else []),
        ),
    )  # fmt: skip


def _differences(run: RunArtifacts, config: RunConfig) -> list[dict[str, Any]]:
    """The chosen model minus each baseline; and its vectors fused with BM25 minus either, and minus the others."""
    shown = run.shown[1]
    model, baselines, hybrid = shown[run.chosen], shown["baselines"], shown.get(HYBRID, ())
    drawn = (config.evaluate.bootstrap, config.evaluate.seed)
    return [*differences(model, baselines, *drawn), *differences(hybrid, [*model, *baselines], *drawn)]


def _language_model(stages: Mapping[str, Artifact]) -> dict[str, Any]:
    """Held-out figures of the language model that training began from, where one was made; with what people are told of it."""
    start = stages.get("start")
    figures = start.manifest.facts.get("held_out") if start is not None else None
    return {**figures, "sentence": sentence_of(figures), "warning": warning_of(figures)} if figures else {}


def _tracked(config: RunConfig, run: RunArtifacts) -> dict[str, Any]:
    """The demo's candidates beside the tracked ones; nothing for another run."""
    if not is_tracked(config):
        return {}
    measured = [split for split, found in (("validation", run.validation), ("test", run.test)) if found]
    tasks = {split: draw_tasks(run.stages["curate"], split, config.evaluate) for split in measured}
    return compare(tasks, python_installation.differences(run.stages["extract"]))


def _counts(extracted: Artifact) -> dict[str, int]:
    facts = extracted.manifest.facts
    names = ("documents", "code_pairs", "text_pairs", "texts", "files", "bytes", "lost_bytes")
    sums = {f"{name}_{what}": facts.get(name, {}) for name, what in (("refused", "texts"), ("left_out", "texts"))}
    counts = {name: int(facts[name]) for name in names if name in facts} | {name: sum(by.values()) for name, by in sums.items()}
    return counts | {"files_not_whole": DataLosses.of(extracted).files}


def _funnel(stages: Mapping[str, Artifact]) -> tuple[tuple[str, int], ...]:
    extracted, curated = stages["extract"].manifest.counts, stages["curate"].manifest.counts
    return (
        ("functions and passages found", extracted.n_in),
        ("pairs", extracted.n_out),
        ("pairs that keep their contract", stages["validate"].manifest.counts.n_out),
        ("without duplicates", curated.n_out),
        ("for training", stages["curate"].part("train").counts.n_out),
    )


def _machine() -> dict[str, Any]:
    return {
        "processor": platform.processor() or platform.machine(),
        "cores": cores(),
        "fast_bfloat16": has_fast_bfloat16(),
        "gpu": has_gpu(),
        "system": platform.system(),
        "python": platform.python_version(),
    }


def _searches(stages: Mapping[str, Artifact], config: RunConfig) -> list[dict[str, Any]]:
    """What the run's own model and index answer, whether or not searches use them."""
    searcher = Searcher(as_pair(Candidate(stages["export"], stages["index"])), TorchQueries)
    return [
        {"query": query, "hits": [hit_facts(hit) for hit in searcher.search(query, None, SEARCH_HITS)]}
        for query in config.sample_queries
    ]


def _quarantine(artifacts: Sequence[Artifact]) -> list[QuarantineReason]:
    found = []
    for artifact in artifacts:
        tables = [pq.read_table(path) for path in artifact.paths("quarantine.parquet")]
        rows = pa.concat_tables(tables).to_pylist() if tables else []
        for reason, count in Counter(row["reason"] for row in rows).most_common():
            samples = [row for row in rows if row["reason"] == reason][:SAMPLES_A_REASON]
            stage = artifact.manifest.stage
            found.append(QuarantineReason(stage=stage, reason=reason, count=count, samples=tuple(samples)))
    return found


def _verdicts(stages: Mapping[str, Artifact]) -> list[dict[str, Any]]:
    rows = [
        {"contract": contract, **row}
        for stage, contract in _CONTRACTS.items()
        if stage in stages
        for row in verdict_rows(stages[stage])
    ]
    return [*loss_verdicts(stages["extract"]), *rows] if "extract" in stages else rows


def _negative_row(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "score": row["score"],
        "x": row["x"]["text"][:200],
        "scores above": row["y_negative"]["text"][:200],
        "pair": row["y_negative"]["id"][:ID_DIGITS],
        "from": f"{row['y_negative']['source']} {row['y_negative']['path']}:{row['y_negative']['line']}",
    }


def _json_lines(content: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in content.splitlines()]


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text()) if path.is_file() else {}


def _cell(text: object) -> str:
    return str(text).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")
