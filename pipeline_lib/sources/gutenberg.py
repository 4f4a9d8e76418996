"""Project Gutenberg's books without the header and the licence around them, which are the same in all."""

from __future__ import annotations

import re

_BEGIN = re.compile(r"^\*\*\* ?START OF (?:THIS|THE) PROJECT GUTENBERG[^\n]*\n(?:[^\n]+\*\*\*[ \t]*\n)?", re.MULTILINE)
_END = re.compile(
    r"^(?:\*\*\* ?END OF (?:THIS|THE) PROJECT GUTENBERG|End of (?:the )?Project Gutenberg(?:'s)? )[^\n]*", re.MULTILINE
)


def book_of(text: str) -> tuple[str, int]:
    """The book between Project Gutenberg's marks and the line that it begins at (from 1); any other text as it is."""
    if "PROJECT GUTENBERG" not in text:
        return text, 1
    begin = _BEGIN.search(text)
    start = begin.end() if begin else 0
    end = _END.search(text, start)
    return text[start : end.start() if end else len(text)], 1 + text.count("\n", 0, start)
