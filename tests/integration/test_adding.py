"""Adding to the project, as CONTRIBUTING.md says: one new file in a copy of the library, and nothing else changed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]

EXTRACT = """
import json, sys
from pathlib import Path
import pyarrow.parquet as pq
from data_contracts.validate import validate
from pipeline_lib.config.data import CodePairsConfig, ContractConfig, ExtractConfig, SourceConfig
from pipeline_lib.languages import language_names
from pipeline_lib.pairs.extract import extract
from pipeline_lib.store.store import Store

if __name__ == "__main__":
    store = Store(Path("store"))
    code = CodePairsConfig(min_body_lines=1)
    further = [name for name in language_names() if name == "snake"]
    config = ExtractConfig(workers=1, code=code.model_copy(update={"languages": (*code.languages, *further)}))
    extracted = extract(store, SourceConfig(**json.loads(sys.argv[1])), config)
    valid = validate(store, extracted, ContractConfig())
    print(json.dumps([row for path in valid.paths("pairs.parquet") for row in pq.read_table(path).to_pylist()]))
"""

READER = '''"""Letters (.letter): a name on the first line, then the text."""

from pathlib import Path

from pydantic import BaseModel

from pipeline_lib.sources.readers import Reader
from pipeline_lib.sources.records import text_record


class Options(BaseModel):
    """What a letter ends with."""

    greeting: str = ""


def read_letters(file, limits):
    """The letters of a file, which a line of dashes parts."""
    greeting = Options.model_validate(file.options).greeting
    for letter in Path(file.place).read_text().split("\\n---\\n"):
        name, _, text = letter.partition("\\n")
        yield text_record(file, name, text.removesuffix(greeting), limits, form="plain")


def is_letter(place):
    """True where a first line is an address."""
    return Path(place).read_text().startswith("To ")


READER = Reader(read=read_letters, suffixes=(".letter",), probe=is_letter, options=Options)
'''

ANY_LETTER = '''"""Letters by their suffix alone: a reader that looks into the file comes first."""

from pipeline_lib.sources.readers.letters import Reader, read_letters

READER = Reader(read=read_letters, suffixes=(".letter",))
'''

LANGUAGE = '''"""Python with another suffix: a language with a grammar that is installed."""

from dataclasses import replace

from pipeline_lib.languages.python import RULES as PYTHON

RULES = replace(PYTHON, suffixes=(".snake",))
'''

FUNCTION = """def total(prices):
    '''Sum the prices of a basket.'''
    sum = 0
    for price in prices:
        sum += price
    return sum
"""


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """A copy of the library, for one more file."""
    for package in ("pipeline_lib", "data_contracts"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "run.py").write_text(EXTRACT)
    return tmp_path


def valid_pairs(library: Path, source: dict[str, str]) -> list[dict[str, Any]]:
    """The pairs that extraction and validation with a copy of the library make of a source."""
    command = [sys.executable, "run.py", json.dumps(source)]
    environment = {**os.environ, "PYTHONPATH": str(library)}
    done = subprocess.run(command, cwd=library, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows: list[dict[str, Any]] = json.loads(done.stdout)
    return rows


def test_a_source_is_one_file(library: Path) -> None:
    (library / "pipeline_lib/sources/readers/letters.py").write_text(READER)
    paragraphs = "\n\n".join(f"{'The rain went on over the hills and fields. ' * 12}Day {day}." for day in range(4))
    (library / "post.letter").write_text(
        f"To Ann\n{paragraphs}\nYours\n---\nTo Bob\n{paragraphs.replace('rain', 'snow')}\nYours"
    )
    spec = "- {reader: letters, url: post.letter, licence: CC0-1.0, options: {greeting: Yours}}\n"
    (library / "dump.yaml").write_text(spec)
    pairs = valid_pairs(library, {"dump": "dump.yaml"})
    assert {pair["path"] for pair in pairs} == {"post.letter!To Ann", "post.letter!To Bob"}
    assert all(pair["kind"] == "text" and pair["licence"] == "CC0-1.0" and "Yours" not in pair["y"] for pair in pairs)
    (library / "pipeline_lib/sources/readers/any_letter.py").write_text(ANY_LETTER)
    guess = "from pipeline_lib.sources.dump_spec import guess_reader as guess; print(guess('post.letter'))"
    environment = {**os.environ, "PYTHONPATH": str(library)}
    assert subprocess.check_output([sys.executable, "-c", guess], cwd=library, env=environment, text=True) == "letters\n"


def test_a_language_is_one_file(library: Path) -> None:
    (library / "pipeline_lib/languages/snake.py").write_text(LANGUAGE)
    (library / "folder").mkdir()
    (library / "folder/basket.snake").write_text(FUNCTION)
    [pair] = valid_pairs(library, {"folder": "folder"})
    assert (pair["language"], pair["path"], pair["x"]) == ("snake", "basket.snake", "Sum the prices of a basket.")
    assert pair["y"].startswith("def total(prices):\n    sum = 0")
