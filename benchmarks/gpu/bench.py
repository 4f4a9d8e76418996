"""Results of a part, row by row in a file, and what parts measure: the trainer's own steps on real shards of made-up text."""

from __future__ import annotations

import json
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline_lib.config.base import StageConfig
from pipeline_lib.store.files import replace_file

if TYPE_CHECKING:
    from pipeline_lib.config.model import ModelConfig
    from pipeline_lib.config.run import RunConfig
    from pipeline_lib.config.training import PretrainConfig, TrainConfig
    from pipeline_lib.store.artifact import Artifact
    from pipeline_lib.store.store import Store
    from pipeline_lib.train.job import Job
    from pipeline_lib.train.trainer import Trainer

Row = dict[str, Any]
WHAT = "what"  # the column that names a row
MADE_UP = "made_up"  # stage and source of generated pairs
WARM_UP_STEPS, TIMED_STEPS = 2, 4
GPT2_300M = {"layers": 24, "width": 1024, "heads": 16, "inner": 4096, "positions": 2048}
TINY = {"layers": 2, "width": 32, "heads": 2, "inner": 64, "positions": 64}
WORDS, LETTERS = 5_000, "abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True)
class Bench:
    """One part in the making.

    Attributes:
        part: its name.
        device: "cuda" or "cpu".
        tiny: sizes that only show that everything works.
        out: folder of all results.
    """

    part: str
    device: str
    tiny: bool
    out: Path

    @property
    def path(self) -> Path:
        """The file of this part's results."""
        return self.out / f"{self.part}.json"

    def read(self) -> Row:
        """What is there so far of this device and size; empty where nothing is."""
        found = json.loads(self.path.read_text()) if self.path.is_file() else {}
        return found if (found.get("device"), found.get("tiny")) == (self.device, self.tiny) else {}

    def write(self, **fields: Any) -> None:
        """Change fields of the file, which is whole at any time."""
        told = {"part": self.part, "device": self.device, "tiny": self.tiny, "rows": [], **self.read(), **fields}
        self.out.mkdir(parents=True, exist_ok=True)
        replace_file(self.path, (json.dumps(told, indent=1) + "\n").encode())

    def row(self, what: str, measure: Callable[[], Row]) -> None:
        """Add a row, unless an earlier start of this part did; what does not fit the device's memory is a row that says so."""
        import torch

        rows = self.read().get("rows", [])
        if any(row[WHAT] == what for row in rows):
            return
        if self.device == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        try:
            found = measure()
        except torch.OutOfMemoryError as error:
            found = {"error": f"out of memory: {str(error).splitlines()[0]}"}
        self.write(rows=[*rows, {WHAT: what, **{name: _rounded(value) for name, value in found.items()}}])

    def pick(self, full: Any, tiny: Any) -> Any:
        """A size."""
        return tiny if self.tiny else full

    @property
    def model(self) -> ModelConfig:
        """A GPT-2 of the paper's smallest size, at random weights."""
        from pipeline_lib.config.model import ModelConfig

        return ModelConfig.model_validate(self.pick(GPT2_300M, TINY))

    @property
    def store(self) -> Store:
        """Shards and runs of all parts; text is tokenized once."""
        from pipeline_lib.store.store import Store

        return Store(self.out / "work")

    def peak(self) -> Row:
        """The most memory that tensors held since the row began (GB); nothing on a CPU."""
        import torch

        return {"peak_gb": torch.cuda.max_memory_allocated() / 1e9} if self.device == "cuda" else {}


def machine(device: str) -> Row:
    """The device and the libraries that figures belong to."""
    import torch

    name = torch.cuda.get_device_name() if device == "cuda" else platform.processor() or platform.machine()
    gpus = torch.cuda.device_count() if device == "cuda" else 0
    return {"name": name, "gpus": gpus, "torch": torch.__version__, "python": platform.python_version()}


def _rounded(value: Any) -> Any:
    return float(f"{value:.4g}") if isinstance(value, float) else value


class MadeUp(StageConfig):
    """Sizes of a made-up corpus: pairs for training, tokens of x and y, pairs held out."""

    n_pairs: int
    lengths: tuple[int, int]
    held_out: int


@dataclass(frozen=True)
class Corpus:
    """Shards of pairs whose texts are as long as training takes them, and their tokenizer."""

    pairs: Artifact
    tokenizer: Artifact
    shards: Artifact
    lengths: tuple[int, int]


