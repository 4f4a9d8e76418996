"""WARC and JSON Lines to text pairs against datatrove: the same files, the same main text, the same filters, one core each.

    python -m benchmarks.web_text [--quick]

The files are recombined from real dumps, `dumps/warc/*.warc.gz` and `dumps/jsonl/*.jsonl.gz` below CPT_EVAL_DATA: the pages of
the WARCs as often as is asked for, each under an address of its own, and documents put together from the paragraphs of the
JSON Lines. Without them it says that it is skipped.

Ours is all that a worker does: read, check digests, extract, decode, filter by the rules of Gopher (quality and repetition),
cut into pieces, make pairs, write and commit the Parquet files. datatrove: reader, extractor, GopherRepetitionFilter,
GopherQualityFilter, JsonlWriter without compression; it makes no pairs. Its extractor is our function plugged into its
`BaseExtractor`, so that both read the same text (its default, trafilatura, is no dependency of ours); it runs in a process of
its own, as in any of its pipelines. Seconds are of processor time, all processes together: others on the machine count little.
The last line is one flat JSON object.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import random
import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from statistics import median

from benchmarks import EVAL_DATA, skip
from benchmarks.datatrove_peer import cpu_seconds, plug, run
from benchmarks.extract import folder, one_core
from pipeline_lib.config.data import ExtractConfig, SourceConfig
from pipeline_lib.config.filters import FilterConfig, QualityConfig, RepetitionConfig
from pipeline_lib.config.read_limits import ReadLimits
from pipeline_lib.pairs.extract import ExtractWork, extract_bundle
from pipeline_lib.sources.decompress import open_expanded
from pipeline_lib.sources.dump_files import bundles_of
from pipeline_lib.sources.folder import describe
from pipeline_lib.sources.readers.html import main_text
from pipeline_lib.sources.safe_open import Refusal
from pipeline_lib.sources.source_file import Form, SourceFile
from pipeline_lib.sources.web.records import web_records
from pipeline_lib.store.records import Part

FILTERS = FilterConfig(preset="none", quality=QualityConfig(enabled=True), repetition=RepetitionConfig(enabled=True))
WORK = ExtractWork(source=SourceConfig(), extract=ExtractConfig(filters=FILTERS))
LIMITS = ReadLimits()


def main() -> None:
    """Measure, and print the ratios as one flat JSON object on the last line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer documents and rounds, under 50 s")
    quick = parser.parse_args().quick
    if not (EVAL_DATA / "dumps").is_dir():
        skip(f"no dumps/warc and dumps/jsonl in {EVAL_DATA}")
        return
    figures: dict[str, float | int] = {}
    with one_core(), folder() as place:
        (place / "warc").mkdir()
        (place / "json_lines").mkdir()
        counts = {
            "warc": write_pages(place / "warc" / "pages.warc.gz", 4 if quick else 40),
            "json_lines": write_records(place / "json_lines" / "records.jsonl.gz", 500 if quick else 10_000),
        }
        for form, n in counts.items():
            figures |= measure(place, form, n, rounds=2 if quick else 5)
    print(json.dumps(figures))


def write_pages(path: Path, times: int) -> int:
    """The pages of the real WARCs so many times; returns the pages."""
    pages = []
    for real in sorted((EVAL_DATA / "dumps" / "warc").glob("*.warc.gz")):
        with open_expanded(str(real), LIMITS) as stream:
            for record in web_records(stream, LIMITS):
                if not isinstance(record, Refusal):
                    pages.append(record.block)
    with path.open("wb") as out:
        for time in range(times):
            for number, page in enumerate(pages):
                out.write(gzip.compress(_record(f"https://{number}.example.org/{time}", page), mtime=0))
    return times * len(pages)


def _record(url: str, block: bytes) -> bytes:
    """A response as Common Crawl writes it."""
    head = (
        f"WARC/1.0\r\nWARC-Type: response\r\nWARC-Record-ID: <urn:{url}>\r\nWARC-Date: 2026-01-01T00:00:00Z\r\n"
        f"WARC-Target-URI: {url}\r\nContent-Type: application/http; msgtype=response\r\nContent-Length: {len(block)}\r\n"
        f"WARC-Block-Digest: sha256:{hashlib.sha256(block).hexdigest()}\r\nWARC-Identified-Payload-Type: text/html\r\n\r\n"
    )
    return head.encode() + block + b"\r\n\r\n"


