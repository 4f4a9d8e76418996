"""Runs that train adapters: what they save and its size, killed and equal to the bit, and the weights that others read."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import safetensors.torch
import torch
from causal_lms import write_causal_lm
from safetensors import safe_open
from training_runs import tiny_config, write_curated

from benchmarks.gloo import run_ranks
from pipeline_lib.config.data import ShardConfig
from pipeline_lib.config.model import ModelConfig
from pipeline_lib.config.run import ExportConfig
from pipeline_lib.errors import CorruptArtifact, UserError
from pipeline_lib.export.card import CardFacts, write_card
from pipeline_lib.export.export import export
from pipeline_lib.export.exported import ExportedModel
from pipeline_lib.model.checkpoint import Checkpoint
from pipeline_lib.model.encoder import Encoder
from pipeline_lib.model.lora import ADAPTERS_FILE, adapted_encoder, content_digest, weights_folder
from pipeline_lib.model.micro_batches import embed_ids
from pipeline_lib.search.onnx_encoder import OnnxEncoder
from pipeline_lib.store import files as faults
from pipeline_lib.store.artifact import Artifact
from pipeline_lib.store.records import Outcome
from pipeline_lib.store.store import Store
from pipeline_lib.tokens.pair_tokenizer import PairTokenizer
from pipeline_lib.tokens.shards import write_shards
from pipeline_lib.tokens.tokenizer import adopt_tokenizer
from pipeline_lib.train.distributed import Ranks
from pipeline_lib.train.job import TRAIN, ArtifactRef, Events, Job, checkpoint_labels, part_key
from pipeline_lib.train.launch import Choices, _outcome
from pipeline_lib.train.sharding import whole
from pipeline_lib.train.state import module_tensors
from pipeline_lib.train.trainer import build_objective, work

SHARDS = ShardConfig(max_x_tokens=20, max_y_tokens=32, splits=("train",))
LORA = {"rank": 2, "targets": ["attention", "mlp"]}
SILENT = Events(enabled=False)
KILLS = ("trainer:after_backward", "trainer:after_step", "state:before_tensors", "state:before_commit", "part:before_record")
TEXTS = ["anchor basket", "", "dragon engine feather 12", "kettle"]


class World(NamedTuple):
    """A start whose vocabulary lacks the delimiters, and token shards for it."""

    store: Store
    start: Path
    shards: Artifact
    tokenizer: Artifact


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("lora")
    store, start = Store(root / "store"), write_causal_lm(root / "lm", "gpt_neox")
    tokenizer = adopt_tokenizer(store, start)
    return World(store, start, write_shards(store, write_curated(store), tokenizer, SHARDS), tokenizer)


def job_of(world: World, key: str, **changes: Any) -> Job:
    job = Job(
        root=str(world.store.root),
        stage=TRAIN,
        key=key,
        shards=ArtifactRef.of(world.shards),
        tokenizer=ArtifactRef.of(world.tokenizer),
        start=str(world.start),
        start_digest=content_digest(world.start),
        config=tiny_config(learning_rate=3e-3, **changes),
        model=ModelConfig.model_validate({"lora": LORA}),
    )
    job.folder.mkdir(parents=True, exist_ok=True)
    (job.folder / "job.json").write_text(job.model_dump_json())
    return job


def finish(world: World, train: Callable[[Job], object]) -> tuple[Job, Checkpoint]:
    """The finished artifact of a run, as the launcher commits it, and its last checkpoint."""
    jobs = []

    def make(key: str) -> Outcome:
        jobs.append(job_of(world, key))
        train(jobs[0])
        return _outcome(world.store, jobs[0])

    job = job_of(world, "sizes")
    choices = Choices(config=job.config, model=job.model.model_copy(update={"init": job.start_digest}))
    trained = world.store.build(TRAIN, choices, {"shards": world.shards, "tokenizer": world.tokenizer}, make)
    return jobs[0], Checkpoint(trained, "step-000012", world.tokenizer, SHARDS)


@pytest.fixture(scope="module")
def run(world: World) -> tuple[Job, Checkpoint]:
    return finish(world, lambda job: work(job, SILENT))


def contents(world: World, job: Job) -> dict[str, str]:
    """The digest of every part of a finished run."""
    labels = [*checkpoint_labels(job).values(), "metrics"]
    parts = {label: world.store.find_part("train", part_key(job.key, label)) for label in labels}
    return {label: part.digest for label, part in parts.items() if part}


def run_child(job: Job, point: str = "", number: int = 0) -> int | None:
    """Train in a forked process that kills itself where a place is passed for the so-manieth time; its exit code."""
    passes = iter(range(1, number + 1))

    def fault() -> None:
        if next(passes, 0) == number:
            os.kill(os.getpid(), signal.SIGKILL)

    def child() -> None:
        if point:
            faults.arm(point, fault)
        work(job, SILENT)

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join(600)
    return process.exitcode


def trained_names(world: World) -> set[str]:
    """Two thin matrices beside each of a block's four, the rows of the delimiters, and the temperature."""
    layers = ("attention.query_key_value", "attention.dense", "mlp.dense_h_to_4h", "mlp.dense_4h_to_h")
    ends = ("down_KD", "up_OK")
    beside = {f"backbone.layers.{block}.{layer}.lora.{end}" for block in (0, 1) for layer in layers for end in ends}
    return beside | {"backbone.embed_in.rows.weight", "log_scale"}