def make_corpus(bench: Bench, n_pairs: int, lengths: tuple[int, int], held_out: int = 0) -> Corpus:
    """Pairs of random words, curated, tokenized and written as any corpus is.

    Of a pair, y repeats words of x, so that there is something to learn.

    Args:
        lengths: tokens of x and y, delimiters included; every text is cut at them.
        held_out: more pairs, of the validation split.
    """
    from pipeline_lib.config.data import ShardConfig, TokenizerConfig
    from pipeline_lib.tokens.shards import write_shards
    from pipeline_lib.tokens.tokenizer import train_tokenizer

    pairs = _write_pairs(bench.store, n_pairs, lengths, held_out)
    config = TokenizerConfig(vocab_size=bench.pick(8_192, 400), max_training_texts=4_000)
    tokenizer = train_tokenizer(bench.store, pairs, config)
    splits = ("train", "validation") if held_out else ("train",)
    shards = ShardConfig(max_x_tokens=lengths[0], max_y_tokens=lengths[1], splits=splits)
    return Corpus(pairs, tokenizer, write_shards(bench.store, pairs, tokenizer, shards), lengths)


def _write_pairs(store: Store, n_pairs: int, lengths: tuple[int, int], held_out: int) -> Artifact:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from data_contracts.schemas import PAIRS
    from pipeline_lib.store.records import Counts, Outcome, Stage, draft_part

    stage = Stage(name=MADE_UP, version=1)  # not curation's own, which would ask for more packages

    def make(key: str) -> Outcome:
        table = pa.Table.from_pylist(list(_rows(n_pairs + held_out, lengths)), schema=PAIRS).sort_by("id")
        splits = {"train": table.slice(held_out)} | ({"validation": table.slice(0, held_out)} if held_out else {})
        parts = []
        for split, own in splits.items():
            scratch, counts = store.scratch(stage.name), Counts(n_in=len(own), n_out=len(own))
            pq.write_table(own, scratch / "pairs.parquet", row_group_size=1024)
            draft = draft_part(stage, f"{key}-{split}", split, counts, {"pairs.parquet": len(own)})
            parts.append(store.commit_part(draft, scratch))
        return Outcome(parts=tuple(parts), counts=Counts(n_in=len(table), n_out=len(table)))

    sizes = MadeUp(n_pairs=n_pairs, lengths=lengths, held_out=held_out)
    return store.build(stage, sizes, {}, make)


