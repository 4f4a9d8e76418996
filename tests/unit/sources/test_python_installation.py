"""This machine's Python as a dump: what the tracked list names, and what is said where an installation differs."""

from __future__ import annotations

import base64
import hashlib
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.utils import canonicalize_name

from pipeline_lib.config.data import SourceConfig
from pipeline_lib.sources import python_installation
from pipeline_lib.sources.dump_files import list_bundles, write_listing
from pipeline_lib.sources.python_installation import (
    STDLIB,
    differences,
    digests_of,
    installed,
    list_origins,
    list_python,
    pinned,
    read_listed,
)
from pipeline_lib.store.artifact import Artifact
from pipeline_lib.store.records import Outcome, Stage
from pipeline_lib.store.store import Store

ROOT = Path(__file__).parents[3]


def install(site: Path, name: str, requires: tuple[str, ...] = (), version: str = "1.0", headers: str = "") -> None:
    """What pip leaves behind for a distribution with one module and a description."""
    stem = name.replace("-", "_")
    info = site / f"{stem}-{version}.dist-info"
    info.mkdir(parents=True)
    lines = "".join(f"Requires-Dist: {line}\n" for line in requires)
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{headers}{lines}\nThe description.\n"
    (info / "METADATA").write_text(metadata)
    (site / f"{stem}.py").write_text(f"# module {name}\n")
    (site / "LICENSE.txt").write_text("free")
    record = ""
    for path in (f"{stem}.py", f"{info.name}/METADATA", "LICENSE.txt"):
        digest = base64.urlsafe_b64encode(hashlib.sha256((site / path).read_bytes()).digest()).decode().rstrip("=")
        record += f"{path},sha256={digest},{(site / path).stat().st_size}\n"
    record += f"__pycache__/{stem}.cpython-311.pyc,,\n../../../bin/{name},sha256=xyz,12\n{info.name}/RECORD,,\n"
    (info / "RECORD").write_text(record)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Four distributions, of which three are listed beside one that is not installed; only they and the library are found."""
    place = tmp_path / "site-packages"
    for name in ("web", "numbers-lib", "speed", "test-tool"):
        install(place, name)
    listed = "# a list\nnever-installed==1.0 0\nnumbers-lib==1.0 0\nspeed==1.0 0\nweb==2.0 0\n"
    (tmp_path / "list.txt").write_text(listed)
    monkeypatch.setattr(python_installation, "LIST", tmp_path / "list.txt")
    monkeypatch.syspath_prepend(str(place))
    python_installation.pinned.cache_clear()
    yield place
    python_installation.pinned.cache_clear()


def test_what_is_listed_is_read_and_nothing_else(site: Path) -> None:
    assert [distribution.source for distribution in installed()] == ["numbers-lib 1.0", "speed 1.0", "web 1.0"]


def test_a_new_requirement_changes_nothing(site: Path) -> None:
    before, origins = list_bundles(SourceConfig()), list_origins()
    install(site, "unrelated")
    install(site, "cpt-factory", ("unrelated", "web"))
    assert list_bundles(SourceConfig()) == before
    assert list_origins() == origins
    assert not any("unrelated" in file.path for bundle in before for file in bundle.files)
    (site / "web-1.0.dist-info" / "RECORD").write_text("web.py,sha256=AAAA,1\n")
    assert list_bundles(SourceConfig()) != before


def test_what_differs_from_the_list_is_said(site: Path, tmp_path: Path) -> None:
    store, config = Store(tmp_path / "home"), SourceConfig()

    def extracted() -> Artifact:
        listing = write_listing(store, config, list_bundles(config))
        return store.build(Stage(name="extract", version=1), config, {"source": listing}, lambda key: Outcome(parts=()))

    found = digests_of(read_listed(extracted()))
    lines = [f"{name}=={version} {digest}" for name, (version, digest) in found.items()]
    python_installation.LIST.write_text("\n".join(lines))
    python_installation.pinned.cache_clear()
    assert differences(extracted()) == []
    for name in ("speed", "web"):
        shutil.rmtree(site / f"{name}-1.0.dist-info")
    install(site, "web", version="1.1")
    (site / "numbers_lib-1.0.dist-info" / "RECORD").write_text("numbers_lib.py,sha256=AAAA,1\n")
    assert sorted(differences(extracted())) == [
        "numbers-lib 1.0 has other files",
        "speed 1.0 is not installed",
        "web is 1.1 instead of 1.0",
    ]


def test_the_list_is_what_the_constraints_install() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    constrained = dict(line.split("==") for line in lines if "==" in line and not line.startswith("#"))
    versions = {canonicalize_name(name): version for name, version in constrained.items()}
    listed = {line.name: line.version.partition("+")[0] for line in pinned() if line.name != STDLIB}
    assert len(listed) == 165
    # of torch a machine with GPUs may have an earlier one; what is installed else is the latest that is allowed
    assert re.search(rf'"torch>=[\d.]+,<={re.escape(listed.pop("torch"))}"', (ROOT / "pyproject.toml").read_text())
    assert {name: versions.get(name) for name in listed} == listed


def test_files_come_from_record_with_its_hashes(site: Path) -> None:
    (distribution,) = [d for d in installed() if d.name == "speed"]
    files = list(distribution.files())
    assert [(file.path, file.form, file.group, file.source) for file in files] == [
        ("speed.py", "python", "speed", "speed 1.0"),
        ("speed-1.0.dist-info/METADATA", "metadata", "speed", "speed 1.0"),
    ]
    assert all(hashlib.sha256(Path(file.place).read_bytes()).hexdigest() == file.sha256 for file in files)


@pytest.mark.parametrize(
    ("headers", "licence"),
    [
        ("License-Expression: MIT\nLicense: other\n", "MIT"),
        ("License: BSD\n", "BSD"),
        ("License: UNKNOWN\nClassifier: License :: OSI Approved :: MIT License\n", "MIT License"),
        ("License: " + "all of the text " * 20 + "\n", None),
        ("", None),
    ],
)
def test_the_licence_is_the_best_field_there_is(site: Path, headers: str, licence: str | None) -> None:
    shutil.rmtree(site / "web-1.0.dist-info")
    install(site, "web", headers=headers)
    assert [distribution.licence for distribution in installed() if distribution.name == "web"] == [licence]


def test_this_python_holds_its_library_and_the_dependencies_and_no_tests_of_its_own() -> None:
    files = list_python()
    assert {"json", "asyncio", "argparse", "numpy", "torch"} <= {file.group for file in files}
    assert not {"pytest", "hypothesis", "ruff", "mypy", "cpt-factory", "site-packages", "test"} & {file.group for file in files}
    library = [file for file in files if file.source.startswith("python-stdlib")]
    assert all(file.licence == "PSF-2.0" and not file.path.startswith(("test/", "site-packages/")) for file in library)
