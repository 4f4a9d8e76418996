"""What a batch holds against what: the hashes that the loss masks by."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from training_runs import tiny_config, write_inputs, write_job

from pipeline_lib.errors import UserError
from pipeline_lib.model.loss import contrastive_loss
from pipeline_lib.model.micro_batches import cut_micro_batches, in_input_order
from pipeline_lib.tokens import frequency
from pipeline_lib.train.contrastive import ContrastiveObjective
from pipeline_lib.train.distributed import Ranks


def objective(root: Path, **changes: object) -> ContrastiveObjective:
    store, inputs = write_inputs(root)
    job = write_job(store, inputs, tiny_config(batch_size=48, **changes))
    return ContrastiveObjective.build(job, inputs.shards, inputs.tokenizer, Ranks())


def test_only_pieces_of_one_document_are_spared_each_other(tmp_path: Path) -> None:
    made = objective(tmp_path, mask_same_document=("neighbour",))
    n_code = made.rows.plan.shares["docstring"]
    document_B = made.read_batch(0).hashes.document_B
    assert document_B is not None and len(document_B) == 48
    code, text = document_B[:n_code], document_B[n_code:]
    assert len(code.unique()) == n_code, "functions of one document are negatives of each other"
    assert len(text.unique()) < len(text), "the tiny corpus has nine documents"
    assert not set(code.tolist()) & set(text.tolist())


@pytest.mark.parametrize("views", [(), ("neighbour",)])
def test_the_mask_changes_the_loss_only_where_it_is_asked_for(tmp_path: Path, views: tuple[str, ...]) -> None:
    made = objective(tmp_path, mask_same_document=views)
    batch = made.read_batch(0)
    generator = torch.Generator().manual_seed(0)
    x_BD, y_BD = (torch.nn.functional.normalize(torch.randn(48, 8, generator=generator), dim=1) for _ in range(2))
    bare = type(batch.hashes)(batch.hashes.x_B, batch.hashes.y_B)
    with_mask, without = (
        float(contrastive_loss(x_BD, y_BD, made.module.log_scale.detach(), hashes)) for hashes in (batch.hashes, bare)
    )
    assert (with_mask < without) if views else (with_mask == without)


@pytest.mark.parametrize(
    ("rates", "warned"),
    [({"learning_rate": 1e-3}, False), ({"learning_rate": 3e-3}, True), ({"embedding_learning_rate": 5e-2}, True)],
)
def test_a_rate_that_overwrites_the_token_table_is_warned_of(tmp_path: Path, rates: dict[str, float], warned: bool) -> None:
    lines = objective(tmp_path, **rates).describe()  # a new table's deviation is 0.02
    assert any(line.startswith("rates: ") and "warm-up 2 steps" in line for line in lines)
    found = [line for line in lines if "standard deviation" in line]
    assert bool(found) is warned
    if warned:
        assert f"{max(rates.values()) / 0.02:.2g} times the standard deviation of its weights, 0.02" in found[0]


def test_a_batch_from_one_dataset_holds_no_other(tmp_path: Path) -> None:
    made = objective(tmp_path, batches_from="one_dataset", mixture={"docstring": 0.5, "neighbour": 0.5})
    views = set()
    for step in range(6):
        (view,) = made.rows.plan.rows(step)
        views.add(view)
        batch, ids = made.read_batch(step), made.pair_ids(step)
        assert len(batch.x_ids) == len(ids) == 48
        of_view = {
            pair for n in range(len(made.rows.datasets[view])) for pair in made.rows.datasets[view].pair_ids(np.array([n]))
        }
        assert set(ids) <= of_view
    assert views == {"docstring", "neighbour"}


@pytest.mark.parametrize("stretch", [1024, 7])
def test_the_mean_weighs_tokens_by_how_rare_they_are(tmp_path: Path, stretch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a large data set what is read lies all over it."""
    monkeypatch.setattr(frequency, "STRETCH", stretch)
    monkeypatch.setattr(frequency, "STRETCHES", 5)
    store, inputs = write_inputs(tmp_path)
    job = write_job(store, inputs, tiny_config())
    job = job.model_copy(update={"model": job.model.model_copy(update={"pooling": "idf_mean"})})
    made = ContrastiveObjective.build(job, inputs.shards, inputs.tokenizer, Ranks())
    texts, read = [], 0
    for dataset in made.rows.datasets.values():
        n_stretches = -(-len(dataset) // stretch)
        firsts = [
            n * stretch for n in (range(n_stretches) if n_stretches <= 5 else (k * (n_stretches - 1) // 4 for k in range(5)))
        ]
        rows = dataset.rows(np.array([row for first in firsts for row in range(first, min(first + stretch, len(dataset)))]))
        texts += [row.tolist() for row in (*rows.x_ids, *rows.y_ids)]
        read += len(rows.x_ids)
    assert read == 180 if stretch == 1024 else 60 < read <= 70
    holding = Counter(token for text in texts for token in set(text))
    idf = {token: np.log((len(texts) + 1) / (holding[token] + 1)) + 0.3 for token in range(400)}
    average = np.mean([idf[token] for text in texts for token in text])
    weights_V = made.module.token_weights_V
    assert weights_V is not None
    np.testing.assert_allclose(weights_V.numpy(), [idf[token] / average for token in range(400)], rtol=1e-5)
    made.save(tmp_path / "saved")  # what goes on from it keeps them, whatever it is trained on
    monkeypatch.setattr(frequency, "IDF_FLOOR", 9.0)
    again = job.model_copy(update={"start": str(tmp_path / "saved")})
    kept_V = ContrastiveObjective.build(again, inputs.shards, inputs.tokenizer, Ranks()).module.token_weights_V
    assert kept_V is not None and kept_V.equal(weights_V)


def test_a_step_over_prefixes_is_the_sum_of_steps_on_cut_vectors(tmp_path: Path) -> None:
    made = objective(tmp_path, matryoshka={"dims": [8, 32], "weights": [1.0, 0.5]}, token_dropout=0.0)
    assert "dimensions x weight: 8 x 1, 32 x 0.5" in made.describe()[-1]
    whole = objective(tmp_path, token_dropout=0.0)
    batch = whole.read_batch(0)
    with torch.no_grad():
        cut = cut_micro_batches(batch.sequences(np.arange(48)), 1 << 20)
        emb_ND = in_input_order([whole.module(piece.ids_BL, piece.lengths_B) for piece in cut], cut)
    expected = 0.0
    for dim, weight in ((8, 1.0), (32, 0.5)):
        unit_ND = torch.nn.functional.normalize(emb_ND[:, :dim], dim=1)
        expected += weight * float(contrastive_loss(unit_ND[:48], unit_ND[48:], whole.module.log_scale.detach(), batch.hashes))
    assert float(made.gradients(0).loss) == pytest.approx(expected, rel=1e-5)
    with pytest.raises(UserError, match=r"train.matryoshka.dims: 33 dimensions of a vector that has 32"):
        objective(tmp_path, matryoshka={"dims": [33]})
