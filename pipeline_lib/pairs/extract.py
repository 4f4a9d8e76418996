"""Stage `extract`: a raw dump to documents and pairs, bundle by bundle, in Dask worker processes.

Parts are committed by the workers as they finish: whatever is killed, a rerun does the unfinished bundles only. Where all
are done no cluster is started.
"""

from __future__ import annotations

from collections.abc import Sequence

from pipeline_lib.artifact import Artifact, Outcome, Part, Store, sum_counts
from pipeline_lib.cluster import Killed
from pipeline_lib.config import ExtractConfig, SourceConfig
from pipeline_lib.pairs.bundle import STAGE, ExtractWork, extract_bundle, journals, part_key, probe_file
from pipeline_lib.progress import Progress, silent
from pipeline_lib.sources.bundles import Bundle, list_bundles
from pipeline_lib.sources.listing import write_listing
from pipeline_lib.sources.remote import is_remote
from pipeline_lib.sources.time_limit import hung_steps
from pipeline_lib.workers import Workers, gathered

__all__ = ["STAGE", "extract"]


def extract(store: Store, source: SourceConfig, config: ExtractConfig, progress: Progress = silent) -> Artifact:
    """Read a dump and write documents.parquet, pairs.parquet and quarantine.parquet, one part a bundle.

    Its cluster lives for this call. Facts of the artifact: bytes, files, documents, code_pairs, text_pairs.

    Raises:
        UserError: the dump cannot be read or is empty; a worker of an existing cluster sees another root or runs other code.
        TransientError: a server or the scheduler does not answer, or no worker comes.
        RuntimeError: a bundle keeps killing workers although each of its files is harmless alone: too little memory.
    """
    bundles = list_bundles(source)
    listing = write_listing(store, source, bundles)
    work = ExtractWork(source=source, extract=config)
    return store.build(STAGE, work, {"source": listing}, lambda key: _Extraction(store, bundles, work, progress).run())


class _Extraction:
    """The bundles of one dump on their way to parts."""

    def __init__(self, store: Store, bundles: Sequence[Bundle], work: ExtractWork, progress: Progress) -> None:
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
        names = sorted({name for part in parts for name in part.facts})
        facts = {name: sum(part.facts[name] for part in parts) for name in names}
        return Outcome(parts=parts, counts=sum_counts(parts), facts=facts)

    def places(self) -> list[str]:
        """What each worker must see of the dump."""
        files = (file for bundle in self.bundles for file in bundle.files)
        return list({file.source: file.place for file in files if not is_remote(file.place)}.values())

    def hung(self, index: int) -> int:
        """How many texts of a bundle are known to hang their reader."""
        return len(hung_steps(journals(self.store, self.bundles[index], self.work)))

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
