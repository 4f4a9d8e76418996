"""Blocks of code and the prose right before them: fenced blocks of Markdown, and the rules for those and for cells.

A user asks in the words in which a manual says what its example does. x is the paragraph before the block, below its heading; y
is the block as it stands, without the prompts of a session.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from pipeline_lib.config.data import CodePairsConfig
from pipeline_lib.languages import language_called, language_names, rules_of
from pipeline_lib.languages.scripts import count_units, units
from pipeline_lib.pairs.code_pairs import CodePair
from pipeline_lib.pairs.filters import has_control_bytes, note_drop
from pipeline_lib.pairs.prose import Paragraph, paragraphs

BlockView = Literal["block", "cell"]
MOST_UNITS = 200  # of x: the last paragraphs before a block that fit


@dataclass(frozen=True, slots=True)
class Block:
    """A block of code, and the paragraphs between it and the block before."""

    language: str  # empty: nobody says
    code: str
    line: int  # of its first line
    prose: Sequence[Paragraph]


class BlockRule(NamedTuple):
    """A rule for a block and the prose before it."""

    name: str
    drops: Callable[[Block, str, CodePairsConfig], bool]
    reason: str


BLOCK_RULES: tuple[BlockRule, ...] = (
    BlockRule("block_language", lambda b, _, c: b.language not in c.languages, "in no language that is asked for, or in none"),
    BlockRule("block_short", lambda b, _, c: not has_code(b, c.min_body_lines), "fewer lines of code than `min_body_lines`"),
    BlockRule(
        "block_large", lambda b, _, c: len(b.code.encode()) > c.max_function_bytes, "beyond `max_function_bytes`: a listing"
    ),
    BlockRule("block_no_prose", lambda _, x, __: not x, "no paragraph stands between it and the block before"),
    BlockRule(
        "block_short_prose", lambda _, x, c: count_units(x) < c.min_doc_words, "fewer words before it than `min_doc_words`"
    ),
    BlockRule("block_not_text", lambda b, x, _: has_control_bytes(b.code) or has_control_bytes(x), "control characters"),
)


def block_pairs(
    blocks: Iterable[Block], view: BlockView, name: str, config: CodePairsConfig, dropped: Counter[str]
) -> Iterator[tuple[str, CodePair]]:
    """The language and the pair of each block; every block that gives none is counted in `dropped`.

    Args:
        name: of the file, which heads the pairs' names; behind it stands the block's heading.
    """
    for block in blocks:
        x, y = description_of(block), block.code
        reason = next((rule.name for rule in BLOCK_RULES if rule.drops(block, x, config)), None)
        if reason is not None:
            note_drop(dropped, reason, lambda: (x, y))  # noqa: B023 - called at once
            continue
        heading = next((part.text for part in reversed(block.prose) if part.heading), "")
        yield block.language, CodePair(view, x, y, block.line, f"{name}#{heading}" if heading else name)


def description_of(block: Block) -> str:
    """The heading of a block and the last paragraphs below it that fit, as one line."""
    start = next((at for at in range(len(block.prose) - 1, -1, -1) if block.prose[at].heading), -1)
    heading = block.prose[start].text.strip(" :.") if start >= 0 else ""
    kept: list[str] = []
    size = count_units(heading)
    for part in reversed(block.prose[start + 1 :]):
        size += count_units(part.text)
        if kept and size > MOST_UNITS:
            break
        kept.insert(0, part.text if size <= MOST_UNITS else "".join(units(part.text)[:MOST_UNITS]).rstrip())
    text = " ".join(kept)
    return f"{heading}: {text}" if heading and text else heading or text


def has_code(block: Block, least: int) -> bool:
    """True where that many lines hold code, by the language's own rule."""
    if block.language not in language_names():
        return False
    found = rules_of(block.language).code_line.finditer(b"\n" + block.code.encode("utf-8", "replace"))
    return sum(1 for _ in zip(range(least), found, strict=False)) == least


_FENCE = re.compile(r"(?m)^([ ]{0,3}(?:>[ ]?)*[ \t]*)(`{3,}|~{3,})[ \t]*([^\n]*)$")
_QUOTED = re.compile(r"(?m)^[ ]{0,3}(?:>[ ]?)+")
_INFO = re.compile(r"\{?[ \t]*\.?([A-Za-z][\w+#.-]*)")
_SESSIONS = frozenset({"pycon", "pycon3", "python-repl", "doctest"})
_PROMPT = re.compile(r"(?:>>>|\.\.\.)(?: |$)")


def markdown_blocks(text: str) -> Iterator[Block]:
    """The fenced blocks of a Markdown text, in its order; one that is never closed is none."""
    at, line = 0, 1
    pending = iter(_FENCE.finditer(text))
    for opened in pending:
        margin, mark, info = opened.groups()
        if mark[0] == "`" and "`" in info:  # a span of code
            continue
        closed = _closing(pending, margin, mark)
        between = text[at : opened.start()]
        prose = paragraphs(_QUOTED.sub("", between) if ">" in margin else between, line, indented_code=True)
        if closed is None:
            return
        first = line + text.count("\n", at, opened.start()) + 1
        code = _dedented(text[opened.end() + 1 : closed.start()], margin)
        yield make_block(info, code, first, prose)
        line = first + text.count("\n", opened.end() + 1, closed.end())
        at = closed.end()


def _closing(fences: Iterator[re.Match[str]], margin: str, mark: str) -> re.Match[str] | None:
    quotes = margin.count(">")
    for fence in fences:
        before, sign, info = fence.groups()
        if sign.startswith(mark) and not info.strip() and before.count(">") == quotes:
            return fence
    return None


def _dedented(code: str, margin: str) -> str:
    if not margin:
        return code.rstrip("\n")
    lines = code.rstrip("\n").split("\n")
    if ">" in margin:
        lines = [_QUOTED.sub("", line) for line in lines]
    width = len(margin.rpartition(">")[2])
    return "\n".join(line[width:] if not line[:width].strip() else line.lstrip() for line in lines)


def make_block(info: str, code: str, line: int, prose: Sequence[Paragraph]) -> Block:
    """A block by what its fence says; of a session of Python the input alone."""
    found = _INFO.match(info.strip())
    said = found.group(1).lower() if found else ""
    language = "python" if said in _SESSIONS else language_called(said)
    if language == "python" and code.lstrip().startswith(">>>"):
        code = "\n".join(line[4:] for line in map(str.strip, code.split("\n")) if _PROMPT.match(line))
    return Block(language, code, line, prose)
