"""Rules of every file that ruff and import-linter do not have, each held against a planted violation; and recorded stages."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path

import code_rules
import pytest
import record_stages
from code_rules import Rule

from pipeline_lib.config import run as config_module
from pipeline_lib.config.base import StageConfig

ROOT = Path(__file__).parents[2]
SOURCES = record_stages.read_sources(ROOT)
SOURCE_FILES = [path for folder in record_stages.SOURCE_FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
TEST_FILES = sorted((ROOT / "tests").rglob("*.py"))
TEXT_FILES = [
    path
    for pattern in ("*.md", "*.yaml", "*.toml", "Makefile", "deploy/*", "docs/**/*.md", ".ci/*", "pipeline_lib/**/*.html")
    for path in sorted(ROOT.glob(pattern))
]


def violations(rule: Rule, files: list[Path]) -> list[str]:
    return [f"{path.relative_to(ROOT)}:{what}" for path in files for what in rule(path.read_text(encoding="utf-8")) if what]


def assert_none(found: list[str]) -> None:
    """pytest shortens a list; this shows each violation on a line of its own."""
    assert not found, "\n".join([f"{len(found)} violations", *found])


@pytest.mark.parametrize("rule", [code_rules.long_file, code_rules.long_functions, code_rules.machine_paths])
def test_every_file_keeps(rule: Rule) -> None:
    assert_none(violations(rule, SOURCE_FILES + TEST_FILES))


@pytest.mark.parametrize("rule", [code_rules.crowded_rooms, code_rules.shadowed_modules])
def test_every_room_keeps(rule: Rule) -> None:
    assert_none(rule("\n".join(path.relative_to(ROOT).as_posix() for path in SOURCE_FILES)))


def test_the_source_reads_nothing_unsafely() -> None:
    assert len(SOURCE_FILES) > 50
    assert_none(violations(code_rules.unsafe_reads, SOURCE_FILES))


def test_every_flow_keeps_to_the_allowed_roots() -> None:
    flows = sorted((ROOT / "flows").glob("*.py"))
    assert sum("@flow(" in path.read_text(encoding="utf-8") for path in flows) > 7
    assert_none(violations(code_rules.flows_without_roots, flows))


def test_every_test_asserts() -> None:
    assert_none(violations(code_rules.tests_without_assertion, [p for p in TEST_FILES if p.name.startswith("test_")]))


def test_documents_name_no_folder_of_a_developer() -> None:
    assert ROOT / "README.md" in TEXT_FILES
    assert_none(violations(code_rules.machine_paths, TEXT_FILES))


def test_no_file_holds_a_secret() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.split("\n")
    tracked = [ROOT / name for name in listed if name and (ROOT / name).is_file()] or [*SOURCE_FILES, *TEST_FILES, *TEXT_FILES]
    texts = {path: path.read_bytes().decode(errors="replace") for path in tracked}
    assert len(texts) > 100
    assert_none([f"{path.relative_to(ROOT)}:{what}" for path, text in texts.items() for what in code_rules.secrets(text)])


def test_every_config_field_is_described() -> None:
    """A nested section is described by its own class; its docstring is what Prefect's form shows."""
    configs = [c for _, c in inspect.getmembers(config_module, inspect.isclass) if issubclass(c, StageConfig)]
    assert len(configs) > 10
    plain = [
        f"{config.__name__}.{name}"
        for config in configs
        for name, field in config.model_fields.items()
        if not (field.description or isinstance(field.default, StageConfig))
    ]
    assert_none(plain)


def test_searching_loads_no_heavy_library() -> None:
    heavy = ("torch", "prefect", "transformers", "sentence_transformers", "great_expectations", "dask", "sklearn")
    imports = "import sys, pipeline_lib.search.query, pipeline_lib.index.hybrid"
    code = f"{imports}; print([m for m in {heavy!r} if m in sys.modules])"
    answer = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (answer.returncode, answer.stdout.strip()) == (0, "[]"), answer.stderr


# ---- stages


def test_a_changed_stage_has_a_new_version_or_a_recorded_same_output() -> None:
    found = record_stages.changes(record_stages.read_record(record_stages.RECORD), record_stages.stages_of(SOURCES))
    assert not found, (
        "\n".join(f"stage {name} {what}" for name, what in found.items())
        + f"\nraise the stage's version if its output changed, then: {record_stages.COMMAND}"
    )


STAGE_SOURCE = "from room.part import helper\nSTAGE = Stage(name='s', version=VERSION * 10 + 1)\nVERSION = 2\n"


def test_the_record_sees_code_and_overlooks_comments() -> None:
    before = record_stages.stages_of({"room.stage": STAGE_SOURCE, "room.part": 'def helper():\n    """One."""\n    return 1'})
    assert before["s"]["version"] == 21 and set(before["s"]["modules"]) == {"room.stage", "room.part"}

    def after(stage: str, part: str) -> dict[str, str]:
        return record_stages.changes(before, record_stages.stages_of({"room.stage": stage, "room.part": part}))

    assert after(STAGE_SOURCE + "# why\n", 'def helper():\n    """Uno."""\n    return (1)') == {}
    assert "kept version 21, but room.part changed" in after(STAGE_SOURCE, "def helper(): return 2")["s"]
    raised = after(STAGE_SOURCE.replace("= 2", "= 3"), "def helper(): return 2")
    assert "went from version 21 to 31" in raised["s"]
    assert record_stages.changes({}, before) == {"s": "is not recorded yet"}
    assert record_stages.changes(before, {}) == {"s": "is recorded, but no longer defined"}


