"""Functions run by several processes at once that meet over gloo, or NCCL where each has a GPU; for benchmarks and tests."""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from pipeline_lib.train.distributed import CPU, Ranks

SECONDS = 300.0  # longer than any function here takes on a busy machine


def run_ranks(size: int, function: Callable[[Ranks], Any], device: str = "cpu", fresh: bool = False) -> list[Any]:
    """What the function returned on each of so many ranks, as JSON brings it back.

    Args:
        size: processes.
        function: pickled where they are `fresh` or have a GPU.
        device: "cuda" for a GPU each.
        fresh: processes that share no memory with this one, for what measures theirs.

    Raises:
        RuntimeError: a process failed; its traceback is on stderr.
    """
    context = multiprocessing.get_context("spawn" if fresh or device != "cpu" else "fork")
    with tempfile.TemporaryDirectory(prefix="cpt-ranks-") as folder:
        children = [
            context.Process(target=_run_rank, args=(Path(folder), rank, size, function, device)) for rank in range(size)
        ]
        for child in children:
            child.start()
        for child in children:
            child.join(SECONDS)
        codes = [child.exitcode for child in children]
        for child in children:
            child.kill()
        if any(codes):
            raise RuntimeError(f"{size} ranks ended with {codes}")
        return [json.loads((Path(folder) / f"{rank}.json").read_text()) for rank in range(size)]


def _run_rank(folder: Path, rank: int, size: int, function: Callable[[Ranks], Any], device: str) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo" if sys.platform == "linux" else "lo0"
    torch.set_num_threads(1)
    place = CPU
    if device == "cuda":
        place = torch.device("cuda", rank)
        torch.cuda.set_device(place)
    if size > 1:
        backend = "nccl" if device == "cuda" else "gloo"
        dist.init_process_group(backend, store=dist.FileStore(str(folder / "meet"), size), rank=rank, world_size=size)
    (folder / f"{rank}.json").write_text(json.dumps(function(Ranks(rank, size, place))))
    if size > 1:
        dist.destroy_process_group()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # as a forked one ends: taking the interpreter apart, a thread of gloo's may still run, which aborts
