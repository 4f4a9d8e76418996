"""Stage "evaluate_suite": one model on one suite and split.

Its one part "MODEL-SPLIT" holds evaluations.parquet (schemas.EVALUATIONS) and per_query.parquet (schemas.PER_QUERY). Its facts
say which tasks there are, of what kind and by which primary metric, whether the suite may be selected on, and how
many rows of its files are in no figure (`left_out`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import SerializeAsAny

from data_contracts.schemas import EVALUATIONS, PER_QUERY
from pipeline_lib.config.base import StageConfig
from pipeline_lib.errors import UserError
from pipeline_lib.evaluation.metrics import NotFiniteError, require_finite
from pipeline_lib.evaluation.suites.cached import CachedEncoder, ParallelEncoder
from pipeline_lib.evaluation.suites.models import HybridModel, Model, TextEncoder, WordModel, precision_of
from pipeline_lib.evaluation.suites.suite import Figure, Suite, SuiteResult
from pipeline_lib.evaluation.suites.variants import TruncatedModel, for_task
from pipeline_lib.runtime.progress import Progress, silent
from pipeline_lib.store.artifact import Artifact
from pipeline_lib.store.files import sha256_file
from pipeline_lib.store.records import Outcome, Part, Stage, draft_part
from pipeline_lib.store.store import Store

STAGE = Stage(name="evaluate_suite", version=7)


class SuiteRun(StageConfig):
    """All that a suite's figures depend on."""

    model: str
    fingerprint: str
    step: int
    suite: str
    split: str
    files: tuple[tuple[str, str], ...]  # name and sha256
    suite_config: SerializeAsAny[StageConfig]


def evaluate_suite(store: Store, model: Model, suite: Suite, split: str, progress: Progress = silent) -> Artifact:
    """Measure one model on one suite; found done where model, files and configuration are the same.

    Raises:
        MissingData: the suite's files are not there.
        UserError: the suite has no such split.
        NotFiniteError: an embedding or a figure is not finite.
    """
    check_split(suite, split)
    model = for_task(model, suite.name, suite.kind, *suite.views)
    paths = suite.paths(split)
    run = SuiteRun(
        model=model.id.name,
        fingerprint=model.id.fingerprint,
        step=model.id.step,
        suite=suite.name,
        split=split,
        files=tuple((path.name, sha256_file(path)) for path in paths),
        suite_config=suite.settings(split),
    )

    def make(key: str) -> Outcome:
        with _prepared(store, model, suite) as used:
            try:
                result = suite.run(used, split, progress)
            except NotFiniteError as error:  # what embeds texts does not know for what
                raise NotFiniteError(f"{suite.task}, {split}: {error}") from error
        _require_finite(run.model, result)
        part = _write(store, key, run, suite, result)
        return Outcome(parts=(part,), facts=_facts(suite, result) | _precision_of(model))

    return store.build(STAGE, run, suite.inputs(split), make)


def _require_finite(model: str, result: SuiteResult) -> None:
    """Raises NotFiniteError where a figure, or the value of one query behind it, is not finite."""
    for figure in result.figures:
        where, bounds = f"{model} on {figure.task}", figure.interval
        require_finite(figure.values, where, f"{figure.metric}'s value", figure.ids)
        numbers = np.array([bounds.value, bounds.low, bounds.high])
        require_finite(numbers, where, figure.metric, ("the figure", "its low", "its high"))


def check_split(suite: Suite, split: str) -> None:
    """Raises UserError where the suite has no such split."""
    if split not in suite.splits:
        raise UserError(f"{suite.name} has no split {split!r}; it has: {', '.join(suite.splits)}")


@contextmanager
def _prepared(store: Store, model: Model, suite: Suite) -> Iterator[Model]:
    """The model with its cache, and over several processes where the config says so; a lexical one as it is."""
    if isinstance(model, WordModel):
        yield model
        return
    ranked = model.encoder if isinstance(model, HybridModel) else model
    whole = ranked.encoder if isinstance(ranked, TruncatedModel) else ranked
    parallel = ParallelEncoder(whole, suite.config.processes or 1)
    try:
        cached: TextEncoder = CachedEncoder(parallel, store, suite.config.block_texts)
        if isinstance(ranked, TruncatedModel):
            cached = replace(ranked, encoder=cached)
        yield replace(model, encoder=cached, kind=suite.kind) if isinstance(model, HybridModel) else cached
    finally:
        parallel.close()


def _write(store: Store, key: str, run: SuiteRun, suite: Suite, result: SuiteResult) -> Part:
    scratch = store.scratch(STAGE.name)
    figures = [
        (run.model, run.step, run.split, suite.kind, figure.task, figure.metric, i.value, i.low, i.high, i.n)
        for figure in result.figures
        for i in (figure.interval,)
    ]
    rows = {
        "evaluations.parquet": _write_rows(scratch / "evaluations.parquet", EVALUATIONS, figures),
        "per_query.parquet": _write_queries(scratch / "per_query.parquet", suite.kind, result.figures),
    }
    return store.commit_part(draft_part(STAGE, key, f"{run.model}-{run.split}", rows=rows), scratch)


def _write_queries(path: Path, kind: str, figures: Iterable[Figure]) -> int:
    n = 0
    with pq.ParquetWriter(path, PER_QUERY) as writer:
        for figure in figures:
            ids, values = list(figure.ids), figure.values
            targets = figure.targets if len(figure.targets) else [1.0] * len(ids)
            groups = figure.groups or [""] * len(ids)
            same = ([figure.task] * len(ids), [kind] * len(ids), [figure.metric] * len(ids))
            numbers = (pa.array(values, pa.float64()), pa.array(targets, pa.float64()))
            writer.write_table(pa.table([*same, ids, groups, *numbers], PER_QUERY))
            n += len(ids)
    return n


def _write_rows(path: Path, schema: pa.Schema, rows: Sequence[tuple[Any, ...]]) -> int:
    columns = [pa.array([row[i] for row in rows], field.type) for i, field in enumerate(schema)]
    pq.write_table(pa.Table.from_arrays(columns, schema=schema), path)
    return len(rows)


def _precision_of(model: Model) -> dict[str, str]:
    """The precision of its matrix products, where it is none that is taken for granted."""
    precision = precision_of(model)
    return {} if precision == "float32" else {"precision": precision}


def _facts(suite: Suite, result: SuiteResult) -> dict[str, Any]:
    tasks: dict[str, dict[str, Any]] = {}
    for figure in result.figures:  # a task's primary metric comes first
        tasks.setdefault(figure.task, {"kind": suite.kind, "primary": figure.metric, "n": figure.interval.n})
    left_out = {reason: n for reason, n in sorted(suite.left_out.items()) if n}
    told = {"left_out": left_out} if left_out else {}
    return {"tasks": tasks, "headline": suite.task, "reported_only": suite.reported_only, **told, **result.facts}
