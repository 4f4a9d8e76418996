"""Rules of a programming language, in the words of its tree-sitter grammar.

A language's file states `WalkedRules`, whose definitions hold their documentation, or `CommentedRules`, where it stands above.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from typing import Literal

from tree_sitter import Language, Node, Parser

from pipeline_lib.errors import UserError

DefinitionKind = Literal["module", "class", "function"]

# The words of most languages, unless one states others: testParse, TestParse, test_parse; ParserTest, TestParser, ParserSpec.
TEST_FUNCTION = re.compile(r"[Tt]est(?![a-z])")
TEST_CLASS = re.compile(r"Tests?(?![a-z])|\w*(?:[a-z\d]Tests?|TestCase|[a-z\d]Spec|_[Tt]est)$")

# A line of a language with braces and slashes: neither comment nor brackets alone.
BRACES_CODE_LINE = re.compile(rb"\n[ \t;{}()\[\],]*(?!//|/\*|\*)[^\s;{}()\[\],]")
SLASHES_COMMENT_LINE = re.compile(r"\n[ \t]*//+[ \t!/]*([^\n]*)")


class Doc:
    """A documentation string or comment: what it says, and the bytes of the statement or the comments that hold it.

    Args:
        value: what it says, or the work that tells it, which is done when somebody asks: of most comments nobody does.
        line: of its first line, from 1.
        above: a comment before the definition, no part of it.
        held: where the value is work: the source, and what cuts a comment off before its first tag.
    """

    __slots__ = ("_held", "_value", "above", "end", "line", "start")

    def __init__(
        self,
        value: str | Callable[[], str],
        start: int,
        end: int,
        line: int,
        above: bool = False,
        held: tuple[bytes, Callable[[bytes], bytes]] | None = None,
    ) -> None:
        self._value, self._held = value, held
        self.start, self.end, self.line, self.above = start, end, line, above

    @property
    def value(self) -> str:
        """The text without marks, tags and markup."""
        if not isinstance(self._value, str):
            self._value = self._value()
        return self._value

    def may_have(self, n_words: int) -> bool:
        """False where the text has fewer words, or characters of a script without spaces, for sure."""
        if self._held is None or isinstance(self._value, str):
            return len(self.value) >= n_words
        data, before_tags = self._held
        raw = data[self.start : self.end]
        if raw.isascii() and len(raw) + 2 * _markup(raw) < 2 * n_words - 1:
            return False  # as most: a word and the space behind it are two letters at least
        raw = before_tags(raw)
        if len(raw) < n_words or raw.isascii():
            return len(raw) >= n_words and len(raw.split(None, n_words)) + _markup(raw) >= n_words
        return len(self.value) >= n_words


def _markup(raw: bytes) -> int:
    """How often one word may become two, where markup is taken off."""
    return raw.count(b"<") + raw.count(b"&") + raw.count(b"{")


@dataclass(frozen=True, kw_only=True)
class LanguageRules:
    """One language, and how its definitions are told from each other."""

    suffixes: tuple[str, ...]  # of its files, in lower case, with the dot
    shared_suffixes: tuple[str, ...] = ()  # another language's, read as this one's where only this one is asked for
    grammar: str  # module and function of the tree-sitter grammar: imported when the first text is parsed
    # once in each line that holds code, after its newline; a line that is a comment alone, whose group is what it says
    code_line: re.Pattern[bytes] = BRACES_CODE_LINE
    comment_line: re.Pattern[str] = SLASHES_COMMENT_LINE
    blank_name: str = "_"  # stands for a function's own name in the view `name`
    module_suffix: re.Pattern[str]  # what of a path is no part of the module's name
    test_function: re.Pattern[str] = TEST_FUNCTION  # the name of a function that is a test
    test_class: re.Pattern[str] = TEST_CLASS
    constructors: frozenset[str] = frozenset()
    constructor_is_class: bool = False  # a constructor has the name of its class
    standard_methods: frozenset[str] = frozenset()  # every class may have them: CodeSearchNet's list
    told_by_text: Callable[[bytes], str] | None = None  # the language of a text whose suffix two of them share

    @cached_property
    def language(self) -> Language:
        """The grammar.

        Raises:
            UserError: it is not installed.
        """
        module, _, function = self.grammar.partition(":")
        try:
            return Language(getattr(import_module(module), function)())
        except ModuleNotFoundError as error:
            raise UserError(
                f"code in {'/'.join(self.suffixes)} needs the module {error.name}, which is not installed here: "
                "run `pip install 'cpt-factory[dumps]'`, or leave the language out of extract.code.languages"
            ) from error

    @cached_property
    def parser(self) -> Parser:
        return Parser(self.language)

    def id_of(self, kind: str) -> int:
        """The number of a node type in the grammar."""
        number = self.language.id_for_node_kind(kind, True)
        assert number is not None, f"{self.grammar} has no node type {kind!r}"
        return number

    def module_name(self, path: str) -> str:
        """The dotted name of the module in a file."""
        return self.module_suffix.sub("", path).replace("/", ".")


@dataclass(frozen=True, kw_only=True)
class WalkedRules(LanguageRules):
    """A language whose definitions open with a keyword and hold their documentation: found by a walk that skips the rest."""

    definitions: dict[str, DefinitionKind]  # node types that open a scope with a name
    containers: tuple[str, ...]  # node types that definitions may lie in; all others are not entered
    keywords: tuple[re.Pattern[bytes], ...]  # one of them is in every definition: text without any is not walked
    find_doc: Callable[[Node, bytes], Doc | None]  # given the body of a definition, or the root

    @cached_property
    def definition_ids(self) -> dict[int, DefinitionKind]:
        return {self.id_of(kind): sort for kind, sort in self.definitions.items()}

    @cached_property
    def container_ids(self) -> frozenset[int]:
        kinds = (*self.containers, *self.definitions)
        return frozenset(self.id_of(kind) for kind in kinds)


class ParseLimit(ValueError):
    """A text made to be hard to parse: error recovery took more steps than any real source of its length does."""


def step_limit(data: bytes, seconds: float, steps_per_kb: float) -> Callable[..., bool]:
    """Count of the steps of a parser, which stops beyond a limit: no clock, so that the outcome is the same anywhere.

    Real source takes 3 to 18 steps a kB; 8 kB of `/** ` took Go 20,000 and 13 s. The clock, at every eighth step, is for texts
    whose steps get slower and slower, as those of 200 kB of the same do.
    """
    left = 1_000 + int(steps_per_kb * len(data)) // 1_000
    end = time.monotonic() + seconds

    def stops(*_: object) -> bool:
        nonlocal left
        left -= 1
        return left < 0 or (not left & 7 and time.monotonic() > end)

    return stops


@dataclass(frozen=True, kw_only=True)
class CommentedRules(LanguageRules):
    """A language whose documentation is a comment above: found by a walk that meets the comments beside the definitions."""

    definitions: dict[str, DefinitionKind]  # node types that are a definition where `name_of` finds a name
    comments: tuple[str, ...]
    signs: tuple[re.Pattern[bytes], ...]  # one lies in every node around a definition: others are not entered
    ignore_case: bool = False  # of the signs
    opening: bytes = b""  # stands somewhere between a sign and the end of such a node
    entered: tuple[str, ...] = ()  # but for these, in which a definition needs no sign
    opened_by: Callable[[Node], Node | None] | None = None  # the definition that the smallest node at a sign may open: no walk
    unsigned: re.Pattern[bytes] | None = None  # what may hide the sign of a definition: a text that holds it is walked
    name_of: Callable[[Node, bytes], tuple[str, Node] | None]  # of a definition: its name, and where that stands
    body_of: Callable[[Node], Node | None] | None = None  # of a definition, where the grammar has no field `body` for it
    wrapped_by: frozenset[str] = (
        frozenset()
    )  # types of parents that a definition begins with: what says its parameters of types
    marked_test: Callable[[Node, bytes], bool] | None = None  # whether an attribute or annotation says that it is a test
    trailing: bool = False  # a definition without brackets holds the comments behind it, which are those of the next
    most_open_comments: int | None = None  # beyond which the grammar takes gigabytes: comments that nest, and are never closed
    given_by: tuple[str, ...] = ()  # fields of a definition that hold the function or class itself, where it is given a name
    left_out: frozenset[str] = frozenset()  # types of leading children that are no part of y: annotations
    left_out_signs: bytes = b""  # what these begin with
    between: re.Pattern[bytes]  # all that may stand between the documentation and its definition
    doc_above: Callable[[bytes, list[Node]], list[Node]]  # which of the comments so far are the documentation of what follows
    doc_inside: bool = False  # documentation may stand behind the annotations, too
    clean: Callable[[list[str]], str]  # what those comments say: no marks, no tags, no markup
    tag: re.Pattern[bytes] | None = None  # the line behind whose beginning there is no prose, if the next one is not there
    text_tag: re.Pattern[bytes] | None = None  # a tag behind which there is prose all the same
    mend: Callable[[bytes], bytes] = bytes  # a text whose parse is broken, blank where the grammar is known to fail
    misread: re.Pattern[bytes] | None = None  # what the grammar takes for something else: a text that holds it is mended too

    @cached_property
    def definition_ids(self) -> dict[int, DefinitionKind]:
        return {self.id_of(kind): sort for kind, sort in self.definitions.items()}

    @cached_property
    def comment_ids(self) -> frozenset[int]:
        return frozenset(map(self.id_of, self.comments))

    @cached_property
    def between_block(self) -> re.Pattern[bytes]:
        """All that may stand between a block of documentation and its definition: other comments, too."""
        return re.compile(rb"(?:\s*+(?://[^\n]*+|/\*(?:[^*]|\*(?!/))*+\*/))*+(?:" + self.between.pattern + rb")")

    @cached_property
    def entered_ids(self) -> frozenset[int]:
        return frozenset(map(self.id_of, self.entered))

    def before_tags(self, raw: bytes) -> bytes:
        """A comment up to its first tag, or all of it where a tag may hold prose."""
        # a tag lies in the line of its sign, and a line begins with its newline
        if self.tag is None or (at := raw.find(b"@")) < 0:
            return raw
        tag = self.tag.search(raw, max(0, raw.rfind(b"\n", 0, at)))
        if tag is None or (self.text_tag is not None and self.text_tag.search(raw)):
            return raw
        return raw[: tag.start()]

    def parse(self, data: bytes, seconds: float, steps_per_kb: float = 30) -> Node:
        """The root of a text's tree.

        Raises:
            ParseLimit: the text takes too many steps, or seconds, or opens more comments than it closes.
        """
        most = self.most_open_comments
        if most is not None and data.count(b"/*") - data.count(b"*/") > most:
            raise ParseLimit(f"more than {most} comments that are never closed")
        limit = step_limit(data, seconds, steps_per_kb)
        try:
            return self.parser.parse(lambda offset, _: data[offset:], progress_callback=limit).root_node
        except ValueError as error:  # stopped
            self.parser.reset()
            detail = "no real source of its length takes so many steps or seconds to parse; see extract.code.parse_seconds"
            raise ParseLimit(detail) from error


def named(node: Node, data: bytes) -> tuple[str, Node] | None:
    """The name in the field `name`."""
    return called(node.child_by_field_name("name"), data)


def called(name: Node | None, data: bytes) -> tuple[str, Node] | None:
    """A name and where it stands; None where there is none, or the stump of a syntax error."""
    if name is None or name.start_byte == name.end_byte:
        return None
    return data[name.start_byte : name.end_byte].decode(), name


def marked_by(mark: re.Pattern[bytes]) -> Callable[[Node, bytes], bool]:
    """Whether the modifiers that a declaration begins with hold a mark, such as @Test."""

    def is_marked(node: Node, data: bytes) -> bool:
        first = node.child(0)
        return first is not None and first.type == "modifiers" and bool(mark.search(data, first.start_byte, first.end_byte))

    return is_marked


# A line of documentation that begins with a tag
STARRED_TAG = re.compile(rb"\n[ \t]*(?:\*+|///)?[ \t]*@[A-Za-z]")
TEXT_TAG = re.compile(rb"@(?:desc|summary|classdesc)")
