"""The wheel holds all that the code reads, and runs from another folder, in an environment that knows no checkout."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow  # a build, and a whole run of the smallest preset

ROOT = Path(__file__).parents[2]
PACKAGES = ("flows", "tasks", "pipeline_lib", "data_contracts")
VERSION: str = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of a copy of the tree: a build leaves folders beside what it builds."""
    place = tmp_path_factory.mktemp("wheel")
    tree = place / "tree"
    tree.mkdir()
    for name in (*PACKAGES, "benchmarks"):
        shutil.copytree(ROOT / name, tree / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "prefect.yaml"):
        shutil.copy(ROOT / name, tree / name)
    words = ["wheel", "--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir", str(place), str(tree)]
    subprocess.run([sys.executable, "-m", "pip", *words], check=True)
    (made,) = place.glob("*.whl")
    return made


@pytest.fixture(scope="module")
def cpt(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`cpt` of a new environment with the wheel in it and this one's packages behind it, but for its link to the checkout."""
    place = tmp_path_factory.mktemp("clean") / "venv"
    venv.create(place, with_pip=False)
    words = ["install", "--quiet", "--no-deps", "--no-index", str(wheel)]
    subprocess.run([sys.executable, "-m", "pip", "--python", str(place / "bin" / "python"), *words], check=True)
    (packages,) = place.glob("lib/python*/site-packages")
    # a plain path comes last, and the .pth files in it, which an editable install is made of, are not read
    (packages / "behind.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return place / "bin" / "cpt"


def test_it_holds_all_that_is_no_module_and_nothing_else(wheel: Path) -> None:
    assert wheel.name == f"cpt_factory-{VERSION}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        assert archive.read("flows/prefect.yaml") == (ROOT / "prefect.yaml").read_bytes()
        (metadata,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        told = archive.read(metadata).decode()
    assert f"\nVersion: {VERSION}\n" in told and "\nLicense-Expression: Apache-2.0\n" in told
    tracked = subprocess.run(
        ["git", "ls-files", *PACKAGES], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.split()
    files = tracked or [path.relative_to(ROOT).as_posix() for name in PACKAGES for path in (ROOT / name).rglob("*.py")]
    assert set(files) <= names, "each file of the packages, pages, presets and lists among them"
    tops = {name.partition("/")[0] for name in names}
    assert tops == {*PACKAGES, "benchmarks", f"cpt_factory-{VERSION}.dist-info"}


def test_the_smallest_run_works_away_from_any_checkout(cpt: Path, tmp_path: Path) -> None:
    for package in ("asyncio", "email", "http", "json", "logging", "unittest", "xml"):
        shutil.copytree(Path(json.__file__).parents[1] / package, tmp_path / "src" / package)
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    environment |= {"CPT_HOME": str(tmp_path / "home"), "PYTHONSAFEPATH": "1"}

    def said(*words: str) -> str:
        ran = subprocess.run([cpt, *words], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert ran.returncode == 0, f"{words}: {ran.stdout}\n{ran.stderr}"
        return ran.stdout

    assert said("--version") == f"cpt-factory {VERSION}\n"
    assert "run" in said("--help")
    where = "import flows, pipeline_lib; print(flows.__file__, pipeline_lib.__file__)"
    python = cpt.with_name("python")
    places = subprocess.run(
        [python, "-c", where], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    ).stdout
    assert str(ROOT) not in places and places.count(str(cpt.parents[1])) == 2
    assert "layers:" in said("config", "show", "smoke")
    said("run", "--preset", "smoke", "--source", "src", "--name", "wheel")
    assert (tmp_path / "home" / "reports" / "wheel" / "report.html").is_file()
    assert json.loads(said("search", "parse a date", "--name", "wheel", "-k", "3", "--json"))
    declared = "from flows.orchestrator.declared import declaration; print(len(declaration()['deployments']))"
    counted = subprocess.run(
        [python, "-c", declared], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert int(counted.stdout) > 3, "the deployments of `cpt up`"
