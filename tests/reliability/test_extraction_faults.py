"""R12, R17, R19 and R20: dead workers, a full disk, a changed byte, another order: no row is lost, none is there twice."""

from __future__ import annotations

import shutil
import subprocess
import sys
import textwrap
from collections import Counter
from pathlib import Path
from typing import Any

import dask
import pyarrow.parquet as pq
import pytest
import yaml
from corpus import write_corpus

from data_contracts.validate import validate
from pipeline_lib.config.data import ContractConfig, CurateConfig, ExtractConfig, ShardConfig, SourceConfig, TokenizerConfig
from pipeline_lib.curation.curate import curate
from pipeline_lib.errors import CorruptArtifact
from pipeline_lib.pairs.extract import STAGE, ExtractWork, extract, extract_bundle
from pipeline_lib.pairs.tables import Rows, sum_facts
from pipeline_lib.runtime.cluster import local_cluster, run_tasks
from pipeline_lib.sources.dump_files import list_bundles, write_listing
from pipeline_lib.store.artifact import Artifact
from pipeline_lib.store.records import Outcome, Part, sum_counts
from pipeline_lib.store.store import Store
from pipeline_lib.tokens.shards import write_shards
from pipeline_lib.tokens.tokenizer import train_tokenizer

PROJECT = Path(__file__).parents[2]

# Dask loads this in every worker: a process ends inside some of the files, at each of those files once.
DIES = textwrap.dedent("""
    import hashlib, os
    from pathlib import Path
    from pipeline_lib.pairs import extract as bundle

    def dying(file, work, rows):
        mark = Path({marks!r}) / hashlib.sha256(file.path.encode()).hexdigest()
        if int(mark.name[:8], 16) < {share} * 2**32 and not mark.exists():
            mark.touch()
            os._exit(9)
        return bundle.harmless(file, work, rows)

    if not hasattr(bundle, "harmless"):  # Dask loads this file twice
        bundle.harmless, bundle.extract_file = bundle.extract_file, dying
""")


def source_of(folder: Path) -> SourceConfig:
    return SourceConfig(folder=str(write_corpus(folder, packages=10)), max_bundle_bytes=30_000)


def dying_workers(tmp_path: Path, share: float) -> dict[str, Any]:
    """Dask's configuration for workers that die, and the folder that counts their deaths."""
    marks = tmp_path / "marks"
    marks.mkdir()
    preload = tmp_path / "dies.py"
    preload.write_text(DIES.format(marks=str(marks), share=share))
    return {"distributed.worker.preload": [str(preload)]}


def extract_here(store: Store, source: SourceConfig) -> Artifact:
    """What `extract` does, by this process alone."""
    bundles = list_bundles(source)
    work = ExtractWork(source=source, extract=ExtractConfig())

    def make(_: str) -> Outcome:
        parts = tuple(Part.model_validate_json(extract_bundle(store.place, bundle, work)) for bundle in bundles)
        facts = sum_facts(part.facts for part in parts)
        return Outcome(parts=parts, counts=sum_counts(parts), facts=facts)

    return store.build(STAGE, work, {"source": write_listing(store, source, bundles)}, make)


@pytest.mark.parametrize("share", [0.1, pytest.param(0.4, marks=pytest.mark.slow)])
def test_r12_workers_that_die_inside_files_cost_no_row_and_add_none(tmp_path: Path, share: float) -> None:
    source = source_of(tmp_path / "mine")
    with dask.config.set(dying_workers(tmp_path, share)):
        hurt = extract(Store(tmp_path / "hurt"), source, ExtractConfig(workers=2))
    deaths = len(list((tmp_path / "marks").iterdir()))
    assert deaths >= 20 * share / 2, "no worker died: nothing was tried"
    assert hurt.manifest == extract_here(Store(tmp_path / "calm"), source).manifest


def test_r12_control_tasks_that_write_as_they_go_and_commit_nothing_give_rows_twice(tmp_path: Path) -> None:
    """The same deaths without the commit rule: Dask repeats a task, and what it had written before stays."""
    source = source_of(tmp_path / "mine")
    out = tmp_path / "rows.txt"

    def append_rows(bundle: Any, work: ExtractWork) -> None:
        from pipeline_lib.pairs import extract as module

        for file in bundle.files:
            rows = Rows(0)
            module.extract_file(file, work, rows)
            with out.open("a") as stream:
                stream.writelines(f"{row[0]}\n" for row in rows.pairs)

    work = ExtractWork(source=source, extract=ExtractConfig())
    with dask.config.set(dying_workers(tmp_path, 0.1)), local_cluster(1, 2**30) as client:
        run_tasks(client, append_rows, [(bundle, work) for bundle in list_bundles(source)], lambda *_: None, lambda: None)
    calm = extract_here(Store(tmp_path / "calm"), source)
    ids = [row for path in calm.paths("pairs.parquet") for row in pq.read_table(path)["id"].to_pylist()]
    assert Counter(out.read_text().split()) != Counter(ids)
    assert set(out.read_text().split()) == set(ids)


ON_A_SMALL_DISK = """
import subprocess, sys
from pathlib import Path
from pipeline_lib.store.store import Store
from pipeline_lib.config.data import SourceConfig
from pipeline_lib.errors import UserError
sys.path.insert(0, sys.argv[3])
from test_extraction_faults import extract_here

disk, source = Path(sys.argv[1]), SourceConfig(folder=sys.argv[2], max_bundle_bytes=200_000)
store = Store(disk / "store")
try:
    extract_here(store, source)
except UserError as error:
    print(error)
for folder in ("parts", "scratch"):
    print(sorted(path.suffix for path in (store.root / "extract" / folder).iterdir()))
print(sorted(path.name for path in (store.root / "extract").iterdir()))
subprocess.run(["mount", "-o", "remount,size=50m", str(disk)], check=True)
print(extract_here(store, source).digest)
"""


