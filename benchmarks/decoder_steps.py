"""Training steps of a Llama and of a deeper GPT-2 beside sentence-transformers: `python -m benchmarks.train --model llama`.

Contenders take turns on the same batches, and a ratio is of the fastest step of each: what else the machine does slows a step
down, and never speeds one up. A loss without gradient caching is held against the peer's without, a cached one against the
faster of its two, and the best of ours against the best of theirs. In a full run our own step with one thing undone at a time
says where the factor comes from.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.training_corpus import DEEP, RATIO, STARTED, Corpus, Figures, prepare, timed

if TYPE_CHECKING:
    from benchmarks.training_steps import Batch, Setting, Step

LLAMA = {  # SmolLM2-135M's sizes, six of its thirty blocks
    **{"vocab_size": 49_152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 6},
    **{"num_attention_heads": 9, "num_key_value_heads": 3, "max_position_embeddings": 2048},
}
QUICK_SECONDS = 240.0  # quick rounds end here, counted from the start
FEWEST_ROUNDS = 2
UNCACHED = "mnrl"


def measure_decoder(folder: Path, model: str, batch_size: int, quick: bool, rounds: int) -> Figures:
    """All figures, by their keys: ratios, pairs a second, shares of our step, seconds."""
    import torch

    from benchmarks.training_steps import OurStep

    corpus = prepare(folder, n_pairs=8 * batch_size)
    setting = _setting(corpus, model)
    contenders = _contenders(setting, model, quick)
    best = _fastest(contenders, corpus.batches(batch_size), quick, rounds)
    results = _ratios(best)
    ours = contenders["ours"]
    assert isinstance(ours, OurStep)
    return {
        RATIO: results["ratio_best_against_best"],
        **results,
        "pairs_per_second": round(batch_size / min(best["ours"], best["ours_cached"]), 2),
        "peer_pairs_per_second": round(batch_size / min(best[name] for name in best if UNCACHED in name), 2),
        "share_of_cutting_and_loss": round(ours.aside_seconds / best["ours"], 4),
        "share_of_clipping_and_adamw": round(ours.update_seconds / best["ours"], 4),
        **{f"seconds_{name}": round(seconds, 4) for name, seconds in best.items()},
        "model": model,
        "batch_size": batch_size,
        "threads": torch.get_num_threads(),
        "precision": setting.train.precision,
        "seconds": round(time.monotonic() - STARTED, 1),
    }


def _setting(corpus: Corpus, model: str) -> Setting:
    """What both sides share: random weights in a folder of their own."""
    import torch
    from transformers import AutoModel, LlamaConfig

    from benchmarks.training_steps import Setting
    from pipeline_lib.config.model import ModelConfig

    setting = corpus.setting(ModelConfig.model_validate(DEEP))
    if model == "gpt2":
        return setting
    place = corpus.folder / model
    torch.manual_seed(1)
    AutoModel.from_config(LlamaConfig(**LLAMA)).save_pretrained(place)
    return Setting(setting.model, setting.shards, setting.train, setting.tokenizer, setting.tokenizer_folder, place)


def _contenders(setting: Setting, model: str, quick: bool) -> dict[str, Step]:
    """Ours compiled where it pays; the peer's three losses; in full ours with one thing undone."""
    from benchmarks.training_steps import OurStep, PeerStep, peer_losses

    compiled = model == "llama" and setting.train.precision == "bfloat16"
    ours: dict[str, Step] = {
        "ours": OurStep(setting, compiled=compiled),
        "ours_cached": OurStep(setting, cached=True, compiled=compiled),
    }
    if not quick:
        ours |= {"ours_own_forward": OurStep(setting, fused=False), "ours_padded": OurStep(setting, fused=False, sort=False)}
        ours |= {"ours_eager": OurStep(setting)} if compiled else {}
    return ours | {name: PeerStep(setting, make_loss) for name, make_loss in peer_losses(setting).items()}


def _fastest(contenders: dict[str, Step], batches: Iterator[Batch], quick: bool, rounds: int) -> dict[str, float]:
    """Seconds of the fastest step of each, in turn on the same batches; the first two steps compile and warm up."""
    for _ in range(2):
        for step in contenders.values():
            step(next(batches))
    best: dict[str, float] = {}
    for done in range(rounds):
        if quick and done >= FEWEST_ROUNDS and time.monotonic() - STARTED > QUICK_SECONDS:
            break
        batch = next(batches)
        taken = {name: timed(step, batch) for name, step in contenders.items()}
        for name, found in taken.items():
            best[name] = min(best.get(name, found.wall), found.wall)
        print(f"round {done + 1}: " + ", ".join(f"{name} {found.wall:.2f} s" for name, found in taken.items()), file=sys.stderr)
    return best


def _ratios(best: dict[str, float]) -> dict[str, float]:
    """Peer's seconds over ours, like against like and best against best, and what each thing undone costs."""
    cached = min(seconds for name, seconds in best.items() if name.startswith("cached_"))
    fastest = min(cached, best[UNCACHED])
    ratios = {
        "ratio_best_against_best": fastest / min(best["ours"], best["ours_cached"]),
        "ratio_uncached": best[UNCACHED] / best["ours"],
        "ratio_cached": cached / best["ours_cached"],
    }
    undone = {"compiling": "ours_eager", "lean_forward": "ours_own_forward", "no_padding": "ours_padded"}
    ratios |= {f"factor_{what}": best[name] / best["ours"] for what, name in undone.items() if name in best}
    return {name: round(ratio, 3) for name, ratio in ratios.items()}
