"""Stage "check_evaluations": every figure of finished evaluations against its contract, before anyone compares or selects."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from data_contracts.evaluation_suite import CONTRACT_VERSION, evaluation_facts, evaluation_suite
from data_contracts.facts import check_schema
from data_contracts.runner import Verdict, check_many
from data_contracts.schemas import EVALUATIONS
from data_contracts.verdicts import REPORT_EXAMPLES, judge, quarantine_rows, reject_if, verdict_report, write_quarantine
from pipeline_lib.config.data import ContractConfig
from pipeline_lib.store.artifact import Artifact
from pipeline_lib.store.records import Counts, Outcome, Part, Stage, draft_part, sum_counts
from pipeline_lib.store.store import Store

STAGE_VERSION = 1
STAGE = Stage(name="check_evaluations", version=STAGE_VERSION * 100 + CONTRACT_VERSION)

# figures are our own output: one that cannot be is a fault of a metric's code, and no share of them is tolerated
NO_BAD_FIGURE = ContractConfig(max_quarantined_share=0.0, min_rows_for_share=1)

_REPEATED = """
SELECT model, split, task, metric, count(*) AS times FROM read_parquet($paths, filename = true)
GROUP BY filename, model, split, task, metric HAVING count(*) > 1 ORDER BY ALL LIMIT 3
"""

_COUNTS = """
SELECT count(*) AS rows, count(DISTINCT model) AS models, count(DISTINCT task) AS tasks, count(DISTINCT split) AS splits
FROM read_parquet($paths)
"""


def check_table(table: pa.Table) -> Verdict:
    """Hold a table of results against its contract.

    Raises:
        ContractViolation: the columns are not those of schemas.EVALUATIONS.
    """
    return _check_tables({"evaluations": table})[0]


def check_evaluations(store: Store, evaluated: Sequence[Artifact]) -> Artifact:
    """Hold every row of these evaluations against its contract, and that no part gives a figure twice.

    Each part gets `verdict.json` and `quarantine.parquet`; the results themselves stay where they are. Facts: rows, models,
    tasks and splits of the whole.

    Args:
        evaluated: of the stage "evaluate_suite"; order and repetition do not count.

    Raises:
        RowsRejected: a figure breaks the contract; raised when all verdicts are written, with the report's path.
        ContractViolation: a file has other columns than schemas.EVALUATIONS.
        CorruptArtifact: an input's bytes are not those of its manifest.
    """
    inputs = {f"{artifact.manifest.stage} {artifact.manifest.key}": artifact for artifact in evaluated}

    def make(key: str) -> Outcome:
        parts = _check_parts(store, inputs)
        paths = [str(path) for _, artifact in sorted(inputs.items()) for path in artifact.paths("evaluations.parquet")]
        faults = judge(parts, NO_BAD_FIGURE) + repeated_figures(paths)
        report = store.root / STAGE.name / key / "verdict.md"
        verdict_report(report, parts, faults, _examples(store, parts))
        reject_if(STAGE.name, faults, report)
        return Outcome(parts=tuple(parts), counts=sum_counts(parts), facts=count_figures(paths))

    return store.build(STAGE, NO_BAD_FIGURE, inputs, make)


def repeated_figures(paths: Sequence[str]) -> list[str]:
    """Say which figures a file gives more than once: of two values for one thing nobody knows which to compare.

    Two files may hold models of one name: their folders had the same.
    """
    found = _query(_REPEATED, paths)
    return [
        f"{metric} of {model} on {task} ({split}) is given {times} times, expected once"
        for model, split, task, metric, times in found
    ]


def count_figures(paths: Sequence[str]) -> dict[str, Any]:
    """Rows, models, tasks and splits of the whole."""
    return dict(zip(("rows", "models", "tasks", "splits"), _query(_COUNTS, paths)[0], strict=True))


def _query(query: str, paths: Sequence[str]) -> list[tuple[Any, ...]]:
    with duckdb.connect(":memory:", config={"threads": 1}) as connection:
        return connection.execute(query, {"paths": list(paths)}).fetchall()


def _check_parts(store: Store, inputs: Mapping[str, Artifact]) -> list[Part]:
    """The verdict on each part; the contract runs once over all that have none yet, as a run costs 0.3 s however few rows."""
    done: dict[str, Part] = {}
    tables: dict[str, pa.Table] = {}
    for name, artifact in sorted(inputs.items()):
        for part in artifact.manifest.parts:
            key = store.key(STAGE, NO_BAD_FIGURE, {"part": part.digest, "label": part.label})
            found = store.find_part(STAGE.name, key)
            if found is None:
                tables[key] = pq.read_table(artifact.folder_of(part) / "evaluations.parquet")
                done[key] = part  # keeps the order; replaced below
            else:
                done[key] = found
        assert artifact.manifest.parts, f"{name}: an evaluation without a part"
    for (key, table), verdict in zip(tables.items(), _check_tables(tables), strict=True):
        done[key] = _write(store, key, done[key].label, table, verdict)
    return list(done.values())


def _check_tables(tables: Mapping[str, pa.Table]) -> list[Verdict]:
    for name, table in tables.items():
        check_schema(table, EVALUATIONS, f"evaluations {name}" if len(tables) > 1 else "evaluations")
    return check_many([evaluation_facts(table) for table in tables.values()], evaluation_suite()) if tables else []


def _write(store: Store, key: str, label: str, table: pa.Table, verdict: Verdict) -> Part:
    scratch = store.scratch(STAGE.name)
    quarantined = write_quarantine(scratch, [quarantine_rows(verdict, STAGE.name, table, "task")])
    facts: dict[str, Any] = {"rows": verdict.rows, "quarantined": quarantined, "reasons": verdict.reasons}
    content = {"label": label, "contract": CONTRACT_VERSION, **facts}
    (scratch / "verdict.json").write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")
    counts = Counts(n_in=verdict.rows, n_out=verdict.rows - quarantined, quarantined=quarantined)
    return store.commit_part(draft_part(STAGE, key, label, counts, {"quarantine.parquet": quarantined}, facts), scratch)


def _examples(store: Store, parts: Sequence[Part]) -> list[dict[str, Any]]:
    tables = [pq.read_table(_quarantine(store, part)) for part in parts if part.facts["quarantined"]]
    return pa.concat_tables(tables).slice(0, REPORT_EXAMPLES).to_pylist() if tables else []


def _quarantine(store: Store, part: Part) -> Path:
    return store.folder_of(part) / "quarantine.parquet"
