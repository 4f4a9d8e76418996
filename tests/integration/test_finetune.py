"""From a contrastive checkpoint through a training set and mining to a tuned checkpoint, with the real trainer."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from training_runs import MODEL, WORDS, tiny_config, write_inputs

from pipeline_lib.config.data import ShardConfig
from pipeline_lib.config.finetuning import FinetuneConfig, MiningConfig, TrainingSetConfig
from pipeline_lib.config.optimizer import RATES
from pipeline_lib.config.presets import preset
from pipeline_lib.config.training import TrainConfig
from pipeline_lib.errors import UserError
from pipeline_lib.evaluation.suites.models import CheckpointEncoder
from pipeline_lib.model.checkpoint import Checkpoint, open_checkpoint
from pipeline_lib.search.mining import Embedder, mine
from pipeline_lib.store.artifact import Artifact
from pipeline_lib.store.store import Store
from pipeline_lib.tokens.shards import write_shards
from pipeline_lib.train.launch import train
from pipeline_lib.train.stages import finetune, tuned_config
from pipeline_lib.training_sets.training_set import join_sets, read_rows, read_training_set


def write_set(path: Path, n: int = 40) -> Path:
    """Anchors whose positive repeats a word, and whose negative repeats all the others."""
    lines = []
    for i in range(n):
        words = [WORDS[i % 15], WORDS[(i + 4) % 15], WORDS[(i + 9) % 15]]
        lines.append(
            {"anchor": " ".join(words) + f" {i}", "positive": f"{words[0]} {i}", "negative": f"{words[1]} {words[2]} x{i}"}
        )
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Checkpoint]:
    store, inputs = write_inputs(tmp_path_factory.mktemp("store"))
    trained = train(store, inputs, tiny_config(steps=4, checkpoints=1), MODEL)
    return store, open_checkpoint(store, f"{trained.manifest.key}/step-000004")


def read_set(store: Store, tmp_path: Path, view: str = "toy") -> Artifact:
    return read_training_set(store, TrainingSetConfig(path=str(write_set(tmp_path / "set.jsonl")), view=view))


def test_a_checkpoint_is_opened_with_what_it_was_made_with(base: tuple[Store, Checkpoint]) -> None:
    store, checkpoint = base
    assert (checkpoint.max_tokens("x"), checkpoint.max_tokens("y")) == (12, 24)
    assert checkpoint.tokenizer.digest == checkpoint.trained.manifest.inputs["tokenizer"]
    for name, message in (("step-000004", "expected TRAINKEY"), ("nokey/step-000004", "no finished train artifact")):
        with pytest.raises(UserError, match=message):
            open_checkpoint(store, name)
    with pytest.raises(UserError, match="no part 'step-000009'"):
        open_checkpoint(store, f"{checkpoint.trained.manifest.key}/step-000009")


def test_mined_and_tuned_a_checkpoint_tells_positives_from_negatives(base: tuple[Store, Checkpoint], tmp_path: Path) -> None:
    store, checkpoint = base
    given = read_set(store, tmp_path)
    embedder = Embedder(CheckpointEncoder(checkpoint, 4096).encode, {}, 12, 24)
    mined = mine(store, given, embedder, MiningConfig(per_pair=2, first_rank=1, margin=0.0))
    assert 0 < mined.manifest.facts["mined"] <= 80
    shards = write_shards(store, mined, checkpoint.tokenizer, checkpoint.shards.model_copy(update={"splits": ("train",)}))
    config = FinetuneConfig(epochs=8, batch_size=20, rate_share=3.0)
    trained = finetune(store, checkpoint, shards, config)
    assert trained.manifest.facts["step"] == 16 and trained.manifest.facts["pairs_seen"] == 320
    tuned = open_checkpoint(store, f"{trained.manifest.key}/step-000016")
    rows = list(read_rows(given))

    def margin(model: Checkpoint) -> float:
        embed = CheckpointEncoder(model, 4096).encode
        x_ND = embed([row["x"] for row in rows], "x")
        y_ND = embed([row["y"] for row in rows], "y")
        n_ND = embed([row["negatives"][0] for row in rows], "y")
        return float(np.mean((x_ND * y_ND).sum(1) - (x_ND * n_ND).sum(1)))

    assert margin(tuned) > margin(checkpoint) + 0.05
    assert finetune(store, checkpoint, shards, config).manifest.key == trained.manifest.key, "found done"


def test_sets_are_joined_each_under_its_view(base: tuple[Store, Checkpoint], tmp_path: Path) -> None:
    store, _ = base
    one, other = read_set(store, tmp_path, "one"), read_set(store, tmp_path, "other")
    assert join_sets(store, [one]) is one
    joined = join_sets(store, [one, other])
    table = pq.read_table(joined.part_folder("train") / "pairs.parquet")
    ids = table["id"].to_pylist()
    assert ids == sorted(ids) and len(set(ids)) == 80
    assert sorted(set(table["view"].to_pylist())) == ["one", "other"]
    with pytest.raises(UserError, match="40 pairs come in two training sets under one view"):
        join_sets(store, [one, one])


def test_tuning_keeps_the_optimizer_and_scales_its_rates() -> None:
    base = TrainConfig(learning_rate=2e-3, embedding_learning_rate=5e-2, clip_norm=7.0, mask_same_document=("neighbour",))
    tuned = tuned_config(base, FinetuneConfig(epochs=2, batch_size=64, rate_share=0.5), {"a": 300, "b": 100}, 0.03)
    assert (tuned.learning_rate, tuned.embedding_learning_rate, tuned.clip_norm) == (1e-3, 2.5e-2, 7.0)
    assert (tuned.steps, tuned.batch_size, tuned.temperature) == (12, 64, 0.03)
    assert tuned.mixture == {"a": 300.0, "b": 100.0} and tuned.mask_same_document == ()
    small = tuned_config(base, FinetuneConfig(batch_size=64, temperature=0.1), {"a": 10}, 0.03)
    assert (small.batch_size, small.steps, small.temperature) == (10, 3, 0.1)


def test_a_checkpoint_of_a_language_model_keeps_its_rates() -> None:
    base = preset("demo", "somebody/a-language-model", 135_000_000).train
    tuned = tuned_config(base, FinetuneConfig(rate_share=0.5), {"a": 300}, 0.03)
    assert (tuned.learning_rate, tuned.embedding_learning_rate, tuned.scale_learning_rate) == (1.5e-4, None, None)
    assert (tuned.embedding_epsilon, tuned.clip_norm, tuned.weight_average) == (1e-8, 1.0, 0.0)


def test_every_rate_of_a_checkpoint_is_scaled_and_its_optimizer_stays() -> None:
    base = TrainConfig.model_validate({"optimizer": "muon"} | dict.fromkeys(RATES, 0.2))
    tuned = tuned_config(base, FinetuneConfig(rate_share=0.5), {"a": 300}, 0.03)
    assert tuned.optimizer == "muon"
    assert {name: getattr(tuned, name) for name in RATES} == dict.fromkeys(RATES, 0.1)


@pytest.mark.slow
def test_the_command_tunes_and_compares(base: tuple[Store, Checkpoint], tmp_path: Path, eval_data: Path) -> None:
    import os

    store, checkpoint = base
    words = [
        "--checkpoint",
        checkpoint.name,
        "--training-data",
        f"toy={write_set(tmp_path / 'set.jsonl')}",
        "--mine",
        "2",
        "--quick",
    ]
    words += ["--mine-from", "1", "--mine-to", "20", "--suite", "sts-b", "--suite-data", str(eval_data)]
    home = tmp_path / "home"
    home.mkdir()
    (home / "store").symlink_to(store.root)
    environment = {**os.environ, "CPT_HOME": str(home)}
    answer = subprocess.run(
        [sys.executable, "-m", "flows.cli", "finetune", *words], env=environment, capture_output=True, text=True, timeout=300
    )
    assert answer.returncode == 0, answer.stderr[-3000:]
    record = json.loads(answer.stdout)
    assert record["before"] == checkpoint.name
    assert open_checkpoint(store, record["checkpoint"]).shards == ShardConfig(
        max_x_tokens=12, max_y_tokens=24, splits=("train",)
    )
    before, after = record["figures"]["sts-b-quick spearman"]
    assert -1 <= before <= 1 and before != after
