"""The memory of extraction, validation and search suites does not grow with the size of one file."""

from __future__ import annotations

import hashlib
import json
import random
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from corpus import NOUNS

from pipeline_lib.config.data import ExtractConfig, SourceConfig
from pipeline_lib.evaluation.suites.models import ModelId
from pipeline_lib.model.encoder import fast_bfloat16
from pipeline_lib.pairs import tables as rows
from pipeline_lib.pairs.extract import STAGE, ExtractWork, extract_bundle
from pipeline_lib.runtime.progress import Progress, silent
from pipeline_lib.sources.dump_files import list_bundles
from pipeline_lib.store.artifact import Artifact
from pipeline_lib.store.records import Outcome, Part
from pipeline_lib.store.store import Store

# In a process of its own, and VmHWM: ru_maxrss remembers the parent that this process was forked from.
CHILD = """
import re, sys
from pathlib import Path
from pipeline_lib.model.encoder import fast_bfloat16
from pipeline_lib.pairs import tables as rows
rows.ROW_GROUP_CHARACTERS = int(sys.argv[3])
sys.path.insert(0, sys.argv[4])
from test_memory import extract_one
part = extract_one(Path(sys.argv[1]), Path(sys.argv[2]))
print(part.counts.n_out, int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read()).group(1)))
"""


VALIDATING = """
import re, sys
from pathlib import Path
from data_contracts import validate_parts
from data_contracts.validate import validate
from pipeline_lib.store.store import Store
from pipeline_lib.config.data import ContractConfig
validate_parts.RUN_BYTES = int(sys.argv[3])
sys.path.insert(0, sys.argv[4])
from test_memory import extracted_as_one_part
store = Store(Path(sys.argv[2]))
artifact = validate(store, extracted_as_one_part(store, Path(sys.argv[1])), ContractConfig())
print(artifact.manifest.counts.n_out, int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read()).group(1)))
"""


SEARCHING = """
import re, sys
from pathlib import Path
from pipeline_lib.store.store import Store
from pipeline_lib.config.evaluation import SuiteConfig
from pipeline_lib.evaluation.suites.evaluate import evaluate_suite
from pipeline_lib.evaluation.suites.registry import open_suite
sys.path.insert(0, sys.argv[4])
from test_memory import DigestEncoder
config = SuiteConfig(block_texts=int(sys.argv[3]), faiss_from_rows=1, bootstrap=10)
suite = open_suite("beir/large", Path(sys.argv[1]), config)
artifact = evaluate_suite(Store(Path(sys.argv[2])), DigestEncoder(), suite, "test")
facts = artifact.manifest.facts
print(facts["documents"], int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read()).group(1)))
"""


class DigestEncoder:
    """A vector of each text's hash: as many and as large as a real model's small ones, in no time."""

    id = ModelId("digest", "digest")

    def encode(self, texts: Sequence[str], side: str, progress: Progress = silent) -> np.ndarray:
        """Vectors of length 1, float32 (N, 32)."""
        digests = b"".join(hashlib.sha256(text.encode()).digest() for text in texts)
        vectors_ND = np.frombuffer(digests, np.int8).reshape(-1, 32).astype(np.float32) + 0.5
        return vectors_ND / np.linalg.norm(vectors_ND, axis=1, keepdims=True)


def write_beir(folder: Path, documents: int) -> Path:
    """A BEIR folder below `folder`: documents of a kilobyte, twenty queries."""
    place = folder / "beir" / "large"
    (place / "qrels").mkdir(parents=True)
    chance = random.Random(5)
    with (place / "corpus.jsonl").open("w") as stream:
        for number in range(documents):
            text = " ".join(chance.choices(NOUNS, k=150))
            stream.write(json.dumps({"_id": f"d{number}", "title": f"number {number}", "text": text}) + "\n")
    queries = "".join(json.dumps({"_id": f"q{n}", "text": f"query {n}"}) + "\n" for n in range(20))
    (place / "queries.jsonl").write_text(queries)
    rows = "".join(f"q{n}\td{n}\t1\n" for n in range(20))
    (place / "qrels" / "test.tsv").write_text(f"query-id\tcorpus-id\tscore\n{rows}")
    return folder


def write_dump(path: Path, bytes_: int) -> Path:
    """One file of JSON Lines: documents of 3 kB."""
    chance = random.Random(3)
    texts = [" ".join(chance.choices(NOUNS, k=70)) + "." for _ in range(500)]
    with path.open("w") as stream:
        while stream.tell() < bytes_:
            name = f"http://site/{stream.tell()}"
            stream.write(json.dumps({"text": "\n\n".join(chance.choices(texts, k=6)), "url": name}) + "\n")
    return path


