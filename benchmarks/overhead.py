"""Overhead of a training step beyond the model's arithmetic: `python -m benchmarks.overhead [--quick]`.

The trainer itself, with the demo's model, batch and optimizer on pairs of the standard library: shares of its steps that go to
waiting for data, the loss, synchronisation and saving, by the trainer's own meter; step time with a state saved every few
steps against none, blocks of both in turn; and pairs a second of two processes against one, a thread each. A save's cost is
told a block, and as the share that it is where a state is saved as often as by default. The demo's one layer, of which only the
pooled position is computed in full, makes the loss weigh more than it does elsewhere: four layers of 256 stand beside it
("deep_*"). The last line is one flat JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline_lib.store.artifact import Artifact
    from pipeline_lib.store.store import Store
    from pipeline_lib.train.distributed import Ranks
    from pipeline_lib.train.job import Job

Figures = dict[str, float]

WARM_UP_STEPS = 2
LIMIT = 0.05  # of a step
DEEP = {"layers": 4, "width": 256, "heads": 4, "inner": 1024, "start": "scratch"}


def main() -> int:
    """Print the JSON line; 1 where what is no arithmetic, or saving, takes a twentieth of a step or more."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="batch 256, two blocks of three steps")
    quick = parser.parse_args().quick
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import torch

    from benchmarks.gloo import run_ranks

    torch.set_num_threads(1)  # what the forked processes start from
    with tempfile.TemporaryDirectory(prefix="cpt-overhead-") as folder:
        job = prepare(Path(folder), batch_size=256 if quick else 1_024)
        blocks, steps = (2, 3) if quick else (8, 5)
        pace = {size: run_ranks(size, Blocks(job, 1, steps))[0] for size in (1, 2)}
        torch.set_num_threads(len(os.sched_getaffinity(0)))
        from pipeline_lib.train.distributed import ALONE

        results = Blocks(job, blocks, steps)(ALONE)
        if not quick:
            deep = Blocks(with_model(job, "deep", DEEP), 4, 3)(ALONE)
            results |= {f"deep_{name}": value for name, value in deep.items()}
    results["processes_2_speed_up"] = pace[1]["seconds"] / pace[2]["seconds"]
    results["processes_2_share_not_arithmetic"] = pace[2]["share_not_arithmetic"]
    print(json.dumps({name: round(value, 5) for name, value in results.items()}))
    return int(max(results["share_not_arithmetic"], results["saving_share"]) >= LIMIT)


@dataclass(frozen=True)
class Blocks:
    """Steps of the trainer on one rank; every second block begins with a saved state."""

    job: Job
    blocks: int
    steps: int

    def __call__(self, ranks: Ranks) -> Figures:
        """Seconds of a step, and shares of it."""
        from pipeline_lib.train.job import Events
        from pipeline_lib.train.metrics import Clock
        from pipeline_lib.train.trainer import Trainer, build_objective

        trainer = Trainer(self.job, build_objective(self.job, ranks), ranks, Events(enabled=False))
        timing = self.job.folder / f"timing-{ranks.size}.jsonl"
        for step in range(WARM_UP_STEPS):
            trainer.take_step(step)
        trainer.clock = Clock(timing if ranks.is_first else None, self.job.config.steps)
        seconds: dict[bool, list[float]] = {False: [], True: []}
        for block in range(self.blocks):
            saves, begin = block % 2 == 1, time.perf_counter()
            first = WARM_UP_STEPS + block * self.steps
            if saves:
                trainer.save_state(first)
            for step in range(first, first + self.steps):
                trainer.take_step(step)
            trainer.resume.wait()  # what is still being written belongs to this block
            seconds[saves].append((time.perf_counter() - begin) / self.steps)
        return self.figures(seconds, timing) if ranks.is_first else {}

    def figures(self, seconds: dict[bool, list[float]], timing: Path) -> Figures:
        """By their keys; seconds are a step's."""
        rows = [json.loads(line) for line in timing.read_text().splitlines()]
        total = sum(row["seconds"] for row in rows)
        parts = {name: sum(row.get(f"{name}_seconds", 0.0) for row in rows) for name in ("wait", "loss", "synchronisation")}
        shares = {f"share_{name}": part / total for name, part in parts.items()}
        figures = {"seconds": statistics.median(seconds[False]), **shares}
        if not seconds[True]:
            return figures | {"share_not_arithmetic": sum(shares.values())}
        on, off = (statistics.median(seconds[saves]) for saves in (True, False))
        a_save = max(0.0, on - off) * self.steps
        saving = a_save / self.job.config.resume_every_seconds
        figures |= {"seconds_saving": on, "seconds_of_a_save": a_save, "saving_share": saving}
        return figures | {"saving_every_block_ratio": on / off, "share_not_arithmetic": sum(shares.values()) + saving}