def tensors_of(paths: list[Path]) -> dict[str, int]:
    """Names and numbers of all tensors in these files."""
    found = {}
    for path in paths:
        with safe_open(path, framework="np") as file:
            found |= {name: int(np.prod(file.get_slice(name).get_shape())) for name in file.keys()}  # noqa: SIM118
    return found


def test_a_checkpoint_holds_what_was_trained_and_names_its_start(world: World, run: tuple[Job, Checkpoint]) -> None:
    folder = run[1].folder
    files = {path.name for path in folder.iterdir()}
    assert files == {ADAPTERS_FILE, "adapters.json", "config.json", "state.json"}
    sizes = tensors_of([folder / ADAPTERS_FILE])
    assert set(sizes) == trained_names(world)
    n_start = sum(tensors_of([world.start / "model.safetensors"]).values())
    assert sum(sizes.values()) < n_start / 8, "of a model of 32 dimensions; the larger, the less"
    assert (folder / ADAPTERS_FILE).stat().st_size < 4 * sum(sizes.values()) + 4_000
    assert json.loads((folder / "adapters.json").read_text())["start"] == content_digest(world.start)


def test_killed_three_times_and_equal_to_the_bit(world: World, run: tuple[Job, Checkpoint]) -> None:
    expected = contents(world, run[0])
    assert len(expected) == 4
    chance = random.Random(4)
    job = job_of(world, "killed", resume_every_seconds=1e-9)
    for _ in range(3):
        assert run_child(job, chance.choice(KILLS), chance.randrange(2, 5)) == -signal.SIGKILL
    state = sorted((job.folder / "states" / "parts").glob("*-*"))[-1]
    saved = tensors_of(list(state.glob("weights-*.safetensors")))
    assert set(saved) == trained_names(world)
    moments = {name.rpartition("/")[0] for name in tensors_of(list(state.glob("moments-*.safetensors")))}
    assert moments == set(saved)
    size = sum(path.stat().st_size for path in state.iterdir())
    assert size < (world.start / "model.safetensors").stat().st_size / 2, "moments and average included"
    assert run_child(job) == 0
    assert contents(world, job) == expected


def test_the_sum_gives_the_vectors_of_the_adapters(world: World, run: tuple[Job, Checkpoint]) -> None:
    checkpoint = run[1]
    tokenizer = PairTokenizer.load(world.tokenizer.part_folder())
    ids = tokenizer.encode(TEXTS, "x", 20) + tokenizer.encode(TEXTS, "y", 32)
    expected = embed_ids(adapted_encoder(checkpoint), ids, 256)
    place = weights_folder(checkpoint)
    np.testing.assert_allclose(embed_ids(Encoder.load(place), ids, 256), expected, atol=1e-5)
    begun, ended = (
        encoder.backbone.get_input_embeddings().weight for encoder in (Encoder.load(world.start), Encoder.load(place))
    )
    assert torch.equal(begun, ended[: len(begun)]) and len(ended) == len(begun) + 5, "the table but for new rows is the start's"
    digest = checkpoint.trained.part(checkpoint.label).digest
    assert content_digest(place) == digest, "a run that starts from it is named by the checkpoint"
    (place / "model.safetensors").write_bytes(b"damaged")
    assert content_digest(place) != digest
    np.testing.assert_allclose(embed_ids(Encoder.load(weights_folder(checkpoint)), ids, 256), expected, atol=1e-5)


