"""Compiled layers: where they can be had, and that a run's losses are those of layers that are not."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from training_runs import tiny_config, write_inputs, write_job

from pipeline_lib.errors import UserError
from pipeline_lib.train.contrastive import ContrastiveObjective, should_compile
from pipeline_lib.train.distributed import Ranks
from pipeline_lib.train.job import Events
from pipeline_lib.train.trainer import Trainer


def objective(root: Path, **changes: object) -> tuple[ContrastiveObjective, Trainer]:
    store, inputs = write_inputs(root)
    job = write_job(store, inputs, tiny_config(checkpoints=1, **changes))
    made = ContrastiveObjective.build(job, inputs.shards, inputs.tokenizer, Ranks())
    return made, Trainer(job, made, Ranks(), Events(enabled=False))


def test_compiling_is_off_unless_asked_for_and_auto_waits_for_a_gpu_and_a_long_run(tmp_path: Path) -> None:
    encoder = objective(tmp_path)[0].module
    gpu = Ranks(device=torch.device("cuda"))
    assert not should_compile(tiny_config(), encoder, gpu)
    assert should_compile(tiny_config(compile="auto", steps=1000), encoder, gpu)
    assert not should_compile(tiny_config(compile="auto", steps=999), encoder, gpu)
    assert not should_compile(tiny_config(compile="auto", steps=1000), encoder, Ranks())


def test_what_cannot_be_compiled_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, config = objective(tmp_path)[0].module, tiny_config(compile="on")
    with pytest.raises(UserError, match=r"compile is on.*parallel=fsdp"):
        should_compile(tiny_config(compile="on", parallel="fsdp"), encoder, Ranks(size=2))
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(UserError, match="compiler"):
        should_compile(config, encoder, Ranks())
    encoder.fused = False
    with pytest.raises(UserError, match="only a GPT-2"):
        should_compile(config, encoder, Ranks())
    assert not should_compile(tiny_config(compile="auto", steps=1000), encoder, Ranks(device=torch.device("cuda")))


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which(os.environ.get("CXX", "g++")), reason="no C++ compiler, which torch.compile needs here")
@pytest.mark.parametrize("budget", [1, 1 << 30])
def test_compiled_layers_train_to_the_same_losses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, budget: int) -> None:
    """By gradient caching and without, over micro-batches of many sizes, with the same dropout."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))
    losses = {}
    for compiled in ("off", "on"):
        changes = {"compile": compiled, "steps": 4, "activation_bytes": budget}
        made, trainer = objective(tmp_path / compiled, **changes)
        for module in made.module.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.1
        made.module.fused = True
        trainer.run()
        losses[compiled] = [json.loads(line)["loss"] for line in trainer.log.text().splitlines()]
    assert losses["on"] == pytest.approx(losses["off"], rel=1e-5)
