"""The devices that a machine trains on, and the memory that a process may use."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest
import torch

from pipeline_lib.runtime.machine import Devices, find_devices, memory_bytes

GB = 10**9


def groups(root: Path, limits: dict[str, str], version: int = 2) -> Path:
    """A tree of control groups with these limits."""
    for group, limit in limits.items():
        folder = root / ("" if version == 2 else "memory") / group.lstrip("/")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ("memory.max" if version == 2 else "memory.limit_in_bytes")).write_text(f"{limit}\n")
    return root


@pytest.mark.parametrize(
    ("own", "limits", "version", "expected"),
    [
        ("0::/", {"/": str(GB)}, 2, GB),  # within a container
        ("0::/job/step", {"/job": str(GB), "/job/step": "max"}, 2, GB),
        ("0::/job/step", {"/job": str(2 * GB), "/job/step": str(GB)}, 2, GB),
        ("0::/not/here", {"/": str(GB)}, 2, GB),  # the path is the host's
        ("4:memory:/docker/abc\n1:cpu:/x", {"/docker/abc": str(GB)}, 1, GB),
        ("4:cpu,memory:/docker/abc", {"/": str(GB)}, 1, GB),
        ("1:cpu:/x", {"/": str(GB)}, 1, None),
        ("0::/", {"/": "max"}, 2, None),
        ("0::/", {"/": str(1 << 62)}, 2, None),  # more than there is
    ],
)
def test_memory_is_the_machines_or_what_its_groups_leave(
    tmp_path: Path, own: str, limits: dict[str, str], version: int, expected: int | None
) -> None:
    (tmp_path / "own").write_text(own + "\n")
    found = memory_bytes(groups(tmp_path / "cgroup", limits, version), tmp_path / "own")
    assert found == (expected or psutil.virtual_memory().total)


def test_a_system_without_groups_has_its_memory(tmp_path: Path) -> None:
    assert memory_bytes(tmp_path, tmp_path / "none") == psutil.virtual_memory().total


def test_this_machines_devices_are_those_that_torch_sees() -> None:
    found = find_devices()
    if torch.cuda.is_available():
        assert (found.kind, found.count) == ("cuda", torch.cuda.device_count())
        assert found.memory_bytes == min(
            torch.cuda.get_device_properties(n).total_memory for n in range(torch.cuda.device_count())
        )
    else:
        assert found == Devices("cpu", 1, memory_bytes())
    assert str(Devices("cuda", 8, 85 * GB, "NVIDIA H100")) == "8 x NVIDIA H100 of 85.0 GB"
