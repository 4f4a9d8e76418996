"""Command line and environment of torchrun, for one machine or for one of many. Imports no torch."""

from __future__ import annotations

import sys
import uuid
from pathlib import Path

from pipeline_lib.config.optimizer import OptimizerConfig
from pipeline_lib.errors import UserError
from pipeline_lib.runtime.machine import cores

WAIT_POLICY = "PASSIVE"  # threads that spin at a barrier took four times the CPU of the work on a shared machine


def command(config: OptimizerConfig, meeting: Path, job_file: Path, attempt: int) -> list[str]:
    """Start `config.n_processes` trainer processes on this machine.

    Args:
        config: alone, the processes meet through a file; with other machines at `config.rendezvous`, over TCP.
        meeting: a folder of this attempt.
        job_file: what the processes read.
        attempt: from 0: machines that start again after a death meet anew.

    Raises:
        UserError: several machines and no place to meet, or a number that none has.
    """
    start = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        f"--nproc-per-node={config.n_processes}",
        f"--nnodes={config.nodes}",
    ]
    work = ["-m", "pipeline_lib.train", str(job_file)]
    if config.nodes == 1:
        # not --standalone: its two TCP stores listen on every interface; a file does the same for one machine
        return [
            *(*start, "--local-addr=127.0.0.1", "--rdzv-backend=c10d", "--rdzv-conf=store_type=file"),
            *(f"--rdzv-endpoint={meeting / 'rendezvous'}", f"--rdzv-id={uuid.uuid4().hex}", *work),
        ]
    if not config.rendezvous or config.node_rank >= config.nodes:
        raise UserError(
            f"train.nodes is {config.nodes}, rendezvous {config.rendezvous!r}, node_rank {config.node_rank}: expected "
            f"HOST:PORT of node 0 and a number below {config.nodes}"
        )
    host = "true" if config.node_rank == 0 else "false"
    return [
        *(*start, f"--node-rank={config.node_rank}", "--rdzv-backend=c10d", f"--rdzv-conf=is_host={host}"),
        *(f"--rdzv-endpoint={config.rendezvous}", f"--rdzv-id={config.rendezvous_id}-{attempt}", *work),
    ]


def environment(config: OptimizerConfig, meeting: str) -> dict[str, str]:
    """Variables that the processes get besides this one's."""
    return {
        **(_alone(meeting) if config.nodes == 1 else {}),
        "TMPDIR": meeting,
        "PYTHONUNBUFFERED": "1",
        "OMP_NUM_THREADS": str(trainer_threads(config)),
        "OMP_WAIT_POLICY": WAIT_POLICY,
        "HF_HUB_OFFLINE": "1",
        # keep freed blocks: each step's tensors would else be mapped and faulted in anew, and training is bound by memory
        "MALLOC_MMAP_THRESHOLD_": str(8 * 1024**3),
        "MALLOC_TRIM_THRESHOLD_": str(16 * 1024**3),
    }


def _alone(meeting: str) -> dict[str, str]:
    """No socket that another machine could reach."""
    return {
        "CPT_MEETING_FOLDER": meeting,
        "GLOO_SOCKET_IFNAME": "lo" if sys.platform == "linux" else "lo0",
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
    }


def trainer_threads(config: OptimizerConfig) -> int:
    """Threads of one trainer process on a CPU."""
    return config.threads or max(1, cores() // config.n_processes)
