"""Parts that take a trainer's steps in their own process: batch and length, layout, precision, language modelling."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.gpu.bench import Bench, Corpus, Row, make_corpus, make_job, step_figures, timed_step, train_config, trainer_of

LENGTHS, BATCHES = ((64, 128), (256, 512)), (64, 256, 1_024, 4_096)
TINY_LENGTHS, TINY_BATCHES = ((8, 16),), (8,)
HELD_OUT = 1_024


def steps_part(bench: Bench) -> None:
    """Pairs a second, MFU and peak memory by batch and length, in bfloat16; and what float32 and TF32 take."""
    for lengths in bench.pick(LENGTHS, TINY_LENGTHS):
        corpus = _corpus(bench, lengths)
        for batch in bench.pick(BATCHES, TINY_BATCHES):
            _row(bench, corpus, f"{batch:,} pairs of {lengths[0]}/{lengths[1]} tokens", batch)
    corpus, batch = _corpus(bench, bench.pick(LENGTHS, TINY_LENGTHS)[0]), bench.pick(256, 8)
    for what, changes in {"float32, TF32": {}, "float32": {"tf32": False}}.items():
        _row(bench, corpus, f"{batch:,} pairs, {what}", batch, precision="float32", **changes)


def layout_part(bench: Bench) -> None:
    """Rows end to end by the variable-length kernel against padded ones; compiled layers against eager ones."""
    from benchmarks.packed import MODELS, compare
    from pipeline_lib.config.model import ModelConfig

    if bench.device == "cuda":
        bench.row("the kernel's gradients against float32's, heads of 64", lambda: _kernel(64))
    rounds, batch = bench.pick((5, 512), (1, 8))
    for name, sizes in MODELS.items():
        model = ModelConfig.model_validate(bench.pick(sizes, {**sizes, "width": 64, "inner": 64}))
        bench.row(f"{name}: packed against padded", lambda model=model: compare(model, batch, rounds, _device(bench)))
    corpus, batch = _corpus(bench, bench.pick(LENGTHS, TINY_LENGTHS)[0]), bench.pick(1_024, 8)
    for attention in ("padded", "packed"):
        _row(bench, corpus, f"{batch:,} pairs, {attention}", batch, attention=attention)
    for choice in ("off", "on") if bench.device == "cuda" else ("off",):
        _row(bench, corpus, f"{batch:,} pairs, compile {choice}", batch, compile=choice)
    _row(bench, corpus, f"{batch:,} pairs, layers computed again", batch, checkpoint_activations=True)
    _row(bench, corpus, f"{batch:,} pairs, any algorithm", batch, deterministic=False)


def language_model_part(bench: Bench) -> None:
    """Causal language modelling by pass length, with the logits of a chunk at a time against all of a pass."""
    from pipeline_lib.config.training import PretrainConfig

    corpus = _corpus(bench, bench.pick(LENGTHS, TINY_LENGTHS)[-1])
    sizes = bench.pick({"batch_tokens": 65_536, "sequence_tokens": 512}, {"batch_tokens": 128, "sequence_tokens": 16})
    for tokens in bench.pick((2_048, 16_384, 65_536), (64,)):
        for chunked in (True, False):
            given = {"steps": 1_000, "mixture": {"docstring": 1.0}, "micro_batch_tokens": tokens, "precision": "bfloat16"}
            config = PretrainConfig.model_validate(given | sizes)
            what = f"passes of {tokens:,} tokens, {'chunked' if chunked else 'whole'} logits"
            bench.row(
                what, lambda config=config, what=what, chunked=chunked: _language_model(bench, corpus, config, what, chunked)
            )


def precision_part(bench: Bench) -> None:
    """The same run in float32, TF32 and bfloat16: where its loss ends, and what its vectors find."""
    corpus = _corpus(bench, bench.pick(LENGTHS, TINY_LENGTHS)[0])
    steps, batch = bench.pick((40, 512), (2, 8))
    ways: dict[str, dict[str, Any]] = {
        "float32": {"precision": "float32", "tf32": False},
        "TF32": {"precision": "float32"},
        "bfloat16": {"precision": "bfloat16"},
    }
    for name, changes in ways.items():
        config = train_config(bench, batch, steps=steps, warmup_steps=max(1, steps // 10), **changes)
        bench.row(name, lambda config=config, name=name: _trained(bench, corpus, config, name))


def _trained(bench: Bench, corpus: Corpus, config: Any, what: str) -> Row:
    with trainer_of(bench, make_job(bench, corpus, config, what)) as trainer:
        for step in range(config.steps):
            trainer.take_step(step)
        found = {"loss": trainer.log.last["loss"]}
        encoder = trainer.objective.module
        for precision in ("float32", "bfloat16"):
            encoder.precision = precision
            scores = _search(bench, corpus, encoder)
            found |= {f"{metric}_of_{precision}_vectors": value for metric, value in scores.items()}
    return found


def _search(bench: Bench, corpus: Corpus, encoder: Any) -> Row:
    """Recall@10 and MRR of held-out y by their x."""
    import pyarrow.parquet as pq

    from pipeline_lib.model.micro_batches import embed_ids
    from pipeline_lib.tokens.pair_tokenizer import PairTokenizer

    rows = pq.read_table(corpus.pairs.part_folder("validation") / "pairs.parquet", columns=["x", "y"]).to_pylist()
    tokenizer = PairTokenizer.load(corpus.tokenizer.part_folder())
    sides = zip(("x", "y"), corpus.lengths, strict=True)
    x_BD, y_BD = (embed_ids(encoder, tokenizer.encode([row[side] for row in rows], side, most)) for side, most in sides)
    scores_BB = x_BD @ y_BD.T
    rank_B = (scores_BB >= np.diag(scores_BB)[:, None]).sum(1)
    return {"recall_at_10": float((rank_B <= 10).mean()), "mrr": float((1 / rank_B).mean())}


def _language_model(bench: Bench, corpus: Corpus, config: Any, what: str, chunked: bool) -> Row:
    from pipeline_lib.train.causal import CausalObjective, plain_head

    with trainer_of(bench, make_job(bench, corpus, config, what)) as trainer:
        objective = trainer.objective
        assert isinstance(objective, CausalObjective)
        objective._head = plain_head(objective.module) if chunked else None
        timed_step(bench, trainer, 0)
        seconds = min(timed_step(bench, trainer, step) for step in range(1, bench.pick(4, 2)))
        return {
            "seconds": seconds,
            "tokens_per_second": config.batch_tokens / seconds,
            "loss": trainer.log.last["loss"],
            **bench.peak(),
        }


def _row(bench: Bench, corpus: Corpus, what: str, batch: int, **changes: Any) -> None:
    bench.row(what, lambda: step_figures(bench, corpus, train_config(bench, batch, **changes), what))


def _corpus(bench: Bench, lengths: tuple[int, int]) -> Corpus:
    return make_corpus(bench, bench.pick(8_192, 64), lengths, held_out=bench.pick(HELD_OUT, 16))


def _kernel(head_width: int) -> Row:
    from pipeline_lib.model.attention import kernel_agreement, kernel_obstacle

    device = _cuda()
    return {"cosine": kernel_agreement(device, head_width), "obstacle": kernel_obstacle(device, head_width) or "none"}


def _device(bench: Bench) -> Any:
    import torch

    return _cuda() if bench.device == "cuda" else torch.device("cpu")


def _cuda() -> Any:
    import torch

    return torch.device("cuda", 0)
