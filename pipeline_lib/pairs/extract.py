"""Stage "extract": a raw dump to documents and pairs, bundle by bundle, in Dask worker processes.

A task gets paths and configs, makes one bundle of files one part and returns the part's record. Parts are committed by the
workers as they finish: whatever is killed, a rerun does the unfinished bundles only. Where all are done no cluster is started.
"""

from __future__ import annotations

import gc
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline_lib.config.base import StageConfig
from pipeline_lib.config.data import ExtractConfig, SourceConfig
from pipeline_lib.pairs.documents import extract_found, is_test, kind_of
from pipeline_lib.pairs.tables import Rows, sum_facts
from pipeline_lib.runtime.cluster import Killed
from pipeline_lib.runtime.progress import Progress, silent
from pipeline_lib.runtime.workers import Workers, gathered
from pipeline_lib.sources.dump_files import Bundle, list_bundles, write_listing
from pipeline_lib.sources.folder import Skips
from pipeline_lib.sources.readers import is_container, texts_of
from pipeline_lib.sources.records import ContentChangedError, DataLoss
from pipeline_lib.sources.remote import is_remote
from pipeline_lib.sources.safe_open import Refusal
from pipeline_lib.sources.source_file import SourceFile
from pipeline_lib.sources.time_limit import TimeLimit, forget, hung_steps
from pipeline_lib.store.artifact import Artifact
from pipeline_lib.store.files import digest_of
from pipeline_lib.store.records import Outcome, Part, Stage, draft_part, sum_counts
from pipeline_lib.store.store import Store

STAGE = Stage(name="extract", version=6)


class ExtractWork(StageConfig):
    """All choices that the rows of a part depend on, the files' content aside."""

    source: SourceConfig
    extract: ExtractConfig


def extract(store: Store, source: SourceConfig, config: ExtractConfig, progress: Progress = silent) -> Artifact:
    """Read a dump and write documents.parquet, pairs.parquet and quarantine.parquet, one part a bundle.

    Its cluster lives for this call. Facts of the artifact: bytes, lost_bytes, files, texts, documents, code_pairs, text_pairs;
    by reason: refused (texts), left_out (whole texts), losses (of containers, whose rows are in losses.parquet), omitted (parts
    of texts that readers leave out on purpose, such as templates and tables of a wiki),
    skipped (files that the dump holds besides, by reason and suffix).

    Raises:
        UserError: the dump cannot be read or is empty; a worker of an existing cluster sees another root or runs other code.
        TransientError: a server or the scheduler does not answer, or no worker comes.
        RuntimeError: a bundle keeps killing workers although each of its files is harmless alone: too little memory.
    """
    skips = Skips()
    bundles = list_bundles(source, skips, config.more_forms)
    listing = write_listing(store, source, bundles, skips)
    work = ExtractWork(source=source, extract=config)
    return store.build(STAGE, work, {"source": listing}, lambda key: _Extraction(store, bundles, work, progress, skips).run())


