"""README and documentation against the tree, the terminal and the configuration; each check against planted errors."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import docs_checks
import pytest
import yaml
from docs_checks import ROOT, Check, Page, linked_files, read_page

from pipeline_lib.config.built_in import PRESETS
from pipeline_lib.model.starts import STARTS
from pipeline_lib.sources.readers import reader_names

README = ROOT / "README.md"
DOCS = ROOT / "docs"
PAGES = [README, ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *sorted(DOCS.rglob("*.md"))]
PICTURE_BYTES = 200_000
OWN_VARIABLES = {"CPT_MEETING_FOLDER", "CPT_NOTIFY_WEBHOOK"}  # set by one process of a run for another
CHECKS = [
    docs_checks.dead_links,
    docs_checks.dead_paths,
    docs_checks.missing_tests,
    docs_checks.wrong_commands,
    docs_checks.refused_commands,
    docs_checks.wrong_symptoms,
    docs_checks.wrong_options,
    docs_checks.wrong_settings,
    docs_checks.wrong_checkpoints,
    docs_checks.wrong_targets,
]


def test_the_readme_is_read_in_one_go() -> None:
    lines = README.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 200
    assert [number for number, line in enumerate(lines, start=1) if len(line) > 120] == []


def test_the_two_commands_come_before_the_picture() -> None:
    text = README.read_text(encoding="utf-8")
    order = (
        "make demo",
        "make test",
        "docs/pictures/pipeline.svg",
        "## Results",
        "## Your own code",
        "## Tune it",
        "## Why not",
    )
    places = [text.index(part) for part in order]
    assert places == sorted(places)


def test_pictures_are_small() -> None:
    pictures = [path for path in (DOCS / "pictures").iterdir() if path.suffix in (".png", ".svg")]
    assert len(pictures) >= 2
    assert [path.name for path in pictures if path.stat().st_size > PICTURE_BYTES] == []


@pytest.mark.parametrize("check", CHECKS)
def test_pages_say_what_there_is(check: Check) -> None:
    found = [f"{path.relative_to(ROOT)}: {what}" for path in PAGES for what in check(read_page(path))]
    assert not found, "\n".join(found)


def test_links_of_the_changelog_lead_somewhere() -> None:
    """Its commands may be those of an earlier release."""
    assert list(docs_checks.dead_links(read_page(ROOT / "CHANGELOG.md"))) == []


def test_every_page_is_in_the_navigation_and_linked_from_the_index() -> None:
    pages = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")}
    assert set(leaves(yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"])) == pages
    linked = {path for _, path, _ in linked_files(read_page(DOCS / "index.md"))}
    assert {DOCS / page for page in pages} - linked == {DOCS / "index.md"}


def test_every_command_variable_and_target_is_on_a_page() -> None:
    page = read_page(DOCS / "reference" / "commands.md")
    named = {span.split()[1] for span in page.spans if span.startswith("cpt ") and len(span.split()) > 1}
    assert set(docs_checks.terminal().list_commands(None)) - named == set()
    paths = [path for folder in ("flows", "pipeline_lib") for path in (ROOT / folder).rglob("*.py")]
    variables = {name for path in paths for name in re.findall(r'"(CPT_[A-Z_]+[A-Z])"', path.read_text(encoding="utf-8"))}
    assert {name for name in variables - OWN_VARIABLES if f"`{name}`" not in page.text} == set()
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets, told = set(re.findall(r"^([a-z-]+):", makefile, re.M)), set(re.findall(r"\bmake ([a-z-]+)", makefile))
    assert targets - told == {"help", "setup-dev"}
    assert set(makefile.split(".PHONY:")[1].splitlines()[0].split()) == targets


def test_every_reader_is_in_the_tables_of_readers() -> None:
    pages = [read_page(DOCS / place).text for place in ("tutorial/your-own-data.md", "reference/formats.md")]
    for text in pages:
        cells = {word for row in re.findall(r"^\| (`[^|]*) \|", text, re.M) for word in re.findall(r"`(\w+)`", row)}
        assert set(reader_names()) - cells == set()


def test_every_preset_and_every_start_is_on_its_page() -> None:
    tuning, starts = (read_page(DOCS / "how-to" / name).text for name in ("tuning.md", "starting-points.md"))
    which = tuning.split("## Which preset")[1].split("\n## ")[0] + starts.split("## Presets of the paper's sizes")[1]
    assert [name for name in PRESETS if f"`{name}`" not in which] == []
    assert [name for name in STARTS if f"| `{name}`" not in starts] == []


def test_sources_name_pages_that_there_are() -> None:
    """Errors and pages of a run send a reader to the documentation."""
    files = [path for folder in docs_checks.FOLDERS for path in (ROOT / folder).rglob("*") if path.suffix in (".py", ".html")]
    named = {(path.name, page) for path in files if path.parent != Path(__file__).parent for page in pages_in(path)}
    assert named
    assert {(name, page) for name, page in named if not (ROOT / page).is_file()} == set()


def pages_in(path: Path) -> list[str]:
    return re.findall(r"docs/[\w/-]+\.md", path.read_text(encoding="utf-8"))


def leaves(tree: Any) -> list[str]:
    if isinstance(tree, str):
        return [tree]
    return [leaf for branch in (tree.values() if isinstance(tree, dict) else tree) for leaf in leaves(branch)]


@pytest.mark.parametrize("check, planted", [
    (docs_checks.dead_links, "See [there](nowhere.md)."),
    (docs_checks.dead_links, "See [there](README.md#no-such-heading)."),
    (docs_checks.dead_links, "![a picture](docs/pictures/none.png)"),
    (docs_checks.dead_paths, "The rule stands in pipeline_lib/nothing.py."),
    (docs_checks.dead_paths, "| a fault | `reliability/test_nothing.py` |"),
    (docs_checks.dead_paths, "The bounds of `filter_config.py`."),
    (docs_checks.dead_paths, "`pipeline_lib.model.loss.NoSuchLoss`"),
    (docs_checks.dead_paths, "```sh\npython -m benchmarks.nothing --quick\n```"),
    (docs_checks.missing_tests, "`test_r99_*`"),
    (docs_checks.missing_tests, "`unit/train/test_state.py::test_r99_nothing`"),
    (docs_checks.wrong_commands, "`cpt retrain --preset demo`"),
    (docs_checks.wrong_commands, "```sh\ncpt run --preset demo \\\n    --learning-rate 1\n```"),
    (docs_checks.wrong_commands, "    cpt run --steps 3"),
    (docs_checks.wrong_commands, "`cpt run --preset dmeo`"),
    (docs_checks.wrong_commands, "`cpt run --preset demo --set train.learningrate=1`"),
    (docs_checks.refused_commands, "```sh\ncpt search parse -k three\n```"),
    (docs_checks.refused_commands, "```sh\ncpt plan --gpus 8\n```"),
    (docs_checks.wrong_options, "Raise it by `--margins`."),
    (docs_checks.wrong_settings, "Raise `train.window_block`."),
    (docs_checks.wrong_settings, "```yaml\ntrain:\n  reading:\n    bytes: 3\n```"),
    (docs_checks.wrong_checkpoints, "`step-000400`"),
    (docs_checks.wrong_targets, "`make tests`"),
    (docs_checks.wrong_targets, "```sh\nprefect deployment run 'retrain/weekly'\n```"),
])  # fmt: skip
def test_a_check_finds_what_is_planted(check: Check, planted: str) -> None:
    assert list(check(Page(ROOT / "planted.md", planted)))


def test_a_symptom_that_no_code_says_is_found() -> None:
    page = "| `this machine has ... cores; give one a core` | a |\n| `nobody says ... this` | b |\n"
    assert list(docs_checks.wrong_symptoms(Page(DOCS / "troubleshooting.md", page))) == ["message nobody says ... this"]
    assert read_page(DOCS / "troubleshooting.md").text.count("\n| `") >= 50


def test_parameters_of_a_printed_deployment_are_checked() -> None:
    line = """```sh\nprefect deployment run 'retrain/demo' -p 'params={"preset": "demo", "nothing": 1}'\n```"""
    with pytest.raises(ValueError, match="nothing"):
        list(docs_checks.wrong_targets(Page(Path("planted.md"), line)))
