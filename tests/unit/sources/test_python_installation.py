from __future__ import annotations

import base64
import hashlib
from pathlib import Path

import pytest

from pipeline_lib.config.data import SourceConfig
from pipeline_lib.errors import UserError
from pipeline_lib.sources.dump_files import list_bundles
from pipeline_lib.sources.python_installation import closure, list_origins, list_python


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
def site(tmp_path: Path) -> Path:
    place = tmp_path / "site-packages"
    install(
        place, "cpt-factory", ("web[fast]>=1", "Numbers_Lib==1.0", "old; python_version < '3'", "test-tool; extra == 'test'")
    )
    install(place, "web", ("core", "speed; extra == 'fast'", "slow; extra == 'slow'"))
    install(place, "core", ("web", "never-installed; python_version > '3'"))  # a cycle, and a gap
    for name in ("numbers-lib", "speed", "slow", "old", "test-tool"):
        install(place, name)
    return place


def test_the_closure_is_what_the_requirements_reach_here(site: Path) -> None:
    names = [distribution.name for distribution in closure(search_path=[str(site)])]
    assert names == ["core", "numbers-lib", "speed", "web"]


def test_installing_another_package_changes_nothing(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(site))
    before, origins = list_bundles(SourceConfig()), list_origins()
    install(site, "unrelated", ("core",))
    assert list_bundles(SourceConfig()) == before
    assert list_origins() == origins
    assert not any("unrelated" in file.path for bundle in before for file in bundle.files)
    (site / "core-1.0.dist-info" / "RECORD").write_text("core.py,sha256=AAAA,1\n")
    assert list_bundles(SourceConfig()) != before


def test_files_come_from_record_with_its_hashes(site: Path) -> None:
    (distribution,) = [d for d in closure(search_path=[str(site)]) if d.name == "speed"]
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
def test_the_licence_is_the_best_field_there_is(tmp_path: Path, headers: str, licence: str | None) -> None:
    install(tmp_path, "cpt-factory", ("web",))
    install(tmp_path, "web", headers=headers)
    assert [distribution.licence for distribution in closure(search_path=[str(tmp_path)])] == [licence]


def test_what_is_missing_is_said_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cpt-factory is not installed"):
        closure(search_path=[str(tmp_path)])
    install(tmp_path, "cpt-factory", ("web",))
    with pytest.raises(UserError, match="needs web, which is not installed"):
        closure(search_path=[str(tmp_path)])


def test_this_python_holds_its_library_and_the_dependencies_and_no_tests_of_its_own() -> None:
    files = list_python()
    assert {"json", "asyncio", "argparse", "numpy", "torch"} <= {file.group for file in files}
    assert not {"pytest", "hypothesis", "ruff", "mypy", "cpt-factory", "site-packages", "test"} & {file.group for file in files}
    library = [file for file in files if file.source.startswith("python-stdlib")]
    assert all(file.licence == "PSF-2.0" and not file.path.startswith(("test/", "site-packages/")) for file in library)
