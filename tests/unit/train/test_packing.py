"""Packed micro-batches in a run: where they are taken, what is refused, and that they train to the same losses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from training_runs import tiny_config, write_inputs, write_job

from pipeline_lib.errors import UserError
from pipeline_lib.train import contrastive as packing
from pipeline_lib.train.contrastive import ContrastiveObjective, should_pack
from pipeline_lib.train.distributed import Ranks
from pipeline_lib.train.job import Events
from pipeline_lib.train.trainer import Trainer

GPU = Ranks(device=torch.device("cuda"))


def objective(root: Path, **changes: object) -> tuple[ContrastiveObjective, Trainer]:
    store, inputs = write_inputs(root)
    job = write_job(store, inputs, tiny_config(checkpoints=1, **changes))
    made = ContrastiveObjective.build(job, inputs.shards, inputs.tokenizer, Ranks())
    return made, Trainer(job, made, Ranks(), Events(enabled=False))


def test_auto_packs_on_a_gpu_in_bfloat16_where_the_kernel_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, config = objective(tmp_path)[0].module, tiny_config(precision="bfloat16")
    assert config.attention == "auto" and not encoder.packed
    assert not should_pack(config, encoder, Ranks())
    monkeypatch.setattr(packing, "kernel_obstacle", lambda device, head_width: "")
    assert should_pack(config, encoder, GPU)
    encoder.backbone.config.n_layer = 1
    assert not should_pack(config, encoder, GPU), "its only layer is pooled"
    encoder.backbone.config.n_layer = 2
    assert not should_pack(tiny_config(), encoder, GPU), "float32"
    assert not should_pack(tiny_config(precision="bfloat16", attention="padded"), encoder, GPU)
    monkeypatch.setattr(packing, "kernel_obstacle", lambda device, head_width: "the kernel does not run here: old GPU")
    assert not should_pack(config, encoder, GPU)
    with pytest.raises(UserError, match="old GPU; take attention=padded"):
        should_pack(tiny_config(precision="bfloat16", attention="packed"), encoder, GPU)


def test_what_cannot_be_packed_is_said(tmp_path: Path) -> None:
    encoder, config = objective(tmp_path)[0].module, tiny_config(attention="packed")
    with pytest.raises(UserError, match=r"attention is packed.*parallel=fsdp"):
        should_pack(tiny_config(attention="packed", parallel="fsdp"), encoder, Ranks(size=2))
    assert should_pack(config, encoder, Ranks())
    encoder.fused = False
    with pytest.raises(UserError, match="only a GPT-2"):
        should_pack(config, encoder, Ranks())


@pytest.mark.parametrize("budget", [1, 1 << 30])
def test_packed_runs_have_the_same_losses_and_no_padding(tmp_path: Path, budget: int) -> None:
    """By gradient caching and without."""
    rows = {}
    for attention in ("padded", "packed"):
        changes = {"attention": attention, "steps": 4, "activation_bytes": budget, "micro_batch_tokens": 400}
        _, trainer = objective(tmp_path / attention, **changes)
        trainer.run()
        rows[attention] = [json.loads(line) for line in trainer.log.text().splitlines()]
    losses = {attention: [row["loss"] for row in found] for attention, found in rows.items()}
    assert losses["packed"] == pytest.approx(losses["padded"], rel=1e-5)
    assert {row["padding_share"] for row in rows["packed"]} == {0.0}
    assert max(row["padding_share"] for row in rows["padded"]) > 0