class _Extraction:
    """The bundles of one dump on their way to parts."""

    def __init__(self, store: Store, bundles: Sequence[Bundle], work: ExtractWork, progress: Progress, skips: Skips) -> None:
        self.skips = skips  # of the listing; those inside archives and repositories come with the parts
        self.store = store
        self.bundles = bundles
        self.work = work
        self.progress = progress
        self.parts: dict[int, Part] = {}
        self.total_bytes = sum(bundle.bytes for bundle in bundles)

    def run(self) -> Outcome:
        for index, bundle in enumerate(self.bundles):
            part = self.store.find_part(STAGE.name, part_key(bundle, self.work))
            if part is not None:
                self.parts[index] = part
        self.tell()
        missing = [index for index in range(len(self.bundles)) if index not in self.parts]
        if missing:
            with gathered(self.work.extract, self.store, len(missing), self.places()) as workers:
                while missing:
                    hung = {index: self.hung(index) for index in missing}
                    killed = self.extract_bundles(workers, missing)
                    missing = [index for index in killed if self.hung(index) > hung[index]]  # each time fewer texts to try
                    for index in sorted(set(killed) - set(missing)):
                        self.extract_without_killers(workers, index)
        parts = tuple(self.parts[index] for index in range(len(self.bundles)))
        facts = sum_facts({name: fact for name, fact in part.facts.items() if name != "skipped"} for part in parts)
        skips = Skips(self.skips)
        for part in parts:
            skips.update(Skips.of(part.facts.get("skipped", {})))
        facts |= {"skipped": skips.facts()} if skips else {}
        return Outcome(parts=parts, counts=sum_counts(parts), facts=facts)

    def places(self) -> list[str]:
        """Files and folders of the dump that each worker must see."""
        files = (file for bundle in self.bundles for file in bundle.files)
        return list({file.source: file.place for file in files if not is_remote(file.place)}.values())

    def hung(self, index: int) -> int:
        """Number of a bundle's texts that are known to hang their reader."""
        return len(hung_steps(timeout_logs(self.store, self.bundles[index], self.work)))

    def extract_bundles(self, workers: Workers, indices: Sequence[int]) -> list[int]:
        """Extract bundles; returns those that killed their workers."""
        killed: list[int] = []

        def take(task: int, result: object) -> None:
            if isinstance(result, Killed):
                killed.append(indices[task])
            else:
                assert isinstance(result, str)
                self.parts[indices[task]] = Part.model_validate_json(result)

        tasks = [(self.store.place, self.bundles[index], self.work) for index in indices]
        workers.run(extract_bundle, tasks, take, self.tell)
        return sorted(killed)

    def extract_without_killers(self, workers: Workers, index: int) -> None:
        """Try each file of a bundle in a task of its own, then extract the bundle without those that killed workers."""
        bundle = self.bundles[index]
        killers: list[str] = []

        def take(task: int, result: object) -> None:
            if isinstance(result, Killed):
                killers.append(bundle.files[task].place)

        task = (self.store.place, bundle, self.work)
        workers.run(probe_file, [(*task, number) for number in range(len(bundle.files))], take, self.tell)
        results: list[object] = []
        workers.run(extract_bundle, [(*task, tuple(sorted(killers)))], lambda _, result: results.append(result), self.tell)
        if not isinstance(results[0], str):
            limit = self.work.extract.worker_memory_bytes
            raise RuntimeError(
                f"extract: bundle {bundle.label!r} ({bundle.bytes} bytes, {len(bundle.files)} files) killed its workers, which"
                f" may use {limit} bytes each; raise extract.worker_memory_bytes or lower source.max_bundle_bytes"
            )
        self.parts[index] = Part.model_validate_json(results[0])

    def tell(self) -> None:
        done = sum(self.bundles[index].bytes for index in self.parts)
        pairs = sum(part.counts.n_out for part in self.parts.values())
        self.progress(done, self.total_bytes, f"{pairs:,} pairs")


def part_key(bundle: Bundle, work: ExtractWork) -> str:
    """The name of a bundle's part."""
    return digest_of([bundle.digest, work.key_fields(), STAGE.version])


def timeout_logs(store: Store, bundle: Bundle, work: ExtractWork) -> Path:
    """The folder of the timeout logs that say which of a bundle's texts hung."""
    return store.root / STAGE.name / "timeouts" / part_key(bundle, work)


def extract_bundle(place: str, bundle: Bundle, work: ExtractWork, killers: tuple[str, ...] = ()) -> str:
    """Extract a bundle and commit its part. Ends this process where a text hangs: see `time_limit`.

    Args:
        place: of the store; on another machine it must be reached by the same path or URL.
        killers: places of files that killed every worker that met them; they are quarantined unread.

    Returns:
        The part's record, as JSON.
    """
    store = Store.at(place)
    folder = timeout_logs(store, bundle, work)
    unread = {killer: Refusal("worker_killed", "each worker process that read it died") for killer in killers}
    limits = work.source.limits
    with seldom_collected(), TimeLimit(folder, limits.seconds_per_text, limits.max_timeouts) as limit:
        while True:
            scratch = store.scratch(STAGE.name)
            try:
                rows = _rows_of(bundle, work, limit, unread, scratch)
                part = commit_rows(store, bundle, work, rows)
                break
            except ContentChangedError as error:  # rows of it are there already: all is done again without it
                unread[error.file.place] = error.refusal
            finally:
                shutil.rmtree(scratch, ignore_errors=True)  # moved away, unless something failed
    forget(folder)
    return part.model_dump_json()


