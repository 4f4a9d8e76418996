"""An exported model of random weights and curated pairs."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from builders import pair_row, write_artifact, write_pairs
from transformers import GPT2Config, GPT2Model

from data_contracts.schemas import SPLITS, row_id
from pipeline_lib.config.data import TokenizerConfig
from pipeline_lib.export.onnx import write_onnx
from pipeline_lib.export.self_test import TEXTS, write_self_test
from pipeline_lib.store.artifact import Artifact
from pipeline_lib.store.store import Store
from pipeline_lib.tokens.pair_tokenizer import PairTokenizer, side_tokenizer_json
from pipeline_lib.tokens.tokenizer import train_bpe
from pipeline_lib.tokens.tokenizer_files import SideTokenizer

WIDTH, LAYERS, HEADS, POSITIONS = 16, 2, 2, 32

PAIRS_OF_WORDS = [
    ("code", "docstring", "parse an iso date from a string", "def parse_date(text):\n    return text.split('-')"),
    ("code", "docstring", "close the socket quietly", "def close(sock):\n    sock.close()\n    return None"),
    ("code", "name", "read lines", "def read_lines(path):\n    return open(path).readlines()"),
    ("code", "docstring", "Read all lines of a file.\nMore.", "def read_lines(path):\n    return open(path).readlines()"),
    ("text", "neighbour", "The first passage speaks of apples.", "The second passage speaks of pears."),
    ("text", "neighbour", "The second passage speaks of pears.", "The third passage speaks of plums."),
]


def pair_rows(pairs: list[tuple[str, str, str, str]]) -> list[dict[str, Any]]:
    return [
        pair_row(
            x,
            y,
            kind,
            id=row_id("pair", str(i), x, y),
            view=view,
            document_id=row_id("document", kind),
            source="planted 1.0",
            group="planted",
            path=f"planted/{kind}_{i}.py",
            line=10 + i,
            position=i,
            name=f"planted.{kind}_{i}",
        )
        for i, (kind, view, x, y) in enumerate(pairs)
    ]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "home")


@pytest.fixture
def curate(store: Store) -> Callable[..., Artifact]:
    """Curated pairs in three splits, dealt in turn."""

    def curate(pairs: list[tuple[str, str, str, str]] = PAIRS_OF_WORDS) -> Artifact:
        rows = pair_rows(pairs)
        return write_pairs(store, "curate", {split: rows[i :: len(SPLITS)] for i, split in enumerate(SPLITS)})

    return curate


@pytest.fixture(scope="session")
def pair_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> tuple[PairTokenizer, Path]:
    texts = [text for _, _, *both in PAIRS_OF_WORDS for text in both]
    tokenizer = train_bpe(iter(texts * 3), TokenizerConfig(vocab_size=400))
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer.save(folder)
    return tokenizer, folder


@cache
def random_graph(vocab_size: int, seed: int) -> bytes:
    """A GPT-2's graph; the same seed is the same model."""
    sizes = {
        "vocab_size": vocab_size,
        "n_positions": POSITIONS,
        "n_embd": WIDTH,
        "n_layer": LAYERS,
        "n_head": HEADS,
        "n_inner": 2 * WIDTH,
    }
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        backbone = GPT2Model(GPT2Config(activation_function="gelu_pytorch_tanh", attn_pdrop=0.0, **sizes))
        for weight in backbone.parameters():
            weight.copy_(torch.randn(weight.shape) * 0.5)
        with NamedTemporaryFile(suffix=".onnx") as file:
            write_onnx(backbone, Path(file.name))
            return Path(file.name).read_bytes()


def record_self_test(folder: Path, settings: dict[str, Any]) -> None:
    """What the graph gives, as `export` records it."""
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
    ids, vectors = {}, {}
    for name in ("query", "document"):
        read = SideTokenizer(folder / name, settings[name]["open_id"], settings[name]["close_id"])
        ids[name] = read(TEXTS)
        rows = [{"input_ids": np.array([row]), "lengths": np.array([len(row)])} for row in ids[name]]
        vectors[name] = np.concatenate([session.run(None, row)[0] for row in rows])
    write_self_test(folder, ids, vectors, weights_sha256="")


@pytest.fixture
def export_model(store: Store, pair_tokenizer: tuple[PairTokenizer, Path]) -> Callable[..., Artifact]:
    """The files of an export that a search reads; another seed is another model."""
    tokenizer, tokenizer_folder = pair_tokenizer

    def export_model(seed: int = 0) -> Artifact:
        def write(folder: Path, _: str) -> None:
            (folder / "model.onnx").write_bytes(random_graph(tokenizer.vocab_size, seed))
            settings: dict[str, Any] = {"version": 1, "dim": WIDTH}
            for name, side in (("query", "x"), ("document", "y")):
                (folder / name).mkdir()
                (folder / name / "tokenizer.json").write_text(side_tokenizer_json(tokenizer_folder, side, 24))
                (open_id,), (close_id,) = tokenizer.delimiters.of(side)
                settings[name] = {"max_tokens": 24, "open_id": open_id, "close_id": close_id}
            (folder / "search.json").write_text(json.dumps(settings))
            record_self_test(folder, settings)

        return write_artifact(store, f"export-{seed}", ["model"], write)

    return export_model
