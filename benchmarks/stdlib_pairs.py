"""(docstring, function) pairs of the standard library: real text that every machine with this Python has."""

from __future__ import annotations

import ast
import re
import sysconfig
from collections.abc import Iterator
from pathlib import Path

SKIPPED_FOLDERS = {"site-packages", "test", "tests", "idlelib", "lib2to3", "__pycache__"}
MIN_DOC_WORDS = 3
MIN_BODY_LINES = 3


def stdlib_pairs(limit: int) -> tuple[list[str], list[str]]:
    """First docstring paragraphs and the functions without their docstrings: at most `limit`, none twice, by path."""
    pairs: dict[str, str] = {}
    seen: set[str] = set()
    root = Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(root.rglob("*.py")):
        if SKIPPED_FOLDERS & set(path.relative_to(root).parts):
            continue
        for doc, function in _pairs_of(path.read_text(encoding="utf-8", errors="replace")):
            if doc not in pairs and function not in seen:
                pairs[doc] = function
                seen.add(function)
        if len(pairs) >= limit:
            break
    return list(pairs)[:limit], list(pairs.values())[:limit]


def _pairs_of(source: str) -> Iterator[tuple[str, str]]:
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return
    lines = source.splitlines()
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or len(node.body) < 2:
            continue
        doc = ast.get_docstring(node)
        if not doc:
            continue
        doc = re.split(r"\n\s*\n", doc.strip())[0]
        first, last = node.body[0], node.end_lineno or node.lineno
        body = lines[first.end_lineno : last]
        if len(doc.split()) >= MIN_DOC_WORDS and len(body) >= MIN_BODY_LINES:
            yield doc, "\n".join(lines[node.lineno - 1 : first.lineno - 1] + body)
