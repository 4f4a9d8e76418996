"""Workers that die in validation or tokenization cost no row and add none; a task that kills each worker is named."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Callable
from pathlib import Path

import dask
import pytest
from corpus import write_corpus

from data_contracts import validate as validate_stage
from data_contracts.validate import validate
from pipeline_lib.config.data import (
    ContractConfig,
    CurateConfig,
    ExtractConfig,
    ShardConfig,
    SourceConfig,
    TokenizerConfig,
    WorkersConfig,
)
from pipeline_lib.curation.curate import curate
from pipeline_lib.pairs.extract import extract
from pipeline_lib.runtime.cluster import local_cluster
from pipeline_lib.runtime.workers import HERE, Workers
from pipeline_lib.store.artifact import Artifact
from pipeline_lib.store.store import Store
from pipeline_lib.tokens import shards as shards_stage
from pipeline_lib.tokens.shards import write_shards
from pipeline_lib.tokens.tokenizer import train_tokenizer

# Dask loads this in every worker: the first two tasks end their processes when their work is done, before they can say so.
DIES = textwrap.dedent("""
    import os
    from pathlib import Path
    import {module} as module

    def dying(*task):
        result = module.harmless(*task)
        marks = Path({marks!r})
        if len(list(marks.iterdir())) < 2:
            (marks / str(os.getpid())).touch()
            os._exit(9)
        return result

    if not hasattr(module, "harmless"):  # Dask loads this file twice
        module.harmless, module.{function} = module.{function}, dying
""")
SHARDS = ShardConfig(rows_per_shard=40)


@pytest.fixture(scope="module")
def extracted(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    folder = tmp_path_factory.mktemp("extracted")
    source = SourceConfig(folder=str(write_corpus(folder / "mine", packages=6)), max_bundle_bytes=30_000)
    return extract(Store(folder / "store"), source, ExtractConfig(workers=1))


def validated(store: Store, extracted: Artifact, processes: WorkersConfig) -> Artifact:
    return validate(store, extracted, ContractConfig(), processes=processes)


def sharded(store: Store, extracted: Artifact, processes: WorkersConfig) -> Artifact:
    given = Store(extracted.root)
    curated = curate(given, validated(given, extracted, HERE), CurateConfig())
    tokenizer = train_tokenizer(given, curated, TokenizerConfig(vocab_size=600))
    return write_shards(store, curated, tokenizer, SHARDS, processes=processes)


@pytest.mark.parametrize(
    ("make", "module", "function"),
    [
        (sharded, "pipeline_lib.tokens.shards", "write_shard"),
        pytest.param(validated, "data_contracts.validate_parts", "validate_parts", marks=pytest.mark.slow),
    ],
)
def test_r12_workers_that_die_leave_the_bytes_of_a_calm_run(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    extracted: Artifact,
    make: Callable[[Store, Artifact, WorkersConfig], Artifact],
    module: str,
    function: str,
) -> None:
    for stage, name in ((shards_stage, "MANY_ROWS"), (validate_stage, "MUCH_BYTES"), (validate_stage, "GROUP_PARTS")):
        monkeypatch.setattr(stage, name, 1)
    marks, preload = tmp_path / "marks", tmp_path / "dies.py"
    marks.mkdir()
    preload.write_text(DIES.format(module=module, function=function, marks=str(marks)))
    calm = make(Store(tmp_path / "calm"), extracted, HERE)
    with dask.config.set({"distributed.worker.preload": [str(preload)]}):
        hurt = make(Store(tmp_path / "hurt"), extracted, WorkersConfig(workers=2))
    assert len(list(marks.iterdir())) >= 2, "no worker died: nothing was tried"
    assert hurt.manifest == calm.manifest


def test_a_task_that_kills_each_worker_is_an_error_that_says_what_to_raise() -> None:
    with local_cluster(1, 2**30) as client:
        workers = Workers(WorkersConfig(workers=1), client)
        with pytest.raises(RuntimeError, match=r"shards: task 0 killed its workers.*raise extract\.worker_memory_bytes"):
            workers.run_all("shards", os._exit, [(9,)], lambda *_: None)
