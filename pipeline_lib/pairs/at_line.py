"""Function or passage at a line of a file on this machine, cut out as extraction cuts it."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from pipeline_lib.config.data import CodePairsConfig, SourceConfig, TextPairsConfig
from pipeline_lib.errors import UserError
from pipeline_lib.languages import rules_of
from pipeline_lib.languages.rules import LanguageRules, ParseLimit
from pipeline_lib.pairs.code_pairs import Candidate, members_of
from pipeline_lib.pairs.definitions import Definition, find_definitions
from pipeline_lib.pairs.prose import Paragraph, book_of, paragraphs
from pipeline_lib.pairs.text_pairs import segment
from pipeline_lib.sources.safe_open import Refusal, SourceText, read_source
from pipeline_lib.sources.source_file import CODE_FORMS, form_of

MAX_CHARACTERS = 20_000  # of a block of lines that no extractor knows
WORDS_COMPARED = 8  # by which a paragraph is found in a segment


@dataclass(frozen=True)
class TextAt:
    """A text as an index would hold it, and where it begins."""

    text: str
    kind: str  # code or text
    name: str
    line: int


def text_at(path: Path, line: int) -> TextAt:
    """The innermost function at a line, else its class; in prose the passage; elsewhere the lines around it.

    A line of a function's decorators, annotations or documentation is the function's too.

    Raises:
        UserError: the file is not there or no text, has fewer lines, or the line is empty and in no function.
    """
    form = form_of(path.name)
    found = read_source(str(path.resolve()), SourceConfig().max_file_bytes, python=form == "python")
    if isinstance(found, Refusal):
        raise UserError(f"{path}: {found.reason}: {found.detail}")
    n_lines = found.text.count("\n") + (not found.text.endswith("\n") and bool(found.text))
    if not 1 <= line <= n_lines:
        raise UserError(f"{path}:{line}: the file has {n_lines:,} lines")
    if form in CODE_FORMS:
        return _in_code(found, line, path, rules_of(form))
    return _in_prose(found.text, line, path, form)


def _in_code(source: SourceText, line: int, path: Path, rules: LanguageRules) -> TextAt:
    limits = CodePairsConfig()
    try:
        definitions = find_definitions(
            source.data, rules, rules.module_name(path.name), limits.parse_seconds, limits.parse_steps_per_kb
        )
    except ParseLimit as error:
        raise UserError(f"{path}: cannot be parsed: {error}") from error
    index = _innermost(definitions, source, line)
    if index is None:
        return _block(source.text, line, path, "code")
    definition = definitions[index]
    if definition.kind == "class":
        candidate = Candidate(definition, "class", source.data, rules, list(members_of(definitions, index)))
    else:
        candidate = Candidate(definition, "docstring", source.data, rules)
    return TextAt(candidate.y, "code", definition.qualified_name, definition.line)


def _innermost(definitions: list[Definition], source: SourceText, line: int) -> int | None:
    """Place of the smallest function around a line, or of the one right below it, or of the smallest class."""
    lines = source.data.split(b"\n")
    start = sum(map(len, lines[: line - 1])) + line - 1
    end = start + len(lines[line - 1])
    around = [
        (definition.kind == "class", definition.end - definition.start, index)
        for index, definition in enumerate(definitions)
        if definition.kind != "module" and definition.start <= end and definition.end > start
    ]
    below = _below(definitions, [one.strip() for one in lines], line)
    if below is not None and (not around or min(around)[0] or definitions[min(around)[2]].start < definitions[below].start):
        return below
    return min(around)[2] if around else None


def _below(definitions: list[Definition], lines: list[bytes], line: int) -> int | None:
    """The function or class whose decorators or documentation hold the line: nothing but these stands between."""
    following = [(definition.line, index) for index, definition in enumerate(definitions) if definition.line > line]
    if not following:
        return None
    first, index = min(following)
    between = lines[line - 1 : first - 1]
    is_head = all(between) and _heads(between[0]) and not any(text.endswith((b";", b"{", b"}")) for text in between)
    return index if is_head else None


def _heads(text: bytes) -> bool:
    return text.startswith((b"@", b"#", b"//", b"/*", b"*", b"<<", b"--"))


def _in_prose(text: str, line: int, path: Path, form: str | None) -> TextAt:
    book, first = book_of(text) if form in (None, "plain") else (text, 1)
    found = paragraphs(book, first, indented_code=form == "markdown")
    here = [paragraph for paragraph in found if paragraph.line <= line]
    if not here:
        return _block(text, line, path, "text")
    paragraph = here[-1]
    for cut in reversed(segment(found, TextPairsConfig())):
        if cut.line <= paragraph.line and _beginning(paragraph) in " ".join(cut.text.split()):
            return TextAt(cut.text, "text", path.name, cut.line)
    return TextAt(paragraph.text, "text", path.name, paragraph.line)


def _beginning(paragraph: Paragraph) -> str:
    return " ".join(islice(paragraph.text.split(), WORDS_COMPARED))


def _block(text: str, line: int, path: Path, kind: str) -> TextAt:
    """The lines around one, to the next empty ones."""
    lines = text.split("\n")
    if not lines[line - 1].strip():
        raise UserError(f"{path}:{line}: an empty line, in no function; name a line with text on it")
    start, end = line - 1, line
    while start and lines[start - 1].strip():
        start -= 1
    while end < len(lines) and lines[end].strip():
        end += 1
    return TextAt("\n".join(lines[start:end])[:MAX_CHARACTERS], kind, path.name, start + 1)
