"""A sharded model is built, filled and saved without any process holding it whole, with the weights of the whole one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from training_runs import tiny_config, write_inputs, write_job
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from benchmarks.gloo import run_ranks
from pipeline_lib.config.model import ModelConfig
from pipeline_lib.config.training import PretrainConfig
from pipeline_lib.model.encoder import Encoder
from pipeline_lib.model.outline import outline_encoder, read
from pipeline_lib.train.distributed import Ranks
from pipeline_lib.train.job import PRETRAIN, Job
from pipeline_lib.train.sharding import deviation, fill, own, shard, whole, write_whole
from pipeline_lib.train.trainer import build_objective

VOCABULARY: Any = SimpleNamespace(vocab_size=300, appended=(), x_open=0, x_close=1, y_open=2, y_close=3, pad=4)
SIZES = {"layers": 12, "width": 512, "heads": 8, "inner": 2048, "positions": 16}
WHOLE_BYTES = 4 * 12 * 12 * 512**2  # 151 MB, of the blocks alone


def status_bytes(field: str) -> int:
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return 1024 * int(line.split()[1])


@pytest.fixture
def exact_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """New processes give freed memory back at once: what is resident is what they hold."""
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", str(1 << 16))


class Peak:
    """The most resident memory inside, over that before."""

    def __enter__(self) -> Peak:
        Path("/proc/self/clear_refs").write_text("5")
        self.before = status_bytes("VmRSS")
        return self

    def __exit__(self, *_: object) -> None:
        self.bytes = status_bytes("VmHWM") - self.before


@dataclass(frozen=True)
class Built:
    """Peaks of building and of saving, as shares of the whole model's bytes."""

    config: ModelConfig
    path: Path
    way: str

    def __call__(self, ranks: Ranks) -> dict[str, Any]:
        self.build(ModelConfig(layers=1, width=16, heads=2, inner=16), ranks)  # what the libraries import meanwhile
        with Peak() as building:
            encoder = self.build(self.config, ranks)
        tensors = dict(encoder.backbone.named_parameters())
        with Peak() as saving:
            write_whole(tensors, self.path if ranks.is_first else None)
        held = sum(own(tensor).nbytes for tensor in tensors.values())
        deviates = deviation(encoder.backbone.get_input_embeddings().weight, ranks)
        return {"building": building.bytes, "saving": saving.bytes, "held": held, "deviation": deviates}

    def build(self, config: ModelConfig, ranks: Ranks) -> Encoder:
        if self.way == "whole":  # what was done before, for the measure's own sake
            encoder = Encoder.build(config, VOCABULARY, seed=1)
            shard(encoder.backbone, ranks, "step")
            return encoder
        encoder, weights = outline_encoder(config, VOCABULARY, seed=1)
        shard(encoder.backbone, ranks, "step")
        fill(encoder.backbone, weights, ranks.device)
        return encoder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lm")
    Encoder.build(ModelConfig(**SIZES), VOCABULARY, seed=1).save(folder)
    return folder


