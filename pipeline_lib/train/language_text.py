"""Text of language modelling: the sequences of each step, the held-out text, and how often each token comes in training.

Documents come as one stream, each ended by an end-of-text id, cut into sequences of equal length whose order is a BatchPlan's.
Pairs come in the order of a BatchPlan, as in contrastive training; x and y of a step's pairs are one stream. So a step stays a
pure function of its number. Imports no torch.

M sequences of a step, L tokens of a sequence, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline_lib.config.training import PretrainConfig
from pipeline_lib.errors import UserError
from pipeline_lib.store.artifact import Artifact
from pipeline_lib.tokens.batches import BatchPlan, by_largest_remainder
from pipeline_lib.tokens.dataset import TokenDataset, labels_of, parts_of
from pipeline_lib.tokens.rows import PairRows, check_views
from pipeline_lib.tokens.text_shards import STAGE, Sequences, TextStream

Ids = NDArray[np.int64]
Counts = NDArray[np.floating | np.integer]

VIEW = "documents"
READ_ROWS = 4_096  # of pairs, at a time


@dataclass(frozen=True)
class HeldOutText:
    """Text that a language model's loss is measured on.

    Attributes:
        ids: of its documents or pairs, end to end.
        n_bytes: of the text, as it was read; 0 where nobody knows (pairs, which are cut).
        n_words: likewise.
    """

    ids: Ids
    n_bytes: int = 0
    n_words: int = 0


class LanguageText(Protocol):
    """A training split as text, and the validation split beside it."""

    items: str  # what a step has `per_step` of: "sequences" or "pairs"
    per_step: int

    def sequences(self, step: int) -> Ids:
        """The sequences of a step, (M, L)."""
        ...

    def describe(self, steps: int) -> str:
        """Epochs of so many steps, for people."""
        ...

    def names(self, step: int) -> list[str]:
        """Names of what a step reads."""
        ...

    def held_out(self) -> HeldOutText | None:
        """Text of the validation split; None where there is none."""
        ...

    def counts(self, vocabulary: int) -> Counts:
        """How often each id comes in the training split, (V,)."""
        ...


def open_text(shards: Artifact, config: PretrainConfig) -> LanguageText:
    """The text of token shards: whole documents, or pairs.

    Raises:
        UserError: no text, or a mixture of views that there are not.
    """
    return DocumentText(shards, config) if shards.manifest.stage == STAGE.name else PairText(shards, config)


def check_text(shards: Artifact, config: PretrainConfig) -> None:
    """Token shards are of the kind that a configuration asks for.

    Raises:
        UserError: they are of the other one.
    """
    found = "documents" if shards.manifest.stage == STAGE.name else "pairs"
    if found != config.text:
        raise UserError(f"pretrain.text is {config.text}, and the token shards {shards.manifest.key} hold {found}")


class DocumentText:
    """Whole documents, as one stream of sequences."""

    items = "sequences"

    def __init__(self, shards: Artifact, config: PretrainConfig) -> None:
        stream = TextStream.open(shards, "train")
        assert stream is not None, f"{shards.folder}: no training split"
        self.config, self.stream, self.shards = config, stream, shards
        self.rows = Sequences(stream, config.sequence_tokens)
        if not len(self.rows):
            raise UserError(
                f"the documents for training have {shards.part('train').facts['tokens']:,} tokens, less than one sequence of "
                f"{config.sequence_tokens}; give a larger source, or lower pretrain.sequence_tokens"
            )
        self.per_step = max(1, config.batch_tokens // config.sequence_tokens)
        sizes, mixture = {VIEW: len(self.rows)}, {VIEW: 1.0}
        self.plan = BatchPlan(sizes=sizes, mixture=mixture, batch_size=self.per_step, seed=config.seed, digest=shards.digest)

    def sequences(self, step: int) -> Ids:
        """The sequences of a step, (M, L)."""
        return self.rows.rows(self.plan.rows(step)[VIEW])

    def describe(self, steps: int) -> str:
        """Epochs of so many steps, for people."""
        facts = self.shards.part("train").facts
        epochs = self.plan.epochs(steps)[VIEW]
        return f"{epochs:.2f} epochs of {facts['documents']:,} whole documents, {facts['tokens']:,} tokens"

    def names(self, step: int) -> list[str]:
        """Numbers of the sequences."""
        return [f"sequence {number}" for number in self.plan.rows(step)[VIEW].tolist()]

    def held_out(self) -> HeldOutText | None:
        """The first documents of the validation split, in the order of their ids."""
        stream = TextStream.open(self.shards, "validation")
        if stream is None:
            return None
        found, n_bytes, n_words = stream.documents(self.config.evaluation_tokens)
        return HeldOutText(np.concatenate(found), n_bytes, n_words)

    def counts(self, vocabulary: int) -> Counts:
        """How often each id comes in the training split, (V,)."""
        return self.stream.counts(vocabulary)


class PairText:
    """Pairs in their delimiters, as many in a step as come to `batch_tokens` on average."""

    items = "pairs"

    def __init__(self, shards: Artifact, config: PretrainConfig) -> None:
        check_views(shards, config)
        self.config, self.shards = config, shards
        weights = _weights(shards, config.mixture, PairRows.split)
        tokens = sum(weight * _mean_tokens(shards, view) for view, weight in weights.items())
        self.per_step = max(1, round(config.batch_tokens * sum(weights.values()) / tokens)) if tokens else 1
        self.rows = PairRows(shards, config.mixture, self.per_step, config.seed, config.reading)

    def sequences(self, step: int) -> Ids:
        """The sequences of a step, (M, L); what is left of its stream is less than one."""
        stream: list[np.ndarray] = []
        for _, rows in self.rows.read(step).values():
            stream += [ids for pair in zip(rows.x_ids, rows.y_ids, strict=True) for ids in pair]
        flat = np.concatenate(stream).astype(np.int64)
        length = self.config.sequence_tokens
        return flat[: len(flat) // length * length].reshape(-1, length)

    def describe(self, steps: int) -> str:
        """Epochs of so many steps, for people."""
        return self.rows.describe(steps)

    def names(self, step: int) -> list[str]:
        """Ids of the pairs."""
        return self.rows.pair_ids(self.rows.plan.rows(step))

    def held_out(self) -> HeldOutText | None:
        """Pairs of the validation split, each view with its share of the tokens."""
        weights = _weights(self.shards, self.config.mixture, "validation")
        if not weights:
            return None
        shares = by_largest_remainder(weights, self.config.evaluation_tokens)
        found: list[np.ndarray] = []
        for view, share in shares.items():
            n = 0
            for ids in chain.from_iterable(_read(self.shards, f"validation-{view}")):
                if n and n + len(ids) > share:
                    break
                found.append(ids)
                n += len(ids)
        return HeldOutText(np.concatenate(found).astype(np.int64))

    def counts(self, vocabulary: int) -> Counts:
        """How often each id comes in the training split, (V,), its views in the shares of the mixture."""
        weights = _weights(self.shards, self.config.mixture, "train")
        of_view = {view: np.zeros(vocabulary) for view in weights}
        for view in weights:
            for pairs in _read(self.shards, f"train-{view}"):
                of_view[view] += np.bincount(np.concatenate(pairs), minlength=vocabulary)
        total = sum(counts.sum() for counts in of_view.values()) / sum(weights.values())
        return sum((total * weights[view] / counts.sum() * counts for view, counts in of_view.items()), np.zeros(vocabulary))


def _weights(shards: Artifact, mixture: Mapping[str, float], split: str) -> dict[str, float]:
    """The views of a mixture that have weight, and rows in a split."""
    labels = labels_of(shards, split)
    return {view: weight for view, weight in sorted(mixture.items()) if weight > 0 and f"{split}-{view}" in labels}


def _read(shards: Artifact, label: str) -> Iterator[list[np.ndarray]]:
    """The ids of a data set's pairs, x and y end to end, so many pairs at a time."""
    dataset = TokenDataset.open(shards, label)
    for start in range(0, len(dataset), READ_ROWS):
        rows = dataset.rows(np.arange(start, min(start + READ_ROWS, len(dataset))))
        yield [np.concatenate(pair) for pair in zip(rows.x_ids, rows.y_ids, strict=True)]