def can_mount(folder: Path) -> bool:
    words = ["unshare", "-rm", "mount", "-t", "tmpfs", "tmpfs", str(folder)]
    return shutil.which("unshare") is not None and subprocess.run(words, capture_output=True, check=False).returncode == 0


def test_r17_a_full_disk_is_said_in_one_line_and_a_rerun_with_room_gives_the_same(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if not can_mount(disk):
        pytest.skip("this user may not mount a small disk")
    source = SourceConfig(folder=str(write_corpus(tmp_path / "mine", packages=8, functions=200)), max_bundle_bytes=200_000)
    shell = 'mount -t tmpfs -o size=300k tmpfs "$1" && exec "$2" -c "$3" "$1" "$4" "$5"'
    words = ["sh", str(disk), sys.executable, ON_A_SMALL_DISK, str(tmp_path / "mine"), str(Path(__file__).parent)]
    env = {"PYTHONPATH": f"{PROJECT}:{PROJECT / 'tests'}", "PATH": "/usr/bin:/bin:/usr/sbin:/sbin"}
    words = ["unshare", "-rm", "sh", "-c", shell, *words]
    answer = subprocess.run(words, env=env, capture_output=True, text=True, timeout=200, check=False)
    assert answer.returncode == 0, answer.stderr[-3000:]
    said, parts, scratch, folders, digest = answer.stdout.splitlines()
    assert f"{disk}/store: the disk is full in stage extract: " in said
    read = sum(file.bytes for bundle in list_bundles(source) for file in bundle.files)
    told = f"of 307,200 bytes are free; it reads {read:,} bytes and needs about as many; make room and run again"
    assert f"{told}: finished parts are kept" in said
    records = parts.count(".json")
    assert parts == str([""] * records + [".json"] * records), "files without a record, or a record without files"
    assert 0 < records < len(list_bundles(source))
    assert scratch == "[]"
    assert folders == "['parts', 'scratch', 'timeouts']", "a manifest"
    assert digest == extract_here(Store(tmp_path / "calm"), source).digest


def tree_of(root: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_r19_one_byte_changed_in_any_file_stops_the_next_stage_and_nothing_is_written(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    source = SourceConfig(folder=str(write_corpus(tmp_path / "mine", packages=12)), max_bundle_bytes=10**6)
    artifacts: list[Artifact] = [extract_here(store, source)]
    stages = [
        lambda before: validate(store, before[0], ContractConfig()),
        lambda before: curate(store, before[1], CurateConfig()),
        lambda before: train_tokenizer(store, before[2], TokenizerConfig(vocab_size=400)),
        lambda before: write_shards(store, before[2], before[3], ShardConfig()),
    ]
    tried = 0
    for stage in stages:
        artifact = artifacts[-1]
        for part in artifact.manifest.parts:
            for file in part.files:
                path = store.root / part.folder / file.name
                good = path.read_bytes()
                path.write_bytes(good[: len(good) // 2] + bytes([good[len(good) // 2] ^ 1]) + good[len(good) // 2 + 1 :])
                before = tree_of(store.root)
                with pytest.raises(CorruptArtifact, match=rf"{file.name}: sha256 is \w{{64}}, its record says {file.sha256}"):
                    stage(artifacts)
                assert tree_of(store.root) == before
                path.write_bytes(good)
                tried += 1
        artifacts.append(stage(artifacts))
    assert tried >= 10


def build(folder: Path, spec: Path, workers: int) -> dict[str, bytes]:
    """A dataset, from dump to shards, by this process where `workers` is 0; every manifest and record."""
    store = Store(folder)
    source = SourceConfig(dump=str(spec), max_bundle_bytes=20_000)
    extracted = extract(store, source, ExtractConfig(workers=workers)) if workers else extract_here(store, source)
    curated = curate(store, validate(store, extracted, ContractConfig()), CurateConfig())
    write_shards(store, curated, train_tokenizer(store, curated, TokenizerConfig(vocab_size=500)), ShardConfig())
    names = {"manifest.json"}
    return {
        str(p.relative_to(folder)): p.read_bytes()
        for p in folder.rglob("*.json")
        if p.name in names or p.parent.name == "parts"
    }


@pytest.mark.parametrize("workers", [0, pytest.param(4, marks=pytest.mark.slow)])
def test_r20_another_order_other_workers_and_another_run_write_the_same_manifests(tmp_path: Path, workers: int) -> None:
    write_corpus(tmp_path / "mine", packages=12)
    folders = sorted(path.name for path in (tmp_path / "mine").iterdir())
    made = []
    for name, order, count in (("a", folders, min(workers, 1)), ("b", folders[::-1], workers)):
        place = tmp_path / name  # the same files, made and listed in another order
        for folder in order:
            shutil.copytree(tmp_path / "mine" / folder, place / folder)
        spec = place / "dump.yaml"
        spec.write_text(yaml.safe_dump([{"reader": "tree", "url": folder, "licence": "MIT"} for folder in order]))
        made.append(build(tmp_path / f"store-{name}", spec, count))
    assert len(made[0]) > 20
    assert made[0] == made[1]
    assert build(tmp_path / "store-a", tmp_path / "a" / "dump.yaml", workers) == made[0]
