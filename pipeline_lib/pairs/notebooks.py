"""Notebooks (.ipynb): the prose of their Markdown cells, and their code cells each with the Markdown cell right before it.

The JSON is read, nothing is run; outputs, attachments and metadata are left out.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any

from pipeline_lib.languages import language_called
from pipeline_lib.pairs.code_blocks import Block
from pipeline_lib.pairs.prose import Paragraph, paragraphs


class BrokenNotebook(ValueError):
    """A text that is no notebook."""


@dataclass(frozen=True)
class Notebook:
    """The cells of a notebook. Lines count in the cells' sources one after another, not in the file's JSON."""

    language: str
    prose: list[list[Paragraph]] = field(default_factory=list)  # of one Markdown cell each
    blocks: list[Block] = field(default_factory=list)

    @property
    def code(self) -> str:
        """All code cells in order."""
        return "\n\n".join(block.code for block in self.blocks)


# %timeit, !pip and name? in IPython; lines of such alone are no code. `!= b` is: it goes on with the line before
_MAGIC = r"^[ \t]*(?:(?:%(?!%)[A-Za-z]|!(?!=)|\?)[^\n]*|[\w.*]+\?{1,2}[ \t]*)(?:\n|\Z)"
# what may hold lines that look so
_STRING = r"""(\"{3}|'{3})(?:[^\\]|\\[\s\S])*?(?:\2|\Z)|"(?:[^"\\\n]|\\[\s\S])*"|'(?:[^'\\\n]|\\[\s\S])*'|\#[^\n]*"""
_MAGIC_OR_STRING = re.compile(rf"(?m)({_MAGIC})|{_STRING}")
_CELL_MAGIC = re.compile(r"\s*%%(\w+)[^\n]*(?:\n|\Z)")
# the same of Databricks and of .NET, each alone on its line
_OTHER_CELL_MAGIC = re.compile(
    r"\s*(?:%(python|scala|sql|sh|md|fs|r)|\#!(csharp|c\#|fsharp|f\#|pwsh|powershell|javascript|js|html|sql|kql))"
    r"[ \t]*(?:\n|\Z)"
)
_SAME_LANGUAGE = frozenset({"time", "timeit", "capture", "prun", "pylab"})
_MANY_LANGUAGES = frozenset({"polyglot-notebook", ".net-interactive", "sql,python"})  # whose cells say their own
_NAME = re.compile(r"[\w+#./ -]{1,40}", re.ASCII)


def read_notebook(text: str) -> Notebook:
    """The cells of a notebook, of format 3 or 4.

    Raises:
        BrokenNotebook: it is no JSON, nested too deep, or has no cells, or a cell holds what no text can.
    """
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BrokenNotebook(f"no JSON: {ascii(str(error))[:200]}") from error
    cells = _cells(content)
    if cells is None:
        raise BrokenNotebook("no list of cells in it")
    sources = [_source(number, cell) for number, cell in enumerate(cells, 1)]
    named = _language(content.get("metadata"))
    languages = [_own_language(cell) or named or _named(cell.get("language")) or "python" for cell in cells]
    usual = named or next((name for name, cell in zip(languages, cells, strict=True) if cell.get("cell_type") == "code"), "")
    notebook = Notebook(usual or "python")
    prose: list[Paragraph] = []
    line = 1
    for cell, source, own in zip(cells, sources, languages, strict=True):
        kind = cell.get("cell_type")
        if kind in ("markdown", "heading"):
            heading = f"{'#' * _level(cell)} " if kind == "heading" else ""
            prose = paragraphs(heading + source, line, indented_code=True)
            if prose:
                notebook.prose.append(prose)
        elif kind == "code" and source.strip():
            language, code = _code(source, own)
            notebook.blocks.append(Block(language, code, line, prose))
            prose = []  # it is about the first cell behind it
        line += source.count("\n") + 1
    return notebook


def _cells(content: Any) -> list[dict[str, Any]] | None:
    if not isinstance(content, dict):
        return None
    found = content.get("cells")
    if found is None and isinstance(content.get("worksheets"), list):  # format 3
        found = [cell for sheet in content["worksheets"] if isinstance(sheet, dict) for cell in _listed(sheet.get("cells"))]
    return [cell for cell in found if isinstance(cell, dict)] if isinstance(found, list) else None


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _level(cell: dict[str, Any]) -> int:
    level = cell.get("level")
    return min(max(level, 1), 6) if isinstance(level, int) else 1


def _source(number: int, cell: dict[str, Any]) -> str:
    """What a cell says, its newlines folded.

    Raises:
        BrokenNotebook: it holds a NUL byte or an unpaired surrogate, which a file that holds them is refused for, too.
    """
    source = cell.get("source", cell.get("input", ""))
    if isinstance(source, list):
        source = "".join(part for part in source if isinstance(part, str))
    if not isinstance(source, str):
        return ""
    if "\0" in source:
        raise BrokenNotebook(f"a NUL byte in cell {number}, expected text")
    try:
        source.encode()
    except UnicodeEncodeError as error:
        raise BrokenNotebook(f"an unpaired surrogate in cell {number}, expected text") from error
    return source.replace("\r\n", "\n").replace("\r", "\n")


def _language(metadata: Any) -> str:
    """The language that a notebook's metadata name; empty: none, as of old, or several."""
    metadata = metadata if isinstance(metadata, dict) else {}
    for name in ("language_info", "kernelspec"):
        told = metadata.get(name)
        for key in ("name", "language") if name == "language_info" else ("language", "name"):
            if isinstance(told, dict) and (language := _named(told.get(key))):
                return language
    return _named(metadata.get("language"))  # of format 3


def _own_language(cell: dict[str, Any]) -> str:
    """The language that a cell of a notebook of several says it is in; empty: none."""
    metadata = cell.get("metadata")
    for name, key in (("vscode", "languageId"), ("polyglot_notebook", "kernelName"), ("dotnet_interactive", "language")):
        told = metadata.get(name) if isinstance(metadata, dict) else None
        if isinstance(told, dict) and (language := _named(told.get(key))):
            return language
    return ""


def _named(name: Any) -> str:
    """A language by what somebody calls it; empty where that is no name of one."""
    if not isinstance(name, str) or not _NAME.fullmatch(name) or name.strip().lower() in _MANY_LANGUAGES:
        return ""
    return language_called(name)


def _code(source: str, language: str) -> tuple[str, str]:
    """Language and code of a cell without its magics: `%%bash` is of another language."""
    magic = _CELL_MAGIC.match(source) or _OTHER_CELL_MAGIC.match(source)
    if magic is not None:
        name = next(filter(None, magic.groups())).lower()
        language = language if name in _SAME_LANGUAGE else language_called(name)
        source = source[magic.end() :]
    if language == "python":
        source = _MAGIC_OR_STRING.sub(lambda found: "" if found.group(1) else found.group(), source)
    return language, source.strip("\n").rstrip()
