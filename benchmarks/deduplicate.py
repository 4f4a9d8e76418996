"""Near-duplicate removal: documents a second on one core, and recall against the theory of MinHash banding.

    python -m benchmarks.deduplicate [--quick]

Documents are paragraphs of the prose and docstrings on this machine, recombined at random by a fixed seed. A fifth of them
are copies of others in which words are replaced until the Jaccard index of the sets of 5-grams is about 0.8. Both sides do the
same: word 5-grams, 14 bands of 8 hashes (datatrove's default), one process on one core, in seconds of processor time.
Ours verifies each candidate, so that what is dropped is near; recall is then of the pairs that are at 0.8 or above.
datatrove's four steps run from JSON Lines to JSON Lines, as they are made to be run, with `str.split` in spaCy's place.
Where datatrove is not installed the last line has our own figures only.
The last line is one flat JSON object.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import resource
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import duckdb
import numpy as np

from benchmarks.datatrove_peer import cpu_seconds, plug, run
from benchmarks.extract import folder, one_core
from pipeline_lib.config.data import NearDuplicatesConfig, SourceConfig
from pipeline_lib.curation.near_duplicates import RankedText, band_hashes, find_near_duplicates
from pipeline_lib.curation.shingles import jaccard, shingle_sets
from pipeline_lib.sources.dump_files import list_files

CONFIG = NearDuplicatesConfig(threshold=0.8, permutations=112, bands=14)
ENGINE_BYTES = 256 * 1024**2
PARAGRAPHS = 30_000
COPIES = 0.2


def main() -> None:
    """Measure, and print the figures as one flat JSON object on the last line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer documents, under 50 s")
    quick = parser.parse_args().quick
    os.environ["RAYON_NUM_THREADS"] = "1"  # of rensa: read when it first works
    with one_core():
        texts, copies = documents(8_000 if quick else 60_000)
        figures = ours(texts, copies)
        rates = [] if find_spec("datatrove") is None else [theirs(texts)]
    for rate in rates:
        figures |= {"datatrove_documents_per_second": round(rate, 1)}
        figures |= {"of_datatrove": round(figures["documents_per_second_per_core"] / rate, 2)}
    if not rates:
        print("datatrove is not installed: our own figures alone")
    print(json.dumps(figures))


def documents(n: int) -> tuple[list[str], dict[int, tuple[int, float]]]:
    """`n` texts, and of each copy among them (by place) its original and their Jaccard index."""
    generator = random.Random(1)
    pool = paragraphs()
    originals = [
        "\n\n".join(pool[generator.randrange(len(pool))] for _ in range(generator.randint(4, 12)))
        for _ in range(int(n * (1 - COPIES)))
    ]
    texts, copies = list(originals), {}
    for at in range(n - len(originals)):
        copy = near_copy(originals[at], generator)
        copies[len(texts)] = (at, jaccard(*shingle_sets([originals[at], copy], CONFIG.shingle_words)))
        texts.append(copy)
    return texts, copies


