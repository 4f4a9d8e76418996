"""What only a GPU can show, in parts: `python -m benchmarks.gpu --list`, `--part NAME`, `--part all`, `--page`.

Each part runs in a process of its own, ends within eight minutes, and writes OUT/NAME.json after each of its rows. What is
there is not measured again: the same command goes on with what is missing, within a part too. Nothing is fetched: text is
made up or is Python's own, models have random weights. `--tiny --device cpu` takes every part's path in sizes that show nothing
but that it works. `--page` writes docs/results/gpu.md from the results.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.gpu import page, peers, runs, steps
from benchmarks.gpu.bench import Bench, machine

DONE, RUNNING = "done", "running"
PART_SECONDS = 480.0
CHILD = "CPT_GPU_PART"  # set in a part's own process


@dataclass(frozen=True)
class Part:
    """One part: what it answers is the first line of its function."""

    run: Callable[[Bench], None]
    minutes: int  # expected on an H100

    @property
    def answers(self) -> str:
        """What it measures, in a line."""
        return " ".join(str(self.run.__doc__).split())


PARTS = {
    "tests": Part(runs.tests_part, 3),
    "layout": Part(steps.layout_part, 5),
    "steps": Part(steps.steps_part, 6),
    "preset": Part(runs.preset_part, 6),
    "language-model": Part(steps.language_model_part, 3),
    "precision": Part(steps.precision_part, 4),
    "training-peer": Part(peers.training_part, 5),
    "encoding-peer": Part(peers.encoding_part, 3),
    "resume": Part(runs.resume_part, 4),
    "scaling": Part(runs.scaling_part, 5),
}
ALIASES = {"nccl": "tests", "varlen": "layout", "compile": "layout", "300m": "preset", "mfu": "steps", "peer": "training-peer"}


def main(words: list[str] | None = None) -> int:
    """Measure; 0 where every part asked for is done."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", default="", help=f"all, or one of: {', '.join([*PARTS, *ALIASES])}")
    parser.add_argument("--list", action="store_true", help="the parts, what each answers, and what of it is there")
    parser.add_argument("--page", action="store_true", help="write docs/results/gpu.md from the results")
    parser.add_argument("--out", type=Path, default=Path("bench-gpu"), help="folder of the results")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="sizes that only show that everything works")
    parser.add_argument("--seconds", type=float, default=PART_SECONDS, help="most that one part takes")
    parser.add_argument("--again", action="store_true", help="measure what is there once more")
    options = parser.parse_args(words)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    benches = {name: Bench(name, options.device, options.tiny, options.out.absolute()) for name in PARTS}
    if options.list:
        for name, part in PARTS.items():
            state = benches[name].read().get("state", "not measured")
            print(f"{name:15s} about {part.minutes} min   {state:12s} {part.answers}")
        return 0
    asked = list(PARTS) if options.part == "all" else [ALIASES.get(options.part, options.part)] if options.part else []
    if unknown := [name for name in asked if name not in PARTS]:
        parser.error(f"no part {unknown[0]!r}: choose all, or one of {', '.join(PARTS)}")
    if not asked and not options.page:
        parser.error("give --part, --list or --page")
    if os.environ.get(CHILD):
        return _measure(benches[asked[0]])
    failed = [name for name in asked if not _done(benches[name], options.seconds, options.again)]
    if asked:
        print(json.dumps({"done": len(asked) - len(failed), "failed": failed}))
    if options.page:
        page.write({name: (part.answers, benches[name].read()) for name, part in PARTS.items()})
    return int(bool(failed))


def _done(bench: Bench, seconds: float, again: bool) -> bool:
    """True if the part is there, or was measured now."""
    from pipeline_lib.runtime.processes import start_child, stop_child

    if again:
        bench.path.unlink(missing_ok=True)
    if bench.read().get("state") == DONE:
        return True
    bench.write(state=RUNNING)
    words = ["--part", bench.part, "--out", str(bench.out), "--device", bench.device, *(["--tiny"] if bench.tiny else [])]
    begin = time.monotonic()
    child = start_child([sys.executable, "-m", "benchmarks.gpu", *words], {CHILD: "1"}, None)
    try:
        child.wait(seconds)
    except subprocess.TimeoutExpired:
        bench.write(state="out of time", error=f"stopped after {seconds:.0f} s; the same command goes on with what is missing")
    finally:
        if child.poll() is None:
            stop_child(child, grace_seconds=5.0)
    told = bench.read()
    if told["state"] == RUNNING:  # it died without a word
        bench.write(state="failed", error=f"its process ended with exit {child.returncode}")
    rows, state = len(told["rows"]), bench.read()["state"]
    print(f"{bench.part}: {state}, {rows} rows, {time.monotonic() - begin:.0f} s", file=sys.stderr)
    return state == DONE


def _measure(bench: Bench) -> int:
    """The part itself, in its own process."""
    import torch

    if bench.device == "cuda" and not torch.cuda.is_available():
        bench.write(state="failed", error="torch finds no GPU here")
        return 1
    rows = [row for row in bench.read().get("rows", []) if not row.get("exit")]  # what failed is tried again
    bench.write(state=RUNNING, error="", machine=machine(bench.device), rows=rows)
    begin = time.monotonic()
    try:
        PARTS[bench.part].run(bench)
    except Exception:  # told in the file as well, where whoever fetches the results finds it
        bench.write(state="failed", error=traceback.format_exc()[-4_000:])
        raise
    finally:
        shutil.rmtree(bench.out / "again", ignore_errors=True)
    failed = [row for row in bench.read()["rows"] if row.get("exit")]
    bench.write(state="failed" if failed else DONE, seconds=round(time.monotonic() - begin, 1))
    return int(bool(failed))


if __name__ == "__main__":
    raise SystemExit(main())
