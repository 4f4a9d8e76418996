"""The tutorial's notebook: its page is current, it holds the README's lines, and it runs and says what it should."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from benchmarks.notebook import NOTEBOOK, PICTURES, Notebook, executed, page, pictures, read, texts, without_machine

ROOT = Path(__file__).parents[2]
MACHINE = re.compile(r"(?<![\w./~-])/(?:root|home|Users|tmp|work|var|opt)/")


def said(notebook: Notebook) -> list[str]:
    """The lines that its cells printed."""
    return [line for cell in notebook["cells"] for line in texts(cell).splitlines()]


def check_said(notebook: Notebook) -> None:
    """What the outputs must show, on whatever machine and Python they were made."""
    lines = said(notebook)
    files, kept = int(lines[0].split()[0]), re.search(r"([\d,]+) pairs came, ([\d,]+) stayed", "\n".join(lines))
    assert files > 100 and kept is not None
    came, stayed = (int(number.replace(",", "")) for number in kept.groups())
    assert 500 < stayed <= came
    first, last, chance = (float(line.split()[1]) for line in lines if line.startswith("loss "))
    assert last < first - 0.3 and last < chance
    assert "(1, 64)" in lines
    nearest = [line.split() for line in lines if line.startswith("    0.")]
    assert len(nearest) == 9 and all(float(similarity) <= 1.0 for similarity, *_ in nearest)
    found = re.search(r"MRR (0\.\d+) among ([\d,]+) functions; guessing: (0\.\d+)", "\n".join(lines))
    assert found is not None and float(found[1]) > 3 * float(found[3])
    drawn = [png for cell in notebook["cells"] for png in pictures(cell)]
    assert len(drawn) == 2 and all(png.startswith(b"\x89PNG") and len(png) > 5000 for png in drawn)


def test_the_page_and_its_pictures_are_those_of_the_notebook() -> None:
    notebook = read()
    text, drawn = page(notebook)
    assert NOTEBOOK.with_suffix(".md").read_text(encoding="utf-8") == text, "run `make notebook`"
    assert {path.name for path in PICTURES.glob("from-python-*")} == set(drawn)
    assert all((PICTURES / name).read_bytes() == png for name, png in drawn.items())


def test_its_outputs_name_no_machine() -> None:
    notebook = read()
    assert MACHINE.search(json.dumps(notebook)) is None
    assert without_machine(json.loads(json.dumps(notebook))) == notebook
    if any(cell.get("outputs") for cell in notebook["cells"]):
        check_said(notebook)


def test_it_holds_the_lines_of_the_readme() -> None:
    (shown,) = re.findall(r"^```python\n(.*?)^```$", (ROOT / "README.md").read_text(encoding="utf-8"), re.M | re.S)
    head, body = shown.split('if __name__ == "__main__":')
    lines = {line.partition("  # ")[0].strip() for line in [*head.splitlines(), *body.splitlines()[1:]] if line.strip()}
    held = {line for cell in read()["cells"] for line in "".join(cell["source"]).splitlines()}
    assert len(lines) > 15 and lines <= held


@pytest.mark.slow  # thirty steps of training in a kernel
def test_it_runs_and_says_what_it_should(tmp_path: Path) -> None:
    made = executed(read(), tmp_path)
    check_said(made)
    assert MACHINE.search(json.dumps(made)) is None