def test_adapters_that_lack_some_are_no_model(
    world: World, run: tuple[Job, Checkpoint], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole_file = safetensors.torch.load_file
    lost = "backbone.layers.1.attention.dense.lora.up_OK"

    def load(path: Path) -> dict[str, torch.Tensor]:
        return {name: tensor for name, tensor in whole_file(path).items() if name != lost}

    monkeypatch.setattr(safetensors.torch, "load_file", load)
    with pytest.raises(CorruptArtifact, match=rf"{ADAPTERS_FILE}: no {lost}, and 0 more of 17 lack"):
        adapted_encoder(run[1])


def test_merged_weights_in_the_making_are_left_where_prune_looks(
    world: World, run: tuple[Job, Checkpoint], monkeypatch: pytest.MonkeyPatch
) -> None:
    places: list[Path] = []
    save = Encoder.save
    monkeypatch.setattr(Encoder, "save", lambda encoder, folder: (places.append(folder), save(encoder, folder)))
    shutil.rmtree(weights_folder(run[1]), ignore_errors=True)
    merged = weights_folder(run[1])
    assert merged.is_dir() and [place.parent for place in places[-1:]] == [world.store.root / "merged" / "scratch"]
    assert not list((world.store.root / "merged" / "scratch").iterdir())


def test_a_start_that_is_gone_or_another_is_named(world: World, run: tuple[Job, Checkpoint], tmp_path: Path) -> None:
    checkpoint = run[1]
    shutil.rmtree(weights_folder(checkpoint))
    aside = tmp_path / "aside"
    config = world.start / "config.json"
    text = config.read_text()
    shutil.move(world.start, aside)
    try:
        with pytest.raises(UserError, match=r"holds adapters .* which is not on this machine"):
            weights_folder(checkpoint)
        shutil.copytree(aside, world.start)
        config.write_text(text.replace("{", "{ ", 1))
        with pytest.raises(UserError, match=content_digest(aside)[:12]):
            weights_folder(checkpoint)
    finally:
        shutil.rmtree(world.start, ignore_errors=True)
        shutil.move(aside, world.start)
    assert weights_folder(checkpoint).is_dir()


@pytest.mark.slow
def test_the_export_is_the_sum_and_its_card_says_so(world: World, run: tuple[Job, Checkpoint]) -> None:
    checkpoint = run[1]
    exported = export(world.store, checkpoint, ExportConfig())
    tokenizer = PairTokenizer.load(world.tokenizer.part_folder())
    encoder = adapted_encoder(checkpoint)
    expected = embed_ids(encoder, tokenizer.encode(TEXTS, "x", 20), 256)
    folder = exported.part_folder()
    np.testing.assert_allclose(ExportedModel(folder).embed(TEXTS, "x"), expected, atol=1e-4)
    np.testing.assert_allclose(OnnxEncoder(folder).embed(TEXTS, "query"), expected, atol=1e-4)
    card = write_card(world.store, exported, checkpoint, CardFacts())
    assert "LoRA adapters of rank 2" in (card.part_folder() / "README.md").read_text()


class Built:
    """The trained tensors of a run that is cut over processes, before its first step."""

    def __init__(self, job: Job) -> None:
        self.job = job

    def __call__(self, ranks: Ranks) -> dict[str, Any]:
        module = build_objective(self.job, ranks).module
        return {name: whole(tensor).tolist() for name, tensor in module_tensors(module).items()}


@pytest.mark.slow
def test_cut_over_processes_the_adapters_begin_as_they_do_alone(world: World) -> None:
    alone = module_tensors(build_objective(job_of(world, "alone"), Ranks()).module)
    cut = job_of(world, "cut", parallel="fsdp", processes=2)
    for found in run_ranks(2, Built(cut)):
        assert found.keys() == alone.keys()
        assert all(torch.equal(torch.tensor(found[name]), tensor) for name, tensor in alone.items())
