"""What this machine can do, read without importing torch."""

from __future__ import annotations

import os
import shutil
from functools import cache
from pathlib import Path

from pipeline_lib.errors import UserError

FAST_BFLOAT16_FLAGS = frozenset({"avx512_bf16", "amx_bf16"})  # Arm names its own "bf16"
PROC_CPUINFO = Path("/proc/cpuinfo")
PROCESSES_A_CORE = 8  # beyond any use; a machine of 8 GPUs has more cores than this asks for


def cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@cache
def cpu_flags(cpuinfo: Path = PROC_CPUINFO) -> frozenset[str]:
    """The processor's feature flags; empty where the system does not tell."""
    if not cpuinfo.is_file():
        return frozenset()
    for line in cpuinfo.read_text().splitlines():
        if line.lower().startswith(("flags", "features")):
            return frozenset(line.split(":", 1)[1].split())
    return frozenset()


def check_processes(what: str, asked: int) -> None:
    """Refuse more processes than this machine could ever run: each takes memory, and thousands take the machine.

    Raises:
        UserError: there are too few cores.
    """
    if asked > (most := PROCESSES_A_CORE * cores()):
        raise UserError(f"{what} {asked:,}: this machine has {cores():,} cores; give one a core, and no more than {most:,}")


def has_gpu() -> bool:
    """Whether an NVIDIA driver answers here; torch has the last word when training starts."""
    return Path("/proc/driver/nvidia/version").exists() and shutil.which("nvidia-smi") is not None


def has_fast_bfloat16() -> bool:
    """Whether bfloat16 matrix products beat float32: AVX512-BF16 or AMX on a CPU (4.5 times as fast), a recent GPU."""
    return has_gpu() or bool(FAST_BFLOAT16_FLAGS & cpu_flags()) or "bf16" in cpu_flags()


def free_disk_bytes(folder: Path) -> int:
    """Free bytes on the disk of a folder that may not exist yet."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free