def _mean_tokens(shards: Artifact, view: str) -> float:
    facts = [part.facts for part in parts_of(shards, f"train-{view}")]
    return sum(fact["x_tokens"] + fact["y_tokens"] for fact in facts) / sum(fact["rows"] for fact in facts)


def unigram_entropy(counts_V: Counts, ids: Ids) -> float:
    """Cross entropy of ids under the unigram distribution of the training split, one added to each count (nats a token).

    It is what a model reaches that has learned how often each token comes, and nothing of what stands before it.
    """
    log_total = math.log(float(counts_V.sum()) + len(counts_V))
    return float(log_total - np.log(counts_V[ids] + 1.0).mean())


def figures_of(loss: float, unigram: float, text: HeldOutText) -> dict[str, float]:
    """Held-out figures of a language model: nats and bits of the same tokens, its own and those of single words' frequencies.

    Args:
        loss: mean over all tokens of the text (nats a token).
        unigram: `unigram_entropy` of the same.
    """
    figures: dict[str, float] = {"loss": loss, "perplexity": math.exp(min(loss, 700.0)), "unigram_entropy": unigram}
    for name, count in (("byte", text.n_bytes), ("word", text.n_words)):
        if count:
            bits = len(text.ids) / math.log(2) / count
            figures |= {f"bits_per_{name}": loss * bits, f"unigram_bits_per_{name}": unigram * bits}
    return figures | {"tokens": len(text.ids)}


def sentence_of(figures: Mapping[str, float]) -> str:
    """What people are told of a language model."""
    told = f"unigram entropy of the same tokens {figures['unigram_entropy']:.3f}"
    if "bits_per_byte" in figures:
        told += f"; {figures['bits_per_byte']:.2f} bits a byte against {figures['unigram_bits_per_byte']:.2f}"
    return (
        f"held-out perplexity {figures['perplexity']:,.1f} (loss {figures['loss']:.3f} nats a token, over "
        f"{figures['tokens']:,} tokens of the validation split), {told}"
    )


def warning_of(figures: Mapping[str, float]) -> str:
    """What a model is called that knows no more than how often each token comes; empty for one that knows more."""
    if figures["loss"] < figures["unigram_entropy"]:
        return ""
    return (
        f"this is no language model: its held-out loss, {figures['loss']:.3f} nats a token, is not below the unigram entropy "
        f"of the same tokens, {figures['unigram_entropy']:.3f}, which whoever knows how often each token comes reaches without "
        "reading; train it on more tokens (pretrain.steps, pretrain.batch_tokens) or at another rate"
    )
