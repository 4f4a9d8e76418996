"""Rules of a programming language, in the words of its tree-sitter grammar; and what documentation comments say in several.

A language's file states `WalkedRules`, whose definitions hold their documentation, or `CommentedRules`, where it stands above.
"""

from __future__ import annotations

import html
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


@dataclass(frozen=True, slots=True)
class Doc:
    """A documentation string or comment: what it says, and the bytes of the statement or the comments that hold it."""

    value: str
    start: int
    end: int
    line: int  # of its first line, from 1
    above: bool = False  # a comment before the definition, no part of it


@dataclass(frozen=True, kw_only=True)
class LanguageRules:
    """One language, and how its definitions are told from each other."""

    suffixes: tuple[str, ...]  # of its files, in lower case, with the dot
    grammar: str  # module and function of the tree-sitter grammar: imported when the first text is parsed
    code_line: re.Pattern[bytes]  # once in each line, after its newline, that holds code: no comment, no closing bracket
    comment_line: re.Pattern[str]  # after its newline, a line that is a comment alone; its group is what it says
    blank_name: str = "_"  # stands for a function's own name in the view `name`
    module_suffix: re.Pattern[str]  # what of a path is no part of the module's name
    test_function: re.Pattern[str]  # the name of a function that is a test
    test_class: re.Pattern[str]
    constructors: frozenset[str] = frozenset()
    constructor_is_class: bool = False  # a constructor has the name of its class
    standard_methods: frozenset[str] = frozenset()  # every class may have them: CodeSearchNet's list

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


class Steps:
    """Counts the steps of a parser, which stops beyond a limit: no clock, so that the outcome is the same anywhere.

    Real source takes 3 to 18 steps a kB; 8 kB of `/** ` took Go 20,000 and 13 s. The clock is for texts whose steps get
    slower and slower, as those of 200 kB of the same do.
    """

    def __init__(self, data: bytes, seconds: float) -> None:
        self.left = 1_000 + 30 * len(data) // 1_000
        self.end = time.monotonic() + seconds

    def __call__(self, *_: object) -> bool:
        self.left -= 1
        return self.left < 0 or time.monotonic() > self.end


@dataclass(frozen=True, kw_only=True)
class CommentedRules(LanguageRules):
    """A language whose documentation is a comment above: found by a walk that meets the comments beside the definitions."""

    definitions: dict[str, DefinitionKind]  # node types that are a definition where `name_of` finds a name
    comments: tuple[str, ...]
    signs: tuple[re.Pattern[bytes], ...]  # one lies in every node around a definition: others are not entered
    ignore_case: bool = False  # of the signs
    opening: bytes = b""  # stands somewhere between a sign and the end of such a node
    entered: tuple[str, ...] = ()  # but for these, in which a definition needs no sign
    name_of: Callable[[Node, bytes], tuple[str, Node] | None]  # of a definition: its name, and where that stands
    given_by: tuple[str, ...] = ()  # fields of a definition that hold the function or class itself, where it is given a name
    left_out: frozenset[str] = frozenset()  # types of leading children that are no part of y: annotations
    left_out_signs: bytes = b""  # what these begin with
    between: re.Pattern[bytes]  # all that may stand between the documentation and its definition
    doc_above: Callable[[bytes, list[Node]], list[Node]]  # which of the comments so far are the documentation of what follows
    clean: Callable[[list[str]], str]  # what those comments say: no marks, no tags, no markup

    @cached_property
    def definition_ids(self) -> dict[int, DefinitionKind]:
        return {self.id_of(kind): sort for kind, sort in self.definitions.items()}

    @cached_property
    def comment_ids(self) -> frozenset[int]:
        return frozenset(map(self.id_of, self.comments))

    @cached_property
    def entered_ids(self) -> frozenset[int]:
        return frozenset(map(self.id_of, self.entered))

    def parse(self, data: bytes, seconds: float) -> Node:
        """The root of a text's tree.

        Raises:
            ParseLimit: the text takes too many steps, or seconds.
        """
        try:
            return self.parser.parse(lambda offset, _: data[offset:], progress_callback=Steps(data, seconds)).root_node
        except ValueError as error:  # stopped
            self.parser.reset()
            raise ParseLimit("no real source of its length takes so many steps or seconds to parse") from error


def named(node: Node, data: bytes) -> tuple[str, Node] | None:
    """The name in the field `name`."""
    name = node.child_by_field_name("name")
    if name is None or name.start_byte == name.end_byte:
        return None  # the stump of a syntax error
    return data[name.start_byte : name.end_byte].decode(), name


# The same words in most languages: testParse, TestParse, test_parse; ParserTest, TestParser, ParserSpec.
TEST_FUNCTION = re.compile(r"[Tt]est(?![a-z])")
TEST_CLASS = re.compile(r"Tests?(?![a-z])|\w*(?:[a-z\d]Tests?|TestCase|[a-z\d]Spec|_[Tt]est)$")

# A line of a language with braces: neither comment nor brackets alone.
BRACES_CODE_LINE = re.compile(rb"\n[ \t;{}()\[\],]*(?!//|/\*|\*)[^\s;{}()\[\],]")
SLASHES_COMMENT_LINE = re.compile(r"\n[ \t]*//+[ \t!/]*([^\n]*)")