def _rows(n_pairs: int, lengths: tuple[int, int]) -> Iterator[Row]:
    from data_contracts.schemas import row_id, text_hash

    chance = np.random.default_rng(n_pairs)
    words = np.array(["".join(chance.choice(list(LETTERS), chance.integers(3, 9))) for _ in range(WORDS)])
    same = {"kind": "code", "view": "docstring", "line": 1, "language": "en", "licence": None, "generation": 0}
    same |= dict.fromkeys(("document_id", "source", "group", "path", "name"), MADE_UP)
    for number in range(n_pairs):
        of_x = words[chance.zipf(1.3, lengths[0]) % WORDS]
        of_y = np.concatenate([chance.permutation(of_x)[: len(of_x) // 2], words[chance.zipf(1.3, lengths[1]) % WORDS]])
        x, y = f"{number} {' '.join(of_x)}", f"{number} {' '.join(of_y)}"
        hashes = {"x_hash": text_hash(x), "y_hash": text_hash(y)}
        yield {"id": row_id("made up", x, y), "x": x, "y": y, "position": number, **hashes, **same}


def train_config(bench: Bench, batch_size: int, **changes: Any) -> TrainConfig:
    """Settings of a measured run: no divergence check ends it, no state is saved."""
    from pipeline_lib.config.training import TrainConfig

    fields = {
        "steps": 1_000,
        "batch_size": batch_size,
        "mixture": {"docstring": 1.0},
        "learning_rate": 1e-4,
        "checkpoints": 1,
        "min_effective_rank": 0.0,
        "resume_every_seconds": 1e9,
        "precision": bench.pick("bfloat16", "float32"),
    }
    return TrainConfig.model_validate(fields | changes)


def make_job(bench: Bench, corpus: Corpus, config: TrainConfig | PretrainConfig, what: str) -> Job:
    """The job of a run that a part takes step by step in its own process."""
    from pipeline_lib.config.training import PretrainConfig
    from pipeline_lib.store.files import digest_of
    from pipeline_lib.train.job import PRETRAIN, TRAIN, ArtifactRef, Job

    stage = PRETRAIN if isinstance(config, PretrainConfig) else TRAIN
    refs = {"shards": ArtifactRef.of(corpus.shards), "tokenizer": ArtifactRef.of(corpus.tokenizer)}
    key = digest_of([bench.part, what])[:16]
    job = Job(root=str(bench.store.root), stage=stage, key=key, config=config, model=bench.model, **refs)
    job.folder.mkdir(parents=True, exist_ok=True)
    return job


@contextmanager
def trainer_of(bench: Bench, job: Job) -> Iterator[Trainer]:
    """The trainer of a job in this process, with the arithmetic that its settings ask for."""
    import torch

    from pipeline_lib.train.distributed import Ranks
    from pipeline_lib.train.job import Events
    from pipeline_lib.train.trainer import Trainer, build_objective, set_arithmetic

    set_arithmetic(job.config, bench.device)
    ranks = Ranks(device=torch.device(bench.device, 0) if bench.device == "cuda" else torch.device("cpu"))
    try:
        yield Trainer(job, build_objective(job, ranks), ranks, Events(enabled=False))
    finally:
        torch.use_deterministic_algorithms(False)
        torch.set_float32_matmul_precision("highest")


def step_figures(bench: Bench, corpus: Corpus, config: TrainConfig, what: str) -> Row:
    """Seconds of a step, pairs and tokens a second, share of the device's peak, memory; the first step's seconds apart."""
    with trainer_of(bench, make_job(bench, corpus, config, what)) as trainer:
        first = timed_step(bench, trainer, 0)
        for step in range(1, WARM_UP_STEPS):
            timed_step(bench, trainer, step)
        steps = range(WARM_UP_STEPS, WARM_UP_STEPS + bench.pick(TIMED_STEPS, 1))
        seconds = statistics.median(timed_step(bench, trainer, step) for step in steps)
        tokens = getattr(trainer.objective, "micro_batch_tokens", None)
        peak = bench.peak()
    rates = {
        "pairs_per_second": config.batch_size / seconds,
        "tokens_per_second": config.batch_size * sum(corpus.lengths) / seconds,
    }
    return {
        "seconds": seconds,
        **rates,
        "mfu": utilisation(bench, corpus, config, seconds),
        **peak,
        "micro_batch_tokens": tokens,
        "first_step_seconds": first,
    }


def timed_step(bench: Bench, trainer: Trainer, step: int) -> float:
    """Seconds of one optimizer step, all of it on the device."""
    synchronise(bench)
    begin = time.perf_counter()
    trainer.take_step(step)
    synchronise(bench)
    return time.perf_counter() - begin


def synchronise(bench: Bench) -> None:
    """Wait until the device has done all that it was given."""
    if bench.device == "cuda":
        import torch

        torch.cuda.synchronize()


def as_run(bench: Bench, corpus: Corpus, config: TrainConfig) -> RunConfig:
    """The whole configuration that a plan of such a run reads."""
    from pipeline_lib.config.data import ShardConfig, TokenizerConfig
    from pipeline_lib.config.run import RunConfig

    return RunConfig(
        tokenizer=TokenizerConfig(vocab_size=bench.pick(8_192, 400)),
        shards=ShardConfig(max_x_tokens=corpus.lengths[0], max_y_tokens=corpus.lengths[1]),
        model=bench.model,
        train=config,
    )


def utilisation(bench: Bench, corpus: Corpus, config: TrainConfig, seconds: float, gpus: int = 1) -> float | None:
    """Model operations a second as a share of the data sheet's bfloat16 peak; None for a device that is not known.

    A pass that gradient caching adds is none of the model's operations: three passes count whatever was computed.
    """
    from pipeline_lib.train.plan import step_flops

    gpu = gpu_kind(bench)
    if gpu is None:
        return None
    from pipeline_lib.train.plan import GPUS

    return step_flops(as_run(bench, corpus, config), cached=False) / (seconds * gpus * GPUS[gpu].flops_per_second)


def gpu_kind(bench: Bench) -> str | None:
    """The name of this GPU among those that plans know."""
    if bench.device != "cuda":
        return None
    from pipeline_lib.train.plan import GPUS

    name = str(machine("cuda")["name"]).lower()
    return next((kind for kind in sorted(GPUS, key=len, reverse=True) if kind.split("-")[0] in name), None)
