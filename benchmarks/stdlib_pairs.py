"""(docstring, function) pairs of the standard library, then of the installed packages: real text that is at hand."""

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
    for path in _modules():
        for doc, function in _pairs_of(path.read_text(encoding="utf-8", errors="replace")):
            if doc not in pairs and function not in seen:
                pairs[doc] = function
                seen.add(function)
        if len(pairs) >= limit:
            break
    return list(pairs)[:limit], list(pairs.values())[:limit]


def _modules() -> Iterator[Path]:
    """By path, the standard library's first: it alone holds some 3,500 pairs."""
    for root in (Path(sysconfig.get_paths()[name]) for name in ("stdlib", "purelib")):
        for path in sorted(root.rglob("*.py")):
            if not SKIPPED_FOLDERS & set(path.relative_to(root).parts):
                yield path


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
