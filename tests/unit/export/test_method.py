"""Each thing that a run does otherwise than the paper is named, and none that it does not."""

from __future__ import annotations

from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline_lib.config.lora import LoraConfig
from pipeline_lib.config.model import ModelConfig
from pipeline_lib.config.run import RunConfig
from pipeline_lib.config.training import FalseNegativesConfig, MatryoshkaConfig, PretrainConfig, TeacherConfig, TrainConfig
from pipeline_lib.export.method import method_of

PAPERS = RunConfig(
    model=ModelConfig(init="lm"),
    train=TrainConfig(batch_size=12_288, mixture={"docstring": 1.0}, steps=10),
)
# path of a choice -> (value, words that name it)
DEVIATIONS: dict[str, tuple[Any, str]] = {
    "model.pooling": ("mean", "mean pooling"),
    "model.keep_layers": (6, "only the first 6 blocks"),
    "tokenizer.delimiters": ("shared", "same delimiters"),
    "train.directions": ("x_to_y", "from x to y alone"),
    "train.train_temperature": (False, "fixed temperature of 0.07"),
    "train.mask_same_document": (("neighbour",), "no negatives of the same document"),
    "train.token_dropout": (0.2, "token dropout of 0.2"),
    "train.weight_average": (0.9, "averaged weights"),
    "train.batch_size": (512, "batches of 512 pairs (the paper's: 4,976 to 12,288)"),
    "train.batches_from": ("one_dataset", "each batch of one dataset"),
    "train.matryoshka": (MatryoshkaConfig(dims=(64,)), "summed over the first 64 dimensions"),
    "train.false_negatives": (FalseNegativesConfig(by="own"), "too near by the model's own scores"),
    "train.teacher": (TeacherConfig(kl_weight=0.5), "another model's scores as a teacher"),
    "guide.keep_top": (5, "finds among its first 5 for their x"),
    "model.lora": (LoraConfig(rank=4), "(LoRA, rank 4)"),
    "train.mixture": ({"docstring": 0.5, "name": 0.5}, "pairs of name"),
}


def changed(config: RunConfig, names: set[str]) -> RunConfig:
    for name in names:
        section, field = name.split(".")
        part = getattr(config, section).model_copy(update={field: DEVIATIONS[name][0]})
        config = config.model_copy(update={section: part})
    return config


@settings(max_examples=60, deadline=None)
@given(st.sets(st.sampled_from(sorted(DEVIATIONS))))
@example(set(DEVIATIONS))
def test_each_deviation_is_named_and_no_other(names: set[str]) -> None:
    method = method_of(changed(PAPERS, names), {})
    assert len(method.other) == len(names), method
    for name, (_, words) in DEVIATIONS.items():
        assert any(words in row for row in method.other) == (name in names), (name, method)
        assert (words in method.sentence) == (name in names)
    assert method.sentence.count(".") >= 1 and "\n" not in method.sentence


def test_starts() -> None:
    def of(model: ModelConfig, facts: dict[str, Any] | None = None, pretrain: int = 0) -> tuple[str, str]:
        config = PAPERS.model_copy(update={"model": model, "pretrain": PretrainConfig(steps=pretrain)})
        method = method_of(config, facts or {})
        return "; ".join(method.shared), "; ".join(method.other)

    assert "a given language model" in of(ModelConfig(init="lm"))[0]
    assert "a language model of its own" in of(ModelConfig(), pretrain=5)[0]
    assert "random weights" in of(ModelConfig())[1]
    assert "counted on the training texts" in of(ModelConfig(start="lexical"))[1]
    assert "(lower case, split identifiers, no punctuation)" in of(ModelConfig())[1]
    assert "lower case" not in "".join(of(ModelConfig(init="lm")))
    shared, other = of(ModelConfig(init="0123/step-000004"), {"has_parent": True})
    assert "a checkpoint of an earlier run" in other and "language model" not in shared


def test_an_embedding_model_keeps_its_own_pooling_and_prompts_and_the_sentence_says_so() -> None:
    facts = {"prompts": {"query": "query: "}, "pooling": "mean"}
    method = method_of(PAPERS, facts)
    assert not any("delimiters that tell" in row or "language model" in row for row in method.shared)
    assert [
        row for row in method.other if "embedding model" in row or "prompts (query)" in row or row == "mean pooling"
    ] == list(method.other)
    fixed = PAPERS.train.model_copy(update={"train_temperature": False, "directions": "x_to_y", "batch_size": 2})
    assert "shares with the paper's method nothing;" in method_of(PAPERS.model_copy(update={"train": fixed}), facts).sentence
    bare = method_of(PAPERS, {"prompts": {}, "pooling": "last"})
    assert "pooling at the last token" in bare.shared and any(
        "special tokens in place of delimiters" in row for row in bare.other
    )
