"""Method of a run beside the paper's (arXiv 2201.10005): what it shares with it, and each thing that it does otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pipeline_lib.config.run import RunConfig
from pipeline_lib.config.training import TrainConfig
from pipeline_lib.store.artifact import Artifact

Start = Literal["random", "lexical", "pretrained", "language_model", "embedding_model", "checkpoint"]

BATCHES = (4_976, 12_288)  # pairs, of the paper's largest and smallest model
VIEWS = ("docstring", "neighbour")  # of the paper's pairs: code, and text
STARTS: dict[Start, str] = {
    "random": "random weights as the start",
    "lexical": "word vectors counted on the training texts as the start",
    "pretrained": "a language model of its own as the start",
    "language_model": "a given language model as the start",
    "embedding_model": "a trained embedding model as the start, with its attention",
    "checkpoint": "a checkpoint of an earlier run as the start",
}
PAPERS_STARTS: tuple[Start, ...] = ("pretrained", "language_model")


@dataclass(frozen=True)
class Method:
    """What a run shares with the paper, and what it does otherwise, a few words each."""

    shared: tuple[str, ...]
    other: tuple[str, ...]

    @property
    def sentence(self) -> str:
        """Both in one sentence."""
        other = f"not the paper's are {_listed(self.other)}" if self.other else "of what is told here nothing differs"
        return f"This run shares with the paper's method {_listed(self.shared)}; {other}."


def method_of_run(config: RunConfig, trained: Artifact, exported: Artifact) -> Method:
    """The method of a training run, tuned ones included, by its manifest and that of its export.

    Args:
        config: of the run, of a tuned one that of the run that it began as.
    """
    train = TrainConfig.model_validate(trained.manifest.config["config"])
    facts = {**exported.manifest.facts, "has_parent": "parent" in trained.manifest.inputs}
    return method_of(config.model_copy(update={"train": train}), facts)


def method_of(config: RunConfig, facts: Mapping[str, Any]) -> Method:
    """The method of a configuration.

    Args:
        config: of the run.
        facts: of its export: `prompts` and `pooling` of a start that was an embedding model; and `has_parent`, whether it began
            as the checkpoint of an earlier run.
    """
    rows = [*_start(config, facts), *_pairs(config), *_loss(config.train), *_batches(config.train), *_weights(config)]
    return Method(tuple(row for row, is_papers in rows if is_papers), tuple(row for row, is_papers in rows if not is_papers))


def start_of_run(config: RunConfig, facts: Mapping[str, Any]) -> Start:
    """What the weights began as."""
    if facts.get("has_parent"):
        return "checkpoint"
    if "prompts" in facts:
        return "embedding_model"
    if config.model.init:
        return "language_model"
    return "pretrained" if config.pretrain.steps else config.model.start


def _start(config: RunConfig, facts: Mapping[str, Any]) -> list[tuple[str, bool]]:
    start = start_of_run(config, facts)
    rows = [(STARTS[start], start in PAPERS_STARTS)]
    if "prompts" in facts:
        prompts = f"prompts ({', '.join(facts['prompts'])})" if facts["prompts"] else "the tokenizer's own special tokens"
        rows.append((f"{prompts} in place of delimiters", False))
        rows.append((f"{_pooling(facts['pooling'])}", facts["pooling"] == "last"))
        return rows
    if "before" in facts:
        rows.append(("prompts before the texts, inside the delimiters", False))
    keep_layers = getattr(config.model, "keep_layers", None)
    if keep_layers and config.model.init:
        rows.append((f"only the first {keep_layers} blocks of it", False))
    is_distinct = config.tokenizer.delimiters == "distinct"
    rows.append(("delimiters that tell x from y" if is_distinct else "the same delimiters around x and y", is_distinct))
    rows.append((_pooling(config.model.pooling), config.model.pooling == "last"))
    changes = {"lower case": config.tokenizer.lower_case, "split identifiers": config.tokenizer.split_identifiers}
    changes["no punctuation"] = config.tokenizer.punctuation == "drop"
    if not config.model.init and any(changes.values()):
        made = ", ".join(name for name, is_so in changes.items() if is_so)
        rows.append((f"texts that are changed before they are read ({made})", False))
    return rows


def _pooling(pooling: str) -> str:
    named = {"last": "pooling at the last token", "idf_mean": "mean pooling by inverse document frequency"}
    return named.get(pooling, f"{pooling} pooling")


def _pairs(config: RunConfig) -> list[tuple[str, bool]]:
    if config.guide.keep_top is None:
        return []
    return [(f"pairs alone whose y another model finds among its first {config.guide.keep_top} for their x", False)]


def _loss(train: TrainConfig) -> list[tuple[str, bool]]:
    directions = {
        "both": "cross entropy over in-batch negatives in both directions",
        "x_to_y": "cross entropy from x to y alone",
        "y_to_x": "cross entropy from y to x alone",
    }
    rows = [(directions[train.directions], train.directions == "both")]
    fixed = f"a fixed temperature of {train.temperature:g}"
    rows.append(("a trained temperature" if train.train_temperature else fixed, train.train_temperature))
    if train.matryoshka.dims:
        rows.append((f"the loss summed over the first {_listed([*map(str, train.matryoshka.dims)])} dimensions", False))
    if train.false_negatives.by != "off":
        whose = "the model's own" if train.false_negatives.by == "own" else "another model's"
        rows.append((f"no negatives among candidates that are too near by {whose} scores", False))
    if not train.teacher.is_off:
        rows.append(("another model's scores as a teacher", False))
    if train.mask_same_document:
        masked = _listed(sorted(train.mask_same_document))
        rows.append((f"no negatives of the same document among pairs of {masked}", False))
    return rows


def _batches(train: TrainConfig) -> list[tuple[str, bool]]:
    low, high = BATCHES
    is_papers = low <= train.batch_size <= high
    rows = [
        (f"batches of {train.batch_size:,} pairs" + ("" if is_papers else f" (the paper's: {low:,} to {high:,})"), is_papers)
    ]
    if train.batches_from != "mixed":
        rows.append(("each batch of one dataset", False))
    if views := sorted(view for view, share in train.mixture.items() if share > 0 and view not in VIEWS):
        rows.append((f"pairs of {_listed(views)} beside or in place of neighbouring texts and docstrings", False))
    return rows


def _weights(config: RunConfig) -> list[tuple[str, bool]]:
    rows = []
    if config.model.lora.rank:
        rows.append((f"low-rank adapters (LoRA, rank {config.model.lora.rank}) trained in place of all weights", False))
    if config.train.token_dropout:
        rows.append((f"token dropout of {config.train.token_dropout:g}", False))
    if config.train.weight_average:
        rows.append(("averaged weights", False))
    return rows


def _listed(names: list[str] | tuple[str, ...]) -> str:
    *first, last = names or ("nothing",)
    return f"{', '.join(first)} and {last}" if first else last