def test_modules_imported_by_name_are_sources_too() -> None:
    modules = record_stages.stages_of(SOURCES)["extract"]["modules"]
    for package, some in (("sources/readers", {"archive", "warc"}), ("languages", {"java", "ruby"})):
        names = {path.stem for path in (ROOT / "pipeline_lib" / package).glob("*.py")} - {"__init__"}
        assert names >= some
        assert {f"pipeline_lib.{package.replace('/', '.')}.{name}" for name in names} <= set(modules)


def test_a_suites_protocol_is_a_source_of_its_figures() -> None:
    """An evaluation is found done by its version: with a suite's code changed, old figures would pass for new ones."""
    modules = record_stages.stages_of(SOURCES)["evaluate_suite"]["modules"]
    suites = {
        name for name, source in SOURCES.items() if re.search(r"^class \w+\((\w*Suite|Sick|Suite)\):", source, re.MULTILINE)
    }
    assert len(suites) >= 8 and suites <= set(modules)


def test_the_recorder_refuses_a_silent_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = tmp_path / "stage_sources.json"
    monkeypatch.setattr(record_stages, "RECORD", record)
    assert record_stages.main([]) == 0
    assert set(record_stages.read_record(record)) >= {"extract", "validate", "curate", "tokenizer", "shards", "train"}
    whole = record.read_text()
    record.write_text(whole.replace('"pipeline_lib.tokens.shards": "', '"pipeline_lib.tokens.shards": "0'))
    assert record_stages.main([]) == 1
    assert record_stages.main(["--same-output"]) == 0
    assert record.read_text() == whole


# ---- the rules themselves: each finds what is planted and passes what is right


def room(folder: str, n_files: int) -> str:
    return "".join(f"{folder}/a{number}.py\n" for number in range(n_files))


LONG = "def f():\n" + "    x = 1\n" * 60
PLANTED: list[tuple[Rule, str, str]] = [
    (code_rules.long_file, "x = 1\n" * 401, "x = 1\n" * 400),
    (code_rules.long_functions, LONG, LONG.replace("    x = 1\n", "", 1)),
    (code_rules.long_functions, "class A:\n" + "".join("    " + line + "\n" for line in LONG.splitlines()), "class A: ..."),
    (code_rules.crowded_rooms, room("flows/cli", 19), room("flows/cli", 18) + "flows/cli/__init__.py\nflows/cli/__main__.py"),
    (code_rules.crowded_rooms, room("pipeline_lib/train", 25), room("pipeline_lib/train", 24)),
    (code_rules.crowded_rooms, room("pipeline_lib/train", 23), room("pipeline_lib/languages", 40)),
    (code_rules.shadowed_modules, "flows/platform/up.py", "flows/cli/platform.py\nflows/train.py\ntasks/queue.py"),
    (code_rules.unsafe_reads, "np.load(path, allow_pickle=True)", "np.load(path, allow_pickle=False)"),
    (code_rules.unsafe_reads, "archive.extractall(folder)", "archive.extractfile(member)"),
    (
        code_rules.flows_without_roots,
        "@flow(name='a')\ndef a(params: P):\n    'A flow.'\n    f(params)",
        "@flow(name='a')\ndef a(params: P):\n    'A flow.'\n    admit(params)",
    ),
    (code_rules.secrets, "key = '" + "AKIA" + "ABCDEFGHIJKLMNOP'", "key = os.environ['AWS_ACCESS_KEY_ID']"),
    (code_rules.secrets, "-----BEGIN RSA " + "PRIVATE KEY-----", "-----BEGIN PUBLIC KEY-----"),
    (code_rules.tests_without_assertion, "def test_a(): f()", "def test_a(): assert f()"),
    (code_rules.tests_without_assertion, "async def test_a(): f()", "def test_a():\n    with pytest.raises(E): f()"),
    (code_rules.machine_paths, "see /" + "work/x", "see ../work/x and https://a.org/work/x"),
    (code_rules.machine_paths, "PLACE = '/" + "home/me/x'", "PLACE = '~/home/x'"),
]


@pytest.mark.parametrize(("rule", "bad", "good"), PLANTED)
def test_each_rule_finds_what_is_planted(rule: Rule, bad: str, good: str) -> None:
    assert len(rule(bad)) == 1
    assert rule(good) == []


@pytest.mark.parametrize(
    ("code", "planted"),
    [
        ("TID251", "import pickle"),
        ("TID251", "from joblib import load"),
        ("TID251", "import torch\n\nX = torch.load('x')"),
        ("TID252", "from .other import x"),
        ("S506", "import yaml\n\nX = yaml.load('x', Loader=yaml.Loader)"),
        ("S307", "X = eval('1')"),
        ("S102", "exec('1')"),
        ("S202", "import tarfile\n\ntarfile.open('x').extractall()"),
        ("S602", "import subprocess\n\nsubprocess.run('x' + X, shell=True)"),
        ("S605", "import os\n\nos.system(X)"),
        ("T201", "print('x')"),
        ("BLE001", "try:\n    f()\nexcept Exception:\n    g()"),
        ("E722", "try:\n    f()\nexcept:\n    g()"),
        ("D103", "def f() -> None: ..."),
        ("D101", "class A: ..."),
        ("PLR0913", "def f(a, b, c, *, d, e, f, g): ..."),
        ("PLR0915", "def f() -> None:\n" + "    x = 1\n" * 51),
    ],
)
def test_ruff_finds_what_is_planted(code: str, planted: str) -> None:
    """The rules that this project leaves to ruff are switched on where they hold."""
    ruff = [sys.executable, "-m", "ruff", "check", "--output-format", "concise", "--stdin-filename"]
    found = subprocess.run(
        [*ruff, "pipeline_lib/planted.py"], input=planted, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert re.search(rf"\b{code}\b", found.stdout), found.stdout + found.stderr
