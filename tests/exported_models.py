"""A tiny checkpoint, as training leaves it, for tests of what is exported from it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from builders import write_artifact

from pipeline_lib.config.base import StageConfig
from pipeline_lib.config.data import ShardConfig, TokenizerConfig
from pipeline_lib.config.model import ModelConfig, PromptsConfig
from pipeline_lib.export.export import SIDES
from pipeline_lib.export.onnx import pad
from pipeline_lib.model.checkpoint import Checkpoint
from pipeline_lib.model.encoder import Encoder
from pipeline_lib.runtime.progress import Progress, silent
from pipeline_lib.search.onnx_encoder import OnnxEncoder
from pipeline_lib.store.artifact import Artifact
from pipeline_lib.store.store import Store
from pipeline_lib.tokens.pair_tokenizer import PairTokenizer
from pipeline_lib.tokens.tokenizer import prompted_tokenizer, train_bpe

SHARDS = ShardConfig(max_x_tokens=20, max_y_tokens=32)
LABEL = "step-000002"
TEXTS = [
    "a[0] = {k: [v]} ] } [ {",
    "<x open> <x close> <y open> <y close> <batch pad> hello <x close>",
    "[text] {text} <|endoftext|> <s> </s> [PAD]",
    "word " * 400,
    "x" * 3000,
    "",
    " ",
    "\n\t\n",
    "größer als 2 µm — naïve façade, 日本語テキスト, 🤷🏽‍♀️, e\u0301",
    "def parseHTTPDate(text_value):\n    return datetime.fromisoformat(text_value)  # ISO-8601",
    "null \x00 byte",
]


class Trained(StageConfig):
    """What training records of itself, in small."""

    config: dict[str, int | float]


def tiny_checkpoint(store: Store, prompts: PromptsConfig | None = None, pooling: str = "last") -> Checkpoint:
    """Two layers of width 32, of random weights."""
    tokenizer = train_bpe(iter(TEXTS * 3), TokenizerConfig(vocab_size=500))
    sizes = {"layers": 2, "width": 32, "heads": 2, "inner": 64, "positions": 32, "pooling": pooling}
    encoder = Encoder.build(ModelConfig.model_validate(sizes), tokenizer, seed=3).eval()
    with torch.no_grad():
        for weight in encoder.backbone.parameters():  # away from 0, 1 and small, as training leaves them
            weight.add_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(weight.numel())), alpha=0.2)
    if encoder.lacks_token_weights:
        n_ids = encoder.backbone.config.vocab_size
        encoder.token_weights_V = 0.1 + 3 * torch.rand(n_ids, generator=torch.Generator().manual_seed(5))
    config = Trained(config={"steps": 2, "batch_size": 8, "learning_rate": 0.001})
    tokenized = write_artifact(store, "tokenizer", ["tokenizer"], lambda folder, _: tokenizer.save(folder))
    if prompts:
        tokenized = prompted_tokenizer(store, tokenized, prompts, SHARDS)
        encoder.prompts = tuple(PairTokenizer.load(tokenized.part_folder()).left_out())
    trained = write_artifact(store, "train", [LABEL], lambda folder, _: encoder.save(folder), config)
    return Checkpoint(trained, LABEL, tokenized, SHARDS)


def vectors_of(checkpoint: Checkpoint) -> dict[str, np.ndarray]:
    """Our own encoder's vectors of the texts by side, each text alone."""
    encoder = Encoder.load(checkpoint.trained.part_folder(LABEL))
    tokenizer = PairTokenizer.load(checkpoint.tokenizer.part_folder())
    vectors = {}
    for name, side in SIDES.items():
        ids = tokenizer.encode(TEXTS, side, checkpoint.max_tokens(side))
        with torch.no_grad():
            vectors[name] = torch.cat([encoder(*map(torch.from_numpy, pad([row]))) for row in ids]).numpy()
    return vectors


IN_A_FRESH_PROCESS = """
import json, socket, sys
import numpy as np
from sentence_transformers import SentenceTransformer
folder, out = sys.argv[1:]
socket.socket.connect = None  # whoever asks the network fails
texts, blocks = json.load(sys.stdin)
for block in blocks:
    said = {}
    exec(block.replace("path/to/this/folder", folder), said)
model = SentenceTransformer(folder, device="cpu")
np.savez(
    out,
    query=model.encode_query(texts),
    document=model.encode_document(texts, batch_size=3),
    plain=model.encode(texts),
    parameters=sum(p.numel() for p in model.parameters()),
    width=model.get_embedding_dimension(),
    recipe=said["vectors"].numpy(),
)
"""


def run_sentence_transformers(folder: Path, place: Path) -> dict[str, Any]:
    """What sentence-transformers makes of the texts, in a fresh process without network, away from our code."""
    answer = subprocess.run(
        [sys.executable, "-I", "-c", IN_A_FRESH_PROCESS, str(folder), str(place / "vectors.npz")],
        input=json.dumps([TEXTS, code_blocks(folder)]),
        cwd=place,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(place), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr[-3000:]
    assert "created with Sentence Transformers version" not in answer.stderr
    with np.load(place / "vectors.npz") as arrays:
        return dict(arrays)


def code_blocks(folder: Path) -> list[str]:
    return [block.split("\n```")[0] for block in (folder / "README.md").read_text().split("```python\n")[1:]]


class Exported:
    """An export as the index's encoder, by ONNX."""

    precision = "float32"

    def __init__(self, exported: Artifact) -> None:
        self.id, self.fingerprint, self.encoder = self, exported.digest[:24], OnnxEncoder(exported.part_folder())

    def encode(self, texts: Sequence[str], side: str, progress: Progress = silent) -> np.ndarray:
        return self.encoder.embed(texts, "document")
