"""Parts beside sentence-transformers: a training step on the same weights, texts and precision, and texts to vectors."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.gpu.bench import Bench, Corpus, Row, make_corpus, step_figures, synchronise, train_config

if TYPE_CHECKING:
    from torch import nn

MINI_BATCHES = {"cached, 64 texts": 64, "cached, 512 texts": 512}
ROUNDS = 4


def training_part(bench: Bench) -> None:
    """A training step of ours beside sentence-transformers' losses, plain and with gradient caching, in bfloat16."""
    lengths = bench.pick((64, 128), (8, 16))
    corpus = make_corpus(bench, bench.pick(8_192, 64), lengths, held_out=bench.pick(1_024, 16))
    for batch in bench.pick((256, 1_024), (8,)):
        what = f"ours, {batch:,} pairs"
        bench.row(what, lambda batch=batch, what=what: step_figures(bench, corpus, train_config(bench, batch), what))
        for name, mini_batch in {"plain": None, **MINI_BATCHES}.items():
            peer = _Peer(bench, corpus, batch, mini_batch)
            bench.row(f"sentence-transformers, {name}, {batch:,} pairs", peer.figures)


def encoding_part(bench: Bench) -> None:
    """Texts to vectors of one export by our loader and by sentence-transformers, as `benchmarks.encode` measures it."""
    from benchmarks.encode import SIZES, measure, write_export
    from benchmarks.stdlib_pairs import stdlib_pairs

    queries, documents = stdlib_pairs(bench.pick(3_000, 24))
    rounds, chosen = bench.pick((3, SIZES), (1, {"demo": {**SIZES["demo"], "width": 64, "inner": 64}}))
    for name, sizes in chosen.items():
        with tempfile.TemporaryDirectory() as place:
            folder = write_export(Path(place) / name, sizes, [*queries, *documents])
            bench.row(name, lambda folder=folder: measure(folder, queries, documents, bench.device, rounds))


@dataclass(frozen=True)
class _Peer:
    """Steps of sentence-transformers: its loss, backward, clip and AdamW; texts are tokenized before the clock runs."""

    bench: Bench
    corpus: Corpus
    batch: int
    mini_batch: int | None

    def figures(self) -> Row:
        """Seconds of a step, and what follows from it."""
        import torch

        features, model = self._features(), self._model()
        loss_of = self._loss(model)
        optimizer = torch.optim.AdamW(loss_of.parameters(), lr=1e-4, fused=True)
        first, *others = (self._step(loss_of, optimizer, features) for _ in range(1 + self.bench.pick(ROUNDS, 1)))
        seconds = statistics.median(others)
        rates = {"pairs_per_second": self.batch / seconds, "tokens_per_second": self.batch * sum(self.corpus.lengths) / seconds}
        return {"seconds": seconds, **rates, **self.bench.peak(), "first_step_seconds": first}

    def _step(self, loss_of: nn.Module, optimizer: Any, features: Callable[[], list[dict[str, Any]]]) -> float:
        import torch

        synchronise(self.bench)
        begin = time.perf_counter()
        with torch.autocast(self.bench.device, torch.bfloat16, enabled=not self.bench.tiny):
            loss = loss_of(features(), None)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(loss_of.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        synchronise(self.bench)
        return time.perf_counter() - begin

    def _features(self) -> Callable[[], list[dict[str, Any]]]:
        """Padded ids of both sides; copied to the device within the step, as a trainer does."""
        import pyarrow.parquet as pq
        import torch

        from pipeline_lib.tokens.pair_tokenizer import PairTokenizer

        tokenizer = PairTokenizer.load(self.corpus.tokenizer.part_folder())
        path = self.corpus.pairs.part_folder("train") / "pairs.parquet"
        rows = pq.read_table(path, columns=["x", "y"]).slice(0, self.batch).to_pylist()
        sides = []
        for side, most in zip(("x", "y"), self.corpus.lengths, strict=True):
            ids = [torch.tensor(row) for row in tokenizer.encode([row[side] for row in rows], side, most)]  # type: ignore[arg-type]
            padded = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True, padding_value=tokenizer.pad)
            mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in ids], batch_first=True)
            sides.append({"input_ids": padded, "attention_mask": mask})
        return lambda: [{name: tensor.to(self.bench.device) for name, tensor in side.items()} for side in sides]

    def _model(self) -> Any:
        """The weights that our run begins with, in the peer's modules, pooled at the last token."""
        from sentence_transformers import SentenceTransformer
        from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
        from transformers import PreTrainedTokenizerFast

        from pipeline_lib.model.encoder import Encoder
        from pipeline_lib.tokens.pair_tokenizer import PairTokenizer, side_tokenizer_json

        folder = self.corpus.tokenizer.part_folder()
        tokenizer = PairTokenizer.load(folder)
        with tempfile.TemporaryDirectory() as place:
            Encoder.build(self.bench.model, tokenizer, seed=1).save(Path(place))
            file = Path(place) / "peer_tokenizer.json"
            file.write_text(side_tokenizer_json(folder, "y", self.corpus.lengths[1]), encoding="utf-8")
            PreTrainedTokenizerFast(
                tokenizer_file=str(file), pad_token=tokenizer.pad_token, padding_side="right"
            ).save_pretrained(place)
            transformer = Transformer(place, max_seq_length=self.corpus.lengths[1])
        pooling = Pooling(transformer.get_embedding_dimension(), pooling_mode="lasttoken")
        return SentenceTransformer(modules=[transformer, pooling, Normalize()], device=self.bench.device).train()

    def _loss(self, model: Any) -> nn.Module:
        from sentence_transformers.sentence_transformer import losses

        shared: dict[str, Any] = {"scale": 1 / 0.07, "directions": ("query_to_doc", "doc_to_query")}
        if self.mini_batch is None:
            return losses.MultipleNegativesRankingLoss(model, **shared)
        return losses.CachedMultipleNegativesRankingLoss(model, mini_batch_size=self.mini_batch, **shared)
