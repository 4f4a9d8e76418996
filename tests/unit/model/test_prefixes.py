"""Loss over prefixes: the plain sum of the losses of vectors that were cut before, however a batch is computed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.equivalence import LIMITS
from benchmarks.equivalence_rows import PREFIXES, ROWS, errors_of
from flows.params import RunParams
from pipeline_lib.config.model import ModelConfig, check_dims, embedding_width
from pipeline_lib.config.run import RunConfig
from pipeline_lib.config.training import MatryoshkaConfig
from pipeline_lib.errors import UserError
from pipeline_lib.model.checkpoint import start_width
from pipeline_lib.model.loss import Guidance, PairHashes, contrastive_loss, over_prefixes
from pipeline_lib.train.distributed import ALONE

WIDTH = 16


@settings(max_examples=25, deadline=None)
@given(
    dims=st.lists(st.integers(1, WIDTH), min_size=1, max_size=4, unique=True),
    weights=st.lists(st.floats(0.1, 3.0), min_size=4, max_size=4),
    pairs=st.integers(2, 9),
    negatives=st.integers(0, 5),
    directions=st.sampled_from(["both", "x_to_y", "y_to_x"]),
)
def test_the_loss_is_the_plain_sum_of_the_losses_of_vectors_cut_before(
    dims: list[int], weights: list[float], pairs: int, negatives: int, directions: str
) -> None:
    generator = np.random.default_rng(pairs * 31 + negatives)
    x_BD, y_KD = (
        F.normalize(torch.from_numpy(generator.standard_normal((n, WIDTH))), dim=1) for n in (pairs, pairs + negatives)
    )
    hashes = PairHashes(torch.arange(pairs), torch.arange(100, 100 + pairs))
    if negatives:
        hashes = PairHashes(hashes.x_B, hashes.y_B, negative_M=torch.arange(200, 200 + negatives))
    tau, weighted = torch.tensor(2.0, dtype=torch.float64), list(zip(dims, weights, strict=False))

    def loss_of(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return contrastive_loss(x, y, tau, hashes, directions=directions)

    expected = 0.0
    for dim, weight in weighted:
        cut = [side[:, :dim] / np.linalg.norm(side[:, :dim], axis=1, keepdims=True) for side in (x_BD.numpy(), y_KD.numpy())]
        expected += weight * float(loss_of(*map(torch.from_numpy, cut)))
    assert float(over_prefixes(loss_of, x_BD, y_KD, weighted)) == pytest.approx(expected, rel=1e-12)
    assert over_prefixes(loss_of, x_BD, y_KD, ()).equal(loss_of(x_BD, y_KD))


@pytest.mark.parametrize("relative", [False, True])
def test_a_prefix_is_judged_by_the_whole_vectors(relative: bool) -> None:
    """What the whole vector tells apart stays a negative of every prefix, however wrong that is about it."""
    generator = torch.Generator().manual_seed(3)
    x_BD, y_KD = (F.normalize(torch.randn(n, WIDTH, dtype=torch.float64, generator=generator), dim=1) for n in (9, 13))
    hashes = PairHashes(torch.arange(9), torch.arange(100, 109), negative_M=torch.arange(200, 204))
    tau, margin = torch.tensor(2.0, dtype=torch.float64), 0.05
    whole_BK = x_BD @ y_KD.T
    cut = [F.normalize(side[:, :4], dim=1) for side in (x_BD, y_KD)]
    logits_BK, expected, left_out, differ = (cut[0] @ cut[1].T) * tau.exp(), torch.zeros((), dtype=torch.float64), 0, 0
    for scores, logits in ((whole_BK, logits_BK), (whole_BK[:, :9].T, logits_BK[:, :9].T)):
        positive = scores.diagonal()[:, None]
        near = scores > positive + margin * (positive.abs() if relative else 1)
        left_out += int(near.sum())
        differ += int((near != (logits / tau.exp() > logits.diagonal()[:, None] / tau.exp() + margin)).sum())
        expected += (logits.masked_fill(near, -torch.inf).logsumexp(dim=1) - logits.diagonal()).sum() / 18
    told = Guidance(margin=margin, relative=relative, by_whole=True)
    guided = replace(hashes, guidance=told).judged_by(x_BD, y_KD)
    for rows in ([slice(0, 9)], [slice(0, 4), slice(4, 9)]):
        told.masked.clear()
        found = sum(float(contrastive_loss(*cut, tau, guided, own)) for own in rows)
        assert found == pytest.approx(float(expected), rel=1e-12)
        assert sum(map(int, told.masked)) == left_out
    assert differ, "the prefix alone would have judged otherwise"


def test_gradients_with_and_without_caching_and_over_processes() -> None:
    rows = [row for row in ROWS if row.prefixes and row.ranks == 1 and not row.broken]
    assert {row.micro_rows for row in rows} == {0, 2}
    assert all(dict(row.prefixes) == dict(PREFIXES) for row in rows)
    for row in rows:
        assert max(errors_of(row, ALONE)["float64"].values()) < LIMITS["float64"], row.name


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"dims": [64, 0]}, "dims: 0 is no dimension"),
        ({"dims": [-3]}, "dims: -3 is no dimension"),
        ({"dims": [8, 8]}, "8 comes twice"),
        ({"dims": [8, 16], "weights": [1]}, "1 values for 2 dims"),
        ({"dims": [8], "weights": [0]}, "each has to be above 0"),
        ({"dims": [8], "weights": [float("nan")]}, "each has to be above 0"),
    ],
)
def test_what_cannot_be_is_refused(fields: dict[str, list[float]], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        MatryoshkaConfig.model_validate(fields)


def test_dimensions_beyond_the_models_are_refused_by_both_numbers() -> None:
    with pytest.raises(UserError, match=r"train.matryoshka.dims: 512 dimensions of a vector that has 256"):
        check_dims([64, 512], embedding_width(ModelConfig(width=256)), "train.matryoshka.dims")
    check_dims([64, 256], 256, "train.matryoshka.dims")
    assert embedding_width(ModelConfig(init="all-minilm-l6-v2")) == 384


@pytest.mark.parametrize(
    ("modes", "dense", "width"), [({}, None, 32), ({"pooling_mode_cls_token": True}, None, 64), ({}, 20, 20)]
)
def test_dimensions_of_an_embedding_model_are_those_behind_its_modules(
    tmp_path: Path, modes: dict[str, bool], dense: int | None, width: int
) -> None:
    files: dict[str, Any] = {
        "config.json": {"model_type": "bert", "hidden_size": 32, "num_hidden_layers": 1},
        "1_Pooling/config.json": {"word_embedding_dimension": 32, "pooling_mode_mean_tokens": True, **modes},
        **({"2_Dense/config.json": {"out_features": dense}} if dense else {}),
    }
    paths = ["", *(name.partition("/")[0] for name in files if "/" in name)]
    kinds = [f"sentence_transformers.models.{kind}" for kind in ("Transformer", "Pooling", "Dense")]
    files["modules.json"] = [{"path": path, "type": kind} for path, kind in zip(paths, kinds, strict=False)]
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(json.dumps(content))
    assert start_width(str(tmp_path)) == width
    for setting in ("train.matryoshka.dims=[16, 72]", "evaluate.dims=[72]", "export.truncate_dim=72"):
        with pytest.raises(UserError, match=f"72 dimensions of a vector that has {width}; the most is {width}"):
            RunParams(preset="smoke", init=str(tmp_path), set=(setting,)).resolve()


def test_keys_are_as_they_were_and_prefixes_measured_in_order() -> None:
    assert "matryoshka" not in RunConfig().train.key_fields()
    config = RunConfig.model_validate({"train": {"matryoshka": {"dims": [256, 64, 128]}}, "export": {"truncate_dim": 32}})
    assert config.train.key_fields()["matryoshka"]["dims"] == [256, 64, 128]
    assert config.measured_dims == (32, 64, 128), "the whole width is measured in any case"
    assert "truncate_dim" not in RunConfig().export.key_fields()
