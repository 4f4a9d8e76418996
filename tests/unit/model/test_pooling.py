"""Pooling against its definition, row by row; heads that are refused before a tensor is built."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch.testing import assert_close

from pipeline_lib.errors import CorruptArtifact, UserError
from pipeline_lib.model.given import EmbeddingHead, load_head, load_transformer
from pipeline_lib.model.pooling import pool
from pipeline_lib.tokens.sentence_transformer import SentenceTransformer, read_sentence_transformer

WIDTH = 6
DEFINITIONS: dict[str, Any] = {
    "last": lambda rows, _: rows[-1],
    "cls": lambda rows, _: rows[0],
    "mean": lambda rows, _: rows.mean(0),
    "max": lambda rows, _: rows.max(0).values,
    "mean_sqrt_len_tokens": lambda rows, _: rows.sum(0) / len(rows) ** 0.5,
    "weightedmean": lambda rows, places: (rows * places[:, None]).sum(0) / places.sum(),
    "idf_mean": lambda rows, places: (rows / places[:, None]).sum(0) / (1 / places).sum(),
}


@pytest.mark.parametrize("skips", [None, (0, 2, 1)])
@pytest.mark.parametrize("pooling", DEFINITIONS)
def test_pooling_is_that_of_each_row_alone(pooling: Any, skips: tuple[int, ...] | None) -> None:
    states_BLD = torch.randn(3, 7, WIDTH, generator=torch.Generator().manual_seed(1)) - 5  # below 0: padding must not win
    lengths_B = torch.tensor([7, 4, 2])
    skipped_B = None if skips is None else torch.tensor(skips)
    places = torch.arange(1.0, 8.0)
    expected = [
        DEFINITIONS[pooling](states[skip:length], places[skip:length])
        for states, length, skip in zip(states_BLD, lengths_B, skips or (0, 0, 0), strict=True)
    ]
    weights_BL = (1 / places).expand(3, -1) if pooling == "idf_mean" else None
    assert_close(pool(states_BLD, lengths_B, pooling, skipped_B, weights_BL), torch.stack(expected))
    states_BLD[1, 4:] = torch.nan  # what padding holds does not matter
    assert_close(pool(states_BLD, lengths_B, pooling, skipped_B, weights_BL), torch.stack(expected))


def write_model(folder: Path, dense: dict[str, Any], weights: dict[str, torch.Tensor] | bytes | None) -> SentenceTransformer:
    """A folder of sentence-transformers with one Dense; its transformer has no weights."""
    files: dict[str, Any] = {
        "modules.json": [
            {"path": path, "type": f"sentence_transformers.models.{kind}"}
            for kind, path in (("Transformer", ""), ("Pooling", "1_Pooling"), ("Dense", "2_Dense"))
        ],
        "config.json": {"model_type": "bert"},
        "1_Pooling/config.json": {"pooling_mode": "mean"},
        "2_Dense/config.json": {"in_features": WIDTH, "out_features": 4, **dense},
    }
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(json.dumps(content))
    if isinstance(weights, bytes):
        (folder / "2_Dense" / "model.safetensors").write_bytes(weights)
    elif weights:
        save_file(weights, folder / "2_Dense" / "model.safetensors")
    return read_sentence_transformer(folder)


GOOD = {"linear.weight": torch.ones(4, WIDTH), "linear.bias": torch.zeros(4)}


@pytest.mark.parametrize(
    ("dense", "expected"),
    [
        ({}, lambda x: torch.tanh(x.sum())),  # the library's default
        ({"activation_function": "torch.nn.modules.linear.Identity"}, lambda x: x.sum()),
        ({"activation_function": "torch.nn.modules.activation.ReLU"}, lambda x: x.sum().relu()),
    ],
)
def test_a_dense_is_applied_with_its_activation(tmp_path: Path, dense: dict[str, Any], expected: Any) -> None:
    head = load_head(write_model(tmp_path, dense, GOOD), WIDTH)
    states_BLD = torch.randn(1, 1, WIDTH)
    out_BE = head(states_BLD, torch.zeros(1, 1, dtype=torch.long), torch.tensor([1]))
    assert_close(out_BE, expected(states_BLD[0, 0]).repeat(1, 4))
    assert isinstance(head, EmbeddingHead) and head.width == 4


@pytest.mark.parametrize(
    "name", ["os.system", "torch.load", "torch.nn.Linear", "torch.nn.modules.activation.os", "builtins.eval", "custom.Act"]
)
def test_nothing_but_torchs_own_activations_is_looked_up(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=name):
        load_head(write_model(tmp_path, {"activation_function": name}, GOOD), WIDTH)


def test_weights_that_do_not_fit_or_are_pickled_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="pickle"):
        load_head(write_model(tmp_path, {}, None), WIDTH)
    with pytest.raises(CorruptArtifact):
        load_head(write_model(tmp_path, {}, {"linear.weight": torch.ones(4, 5), "linear.bias": torch.zeros(4)}), WIDTH)
    with pytest.raises(CorruptArtifact):
        load_head(write_model(tmp_path, {}, b"\x80\x04 a pickle"), WIDTH)
    with pytest.raises(CorruptArtifact):
        load_head(write_model(tmp_path, {"in_features": "many"}, GOOD), WIDTH)


def test_a_transformer_without_safetensors_is_refused(tmp_path: Path) -> None:
    write_model(tmp_path, {}, GOOD)
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04 a pickle")
    with pytest.raises(UserError):
        load_transformer(tmp_path)
