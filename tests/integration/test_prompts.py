"""Prompts: text before the texts of a side or a task, the same in shards, training, evaluation, search and every library."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders import write_artifact
from exported_models import SHARDS, tiny_checkpoint
from sentence_transformer_folders import write_sentence_transformer
from training_runs import tiny_config, write_curated, write_inputs, write_job

from pipeline_lib.config.data import ShardConfig, TokenizerConfig
from pipeline_lib.config.model import ModelConfig, PromptsConfig
from pipeline_lib.config.run import ExportConfig, RunConfig
from pipeline_lib.errors import UserError
from pipeline_lib.evaluation.suites.models import CheckpointEncoder
from pipeline_lib.evaluation.suites.outside import ExportEncoder
from pipeline_lib.evaluation.suites.variants import TruncatedModel, for_task
from pipeline_lib.export.card import CardFacts, model_card
from pipeline_lib.export.export import export
from pipeline_lib.export.exported import ExportedModel
from pipeline_lib.model.checkpoint import Checkpoint
from pipeline_lib.model.encoder import Encoder
from pipeline_lib.search.onnx_encoder import OnnxEncoder
from pipeline_lib.store.store import Store
from pipeline_lib.tokens.dataset import TokenDataset
from pipeline_lib.tokens.pair_tokenizer import PairTokenizer
from pipeline_lib.tokens.shards import write_shards
from pipeline_lib.tokens.tokenizer import adopt_tokenizer, prompted_tokenizer, train_bpe
from pipeline_lib.train.contrastive import ContrastiveObjective
from pipeline_lib.train.distributed import Ranks
from pipeline_lib.train.launch import TrainInputs

PROMPTS = PromptsConfig(
    query="word for: ",
    document="hello text ",
    tasks={"docstring": {"query": "date of: "}, "code_search": {"document": "null "}},
)
TEXTS = ["red cats", "parse a date", "", "größer als 2 µm", "word " * 40]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Checkpoint]:
    store = Store(tmp_path_factory.mktemp("home"))
    return store, tiny_checkpoint(store, PROMPTS)


@pytest.fixture(scope="module")
def folder(made: tuple[Store, Checkpoint]) -> Path:
    return export(*made, ExportConfig()).part_folder()


def bare(made: tuple[Store, Checkpoint], text: str, side: Any) -> list[int]:
    """Ids of a text without a prompt of its side."""
    own = PairTokenizer.load(made[1].tokenizer.part_folder())
    first = tiny_checkpoint(made[0]).tokenizer.part_folder()
    return PairTokenizer.load(first).encode([text], side, own.delimiters.longest(side, made[1].max_tokens(side)))[0]


def test_a_prompt_stands_before_the_text_inside_the_delimiters_and_counts(made: tuple[Store, Checkpoint]) -> None:
    tokenizer = PairTokenizer.load(made[1].tokenizer.part_folder())
    for text in TEXTS:
        ids = tokenizer.encode([text], "x", SHARDS.max_x_tokens)[0]
        assert ids == bare(made, "word for: " + text, "x")
        assert len(ids) <= SHARDS.max_x_tokens and ids[-1] == tokenizer.x_close
    assert tokenizer.for_task("none", "docstring").encode(["red"], "x", 20)[0] == bare(made, "date of: red", "x")
    assert tokenizer.for_task("docstring").encode(["red"], "y", 20)[0] == bare(made, "hello text red", "y")


def test_without_prompts_the_tokenizer_is_the_very_same(made: tuple[Store, Checkpoint]) -> None:
    plain = tiny_checkpoint(made[0]).tokenizer
    assert prompted_tokenizer(made[0], plain, PromptsConfig(), SHARDS) is plain
    assert "prompts" not in RunConfig().key_fields()


def test_a_prompt_without_room_for_a_text_is_refused_by_both_numbers(made: tuple[Store, Checkpoint]) -> None:
    plain = tiny_checkpoint(made[0]).tokenizer
    for prompts in (PromptsConfig(query="word " * 18), PromptsConfig(tasks={"docstring": {"query": "word " * 30}})):
        with pytest.raises(UserError, match=r"before every x has (18|30) tokens, a row of at most 20 has room for 18") as error:
            prompted_tokenizer(made[0], plain, prompts, SHARDS)
        assert "\n" not in str(error.value) and "shards.max_x_tokens" in str(error.value)
    prompted_tokenizer(made[0], plain, PromptsConfig(query="word " * 17), SHARDS)


def test_a_tokenizer_that_drops_repeated_words_cannot_leave_a_prompt_out(tmp_path: Path) -> None:
    store, fields = Store(tmp_path), TokenizerConfig(vocab_size=400, max_repeats=1)
    learned = train_bpe(iter(["word for text", "hello word"] * 3), fields)
    plain = write_artifact(store, "tokenizer", ["tokenizer"], lambda folder, _: learned.save(folder))
    prompted_tokenizer(store, plain, PromptsConfig(query="word "), SHARDS)
    with pytest.raises(UserError, match=r"tokenizer.max_repeats drops a prompt's words"):
        prompted_tokenizer(store, plain, PromptsConfig(query="word ", include_prompt=False), SHARDS)


@pytest.mark.parametrize(
    "fields", [{"default": "docstring-query"}, {"query": "\ud800"}, {"tasks": {"docstring": {"answer": "a"}}}]
)
def test_what_cannot_be_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"prompts|answer|query"):
        PromptsConfig.model_validate(fields)


def test_shards_have_the_prompts_of_their_view_and_dropout_leaves_them(tmp_path: Path) -> None:
    store, plain = write_inputs(tmp_path)
    prompts = PromptsConfig(query="anchor: ", tasks={"docstring": {"query": "basket candle: "}})
    tokenizer = prompted_tokenizer(store, plain.tokenizer, prompts, ShardConfig(max_x_tokens=12, max_y_tokens=24))
    curated = write_curated(store)
    shards = write_shards(store, curated, tokenizer, ShardConfig(max_x_tokens=12, max_y_tokens=24))
    own = PairTokenizer.load(plain.tokenizer.part_folder())
    begins = {"docstring": "basket candle: ", "neighbour": "anchor: "}
    for view, prompt in begins.items():
        rows = TokenDataset.open(shards, f"train-{view}").rows(np.arange(5))
        ids = own.encode([prompt], "x", 12)[0][:-1]
        assert all(list(row[: len(ids)]) == ids for row in rows.x_ids), view
    job = write_job(store, TrainInputs(shards, tokenizer), tiny_config(batch_size=48, token_dropout=0.5))
    objective = ContrastiveObjective.build(job, shards, tokenizer, Ranks())
    batch, n_code = objective.read_batch(0), objective.rows.plan.shares["docstring"]
    for view, rows in (("docstring", batch.x_ids[:n_code]), ("neighbour", batch.x_ids[n_code:])):
        ids = own.encode([begins[view]], "x", 12)[0][:-1]
        assert all(list(row[: len(ids)]) == ids for row in rows), view


@pytest.mark.slow
def test_every_library_gives_the_checkpoints_vectors(made: tuple[Store, Checkpoint], folder: Path) -> None:
    library = pytest.importorskip("sentence_transformers")
    ours = CheckpointEncoder(made[1], precision="float32")
    theirs = library.SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    assert theirs.prompts["query"] == "word for: " and theirs.default_prompt_name is None
    x_ND, y_ND = ours.encode(TEXTS, "x"), ours.encode(TEXTS, "y")
    assert theirs.encode_query(TEXTS) == pytest.approx(x_ND, abs=1e-5)
    assert theirs.encode(TEXTS, prompt_name="query") == pytest.approx(x_ND, abs=1e-5)
    assert theirs.encode_document(TEXTS) == pytest.approx(y_ND, abs=1e-5)
    of_task = ours.for_task("docstring").encode(TEXTS, "x")
    assert np.abs(of_task - x_ND).max() > 1e-2
    assert theirs.encode(TEXTS, prompt_name="docstring-query") == pytest.approx(of_task, abs=1e-5)
    for found in (ExportedModel(folder).embed(TEXTS, "x"), OnnxEncoder(folder).embed(TEXTS, "query")):
        assert found == pytest.approx(x_ND, abs=1e-4)
    assert OnnxEncoder(folder).embed(TEXTS, "document") == pytest.approx(y_ND, abs=1e-4)


def test_an_evaluation_takes_the_prompts_of_its_task(made: tuple[Store, Checkpoint]) -> None:
    folder = export(*made, ExportConfig(onnx=False)).part_folder()
    ours, exported = CheckpointEncoder(made[1], precision="float32"), ExportEncoder(folder, "export", "float32")
    # a suite's name, its kind, and the view of its pairs: the first that has prompts
    asked = ("code_search_held_out", "code_search", "docstring")
    by_checkpoint, by_export, cut = (for_task(model, *asked) for model in (ours, exported, TruncatedModel(ours, 8)))
    for side in ("x", "y"):
        assert by_export.encode(TEXTS, side) == pytest.approx(by_checkpoint.encode(TEXTS, side), abs=1e-4)
    assert by_checkpoint.encode(TEXTS, "x") == pytest.approx(ours.encode(TEXTS, "x"))
    assert np.abs(by_checkpoint.encode(TEXTS, "y") - ours.encode(TEXTS, "y")).max() > 1e-2
    prints = {model.id.fingerprint for model in (ours, exported, by_checkpoint, by_export, cut)}
    assert len(prints) == 5
    assert for_task(ours, "another").id == ours.id, "the same vectors are found again"


@pytest.mark.slow
def test_the_card_says_them_and_its_recipe_puts_them_there(made: tuple[Store, Checkpoint], folder: Path) -> None:
    facts = export(*made, ExportConfig()).manifest.parts[0].facts
    figures = {**facts, "label": "step", "max_x_tokens": 20, "max_y_tokens": 32, "training": {}, "lineage": {}}
    card = model_card(CardFacts(), figures)
    assert "`'word for: '` before every query" in card
    recipe = card.split("With transformers alone:")[1].split("```python\n")[1].split("```")[0]
    said: dict[str, Any] = {}
    exec(recipe.replace("path/to/this/folder", str(folder)), said)
    ours = CheckpointEncoder(made[1], precision="float32").encode(["parse an ISO 8601 date", ""], "x")
    assert said["vectors"].numpy() == pytest.approx(ours, abs=1e-5)


@pytest.mark.slow
def test_a_mean_that_leaves_prompts_out_is_the_librarys(tmp_path: Path) -> None:
    library = pytest.importorskip("sentence_transformers")
    store = Store(tmp_path / "home")
    checkpoint = tiny_checkpoint(store, PROMPTS.model_copy(update={"include_prompt": False}), "mean")
    exported = export(store, checkpoint, ExportConfig())
    assert "leaves prompts out" in exported.manifest.facts["no_onnx"]
    ours = CheckpointEncoder(checkpoint, precision="float32")
    whole = CheckpointEncoder(tiny_checkpoint(Store(tmp_path / "whole"), PROMPTS, "mean"), precision="float32")
    texts = [text for text in TEXTS if text]  # of an empty one nothing is left to pool
    assert np.abs(ours.encode(texts, "x") - whole.encode(texts, "x")).max() > 1e-3
    theirs = library.SentenceTransformer(str(exported.part_folder()), device="cpu", local_files_only=True)
    for side, embed in (("x", theirs.encode_query), ("y", theirs.encode_document)):
        assert embed(texts) == pytest.approx(ours.encode(texts, side), abs=1e-5)
        assert ExportedModel(exported.part_folder()).embed(texts, side) == pytest.approx(ours.encode(texts, side), abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("prompts", "expected"),
    [
        (PromptsConfig(), {"query": "represent this text: ", "document": "passage: "}),
        (PromptsConfig(query="find: "), {"query": "find: ", "document": "passage: "}),
        (PromptsConfig(document=""), {"query": "represent this text: ", "document": ""}),
    ],
)
def test_a_start_keeps_its_prompts_unless_others_are_set(
    tmp_path: Path, prompts: PromptsConfig, expected: dict[str, str]
) -> None:
    library = pytest.importorskip("sentence_transformers")
    store, start = Store(tmp_path / "home"), write_sentence_transformer(tmp_path / "start", "bert-cls-prompts")
    tokenizer = prompted_tokenizer(store, adopt_tokenizer(store, start), prompts, SHARDS)
    encoder = Encoder.build(ModelConfig(init=str(start)), PairTokenizer.load(tokenizer.part_folder()), seed=1).eval()
    trained = write_artifact(store, "train", ["step-000001"], lambda place, _: encoder.save(place))
    checkpoint = Checkpoint(trained, "step-000001", tokenizer, SHARDS)
    folder = export(store, checkpoint, ExportConfig(onnx=False)).part_folder()
    said = json.loads((folder / "config_sentence_transformers.json").read_text())["prompts"]
    assert {name: said[name] for name in expected} == expected
    theirs = library.SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    ours = CheckpointEncoder(checkpoint, precision="float32")
    texts = ["red cats", "a date"]
    with torch.no_grad():
        assert theirs.encode_query(texts, normalize_embeddings=True) == pytest.approx(ours.encode(texts, "x"), abs=1e-5)
        assert theirs.encode_document(texts, normalize_embeddings=True) == pytest.approx(ours.encode(texts, "y"), abs=1e-5)