def near_copy(text: str, generator: random.Random) -> str:
    """The text with every so many words replaced: k changes 5 k of w shingles, an index of (w - 5k) / (w + 5k)."""
    words = text.split()
    changes = max(1, round((0.2 - generator.uniform(-0.01, 0.02)) / 1.8 * len(words) / CONFIG.shingle_words))
    for at in range(changes):
        words[(2 * at + 1) * len(words) // (2 * changes)] = f"replaced{generator.randrange(1_000_000)}"
    return " ".join(words)


def paragraphs() -> list[str]:
    """Paragraphs of prose on this machine, and of its Python sources where those do not suffice; each once."""
    found: dict[str, None] = {}
    files = sorted(list_files(SourceConfig()), key=lambda file: (file.form == "python", file.sha256))
    for file in files:
        text = Path(file.place).read_text(encoding="utf-8", errors="ignore")
        found.update(dict.fromkeys(part.strip() for part in text.split("\n\n") if 20 <= len(part.split()) <= 80))
        if len(found) >= PARAGRAPHS:
            break
    return list(found)[:PARAGRAPHS]


def ours(texts: list[str], copies: dict[int, tuple[int, float]]) -> dict[str, float]:
    """Our rate, recall with what theory expects of these very pairs, and precision."""
    before = peak_bytes()
    with folder() as scratch, duckdb.connect(":memory:", config=engine(scratch)) as connection:
        start = cpu_seconds()
        gone = find_near_duplicates(_ranked(texts), len(texts), CONFIG, connection, scratch)
        seconds = cpu_seconds() - start
    dropped = set(gone.tolist())
    indices = {copy: index for copy, (_, index) in copies.items() if index >= CONFIG.threshold}
    rows = CONFIG.permutations // CONFIG.bands
    expected = [1 - (1 - index**rows) ** CONFIG.bands for index in indices.values()]
    recall = sum(copy in dropped for copy in indices) / len(indices)
    theory = sum(expected) / len(expected)
    sigma = math.sqrt(sum(p * (1 - p) for p in expected)) / len(expected)
    spread = spread_of_equal_hashes(texts, copies)
    print(f"{len(texts):,} documents in {seconds:.1f} CPU-seconds; recall {recall:.4f}, theory {theory:.4f} +- {sigma:.4f}")
    return {
        "documents": len(texts),
        "words_per_document": round(sum(len(text.split()) for text in texts) / len(texts), 1),
        "documents_per_second_per_core": round(len(texts) / seconds, 1),
        "pairs_at_0.8": len(indices),
        "mean_jaccard": round(sum(indices.values()) / len(indices), 4),
        "recall": round(recall, 4),
        "recall_of_theory": round(theory, 4),
        "recall_sigmas_from_theory": round((recall - theory) / sigma, 2),
        "variance_of_equal_hashes_of_binomial": round(spread, 3),
        "dropped_below_0.8": len(dropped & copies.keys() - indices.keys()),
        "dropped_originals": len(dropped - copies.keys()),
        "peak_memory_grown_mb": round((peak_bytes() - before) / 1e6, 1),
    }


def spread_of_equal_hashes(texts: list[str], copies: dict[int, tuple[int, float]], most: int = 4_000) -> float:
    """Variance of how many hashes two signatures share, over what independent hashes would have: theory takes 1 for granted.

    Below 1, hits are spread over the bands more evenly than by chance, and more pairs share at least one.
    """
    pairs = [(copy, original, index) for copy, (original, index) in list(copies.items())[:most]]
    single = CONFIG.model_copy(update={"bands": CONFIG.permutations})
    copied, originals = (
        band_hashes(shingle_sets([texts[pair[side]] for pair in pairs], CONFIG.shingle_words), single) for side in (0, 1)
    )
    indices = np.array([index for *_, index in pairs])
    away = (copied == originals).sum(axis=1) - CONFIG.permutations * indices
    return float((away**2).sum() / (CONFIG.permutations * indices * (1 - indices)).sum())


def engine(scratch: Path) -> dict[str, str | int]:
    """One thread and little memory, so that what does not fit is spilled."""
    return {"threads": 1, "memory_limit": f"{ENGINE_BYTES}B", "temp_directory": str(scratch)}


def _ranked(texts: list[str]) -> Iterator[RankedText]:
    return (RankedText(rank, 0, text) for rank, text in enumerate(texts))


def peak_bytes() -> int:
    """The most memory that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def theirs(texts: list[str]) -> float:
    """Documents a second of datatrove's four steps, from JSON Lines to JSON Lines as they are made to be run."""
    from datatrove.pipeline.dedup import MinhashDedupBuckets, MinhashDedupCluster, MinhashDedupFilter, MinhashDedupSignature
    from datatrove.pipeline.readers import JsonlReader
    from datatrove.pipeline.writers.jsonl import JsonlWriter

    plug()
    with folder() as place:
        (place / "in").mkdir()
        rows = "".join(json.dumps({"id": str(at), "text": text}) + "\n" for at, text in enumerate(texts))
        (place / "in" / "0.jsonl").write_text(rows)
        read, signatures, buckets, remove, out = (str(place / name) for name in ("in", "sig", "buckets", "remove", "out"))
        steps = [
            ([JsonlReader(read), MinhashDedupSignature(output_folder=signatures)], 1),
            ([MinhashDedupBuckets(input_folder=signatures, output_folder=buckets)], CONFIG.bands),
            ([MinhashDedupCluster(input_folder=buckets, output_folder=remove)], 1),
            ([JsonlReader(read), MinhashDedupFilter(input_folder=remove), JsonlWriter(out, compression=None)], 1),
        ]
        start = cpu_seconds()
        for at, (pipeline, tasks) in enumerate(steps):
            run(pipeline, place / f"logs-{at}", tasks)
        return len(texts) / (cpu_seconds() - start)


if __name__ == "__main__":
    main()
