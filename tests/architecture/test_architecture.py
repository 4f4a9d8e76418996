"""The plan of the house, held against every file; and each rule held against a planted violation."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path

import code_rules
import import_rules
import pytest
import record_stages
from code_rules import Rule
from import_rules import SOURCE_FOLDERS, import_cycles, imports_of, wrong_directions

from pipeline_lib.config import run as config_module
from pipeline_lib.config.base import StageConfig

ROOT = Path(__file__).parents[2]
SOURCES = record_stages.read_sources(ROOT)
SOURCE_FILES = [path for folder in SOURCE_FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
TEST_FILES = sorted((ROOT / "tests").rglob("*.py"))
TEXT_FILES = [
    path
    for pattern in ("*.md", "*.yaml", "*.toml", "Makefile", "docs/**/*.md", ".ci/*", "pipeline_lib/**/*.html")
    for path in sorted(ROOT.glob(pattern))
]
MAY_PRINT = ("flows/cli/commands.py", "benchmarks/", "pipeline_lib/train/__main__.py")


def violations(rule: Rule, files: list[Path]) -> list[str]:
    return [f"{path.relative_to(ROOT)}:{what}" for path in files for what in rule(path.read_text(encoding="utf-8")) if what]


def assert_none(found: list[str]) -> None:
    """pytest shortens a list; this shows each violation on a line of its own."""
    assert not found, "\n".join([f"{len(found)} violations", *found])


@pytest.mark.parametrize("rule", [code_rules.long_file, code_rules.long_functions, code_rules.machine_paths])
def test_every_file_keeps(rule: Rule) -> None:
    assert_none(violations(rule, SOURCE_FILES + TEST_FILES))


@pytest.mark.parametrize("rule", [code_rules.banned_calls, code_rules.swallowed_errors, code_rules.missing_docstrings])
def test_the_source_keeps(rule: Rule) -> None:
    assert len(SOURCE_FILES) > 50
    assert_none(violations(rule, SOURCE_FILES))


def test_functions_take_few_arguments() -> None:
    terminal = [ROOT / "flows" / name for name in ("cli/commands.py", "cli/plan.py")]
    library = [path for path in SOURCE_FILES if path not in terminal]
    assert_none(violations(code_rules.many_arguments, library))
    assert_none(violations(code_rules.many_arguments_but_commands, terminal))


def test_only_the_terminal_and_the_benchmarks_print() -> None:
    silent = [path for path in SOURCE_FILES if not path.relative_to(ROOT).as_posix().startswith(MAY_PRINT)]
    assert_none(violations(code_rules.prints, silent))


def test_every_test_asserts() -> None:
    assert_none(violations(code_rules.tests_without_assertion, [p for p in TEST_FILES if p.name.startswith("test_")]))


def test_documents_name_no_folder_of_a_developer() -> None:
    assert ROOT / "README.md" in TEXT_FILES
    assert_none(violations(code_rules.machine_paths, TEXT_FILES))


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


# ---- imports


def test_imports_go_the_way_of_the_plan() -> None:
    wrong = [what for module, source in SOURCES.items() for what in wrong_directions(module, source, SOURCES)]
    assert_none(wrong)


def test_no_modules_import_each_other() -> None:
    graph = {m: {name for _, name in imports_of(s, SOURCES) if name in SOURCES} for m, s in SOURCES.items()}
    assert_none(import_cycles(graph))


def test_searching_loads_no_heavy_library() -> None:
    heavy = ("torch", "prefect", "transformers", "sentence_transformers", "great_expectations", "dask", "sklearn")
    code = f"import sys, pipeline_lib.search.query; print([m for m in {heavy!r} if m in sys.modules])"
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

LONG = "def f():\n" + "    x = 1\n" * 60
PLANTED: list[tuple[Rule, str, str]] = [
    (code_rules.long_file, "x = 1\n" * 401, "x = 1\n" * 400),
    (code_rules.long_functions, LONG, LONG.replace("    x = 1\n", "", 1)),
    (code_rules.long_functions, "class A:\n" + "".join("    " + line + "\n" for line in LONG.splitlines()), "class A: ..."),
    (code_rules.many_arguments, "def f(a, b, c, d, e, f, g): ...", "def f(self, a, b, c, d, e, f): ..."),
    (code_rules.many_arguments, "def f(a, b, c, *, d, e, f, g): ...", "def f(a, *rest, **named): ..."),
    (
        code_rules.many_arguments_but_commands,
        "def f(a, b, c, d, e, f, g): ...",
        "@app.command()\ndef f(a, b, c, d, e, f, g): ...",
    ),
    (code_rules.banned_calls, "import pickle", "import json"),
    (code_rules.banned_calls, "from pickle import loads", "from json import loads"),
    (code_rules.banned_calls, "torch.load(path)", "safetensors.torch.load_file(path)"),
    (code_rules.banned_calls, "yaml.load(text)", "yaml.safe_load(text)"),
    (code_rules.banned_calls, "yaml.load(text, Loader=yaml.Loader)", "yaml.load(text, Loader=yaml.SafeLoader)"),
    (code_rules.banned_calls, "eval(text)", "model.eval()"),
    (code_rules.banned_calls, "exec(text)", "os.execv(path, arguments)"),
    (code_rules.banned_calls, "archive.extractall(folder)", "archive.extractfile(member)"),
    (code_rules.banned_calls, "run(command, shell=True)", "run(command, shell=False)"),
    (code_rules.banned_calls, "np.load(path, allow_pickle=True)", "np.load(path)"),
    (code_rules.prints, "print('x')", "console.print('x')"),
    (code_rules.swallowed_errors, "try: f()\nexcept: pass", "try: f()\nexcept ValueError: pass"),
    (code_rules.swallowed_errors, "try: f()\nexcept Exception: log()", "try: f()\nexcept Exception: log(); raise"),
    (
        code_rules.swallowed_errors,
        "try: f()\nexcept (ValueError, BaseException): pass",
        "try: f()\nexcept Exception as e: raise UserError('x') from e",
    ),
    (code_rules.missing_docstrings, "x = 1", '"""M."""\nx = 1'),
    (code_rules.missing_docstrings, '"""M."""\ndef f(): ...', '"""M."""\ndef f():\n    """F."""'),
    (code_rules.missing_docstrings, '"""M."""\nclass A: ...', '"""M."""\nclass _A: ...'),
    (
        code_rules.missing_docstrings,
        '"""M."""\nclass A:\n    """A."""\n    def f():\n' + "        x = 1\n" * 6,
        '"""M."""\nclass A:\n    """A."""\n    def f(): return 1',
    ),
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
    ("module", "source", "is_wrong"),
    [
        ("pipeline_lib.tokens.shards", "from pipeline_lib.model.encoder import Encoder", True),
        ("pipeline_lib.model.encoder", "from pipeline_lib.tokens.tokenizer import PairTokenizer", False),
        ("pipeline_lib.config.run", "def f():\n    import pipeline_lib.train.launch", True),
        ("pipeline_lib.train.trainer", "from pipeline_lib.store.store import Store", False),
        ("pipeline_lib.curation.dedup", "from pipeline_lib.evaluation.metrics import mrr", True),
        ("pipeline_lib.pairs.tables", "from data_contracts.schemas import PAIRS", False),
        ("pipeline_lib.pairs.tables", "from data_contracts.runner import run", True),
        ("pipeline_lib.pairs.tables", "import prefect", True),
        ("pipeline_lib.search.query", "def f():\n    import torch.nn", True),
        ("pipeline_lib.search.mining", "import torch", False),
        ("data_contracts.validate", "import great_expectations", True),
        ("data_contracts.runner", "import great_expectations", False),
        ("data_contracts.schemas", "from pipeline_lib.config.run import RunConfig", True),
        ("tasks.dataset", "from flows.retrain import retrain", True),
        ("flows.retrain", "from tasks.dataset import extract", False),
    ],
)
def test_wrong_directions_are_found(module: str, source: str, is_wrong: bool) -> None:
    assert bool(wrong_directions(module, source)) is is_wrong


def test_cycles_are_found() -> None:
    assert import_cycles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == ["a -> b -> c -> a"]
    assert import_cycles({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []
    assert import_rules.room_of("pipeline_lib.search.mining.hard") == "pipeline_lib.search.mining"
