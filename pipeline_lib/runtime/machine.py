"""Machine: cores, processor, GPU, the folder that keeps what runs leave, Arrow's memory. Nothing heavy is imported."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import psutil
import pyarrow as pa

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


def cpu_seconds(process: psutil.Process | None = None) -> float:
    """User and system seconds of a process, this one unless given, and of its children that it has waited for."""
    try:
        times = (process or psutil.Process()).cpu_times()
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return 0.0
    return times.user + times.system + times.children_user + times.children_system


def has_gpu() -> bool:
    """True where an NVIDIA driver answers; torch has the last word when training starts."""
    return Path("/proc/driver/nvidia/version").exists() and shutil.which("nvidia-smi") is not None


def has_fast_bfloat16() -> bool:
    """True if bfloat16 matrix products beat float32 here: on a CPU that has them, or on a GPU, taken to be a recent one."""
    return has_gpu() or cpu_has_fast_bfloat16()


def cpu_has_fast_bfloat16() -> bool:
    """True with AVX512-BF16 or AMX (4.5 times as fast for products of this project's shapes), or Arm's "bf16"."""
    return bool((FAST_BFLOAT16_FLAGS | {"bf16"}) & cpu_flags())


def free_disk_bytes(folder: Path) -> int:
    """Free bytes on the disk of a folder that may not exist yet."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


NEEDED_DISK_BYTES = 2 * 1024**3  # the demo leaves 0.6 GB; Dask and the shards want room to work


def artifact_home() -> Path:
    """The artifact root: CPT_HOME, or ./artifacts.

    Raises:
        UserError: a file lies there, or on the way there.
    """
    home = Path(os.environ.get("CPT_HOME") or "artifacts").absolute()
    for place in (home, *home.parents):
        if place.exists() and not place.is_dir():
            raise UserError(f"{home}: {place} is a file, expected the folder of the artifacts; point CPT_HOME at another place")
    return home


def writable_home() -> Path:
    """The artifact root, made where it is not there.

    Raises:
        UserError: it cannot be written to, or its disk is nearly full.
    """
    home = artifact_home()
    elsewhere = "or point CPT_HOME at another place"
    try:
        home.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=home):
            pass
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(f"{home}: cannot be written to ({error.strerror}); mend its rights, {elsewhere}") from error
    if (free := free_disk_bytes(home)) < NEEDED_DISK_BYTES:
        needed = f"a run needs {NEEDED_DISK_BYTES / 1e9:.1f} GB"
        raise UserError(f"{home}: {free / 1e9:.1f} GB free, {needed}; free some, {elsewhere}")
    return home


def cache_folder(url: str) -> Path:
    """The folder of this machine's copies of a bucket's artifacts: below CPT_CACHE, or below the artifact root."""
    caches = Path(os.environ.get("CPT_CACHE") or artifact_home() / "cache").absolute()
    return caches / hashlib.sha256(url.encode()).hexdigest()[:16]


@contextmanager
def system_memory() -> Iterator[None]:
    """Take Arrow's memory from the system's allocator: mimalloc, its default, keeps 10 MB at least, and what was freed."""

    before = pa.default_memory_pool()
    pa.set_memory_pool(pa.system_memory_pool())
    try:
        yield
    finally:
        pa.set_memory_pool(before)
