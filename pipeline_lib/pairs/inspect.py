"""Samples of a source: how much there is, what would become of it, and some documents and pairs, within bounds."""

from __future__ import annotations

import heapq
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from data_contracts.schemas import DOCUMENTS, PAIRS, row_id
from pipeline_lib.config.data import CodePairsConfig, ExtractConfig, SourceConfig
from pipeline_lib.languages import language_names
from pipeline_lib.pairs.documents import as_document, extract_found
from pipeline_lib.pairs.filters import PUBLISHED, FilterReport, SampledDrops, report_on_documents
from pipeline_lib.pairs.tables import Rows
from pipeline_lib.sources.dump_files import list_source
from pipeline_lib.sources.dump_spec import DumpSource
from pipeline_lib.sources.folder import Skips
from pipeline_lib.sources.readers import texts_of
from pipeline_lib.sources.records import DataLoss, SourceRecord
from pipeline_lib.sources.safe_open import SourceText
from pipeline_lib.sources.source_file import SourceFile

Row = dict[str, Any]
SAMPLE_CHARACTERS = 1_000  # kept of what a reason left out


@dataclass
class Reason:
    """One reason that something was not taken, with the first example of it."""

    count: int
    place: str  # file, record or line
    sample: str  # what was not taken, or why it could not be read


@dataclass
class Sample:
    """Sample of one source."""

    source: DumpSource
    files: int
    bytes: int
    texts: int = 0  # documents, records, members or pages that were read
    whole: bool = True  # that was all of the source
    pairs: int = 0
    refused: dict[str, Reason] = field(default_factory=dict)  # texts that could not be read
    left_out: dict[str, Reason] = field(default_factory=dict)  # texts and candidates for pairs, as extraction drops them
    omitted: Counter[str] = field(default_factory=Counter)  # parts of texts that readers leave out on purpose, by kind
    losses: list[DataLoss] = field(default_factory=list)  # parts of files that were not read
    skips: Skips = field(default_factory=Skips)  # files that are not read, by reason and suffix
    documents_shown: list[Row] = field(default_factory=list)
    pairs_shown: list[Row] = field(default_factory=list)
    filters: FilterReport = field(default_factory=FilterReport)  # of documents; empty where it was not asked for
    dropped: SampledDrops = field(default_factory=SampledDrops)  # pairs by reason; empty where it was not asked for

    @property
    def readable(self) -> bool:
        """True where a text could be read."""
        return self.texts > sum(reason.count for reason in self.refused.values())


class _Smallest:
    """The rows with the smallest hashes of their ids: a sample that holds no more than its size."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.heap: list[tuple[int, str, int, Row]] = []
        self.seen = 0  # decides between rows of one id, which do not compare

    def add(self, row: Row) -> None:
        rank = -int(row_id(row["id"])[:12], 16)
        self.seen += 1
        entry = (rank, row["id"], self.seen, row)
        if len(self.heap) < self.size:
            heapq.heappush(self.heap, entry)
        elif self.heap and rank > self.heap[0][0]:
            heapq.heapreplace(self.heap, entry)

    def rows(self) -> list[Row]:
        return [row for *_, row in sorted(self.heap, key=lambda entry: (entry[-1]["path"], *entry[1:3]))]


def sample_source(source: DumpSource, max_texts: int, shown: int, n_dropped: int = 0) -> Sample:
    """Read a source up to `max_texts` texts and keep `shown` of its documents and of its pairs, the same ones every time.

    Args:
        n_dropped: samples kept of what each filter drops; 0: the filters are not tried one by one.

    Raises:
        UserError: the source is missing or holds nothing for its reader.
        TransientError: a server did not answer.
    """
    skips = Skips()
    extract = ExtractConfig(code=CodePairsConfig(languages=language_names(), blocks=("notebook", "markdown")))
    files = list_source(source, skips, extract.more_forms)
    sample = Sample(source, len(files), sum(file.bytes for file in files), skips=skips)
    config = SourceConfig()
    documents, pairs = _Smallest(shown), _Smallest(shown)
    for file in sorted(files, key=_shuffled):
        for found in texts_of(file, config):
            if isinstance(found.content, Skips):
                sample.skips.update(found.content)
                continue
            if isinstance(found, DataLoss):
                sample.losses.append(found)
                continue
            if sample.texts == max_texts:
                sample.whole = False
                break
            sample.texts += 1
            rows = Rows(0)
            rows.dropped = SampledDrops(max(n_dropped, 1))
            extract_found(found, extract, rows)
            _count(sample, found, rows)
            if n_dropped:
                _try_filters(sample, found, rows.dropped, n_dropped)
            for values in rows.documents:
                documents.add(dict(zip(DOCUMENTS.names, values, strict=True)))
            for values in rows.pairs:
                pairs.add(dict(zip(PAIRS.names, values, strict=True)))
        if not sample.whole:
            break
    sample.documents_shown, sample.pairs_shown = documents.rows(), pairs.rows()
    return sample


def _count(sample: Sample, found: SourceRecord, rows: Rows) -> None:
    """Add what became of a text, and keep the first example of each reason."""
    sample.pairs += len(rows.pairs)
    sample.omitted.update(found.omitted)
    for _, _, path, offset, _, reason, detail in rows.quarantine:
        _note(sample.refused, reason, 1, f"{path} at {offset}" if offset >= 0 else path, detail)
    assert isinstance(rows.dropped, SampledDrops), f"drops are counted by a {type(rows.dropped).__name__}"
    whole = found.content.text if isinstance(found.content, SourceText) else getattr(found.content, "detail", "")
    for reason, count in rows.dropped.items():
        pairs = rows.dropped.samples.get(reason)
        text = "\n".join(pairs[0]) if pairs else whole
        _note(sample.left_out, reason, count, found.file.path, text[:SAMPLE_CHARACTERS])


def _note(reasons: dict[str, Reason], reason: str, count: int, place: str, sample: str) -> None:
    reasons.setdefault(reason, Reason(0, place, sample)).count += count


def _try_filters(sample: Sample, found: SourceRecord, dropped: Counter[str], n_samples: int) -> None:
    """Note which filters apply to a text, and what was dropped of its pairs."""
    if isinstance(found.content, SourceText):
        document = as_document(found.file, found.content.text)
        sample.filters.add(report_on_documents([document], PUBLISHED, n_samples), n_samples)
    assert isinstance(dropped, SampledDrops), f"drops are counted by a {type(dropped).__name__}"
    for reason, samples in dropped.samples.items():
        sample.dropped[reason] += dropped[reason]
        for x, y in samples:
            sample.dropped.keep(reason, x, y)


def _shuffled(file: SourceFile) -> str:
    return row_id(file.source, file.path)
