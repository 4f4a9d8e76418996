"""Machine: cores, processor, GPUs, memory, the folder that keeps what runs leave, Arrow's memory. Nothing heavy is imported."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import psutil

from pipeline_lib.errors import UserError

Precision = Literal["float32", "bfloat16"]  # of matrix products
PrecisionChoice = Literal["auto", "float32", "bfloat16"]

FAST_BFLOAT16_FLAGS = frozenset({"avx512_bf16", "amx_bf16"})  # Arm names its own "bf16"
# on a CPU casts cost what products save in smaller models: two blocks of 128 took 1.2 times float32's time, of 256 0.75 times
FEWEST_BFLOAT16_LAYERS, LEAST_BFLOAT16_WIDTH = 2, 256
# oneDNN keeps a compiled primitive, its code and scratch space, for each shape of a bfloat16 product, and torch a second list
# of the same: 1,024 each unless told. Nearly every micro-batch has a shape of its own, so that both fill up and hold gigabytes;
# a micro-batch has about 30 shapes, its layers the same ones, and a longer list is no faster
PRIMITIVES_KEPT = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "64", "LRU_CACHE_CAPACITY": "64"}
FIRST_BFLOAT16_GPU = 8.0  # compute capability: Ampere
PROC_CPUINFO = Path("/proc/cpuinfo")
DRIVER_LIST = Path("/proc/driver/nvidia/gpus")
DEVICES = Path("/dev")  # where a sandbox hides the driver's folder in /proc
PROCESSES_A_CORE = 8  # beyond any use; a machine of 8 GPUs has more cores than this asks for
PROBE_SECONDS = 120.0  # for torch to be imported and the driver to answer
# torch's own answer, in a process of its own: it takes seconds, memory, and a context on the GPU
PROBE = """
import json, torch
gpus = [torch.cuda.get_device_properties(n) for n in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
told = [{"name": gpu.name, "memory_bytes": gpu.total_memory, "capability": gpu.major + gpu.minor / 10} for gpu in gpus]
print(json.dumps(told))
"""


def keep_few_primitives() -> None:
    """Bound the memory of products of ever new shapes in this process, if it has made none yet; what the user set stays."""
    for name, number in PRIMITIVES_KEPT.items():
        os.environ.setdefault(name, number)


def cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@cache
def cpu_flags() -> frozenset[str]:
    """The processor's feature flags; empty where the system does not tell."""
    if not PROC_CPUINFO.is_file():
        return frozenset()
    for line in PROC_CPUINFO.read_text().splitlines():
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
    return bool(_driver_gpus()) and shutil.which("nvidia-smi") is not None


def _driver_gpus() -> list[str]:
    """Numbers of the GPUs that the driver lists, or that have a device file."""
    listed = [str(number) for number, _ in enumerate(DRIVER_LIST.glob("*"))]
    return listed or sorted(path.name.removeprefix("nvidia") for path in DEVICES.glob("nvidia[0-9]*"))


def visible_gpus() -> list[str]:
    """The devices that CUDA_VISIBLE_DEVICES names, or else those that the driver lists; without importing torch."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [device for device in named.split(",") if device.strip()]
    return _driver_gpus()


@dataclass(frozen=True)
class Devices:
    """The devices that a machine trains on: its GPUs, or its processor.

    Attributes:
        count: GPUs; 1 for a processor, whose memory all of its trainer processes share.
        memory_bytes: of one GPU, the smallest; or of the machine.
        capability: compute capability of the oldest GPU; of no matter to a processor.
    """

    kind: Literal["cuda", "cpu"]
    count: int
    memory_bytes: int
    name: str = "CPU"
    capability: float = FIRST_BFLOAT16_GPU

    def __str__(self) -> str:
        """As people read it: 8 x NVIDIA H100 of 85.0 GB."""
        return f"{self.count:,} x {self.name} of {self.memory_bytes / 1e9:.1f} GB"


@cache
def find_devices() -> Devices:
    """The GPUs that torch sees here, or this machine's processor with the memory that it may use."""
    if has_gpu():
        command = [sys.executable, "-c", PROBE]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=PROBE_SECONDS, check=True)
            gpus = json.loads(done.stdout.strip().splitlines()[-1])
        except (subprocess.SubprocessError, ValueError, IndexError):
            gpus = []  # torch cannot use them, as the trainer will find out likewise
        if gpus:
            least = min(gpu["memory_bytes"] for gpu in gpus)
            return Devices("cuda", len(gpus), least, gpus[0]["name"], min(gpu["capability"] for gpu in gpus))
    return Devices("cpu", 1, memory_bytes())


def memory_bytes(cgroups: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> int:
    """Memory that this process may use: the machine's, or less where a control group (a container, a job) limits it."""
    return min([psutil.virtual_memory().total, *_group_limits(cgroups, own)])


def _group_limits(cgroups: Path, own: Path) -> Iterator[int]:
    """The limits of this process's control groups and of all above them, of version 2 and 1."""
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        root = cgroups / "memory" if controllers else cgroups
        if controllers and "memory" not in controllers.split(","):
            continue
        name = "memory.limit_in_bytes" if controllers else "memory.max"
        # within a container the path may be the host's, which is not there: its root is then the container's own group
        group = root / path.lstrip("/")
        for folder in (group, *group.parents):
            if folder != root and root not in folder.parents:
                break
            try:
                yield int((folder / name).read_text())
            except (OSError, ValueError):  # no such group, or "max"
                continue


def has_fast_bfloat16(devices: Devices | None = None) -> bool:
    """True if bfloat16 matrix products are in the hardware that computes: a GPU from Ampere on, or such a CPU.

    Args:
        devices: that compute; None: this machine's.
    """
    devices = devices or find_devices()
    return devices.capability >= FIRST_BFLOAT16_GPU if devices.kind == "cuda" else cpu_has_fast_bfloat16()


def resolve_precision(choice: PrecisionChoice, layers: int, width: int) -> Precision:
    """The precision of a model's matrix products here, before anything is named by it; see `precision_on`."""
    return choice if choice != "auto" else precision_on(find_devices(), choice, layers, width)


def precision_on(devices: Devices, choice: PrecisionChoice, layers: int, width: int) -> Precision:
    """The precision of a model's matrix products on these devices.

    `auto` is bfloat16 on a GPU that has it, and on a CPU that has it for models that gain by it; else float32.

    Args:
        devices: that compute.
        choice: what is asked for.
        layers: of the model.
        width: of its hidden states.
    """
    if choice != "auto":
        return choice
    gains = devices.kind == "cuda" or (layers >= FEWEST_BFLOAT16_LAYERS and width >= LEAST_BFLOAT16_WIDTH)
    return "bfloat16" if gains and has_fast_bfloat16(devices) else "float32"


def cpu_has_fast_bfloat16() -> bool:
    """True with AVX512-BF16 or AMX (4.5 times as fast for products of this project's shapes), or Arm's "bf16"."""
    return bool((FAST_BFLOAT16_FLAGS | {"bf16"}) & cpu_flags())


def free_disk_bytes(folder: Path) -> int:
    """Free bytes on the disk of a folder that may not exist yet."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


PAGES_FILE = Path("prefect", "pages")  # below the artifact root: the address where `cpt up` shows reports and model cards
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
    import pyarrow as pa  # a tenth of a search's second, which it has while it hashes files

    before = pa.default_memory_pool()
    pa.set_memory_pool(pa.system_memory_pool())
    try:
        yield
    finally:
        pa.set_memory_pool(before)