def write_records(path: Path, n: int) -> int:
    """Write `n` documents of 3 to 30 paragraphs of the real ones, as C4 spells them; returns n."""
    generator, paragraphs = random.Random(1), dict[str, None]()
    for real in sorted((EVAL_DATA / "dumps" / "jsonl").glob("*.jsonl.gz")):
        for line in gzip.decompress(real.read_bytes()).splitlines():
            paragraphs.update(dict.fromkeys(part for part in json.loads(line)["text"].split("\n") if len(part.split()) > 5))
    pool = list(paragraphs)
    with gzip.open(path, "wt", compresslevel=6) as out:
        for number in range(n):
            text = "\n\n".join(generator.sample(pool, generator.randint(3, 30)))
            out.write(json.dumps({"text": text, "url": f"https://example.org/{number}", "timestamp": "2026-01-01"}) + "\n")
    return n


def measure(place: Path, form: str, n: int, rounds: int) -> dict[str, float | int]:
    """Both in turn; seconds of the middle round."""
    sides: dict[str, Callable[[Path, str, Path], int]] = {"ours": ours}
    if find_spec("datatrove") is not None:
        plug()
        sides["datatrove"] = theirs
    else:
        print("datatrove is not installed: our own figures alone")
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    kept = {}
    for round_ in range(rounds):
        for side, work in sides.items():
            out = place / f"{form}-{side}-{round_}"
            start = cpu_seconds()
            kept[side] = work(place, form, out)
            seconds[side].append(cpu_seconds() - start)
            shutil.rmtree(out)
            print(f"{form}: {side} {n / seconds[side][-1]:,.0f} documents a second, {kept[side]} of {n} kept")
    figures = {f"{form}_documents_per_second_per_core": round(n / median(seconds["ours"]), 1), f"{form}_documents": n}
    figures[f"{form}_kept"] = kept["ours"]
    if "datatrove" in sides:
        ratios = [peer / own for own, peer in zip(seconds["ours"], seconds["datatrove"], strict=True)]
        figures[f"{form}_of_datatrove"] = round(median(ratios), 3)
        figures[f"{form}_of_datatrove_low"] = round(min(ratios), 3)
        figures[f"{form}_datatrove_kept"] = kept["datatrove"]
    return figures


def ours(place: Path, form: str, out: Path) -> int:
    """One bundle to one part; returns the documents that were kept."""
    (path,) = (place / form).iterdir()
    file: SourceFile = describe(str(path), path.name, form, form).model_copy(update={"form": _form(form)})
    part = Part.model_validate_json(extract_bundle(str(out), bundles_of([file], file.bytes)[0], WORK))
    return part.facts["documents"]


def _form(form: str) -> Form:
    return "warc" if form == "warc" else "json_lines"


def theirs(place: Path, form: str, out: Path) -> int:
    """Reader, extractor, filters and writer; returns the documents that were kept."""
    from datatrove.pipeline.extractors.base import BaseExtractor
    from datatrove.pipeline.filters import GopherQualityFilter, GopherRepetitionFilter
    from datatrove.pipeline.readers import JsonlReader, WarcReader
    from datatrove.pipeline.writers.jsonl import JsonlWriter

    class MainText(BaseExtractor):  # type: ignore[misc]  # datatrove is untyped
        name = "main text"

        def __init__(self) -> None:
            super().__init__(timeout=10)

        def extract(self, text: str) -> str:
            found = main_text(text.encode(), LIMITS, "utf-8")
            return "" if isinstance(found, Refusal) else found

    WarcReader._requires_dependencies = JsonlReader._requires_dependencies = []
    read = [WarcReader(str(place / form)), MainText()] if form == "warc" else [JsonlReader(str(place / form))]
    written = out / "documents"
    run([*read, GopherRepetitionFilter(), GopherQualityFilter(), JsonlWriter(str(written), compression=None)], out / "logs")
    return sum(path.read_text().count("\n") for path in written.iterdir())


if __name__ == "__main__":
    main()
