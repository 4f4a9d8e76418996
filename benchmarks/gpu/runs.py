"""Parts that start the trainer as a run does: the 300M preset, an interruption, several GPUs, the tests that need a GPU."""

from __future__ import annotations

import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.gpu.bench import Bench, Corpus, Row, as_run, gpu_kind, make_corpus, train_config, utilisation

if TYPE_CHECKING:
    from pipeline_lib.config.training import TrainConfig
    from pipeline_lib.store.artifact import Artifact

ROOT = Path(__file__).parents[2]
PRESET_STEPS, RESUME_STEPS, SCALING_STEPS = 4, 24, 8
TESTS_SECONDS = 450


def tests_part(bench: Bench) -> None:
    """tests/gpu: collectives and gradients over NCCL (two GPUs), the variable-length kernel (one)."""
    bench.row("tests/gpu", _run_tests)


def preset_part(bench: Bench) -> None:
    """The preset cpt_text_s at random weights, 12,288 pairs a step of 256 and 512 tokens, by the launcher; beside its plan."""
    from pipeline_lib.config.presets import preset

    run = preset("cpt_text_s", init="random")
    lengths = bench.pick((run.shards.max_x_tokens, run.shards.max_y_tokens), (8, 16))
    batch = bench.pick(run.train.batch_size, 16)
    corpus = make_corpus(bench, bench.pick(14_000, 64), lengths)
    steps = bench.pick(PRESET_STEPS, 2)
    config = train_config(bench, batch, steps=steps, warmup_steps=1, micro_batch_tokens=None)
    bench.row(f"{batch:,} pairs a step", lambda: _launched(bench, corpus, config) | _planned(bench, corpus, config))


def resume_part(bench: Bench) -> None:
    """A run that is killed in the middle and goes on from its last state, against one that was left alone: to the bit?"""
    corpus = make_corpus(bench, bench.pick(4_096, 64), bench.pick((64, 128), (8, 16)))
    config = train_config(
        bench, bench.pick(256, 8), steps=bench.pick(RESUME_STEPS, 8), warmup_steps=2, resume_every_seconds=1e-3
    )
    bench.row("killed once, against left alone", lambda: _interrupted(bench, corpus, config))


def scaling_part(bench: Bench) -> None:
    """Pairs a second of one process, two, four, eight: one a GPU."""
    import torch

    most = torch.cuda.device_count() if bench.device == "cuda" else 2
    corpus = make_corpus(bench, bench.pick(8_192, 64), bench.pick((64, 128), (8, 16)))
    for processes in (n for n in (1, 2, 4, 8) if n <= most):
        for parallel in ("ddp", "fsdp") if processes > 1 else ("ddp",):
            config = train_config(
                bench,
                bench.pick(4_096, 8),
                steps=bench.pick(SCALING_STEPS, 2),
                processes=processes,
                parallel=parallel,
                threads=1 if bench.tiny else None,
            )
            what = f"{processes} process{'es' if processes > 1 else ''}, {parallel}"
            bench.row(what, lambda config=config: _launched(bench, corpus, config))


def _run_tests() -> Row:
    begin = time.monotonic()
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    with tempfile.TemporaryDirectory() as place:
        report = Path(place) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-rs", f"--junitxml={report}", str(ROOT / "tests" / "gpu")]
        done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=ROOT, env=env, timeout=TESTS_SECONDS)
        counted = re.findall(r'(tests|failures|errors|skipped)="(\d+)"', report.read_text()) if report.is_file() else []
    lines = (done.stdout + done.stderr).splitlines()
    told = [line for line in lines if line.startswith(("FAILED", "ERROR", "SKIPPED"))] or (
        lines[-8:] if done.returncode else []
    )
    counts = {name: int(n) for name, n in counted[:4]}
    return {"exit": done.returncode, **counts, "seconds": time.monotonic() - begin, "told": " | ".join(told)[:2_000]}


def _train(bench: Bench, corpus: Corpus, config: TrainConfig, seed: int = 1, watch: Any = None) -> tuple[Artifact, list[Row]]:
    """A finished run and its clock's rows; made anew, whatever an earlier start of this part left."""
    from pipeline_lib.train.launch import TrainInputs, train

    config = config.model_copy(update={"seed": seed})
    inputs = TrainInputs(corpus.shards, corpus.tokenizer)
    log: list[str] = []
    trained = train(bench.store, inputs, config, bench.model, watch or (lambda *_: None), log.append)
    rows = [json.loads(line) for line in (trained.note("timing.jsonl") or b"").splitlines()]
    return trained, rows


def _launched(bench: Bench, corpus: Corpus, config: TrainConfig) -> Row:
    seed = time.time_ns() % 1_000_003  # a run of its own: a finished one would be found, with the clock of another machine
    _, rows = _train(bench, corpus, config, seed)
    steady = rows[1:] or rows
    seconds = statistics.median(row["seconds"] for row in steady)
    found = {
        "seconds": seconds,
        "pairs_per_second": config.batch_size / seconds,
        "tokens_per_second": config.batch_size * sum(corpus.lengths) / seconds,
        "mfu": utilisation(bench, corpus, config, seconds, config.processes),
        "first_step_seconds": rows[0]["seconds"],
        "wait_share": sum(row.get("wait_seconds", 0.0) for row in steady) / sum(row["seconds"] for row in steady),
    }
    return found | ({"peak_gb": max(row["memory_bytes"] for row in rows) / 1e9} if bench.device == "cuda" else {})


def _planned(bench: Bench, corpus: Corpus, config: TrainConfig) -> Row:
    from pipeline_lib.train.plan import Terms, plan

    found = plan(as_run(bench, corpus, config), Terms(gpu=gpu_kind(bench) or "h100"))
    return {"planned_seconds": found["seconds_per_step"], "planned_peak_gb": found["memory_bytes"]["total"] / 1e9}


def _interrupted(bench: Bench, corpus: Corpus, config: TrainConfig) -> Row:
    import psutil

    seed, killed = time.time_ns() % 1_000_003, list[int]()
    alone, _ = _train(bench, corpus, config, seed)
    expected = _metrics(alone)

    def kill_once(done: float, total: float, note: str = "") -> None:
        if not killed and done >= config.steps // 2:
            killed.append(int(done))
            for process in psutil.Process().children(recursive=True):
                words = process.cmdline()
                if "pipeline_lib.train" in words and "torch.distributed.run" not in words:
                    process.kill()

    # another store, where nothing is found done; the same seed
    again = Bench(bench.part, bench.device, bench.tiny, bench.out / "again" / str(seed))
    other = make_corpus(again, *_sizes(bench))
    interrupted, rows = _train(again, other, config, seed, kill_once)
    found = _metrics(interrupted)
    same = sum(a == b for a, b in zip(expected, found, strict=True))
    return {
        "killed_after_step": killed[0] if killed else None,
        "steps": config.steps,
        "steps_computed": len(rows),
        "steps_equal_to_the_bit": same,
        "weights_equal": _weights(alone) == _weights(interrupted),
    }


def _sizes(bench: Bench) -> tuple[int, tuple[int, int]]:
    return bench.pick(4_096, 64), bench.pick((64, 128), (8, 16))


def _metrics(trained: Artifact) -> list[str]:
    return (trained.part_folder("metrics") / "metrics.jsonl").read_text().splitlines()


def _weights(trained: Artifact) -> list[str]:
    return [file.sha256 for part in trained.manifest.parts for file in part.files if file.name == "model.safetensors"]
