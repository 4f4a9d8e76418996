"""Texts to vectors against `SentenceTransformer.encode`: `python -m benchmarks.encode [--quick]`.

The same export of the same weights (random: speed does not depend on them), the same texts (docstrings and functions of the
standard library, in the order of their files), tokenizing included, in one process, taken in turn after one unmeasured round.
The peer runs as it comes: batches of 32, float32. Vectors are compared: at equal precision within 1e-5, bfloat16 within 1e-2.
Where bfloat16 is not in the hardware its ratio is null and `bfloat16` says why. On a GPU (`--device cuda`) both sides run
there. Ratios of processor seconds stand beside those of wall seconds: on a machine that does other work too, they are what
can be trusted. The last line is one flat JSON object; ratios above 1 are ours being faster.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.stdlib_pairs import stdlib_pairs

if TYPE_CHECKING:
    from pipeline_lib.config.model import ModelConfig
    from pipeline_lib.store.artifact import Artifact

os.environ.setdefault("HF_HUB_OFFLINE", "1")
SIZES = {  # the demo's, and two where layers weigh more
    "demo": {"layers": 1, "width": 512, "heads": 4, "inner": 128, "positions": 160},
    "four_layers": {"layers": 4, "width": 256, "heads": 4, "inner": 1024, "positions": 160},
    "twelve_layers": {"layers": 12, "width": 384, "heads": 12, "inner": 1536, "positions": 160},
}
QUICK_SIZES = ("demo", "four_layers")
EQUAL, EQUAL_BFLOAT16 = 1e-5, 1e-2

Encode = Callable[[Sequence[str], Sequence[str]], np.ndarray]


def main() -> None:
    """Measure, and print the ratios as one flat JSON object on the last line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer texts and models, under 50 s on 2 cores")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--texts", type=int, help="docstrings and as many functions")
    options = parser.parse_args()
    queries, documents = stdlib_pairs(options.texts or (300 if options.quick else 3_000))
    figures: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as place:
        for name in QUICK_SIZES if options.quick else SIZES:
            folder = write_export(Path(place) / name, SIZES[name], [*queries, *documents])
            measured = measure(folder, queries, documents, options.device, rounds=2 if options.quick else 5)
            figures |= {f"{name}_{key}": value for key, value in measured.items()}
    figures |= {"bfloat16": bfloat16_here(options.device), "device": options.device, "texts": 2 * len(queries)}
    print(json.dumps(figures | {"cores": len(os.sched_getaffinity(0))}))


def write_export(place: Path, sizes: dict[str, int], texts: list[str]) -> Path:
    """A model of random weights and a tokenizer of these texts, exported without ONNX."""
    return random_export(place, sizes, texts, onnx=False).part_folder()


def random_export(place: Path, sizes: dict[str, int], texts: list[str], onnx: bool) -> Artifact:
    """The same as an artifact, with ONNX or without."""
    from pipeline_lib.config.base import StageConfig
    from pipeline_lib.config.data import ShardConfig, TokenizerConfig
    from pipeline_lib.config.model import ModelConfig
    from pipeline_lib.config.run import ExportConfig
    from pipeline_lib.export.export import export
    from pipeline_lib.model.checkpoint import Checkpoint
    from pipeline_lib.model.encoder import Encoder
    from pipeline_lib.store.records import Outcome, Stage, draft_part
    from pipeline_lib.store.store import Store
    from pipeline_lib.tokens.tokenizer import train_bpe

    store = Store(place)

    def commit(name: str, write: Callable[[Path], None]) -> Artifact:
        stage = Stage(name=name, version=1)

        def make(key: str) -> Outcome:
            scratch = store.scratch(name)
            write(scratch)
            return Outcome(parts=(store.commit_part(draft_part(stage, key, name), scratch),))

        return store.build(stage, StageConfig(), {}, make)

    tokenizer = train_bpe(iter(texts), TokenizerConfig(vocab_size=8_192))
    model: ModelConfig = ModelConfig.model_validate(sizes)
    encoder = Encoder.build(model, tokenizer, seed=1)
    lengths = ShardConfig(max_x_tokens=96, max_y_tokens=128)
    checkpoint = Checkpoint(commit("train", encoder.save), "train", commit("tokenizer", tokenizer.save), lengths)
    return export(store, checkpoint, ExportConfig(onnx=onnx))


def measure(folder: Path, queries: Sequence[str], documents: Sequence[str], device: str, rounds: int) -> dict[str, object]:
    """Both sides in turn on one export."""
    sides = {"peer": peer(folder, device), "ours": ours(folder, device, "float32")}
    if bfloat16_here(device) == "in hardware":
        sides["ours_bfloat16"] = ours(folder, device, "bfloat16")
    vectors = {name: encode(queries, documents) for name, encode in sides.items()}  # the unmeasured round
    gaps = {name: float(np.abs(vectors[name] - vectors["peer"]).max()) for name in sides}
    assert gaps["ours"] <= EQUAL, f"vectors differ by {gaps['ours']:.1e}"
    assert gaps.get("ours_bfloat16", 0.0) <= EQUAL_BFLOAT16, f"bfloat16 vectors differ by {gaps['ours_bfloat16']:.1e}"
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, encode in sides.items():
            wall, cpu = time.perf_counter(), time.process_time()
            encode(queries, documents)
            taken[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    n_texts = len(queries) + len(documents)
    wall_ratios = [theirs[0] / mine[0] for theirs, mine in zip(taken["peer"], taken["ours"], strict=True)]
    return {
        "texts_per_second_ratio": _rounded(statistics.median(wall_ratios)),
        "texts_per_second_ratio_low": _rounded(min(wall_ratios)),
        "texts_per_second_ratio_high": _rounded(max(wall_ratios)),
        "processor_seconds_ratio": _rounded(_median(taken["peer"], 1) / _median(taken["ours"], 1)),
        "bfloat16_ratio": _rounded(_median(taken["peer"], 0) / _median(taken["ours_bfloat16"], 0))
        if "ours_bfloat16" in taken
        else None,
        "texts_per_second": _rounded(n_texts / _median(taken["ours"], 0)),
        "peer_texts_per_second": _rounded(n_texts / _median(taken["peer"], 0)),
        "largest_gap": gaps["ours"],
    }


def ours(folder: Path, device: str, precision: str) -> Encode:
    """The export by our own loader."""
    from pipeline_lib.export.exported import ExportedModel

    model = ExportedModel(folder, device, precision)  # type: ignore[arg-type]
    return lambda queries, documents: np.concatenate([model.embed(queries, "x"), model.embed(documents, "y")])


def peer(folder: Path, device: str) -> Encode:
    """The export by sentence-transformers, with its defaults."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device=device)
    return lambda queries, documents: np.concatenate(
        [model.encode_query(list(queries)), model.encode_document(list(documents))]
    )


def bfloat16_here(device: str) -> str:
    """True where the comparison in bfloat16 can be made."""
    from pipeline_lib.model.encoder import fast_bfloat16

    return "in hardware" if fast_bfloat16(device) else f"not in this {device}'s hardware: not measured"


def _median(taken: Sequence[tuple[float, float]], column: int) -> float:
    return statistics.median(row[column] for row in taken)


def _rounded(value: float) -> float:
    return round(value, 3)


if __name__ == "__main__":
    main()
