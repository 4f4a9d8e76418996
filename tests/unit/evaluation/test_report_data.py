"""What a report says of a run before its figures, and of each stage."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from pipeline_lib.config.data import SourceConfig
from pipeline_lib.config.presets import preset
from pipeline_lib.evaluation.report_data import PLUMBING, HeldOut, StageRow, by_dimension, notes, precision_note
from pipeline_lib.export.card import _objective


def test_what_must_be_known_first_is_said_of_the_runs_that_it_holds_of():
    demo, smoke = preset("demo"), preset("smoke")
    tasks = {"code_search_1k": {"kind": "code_search", "candidates": 1000}}
    figures = [{"kind": "code_search", "n": 1000}]
    by_group = HeldOut.of({"split_unit": "group"}, SourceConfig())
    assert notes(demo, by_group, tasks, figures) == []
    assert notes(smoke, by_group, tasks, figures) == [PLUMBING]
    by_document = HeldOut.of({"split_unit": "document", "split_reason": "1 groups, fewer than 10"}, SourceConfig(folder="mine"))
    small = {"code_search_80": {"kind": "code_search", "candidates": 80}}
    said = notes(demo, by_document, small, [{"kind": "code_search", "n": 80}])
    assert len(said) == 3
    assert "split by document (1 groups, fewer than 10)" in said[0] and "beside those of no other corpus" in said[0]
    assert "Fewer candidates than the 1,000" in said[1] and "code search ranks 80" in said[1]
    assert "code search 80" in said[2] and "rough" in said[2]


def test_a_precision_that_is_not_taken_for_granted_is_said() -> None:
    def made(**manifest: Any) -> Any:
        return SimpleNamespace(manifest=SimpleNamespace(**{"config": {}, "facts": {}, **manifest}))

    def trained(precision: str) -> Any:
        return made(config={"config": {"precision": precision}})

    plain, low = made(), made(facts={"precision": "bfloat16"})
    assert precision_note(trained("float32"), [plain]) == [] == precision_note(made(), [])
    (said,) = precision_note(trained("bfloat16"), [plain, low])
    assert "bfloat16 in training and in bfloat16 and float32 in evaluation" in said
    (said,) = precision_note(trained("float32"), [low])
    assert "float32 in training and in bfloat16 in evaluation" in said
    for precision, ends in (("float32", "temperature"), ("bfloat16", "matrix products in bfloat16")):
        assert _objective({"precision": precision}).endswith(ends)


def test_a_stage_row_reads_the_artifact(curated):
    row = StageRow.of(curated)
    assert (row.stage, row.key, row.parts) == ("curate", curated.manifest.key, 3)
    assert row.bytes == sum(path.stat().st_size for path in curated.paths("pairs.parquet"))
    assert row.seconds > 0


def test_figures_by_dimension_are_the_models_own_shortest_first() -> None:
    def row(model: str, value: float, metric: str = "mrr") -> dict[str, Any]:
        told = {"kind": "code_search", "metric": metric, "value": value, "low": value - 0.1, "high": value + 0.1}
        return {"model": model, **told}

    figures = [
        row("step-2", 0.5),
        row("step-2@64", 0.4),
        row("step-2@8", 0.2),
        row("step-2@8", 0.9, "recall@1"),
        row("bm25", 0.3),
    ]
    rows = by_dimension([*figures, row("step-1@8", 0.1)], "step-2", 256, lambda dim: 4 * dim)
    assert [(row["dim"], row["index_bytes"], row["kinds"]["code_search"]["value"]) for row in rows] == [
        (8, 32, 0.2),
        (64, 256, 0.4),
        (256, 1024, 0.5),
    ]
    assert by_dimension([figures[0], figures[-1]], "step-2", 256, lambda dim: dim) == [], (
        "the whole vector alone is no comparison"
    )