def extract_one(dump: Path, store: Path) -> Part:
    """Extract a file as a part of its own."""
    spec = dump.with_suffix(".yaml")
    spec.write_text(f"- {{reader: json_lines, url: {dump}, licence: MIT}}\n")
    source = SourceConfig(dump=str(spec))
    (bundle,) = list_bundles(source)
    work = ExtractWork(source=source, extract=ExtractConfig())
    return Part.model_validate_json(extract_bundle(str(store), bundle, work))


def extracted_as_one_part(store: Store, record: Path) -> Artifact:
    """An artifact of the part that an earlier process extracted, read from its record."""
    part = Part.model_validate_json(record.read_text())
    return store.build(STAGE, ExtractConfig(), {}, lambda _: Outcome(parts=(part,), counts=part.counts))


def peak(dump: Path, store: Path, limit: int, child: str = CHILD) -> tuple[int, int]:
    """Rows that came out, and the peak memory (KiB); `limit` is of the size of a row group, or of a contract's run."""
    words = [sys.executable, "-c", child, str(dump), str(store), str(limit), str(Path(__file__).parent)]
    path = f"{Path(__file__).parents[2]}:{Path(__file__).parents[1]}"
    answer = subprocess.run(words, env={"PYTHONPATH": path}, capture_output=True, text=True, timeout=300, check=True)
    pairs, kibibytes = answer.stdout.split()
    return int(pairs), int(kibibytes)


@pytest.mark.parametrize(
    ("bytes_", "row_group"),
    [(1_000_000, 300_000), pytest.param(60_000_000, rows.ROW_GROUP_CHARACTERS, marks=pytest.mark.slow)],
)
def test_ten_times_the_dump_takes_less_than_a_tenth_more_memory(bytes_: int, row_group: int, tmp_path: Path) -> None:
    small, large = (peak(write_dump(tmp_path / f"{n}.jsonl", n * bytes_), tmp_path / str(n), row_group) for n in (1, 10))
    assert 9 < large[0] / small[0] < 11
    assert large[1] < 1.1 * small[1]


# 400 MB of text take 38 MB more than 40: a hundred bytes a document, where its vector lies, twice while places are merged
@pytest.mark.parametrize(("documents", "most"), [(4_000, 1.1), pytest.param(40_000, 1.2, marks=pytest.mark.slow)])
def test_a_corpus_ten_times_as_large_is_searched_in_little_more_memory(documents: int, most: float, tmp_path: Path) -> None:
    block = documents // 4
    small, large = (
        peak(write_beir(tmp_path / str(n), n * documents), tmp_path / f"store-{n}", block, SEARCHING) for n in (1, 10)
    )
    assert (small[0], large[0]) == (documents, 10 * documents)
    assert large[1] < most * small[1]


@pytest.mark.slow
def test_validating_a_part_ten_times_as_large_takes_little_more_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "ROW_GROUP_CHARACTERS", 1_000_000)
    peaks = []
    for n in (1, 10):
        store = tmp_path / str(n)
        part = extract_one(write_dump(tmp_path / f"{n}.jsonl", n * 5_000_000), store)
        (tmp_path / f"{n}.part").write_text(part.model_dump_json())
        peaks.append(peak(tmp_path / f"{n}.part", store, 4 * 1024**2, VALIDATING))
    small, large = peaks
    assert 9 < large[0] / small[0] < 11
    assert large[1] < 1.15 * small[1]


def test_tables_that_were_written_piece_by_piece_hold_the_same_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dump = write_dump(tmp_path / "a.jsonl", 200_000)
    whole = extract_one(dump, tmp_path / "whole")
    monkeypatch.setattr(rows, "ROW_GROUP_CHARACTERS", 30_000)
    pieces = extract_one(dump, tmp_path / "pieces")
    assert (pieces.counts, pieces.facts) == (whole.counts, whole.facts)
    for name in ("documents.parquet", "pairs.parquet", "quarantine.parquet"):
        one, many = (
            pq.ParquetFile(tmp_path / place / part.folder / name) for place, part in (("whole", whole), ("pieces", pieces))
        )
        assert one.read().equals(many.read())
        assert one.num_row_groups == 1
        assert many.num_row_groups > 3 or not one.metadata.num_rows
    assert not list((Store(tmp_path / "pieces").root / "extract" / "scratch").iterdir())


STEPS_OF_A_SMALL_LLAMA = ["--steps", "40", "--batch", "64", "--layers", "2", "--vocabulary", "8192"]


@pytest.mark.slow
def test_training_holds_after_many_steps_what_it_held_after_a_few() -> None:
    """Micro-batches whose shapes differ from step to step, in bfloat16, in the trainer's environment."""
    command = [sys.executable, "-m", "benchmarks.memory", *STEPS_OF_A_SMALL_LLAMA]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    if fast_bfloat16("cpu"):  # elsewhere torch does not hand these products to oneDNN
        unbounded = subprocess.run([*command, "--unbounded"], capture_output=True, text=True, check=False)
        grown, held = (json.loads(found.stdout.splitlines()[-1])["held_bytes_most"] for found in (unbounded, answer))
        assert grown > 1.3 * held
