"""Searchable texts with every column of an index, as the index writes them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """A searchable text with every column."""

    path: str = "a/b.py"
    language: str = "python"
    package: str = "numpy"
    licence: str | None = "MIT"
    text: str = "def f():\n    return 1"
    id: str = "0" * 32
    kind: str = "code"
    name: str = "f"
    line: int = 1
    doc: str = ""
    source: str = "numpy 1.0"
