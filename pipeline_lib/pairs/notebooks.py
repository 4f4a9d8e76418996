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


# %timeit and !pip in IPython; lines of such alone are no code
_MAGIC = re.compile(r"(?m)^[ \t]*(?:%(?!%)[A-Za-z]|!|\?)[^\n]*(?:\n|\Z)")
_CELL_MAGIC = re.compile(r"\s*%%(\w+)[^\n]*(?:\n|\Z)")
_SAME_LANGUAGE = frozenset({"time", "timeit", "capture", "prun", "pylab"})


def read_notebook(text: str) -> Notebook:
    """The cells of a notebook, of format 3 or 4.

    Raises:
        BrokenNotebook: it is no JSON, nested too deep, or has no cells.
    """
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BrokenNotebook(f"no JSON: {ascii(str(error))[:200]}") from error
    cells = _cells(content)
    if cells is None:
        raise BrokenNotebook("no list of cells in it")
    notebook = Notebook(_language(content))
    prose: list[Paragraph] = []
    line = 1
    for cell in cells:
        kind, source = cell.get("cell_type"), _source(cell)
        if kind in ("markdown", "heading"):
            source = f"{'#' * _level(cell)} {source}" if kind == "heading" else source
            prose = paragraphs(source, line, indented_code=True)
            if prose:
                notebook.prose.append(prose)
        elif kind == "code" and source.strip():
            language, code = _code(source, notebook.language)
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


def _source(cell: dict[str, Any]) -> str:
    source = cell.get("source", cell.get("input", ""))
    if isinstance(source, list):
        source = "".join(part for part in source if isinstance(part, str))
    return source if isinstance(source, str) else ""


def _language(content: dict[str, Any]) -> str:
    """The language that the metadata name; Python where they name none, as of old."""
    metadata = content.get("metadata")
    for name in ("language_info", "kernelspec"):
        told = metadata.get(name) if isinstance(metadata, dict) else None
        for key in ("name", "language") if name == "language_info" else ("language", "name"):
            if isinstance(told, dict) and isinstance(told.get(key), str) and told[key].strip():
                return language_called(told[key])
    return "python"


def _code(source: str, language: str) -> tuple[str, str]:
    """Language and code of a cell without its magics: `%%bash` is of another language."""
    magic = _CELL_MAGIC.match(source)
    if magic is not None:
        name = magic.group(1).lower()
        language = language if name in _SAME_LANGUAGE else language_called(name)
        source = source[magic.end() :]
    return language, _MAGIC.sub("", source).strip("\n").rstrip() if language == "python" else source.strip("\n").rstrip()
