"""Causal language modelling: chunked logits against all at once, whole documents, and the held-out loss beside unigrams."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from language_texts import Document, write_language_inputs
from training_runs import MODEL, WORDS, write_inputs, write_job
from transformers import AutoModelForCausalLM, Gemma2Config, LlamaConfig

from pipeline_lib.config.data import TokenizerConfig
from pipeline_lib.config.training import PretrainConfig
from pipeline_lib.errors import UserError
from pipeline_lib.store.artifact import Artifact
from pipeline_lib.store.store import Store
from pipeline_lib.tokens.pair_tokenizer import PairTokenizer
from pipeline_lib.tokens.text_shards import TextStream, encode_documents, end_of_text
from pipeline_lib.train.causal import IGNORED, CausalObjective, chunked_loss, plain_head, windows
from pipeline_lib.train.distributed import Ranks
from pipeline_lib.train.job import PRETRAIN
from pipeline_lib.train.language_text import HeldOutText, figures_of, sentence_of, unigram_entropy, warning_of
from pipeline_lib.train.launch import TrainInputs
from pipeline_lib.train.stages import pretrain

SIZES = {
    "vocab_size": 211,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
}


def gradients(objective: CausalObjective) -> tuple[float, dict[str, torch.Tensor]]:
    objective.module.zero_grad()
    loss = float(objective.gradients(0).loss)
    return loss, {name: weight.grad.clone() for name, weight in objective.module.named_parameters() if weight.grad is not None}


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_step_of_chunked_logits_has_the_gradients_of_full_ones(tmp_path: Path, precision: str) -> None:
    store, inputs = write_inputs(tmp_path)
    config = PretrainConfig(steps=2, batch_tokens=512, sequence_tokens=24, threads=1, precision=precision)
    job = write_job(store, inputs, config, stage=PRETRAIN)
    objective = CausalObjective.build(job, inputs.shards, inputs.tokenizer, Ranks())
    assert objective._head is None, "a CPU holds the logits of its short passes"
    loss, expected = gradients(objective)
    objective._head = plain_head(objective.module)
    assert objective._head is objective.module.get_output_embeddings()
    chunked, found = gradients(objective)
    assert chunked == pytest.approx(loss, rel=1e-6 if precision == "float32" else 1e-3)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert float(torch.nn.functional.cosine_similarity(found[name].flatten(), gradient.flatten(), dim=0)) > 0.999, name


@pytest.mark.parametrize("chunk_tokens", [1, 7, 50, 51])
def test_chunks_of_any_size_sum_to_the_whole_loss(chunk_tokens: int) -> None:
    torch.manual_seed(3)
    head, states_TD = torch.nn.Linear(16, 211), torch.randn(50, 16, requires_grad=True)
    target_T = torch.randint(0, 211, (50,))
    whole = torch.nn.functional.cross_entropy(head(states_TD), target_T, reduction="sum")
    (expected,) = torch.autograd.grad(whole, states_TD)
    loss = chunked_loss(head, states_TD, target_T, chunk_tokens)
    (found,) = torch.autograd.grad(loss, states_TD)
    torch.testing.assert_close(loss, whole)
    torch.testing.assert_close(found, expected)


def test_a_head_whose_logits_are_capped_is_left_to_its_model() -> None:
    llama = AutoModelForCausalLM.from_config(LlamaConfig(**SIZES)).train()
    assert plain_head(llama) is llama.lm_head
    assert llama.training, "the mode that it was in"
    gemma = AutoModelForCausalLM.from_config(Gemma2Config(**SIZES, final_logit_softcapping=0.05))
    assert plain_head(gemma) is None


def corpus() -> list[Document]:
    """Sentences of a cycle of words, so that each word tells the next one; every tenth document is held out."""
    chance, found = random.Random(3), []
    for number in range(60):
        start = chance.randrange(len(WORDS))
        words = [WORDS[(start + step) % len(WORDS)].title() for step in range(chance.randrange(20, 60))]
        text = f"{number}: {', '.join(words)}!"
        split = "train" if number % 10 else "validation"
        found.append(Document(text, split, ((f"x {number}", text),)))
    return found


@pytest.fixture
def documents(tmp_path: Path) -> tuple[Store, TrainInputs]:
    return write_language_inputs(tmp_path, corpus(), TokenizerConfig(vocab_size=400).for_language_model())


def language_config(**changes: object) -> PretrainConfig:
    fields = {"steps": 2, "batch_tokens": 512, "sequence_tokens": 24, "threads": 1, "precision": "float32", "warmup_steps": 1}
    return PretrainConfig.model_validate({**fields, **changes})


def objective_of(store: Store, inputs: TrainInputs, config: PretrainConfig) -> CausalObjective:
    return CausalObjective.build(write_job(store, inputs, config, stage=PRETRAIN), inputs.shards, inputs.tokenizer, Ranks())


def test_a_step_reads_whole_documents_end_to_end_and_an_epoch_every_sequence_once(
    documents: tuple[Store, TrainInputs],
) -> None:
    objective = objective_of(*documents, language_config())
    stream = TextStream.open(documents[1].shards, "train")
    assert stream is not None
    (flat,) = stream.files
    n = len(flat) // 24
    steps = [objective.read_sequences(step).numpy() for step in range(math.ceil(n / (512 // 24)))]
    rows = {tuple(row) for step in steps for row in step.tolist()}
    assert rows == {tuple(row) for row in flat[: n * 24].reshape(-1, 24).tolist()}
    assert (objective.read_sequences(1) == objective.read_sequences(1)).all()
    ends = sum(row.count(end_of_text(objective.tokenizer)) for row in rows)
    assert ends >= 53 - 1, "of 54 documents, but for those that the rest of the file ends"
    assert objective.pair_ids(0)[0].startswith("sequence ") and objective.items == "sequences"
    text = objective.tokenizer.decode(flat.tolist())
    assert ", Anchor, Basket" in text and "!" in text, "case and punctuation are read"
    few = language_config(sequence_tokens=32, batch_tokens=64).model_copy(
        update={"sequence_tokens": 10**6, "batch_tokens": 10**6}
    )
    with pytest.raises(UserError, match="less than one sequence of 1000000"):
        objective_of(*documents, few)


def test_every_held_out_token_is_predicted_once_in_windows_of_the_models_length() -> None:
    for n, length in ((1, 8), (7, 8), (8, 8), (14, 8), (15, 8), (100, 9)):
        ids = np.arange(5, 5 + n)
        ids_ML, following_ML = windows(ids, length, 4)
        assert ids_ML.shape[1] == length and ids_ML[0, 0] == 4
        predicted = following_ML[:, 1:]
        assert predicted[predicted != IGNORED].tolist() == ids.tolist()
        inside = predicted != IGNORED
        assert (ids_ML[:, :-1] + 1)[inside].tolist()[1:] == predicted[inside].tolist()[1:], "each from the one before it"


def test_the_held_out_loss_is_that_of_the_model_on_the_documents_and_beside_it_that_of_unigrams(
    documents: tuple[Store, TrainInputs],
) -> None:
    objective = objective_of(*documents, language_config(evaluation_tokens=10**6))
    figures = objective.evaluate()
    assert objective.module.training
    tokenizer, shards = objective.tokenizer, documents[1].shards
    held = [one.text for one in sorted(corpus(), key=lambda one: one.id) if one.split == "validation"]
    ids = [id_ for row in encode_documents(tokenizer, held) for id_ in row]
    stream = [end_of_text(tokenizer), *ids]
    nats = 0.0
    for start in range(0, len(ids), 23):  # each token behind at most 23 others
        piece = torch.tensor(stream[start : start + 24])
        with torch.no_grad():
            logits = objective.module.eval()(piece[None, :-1]).logits[0]
        nats += float(F.cross_entropy(logits, piece[1:], reduction="sum"))
    assert figures["loss"] == pytest.approx(nats / len(ids), rel=1e-5)
    assert figures["perplexity"] == pytest.approx(math.exp(nats / len(ids)), rel=1e-4)
    assert figures["tokens"] == len(ids)
    train = TextStream.open(shards, "train")
    assert train is not None
    counts = np.bincount(np.concatenate(train.files), minlength=tokenizer.vocab_size) + 1
    entropy = -np.log(counts[ids] / counts.sum()).mean()
    assert figures["unigram_entropy"] == pytest.approx(entropy)
    n_bytes, n_words = sum(len(text.encode()) for text in held), sum(len(text.split()) for text in held)
    assert figures["bits_per_byte"] * n_bytes == pytest.approx(nats / math.log(2), rel=1e-5)
    assert figures["unigram_bits_per_word"] * n_words == pytest.approx(entropy * len(ids) / math.log(2))
    assert warning_of(figures).startswith("this is no language model"), "random weights"


def held_out_facts(artifact: Artifact) -> dict[str, float]:
    figures: dict[str, float] = artifact.manifest.facts["held_out"]
    lines = (artifact.part_folder("model") / "evaluation.jsonl").read_text().splitlines()
    assert json.loads(lines[-1]) == figures and len(lines) == 1
    return figures


def test_pre_training_leaves_its_held_out_figures_with_a_model_whose_head_is_apart(
    documents: tuple[Store, TrainInputs],
) -> None:
    store, inputs = documents
    short = pretrain(store, inputs, language_config(learning_rate=1e-5), MODEL)
    long = pretrain(store, inputs, language_config(steps=60, learning_rate=1e-2, batch_tokens=1024), MODEL)
    bad, good = held_out_facts(short), held_out_facts(long)
    assert bad["loss"] > bad["unigram_entropy"] == good["unigram_entropy"] > 1.2 * good["loss"]
    assert warning_of(bad) and not warning_of(good)
    assert f"{good['perplexity']:,.1f}" in sentence_of(good) and f"{good['unigram_entropy']:.3f}" in sentence_of(good)
    loaded = AutoModelForCausalLM.from_pretrained(long.part_folder("model"))
    head, table = (part.weight.detach() for part in (loaded.get_output_embeddings(), loaded.get_input_embeddings()))
    assert not loaded.config.tie_word_embeddings and head.data_ptr() != table.data_ptr()
    assert float((head - table).norm() / table.norm()) > 0.5
    assert loaded.generation_config.eos_token_id == end_of_text(PairTokenizer.load(long.part_folder("model")))


def test_pairs_are_measured_too_where_their_validation_split_is_tokenized(tmp_path: Path) -> None:
    store, inputs = write_inputs(tmp_path, held_out=30)
    objective = objective_of(store, inputs, language_config(text="pairs"))
    figures = objective.evaluate()
    assert objective.items == "pairs" and figures["tokens"] > 100 and "bits_per_byte" not in figures
    assert 0 < figures["unigram_entropy"] < math.log(objective.tokenizer.vocab_size) < 1.1 * figures["loss"]
    _, without = write_inputs(tmp_path / "other")
    assert objective_of(store, without, language_config(text="pairs")).evaluate() == {}


def test_unigram_entropy_is_add_one_smoothed_cross_entropy() -> None:
    counts, ids = np.array([3, 0, 5]), np.array([0, 1, 2, 2])
    expected = -(math.log(4 / 11) + math.log(1 / 11) + 2 * math.log(6 / 11)) / 4
    assert unigram_entropy(counts, ids) == pytest.approx(expected)


@pytest.mark.parametrize(("loss", "said"), [(7.56, True), (7.22, True), (7.2199, False)])
def test_a_model_that_is_not_below_the_unigram_entropy_is_called_what_it_is(loss: float, said: bool) -> None:
    figures = figures_of(loss, 7.22, HeldOutText(np.arange(10), 40, 8))
    assert bool(warning_of(figures)) is said
    assert figures["bits_per_byte"] == pytest.approx(loss * 10 / math.log(2) / 40)
