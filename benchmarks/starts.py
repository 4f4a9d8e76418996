"""A given language model under a preset's own rates and under those that `--init` brings, on pairs of the standard library.

    python -m benchmarks.starts START [--keep-layers 6] [--steps 30] [--batch-size 64] [--rates demo language-model random]

The same pairs, order and steps for each; MRR of 256 held-out pairs among each other after every ten steps. `random` is the
control: the same architecture from random weights, at a language model's rates. The last line is one flat JSON object.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import torch
from transformers import PreTrainedConfig

from benchmarks.overhead import write_pairs
from pipeline_lib.model.checkpoint import find_start

HELD_OUT = 256
EVERY = 10
LENGTHS = (24, 48)  # of x and y, tokens


def main() -> None:
    """Measure, and print a line a measurement and the last figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("start", help="the folder of a causal language model, a GGUF file, or a name of `cpt get-start`")
    parser.add_argument("--keep-layers", type=int, help="first blocks of it")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--rates", nargs="+", default=["demo", "language-model"], choices=["demo", "language-model", "random"])
    options = parser.parse_args()
    options.start = Path(find_start(options.start))
    with tempfile.TemporaryDirectory() as folder:
        found = {name: measure(Path(folder), name, options) for name in options.rates}
    print(json.dumps({f"mrr_{name}": round(mrr, 3) for name, mrr in found.items()}))


def measure(root: Path, name: str, options: argparse.Namespace) -> float:
    """Train in this process, one thread; MRR after the last step."""
    from pipeline_lib.config.data import ShardConfig
    from pipeline_lib.config.presets import preset
    from pipeline_lib.model.checkpoint import start_weights
    from pipeline_lib.model.given import cut_config
    from pipeline_lib.store.store import Store
    from pipeline_lib.tokens.shards import write_shards
    from pipeline_lib.tokens.tokenizer import adopt_tokenizer
    from pipeline_lib.train.contrastive import ContrastiveObjective
    from pipeline_lib.train.distributed import Ranks
    from pipeline_lib.train.job import TRAIN, ArtifactRef, Events, Job
    from pipeline_lib.train.trainer import Trainer

    torch.set_num_threads(1)
    store = Store(root / "store")
    tokenizer = adopt_tokenizer(store, options.start)
    lengths = ShardConfig(max_x_tokens=LENGTHS[0], max_y_tokens=LENGTHS[1])
    shards = write_shards(store, write_pairs(store, 4_000, HELD_OUT), tokenizer, lengths)
    config = (
        preset("demo")
        if name == "demo"
        else preset("demo", str(options.start), start_weights(str(options.start), options.keep_layers))
    )
    train = config.train.lasting(options.steps).model_copy(
        update={
            "batch_size": options.batch_size,
            "mixture": {"docstring": 1.0},
            "evaluation_pairs": HELD_OUT,
            "block_rows": 256,  # the pairs are of one file after the other: a full shuffle
            "window_blocks": 4096,
            "min_effective_rank": 0.0,
        }
    )
    model = config.model.model_copy(update={"keep_layers": options.keep_layers})
    start = options.start
    if name == "random":
        start = random_weights(cut_config(start, options.keep_layers), root / "random")
    refs = {"shards": ArtifactRef.of(shards), "tokenizer": ArtifactRef.of(tokenizer)}
    job = Job(root=str(root / name), stage=TRAIN, key=name, start=str(start), config=train, model=model, **refs)
    job.folder.mkdir(parents=True)
    objective = ContrastiveObjective.build(job.model_copy(update={"root": str(store.root)}), shards, tokenizer, Ranks())
    trainer = Trainer(job, objective, Ranks(), Events(enabled=False))
    print("\n".join(f"{name}: {line}" for line in objective.describe()), file=sys.stderr)
    began, loss = time.process_time(), float("nan")
    for step in range(train.steps + 1):
        if step % EVERY == 0 or step == train.steps:
            with trainer.average.in_place():
                mrr = objective.evaluate()["mrr"]
            spent = time.process_time() - began
            print(f"{name}: after {step} steps loss {loss:.2f}, MRR {mrr:.3f}, {spent:.0f} CPU-seconds", file=sys.stderr)
        if step < train.steps:
            loss = trainer.take_step(step).loss
    return mrr


def random_weights(config: PreTrainedConfig, folder: Path) -> Path:
    """The folder of a model of the same architecture that has learned nothing."""
    from transformers import AutoModel

    torch.manual_seed(1)
    AutoModel.from_config(config).save_pretrained(folder)
    return folder


if __name__ == "__main__":
    main()