@contextmanager
def seldom_collected() -> Iterator[None]:
    """Look for cycles of objects after 50,000 new ones, not 700: almost all are freed without, and looking takes 1 to 2 %."""
    before = gc.get_threshold()
    gc.set_threshold(50_000, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)


def _rows_of(bundle: Bundle, work: ExtractWork, limit: TimeLimit, unread: Mapping[str, Refusal], folder: Path) -> Rows:
    """The rows of a bundle; files that are not to be read are refused."""
    rows = Rows(work.extract.generation, folder)
    for number, file in enumerate(bundle.files):
        if (refusal := unread.get(file.place) or limit.begin(number)) is not None:
            refuse_file(file, refusal, rows)
        else:
            extract_file(file, work, rows)
    return rows


def probe_file(place: str, bundle: Bundle, work: ExtractWork, number: int) -> None:
    """Do for one file all that `extract_bundle` does, but write nothing: a worker survives it, or not."""
    limits = work.source.limits
    with TimeLimit(timeout_logs(Store.at(place), bundle, work), limits.seconds_per_text, limits.max_timeouts) as limit:
        if limit.begin(number) is None:
            with suppress(ContentChangedError):
                extract_file(bundle.files[number], work, Rows(work.extract.generation))


def commit_rows(store: Store, bundle: Bundle, work: ExtractWork, rows: Rows) -> Part:
    """Complete the tables of a bundle in their folder and make that its part."""
    assert rows.folder is not None, "rows that are to be a part need a scratch folder"
    written = rows.write()
    names = ("broken_bytes", "bytes", "code_pairs", "documents", "files", "lost_bytes", "text_pairs", "texts")
    by_reason = {"refused": rows.refused, "left_out": rows.left_out, "losses": rows.lost_reasons(), "omitted": rows.omitted}
    facts: dict[str, Any] = {name: rows.facts[name] for name in names}
    facts |= {name: dict(sorted(counts.items())) for name, counts in by_reason.items()}
    facts |= {"skipped": rows.skips.facts()} if rows.skips else {}
    draft = draft_part(STAGE, part_key(bundle, work), bundle.label, rows.counts(), written, facts)
    return store.commit_part(draft, rows.folder)


def extract_file(file: SourceFile, work: ExtractWork, rows: Rows) -> None:
    """Add a file's documents and pairs to the rows, or the reason why there are none."""
    rows.facts["files"] += 1
    rows.facts["bytes"] += file.bytes
    if is_test(file, rows):
        rows.facts["texts"] += 1
        return
    before = rows.facts["texts"]
    for found in texts_of(file, work.source):
        if isinstance(found, DataLoss):
            assert isinstance(found.content, Refusal), "a loss has a reason"
            if found.content.reason == "content_changed" and rows.facts["texts"] > before:
                raise ContentChangedError(file, replace(found.content, lost_bytes=file.bytes))
            rows.lose(file, found.content, rows.facts["texts"] - before)
        else:
            extract_found(found, work.extract, rows)


def refuse_file(file: SourceFile, refusal: Refusal, rows: Rows) -> None:
    """Count a file that is not read at all: a text in quarantine, or the loss of all of a container."""
    rows.facts["files"] += 1
    rows.facts["bytes"] += file.bytes
    if is_container(file):
        rows.lose(file, replace(refusal, lost_bytes=file.bytes), 0)
    else:
        rows.facts["texts"] += 1
        rows.refuse(file, kind_of(file), refusal.reason, refusal.detail)
