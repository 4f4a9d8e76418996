"""Blocks of code and the prose right before them: fenced blocks of Markdown, and cells of notebooks (.ipynb).

A user asks in the words in which a manual says what its example does. x is the paragraph before the block, below its heading; y
is the block as it stands, without the prompts of a session. A notebook's JSON is read, nothing is run; outputs, attachments and
metadata are left out.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

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