_GAP = re.compile(rb"\s*")


def last_doc_block(data: bytes, comments: list[Node]) -> list[Node]:
    """The last `/** */` of those before a definition; other comments may follow it, code may not (javac, jsdoc, PHP)."""
    for index in range(len(comments) - 1, -1, -1):
        comment = comments[index]
        start = comment.start_byte
        if data.startswith(b"/**", start) and comment.end_byte - start > len(b"/**/"):
            return [comment]
        if index and _GAP.fullmatch(data, comments[index - 1].end_byte, start) is None:
            break
    return []


def run_of_lines(data: bytes, comments: list[Node]) -> list[Node]:
    """The comments on consecutive lines that end with this one, none of which stands behind code (go/doc, YARD)."""
    first = len(comments) - 1
    start = comments[first].start_byte
    while first and data[comments[first - 1].end_byte : start].strip(b" \t") == b"\n":
        first -= 1
        start = comments[first].start_byte
    line = data.rfind(b"\n", 0, start) + 1
    behind_code = bool(data[line:start].strip())  # the others follow a newline
    return comments[first + behind_code :]


# Patterns for a line begin with its newline, and the text with one: the regular expression engine looks for a letter ten
# times as fast as for `^`, and most of a comment is prose.
_STAR = re.compile(r"\n[ \t]*\*+(?!/)[ \t]?")


def without_stars(block: str) -> str:
    """The text in a `/* */`."""
    return _STAR.sub("\n", "\n" + _inside(block))[1:].rstrip("* \t\n")


def _inside(block: str) -> str:
    return block[2:-2] if block.endswith("*/") else block[2:]


_TAG_LINE = re.compile(r"\n[ \t]*@(?!(?:desc|description|summary)\b)[A-Za-z]")
# the same before the stars are taken off
_STARRED = r"\n[ \t]*(?:\*+(?!/)[ \t]?)?[ \t]*@"
_STARRED_TAG = re.compile(_STARRED + r"(?!(?:desc|description|summary)\b)[A-Za-z]")
_OF_ANOTHER = re.compile(_STARRED + r"(?:file|fileoverview|overview|module|typedef|callback|namespace)\b")
_TEXT_TAG = re.compile(r"\n[ \t]*@(?:desc|description|summary)\b[ \t]*")
# a tag and what it says, which may hold one pair of braces: {@code Map{k}}
_INLINE_TAG = re.compile(r"\{@(\w+)([^{}]*+(?:\{[^{}]*+\}[^{}]*+)*+)\}")
_PARAGRAPH_TAG = re.compile(r"(?i)</?(?:p|ul|ol|li|dl|dt|dd|pre|table|tr|td|th|div|h[1-6]|hr|blockquote)\b[^<>]*>")
_MARKUP_TAG = re.compile(r"(?i)</?(?:a|b|big|cite|code|em|font|i|img|kbd|samp|small|span|strong|sub|sup|tt|u|var)\b[^<>]*>")
_BREAK = re.compile(r"(?i)<br[ \t]*/?>")
_MARKDOWN_LINK = re.compile(r"!?\[([^\[\]\n]+)\]\((?:[^()\s]+)\)")


def tagged_prose(blocks: list[str]) -> str:
    """What Javadoc, JSDoc and PHPDoc say before their first tag (`@param`): inline tags and HTML become plain words.

    The text of `@description` and `@summary` counts; a comment about the file, module or a type says nothing here.
    """
    text = "\n" + _inside(blocks[0])  # `last_doc_block` gives one
    tag = _STARRED_TAG.search(text) if "@" in text else None
    if tag is None:
        text = _STAR.sub("\n", text).rstrip("* \t\n")
    elif _OF_ANOTHER.search(text, tag.start()):
        return ""
    else:  # half of most comments are tags: what they say is not looked at
        text = _STAR.sub("\n", text[: tag.start()])
    if "@" in text:
        text, n_text_tags = _TEXT_TAG.subn("\n", text)
        tag = _TAG_LINE.search(text) if n_text_tags else None
        text = _INLINE_TAG.sub(_inline_text, text[: tag.start()] if tag else text)
    return without_markup(text).strip()


_LINK = re.compile(r"([^\s(]*+(?:\([^()]*+\))?)(.*)", re.S)  # Javadoc's target may list parameters: #of(int, Object[])


def _inline_text(inline: re.Match[str]) -> str:
    name, content = inline.groups()
    tag, said = name.lower(), content.strip()
    if tag == "code":  # most are
        return said
    if tag in ("link", "linkplain", "see", "tutorial"):
        match = _LINK.fullmatch(said.replace("|", " "))
        assert match is not None, f"no target in {said!r}"  # it fits any text
        target, label = match.groups()
        return label.strip() or target.lstrip("#").replace("#", ".")
    return "" if tag in ("inheritdoc", "docroot", "internal", "example") else said


def without_markup(text: str) -> str:
    """Text without HTML and Markdown links; where a block of HTML begins, a new paragraph does."""
    if "<" in text:
        text = _MARKUP_TAG.sub("", _BREAK.sub(" ", _PARAGRAPH_TAG.sub("\n\n", text)))
    if "](" in text:
        text = _MARKDOWN_LINK.sub(r"\1", text)
    return html.unescape(text) if "&" in text else text