def with_model(job: Job, key: str, sizes: dict[str, Any]) -> Job:
    """The same training of a model of other sizes."""
    other = job.model_copy(update={"key": f"{job.key}-{key}", "model": job.model.model_copy(update=sizes)})
    other.folder.mkdir(parents=True)
    return other


def prepare(folder: Path, batch_size: int) -> Job:
    """Token shards of pairs of the standard library, and the demo's training on them."""
    from pipeline_lib.config.presets import preset
    from pipeline_lib.store.store import Store
    from pipeline_lib.tokens.shards import write_shards
    from pipeline_lib.tokens.tokenizer import train_tokenizer
    from pipeline_lib.train.job import TRAIN, ArtifactRef, Job

    started = time.monotonic()
    demo, store = preset("demo"), Store(folder)
    curated = write_pairs(store, 3 * batch_size)
    tokenizer = train_tokenizer(store, curated, demo.tokenizer)
    shards = write_shards(store, curated, tokenizer, demo.shards)
    train = demo.train.at_batch_size(batch_size).model_copy(update={"min_effective_rank": 0.0})
    refs = {"shards": ArtifactRef.of(shards), "tokenizer": ArtifactRef.of(tokenizer)}
    job = Job(root=str(store.root), stage=TRAIN, key="overhead", config=train, model=demo.model, **refs)
    job.folder.mkdir(parents=True)
    print(f"{shards.manifest.counts.n_out:,} pairs after {time.monotonic() - started:.0f} s", file=sys.stderr)
    return job


def write_pairs(store: Store, limit: int, held_out: int = 0) -> Artifact:
    """(docstring, function) pairs as a curated training split, and so many of them as validation."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from benchmarks.stdlib_pairs import stdlib_pairs
    from data_contracts.schemas import PAIRS, row_id, text_hash
    from pipeline_lib.config.base import StageConfig
    from pipeline_lib.curation.curate import STAGE
    from pipeline_lib.store.records import Counts, Outcome, draft_part

    same = {"kind": "code", "view": "docstring", "line": 1, "language": "en", "licence": None, "generation": 0}
    same |= dict.fromkeys(("document_id", "source", "group", "path", "name"), "stdlib")
    rows = [
        {"id": row_id("code", x, y), "x": x, "y": y, "x_hash": text_hash(x), "y_hash": text_hash(y), "position": n, **same}
        for n, (x, y) in enumerate(zip(*stdlib_pairs(limit), strict=True))
    ]

    table = pa.Table.from_pylist(rows, schema=PAIRS).sort_by("id")  # which are hashes: any slice is a fair sample
    splits = {"train": table.slice(held_out)} | ({"validation": table.slice(0, held_out)} if held_out else {})

    def make(key: str) -> Outcome:
        parts = []
        for split, own in splits.items():
            scratch, counts = store.scratch(STAGE.name), Counts(n_in=len(own), n_out=len(own))
            pq.write_table(own, scratch / "pairs.parquet")
            draft = draft_part(STAGE, key if split == "train" else f"{key}-{split}", split, counts, {"pairs.parquet": len(own)})
            parts.append(store.commit_part(draft, scratch))
        return Outcome(parts=tuple(parts), counts=Counts(n_in=len(rows), n_out=len(rows)))

    return store.build(STAGE, StageConfig(), {}, make)


if __name__ == "__main__":
    raise SystemExit(main())
