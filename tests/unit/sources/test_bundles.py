"""Bundles of a folder that grows: one more file costs a small share of the work, and few files stay one bundle."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from pipeline_lib.config.data import SourceConfig
from pipeline_lib.sources.dump_files import files_a_bundle, list_bundles


def write_files(folder: Path, n: int) -> None:
    for number in range(n):
        path = folder / f"pkg{number % 17:02}" / f"mod{number:05}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"def f{number}(a):\n    '''Adds {number}.'''\n    return a + {number}\n")


@pytest.mark.parametrize(("n", "mean", "most"), [(200, 0.12, 0.25), (1_000, 0.08, 0.16)])
def test_a_change_of_one_file_makes_a_small_share_anew(tmp_path: Path, n: int, mean: float, most: float) -> None:
    write_files(tmp_path, n)
    config = SourceConfig(folder=str(tmp_path))
    before = {bundle.digest for bundle in list_bundles(config)}
    chance = random.Random(n)
    shares = []
    for trial in range(9):
        name = f"pkg{chance.randrange(17):02}/" + ("new.py" if trial % 3 else f"mod{chance.randrange(n):05}.py")
        path, was = tmp_path / name, None
        if path.exists() and trial == 0:
            was = path.read_text()
            path.unlink()  # removed
        else:
            was = path.read_text() if path.exists() else None
            path.write_text("new = 1\n")  # new, or changed
        after = list_bundles(config)
        new = [bundle for bundle in after if bundle.digest not in before]
        shares.append(sum(len(bundle.files) for bundle in new) / n)
        assert sum(len(bundle.files) for bundle in after) in (n - 1, n, n + 1)
        path.unlink(missing_ok=True)
        if was is not None:
            path.write_text(was)
    assert sum(shares) / len(shares) < mean and max(shares) < most, shares


def test_the_size_of_bundles_changes_seldom_as_a_dump_grows() -> None:
    assert files_a_bundle(127) is None
    means = [files_a_bundle(n) for n in range(128, 1_000_000)]
    assert means == sorted(means) and len(set(means)) == 8, "as it grows 8,000-fold it is cut anew seven times"
    assert {files_a_bundle(n) for n in (700, 1_000, 2_000, 2_700)} == {16} and files_a_bundle(1_000_000) == 512


def test_a_few_files_are_one_bundle(tmp_path: Path) -> None:
    write_files(tmp_path, 100)
    assert len(list_bundles(SourceConfig(folder=str(tmp_path)))) == 1