@pytest.mark.usefixtures("exact_memory")
@pytest.mark.parametrize("start", ["random", "given"])
def test_no_process_holds_a_sharded_model_whole(tmp_path: Path, folder: Path, start: str) -> None:
    config = ModelConfig(**SIZES, init=str(folder) if start == "given" else "")
    found = run_ranks(2, Built(config, tmp_path / "model.safetensors", "outline"), fresh=True)
    for rank in found:
        assert rank["held"] < 0.55 * WHOLE_BYTES
        assert rank["building"] < 0.8 * WHOLE_BYTES, "its half, and a block at a time"
        assert rank["saving"] < 0.3 * WHOLE_BYTES, "a tensor at a time, and pages of the file"
    expected = load_file(folder / "model.safetensors")
    written = load_file(tmp_path / "model.safetensors")
    assert written.keys() == expected.keys()
    assert all(torch.equal(written[name], expected[name]) for name in expected), "the weights of the whole model, to the bit"
    assert (tmp_path / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
    table = expected["wte.weight"]
    assert {round(rank["deviation"], 9) for rank in found} == {round(float(table.double().std()), 9)}


@pytest.mark.usefixtures("exact_memory")
def test_the_measure_sees_a_model_that_is_built_whole(tmp_path: Path, folder: Path) -> None:
    found = run_ranks(2, Built(ModelConfig(**SIZES, init=str(folder)), tmp_path / "model.safetensors", "whole"), fresh=True)
    assert all(rank["building"] > 1.2 * WHOLE_BYTES for rank in found)


@dataclass(frozen=True)
class Tied:
    folder: Path

    def __call__(self, ranks: Ranks) -> list[Any]:
        def given(layers: int | None) -> Any:
            config = AutoConfig.from_pretrained(self.folder)
            config.num_hidden_layers = layers or config.num_hidden_layers
            return AutoModelForCausalLM.from_pretrained(self.folder, config=config)

        model, weights = read(self.folder, None, AutoModelForCausalLM, given)
        shard(model, ranks, "step")
        fill(model, weights, ranks.device)
        tied = model.lm_head.weight is model.get_input_embeddings().weight
        ids = torch.arange(12).reshape(2, 6)
        loss = model(ids, labels=ids, use_cache=False).loss
        loss.backward()
        norm = float(whole(model.get_input_embeddings().weight.grad).norm())
        return [tied, model.lm_head.weight is model.get_input_embeddings().weight, float(loss.detach()), norm]


def test_a_head_that_is_the_table_stays_it(tmp_path: Path) -> None:
    fields = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 40}
    torch.manual_seed(2)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **fields, tie_word_embeddings=True))
    model.save_pretrained(tmp_path)
    ids = torch.arange(12).reshape(2, 6)
    loss = model(ids, labels=ids, use_cache=False).loss
    loss.backward()
    expected = float(model.get_input_embeddings().weight.grad.norm())
    for before, after, found, norm in run_ranks(2, Tied(tmp_path)):
        assert before and after
        assert found == pytest.approx(float(loss.detach()), rel=1e-5)
        assert norm == pytest.approx(2 * expected, rel=1e-4), "summed over two ranks of the same texts"


def test_a_streamed_file_is_the_librarys_own(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 1))
    tensors = {**dict(module.named_parameters()), "count": torch.tensor(3), "half": torch.ones(3, dtype=torch.bfloat16)}
    write_whole(tensors, tmp_path / "streamed")
    save_file({name: tensor.detach() for name, tensor in tensors.items()}, tmp_path / "saved", {"format": "pt"})
    assert (tmp_path / "streamed").read_bytes() == (tmp_path / "saved").read_bytes()


@dataclass(frozen=True)
class Objective:
    job: Job

    def __call__(self, ranks: Ranks) -> float:
        return float(build_objective(self.job, ranks).gradients(0).loss)


@pytest.mark.parametrize("stage", ["train", "pretrain"])
def test_two_sharded_processes_take_the_step_of_one(tmp_path: Path, stage: str) -> None:
    store, inputs = write_inputs(tmp_path)
    losses = []
    for parallel, size in (("ddp", 1), ("fsdp", 2)):
        if stage == "train":
            config: Any = tiny_config(parallel=parallel, processes=size, token_dropout=0.0)
            job = write_job(store, inputs, config, key=f"run-{parallel}")
        else:
            config = PretrainConfig(steps=2, batch_tokens=512, sequence_tokens=24, parallel=parallel, processes=size)
            job = write_job(store, inputs, config, key=f"lm-{parallel}", stage=PRETRAIN)
        losses.append(sum(run_ranks(size, Objective(job))))
    assert losses[1] == pytest.approx(losses[0], rel=1e-6)


def test_auto_model_loads_what_is_written(tmp_path: Path, folder: Path) -> None:
    config = ModelConfig(**{**SIZES, "layers": 1}, init="")
    encoder = Encoder.build(config, VOCABULARY, seed=3)
    encoder.save(tmp_path, {})
    assert not (tmp_path / "model.safetensors").exists()
    write_whole(dict(encoder.backbone.named_parameters()), tmp_path / "model.safetensors")
    loaded = dict(AutoModel.from_pretrained(tmp_path).named_parameters())
    assert all(torch.equal(loaded[name], weight) for name, weight in encoder.backbone.named_parameters())
