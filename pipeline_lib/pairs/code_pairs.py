"""(docstring, function) pairs of a source file (paper, section 2.2): candidates, drop rules as data, and what stays.

y is the function from `def` to its end, without its docstring and without its decorators. A decorator's arguments
(validation tables, command-line options, documentation templates) run to dozens of lines, and would push the body out of
the tokens that y is cut to; CodeSearchNet leaves them out too. A nested function is a candidate of its own and also stays,
docstring and all, in the function around it. In the other languages y is from the first modifier or the name that the
function is given to, without annotations and attributes; the documentation stands above it anyway.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from pipeline_lib.config.data import SHORT, CodePairsConfig, View
from pipeline_lib.languages.rules import DefinitionKind, Doc, LanguageRules
from pipeline_lib.languages.scripts import count_units
from pipeline_lib.pairs.definitions import Definition
from pipeline_lib.pairs.filters import has_control_bytes, note_drop

VIEWED: dict[View, DefinitionKind] = {"docstring": "function", "name": "function", "class": "class"}


@dataclass(frozen=True, slots=True)
class CodePair:
    """Description of a function or class, and its source without that."""

    view: str
    x: str
    y: str
    line: int  # of the first line of y
    name: str


def code_pairs(
    definitions: list[Definition], data: bytes, config: CodePairsConfig, rules: LanguageRules, dropped: Counter[str]
) -> Iterator[CodePair]:
    """The pairs of one file; every function and class that gives none is counted in `dropped`, once a view.

    Behind all others stand those of short functions, which are for training alone: what stands before is the same without.
    """
    short: list[CodePair] = []
    for index, definition in enumerate(definitions):
        for view in config.views:
            if definition.kind != VIEWED[view]:
                continue
            members = list(members_of(definitions, index)) if definition.kind == "class" else []
            candidate = Candidate(definition, view, data, rules, members)
            reason = code_drop(candidate, config)
            if reason is None:
                yield CodePair(view, candidate.x, candidate.y, definition.line, definition.qualified_name)
            elif reason == "trivial" and view == "docstring" and is_for_training(candidate, config):
                short.append(CodePair(SHORT, candidate.x, candidate.y, definition.line, definition.qualified_name))
            else:
                note_drop(dropped, reason, lambda: (candidate.x, candidate.y))  # noqa: B023 - called at once
    yield from short


def is_for_training(candidate: Candidate, config: CodePairsConfig) -> bool:
    """True for a function that is too short for `min_body_lines` alone, and long enough for `min_function_lines`."""
    if config.min_function_lines is None or not candidate.has_lines(config.min_function_lines):
        return False
    return code_drop(candidate, config.model_copy(update={"min_body_lines": 1})) is None


def note_broken_parse(module: Definition, data: bytes, dropped: Counter[str]) -> int:
    """Count a file whose grammar gave up somewhere. Returns the bytes that no construct was found for."""
    if module.gaps is None:
        return 0
    lost = sum(end - start for start, end in module.gaps)
    note_drop(dropped, "broken_parse", lambda: _broken_sample(module.gaps or [], lost, data))
    return lost


def _broken_sample(gaps: list[tuple[int, int]], lost: int, data: bytes) -> tuple[str, str]:
    """What is lost and where, and the beginning of the longest gap."""
    start, end = max(gaps, key=lambda gap: gap[1] - gap[0], default=(0, 0))
    line = data.count(b"\n", 0, start) + 1
    share = f"{lost:,} of {len(data):,} bytes ({lost / len(data):.0%}) not understood, the most from line {line}"
    return share, data[start : min(end, start + 400)].decode(errors="replace")


def members_of(definitions: list[Definition], index: int) -> Iterator[Definition]:
    """The functions directly in a class: they follow it in the order of the source."""
    owner = definitions[index]
    for definition in islice(definitions, index + 1, None):
        if definition.start >= owner.end:
            return
        if definition.parent is owner and definition.kind == "function":
            yield definition


class Candidate:
    """A function or class under one view, and what the drop rules ask of it; what costs is computed when it is asked for.

    Args:
        members: the functions directly in a class, whose bodies its y leaves out.
    """

    __slots__ = ("_x", "data", "definition", "members", "rules", "view")

    def __init__(
        self, definition: Definition, view: View, data: bytes, rules: LanguageRules, members: Sequence[Definition] = ()
    ) -> None:
        self._x: str | None = None
        self.definition = definition
        self.view = view
        self.data = data
        self.rules = rules
        self.members = members

    @property
    def x(self) -> str:
        """Description of the code: the docstring's first paragraph, or the words of its name and its comments."""
        if self._x is None:
            doc = self.definition.doc
            if self.view == "name":
                self._x = f"{self._qualified_name_words()} {' '.join(self._comments())}".rstrip()
            else:
                self._x = first_paragraph(doc.value) if doc else ""
        return self._x

    @property
    def name_words(self) -> int:
        """Words of the name itself."""
        return len(name_words(self.definition.name).split())

    @property
    def size_bytes(self) -> int:
        """Bytes of the source that y is made of."""
        definition = self.definition
        return definition.end - definition.start - sum(member.end - member.body_start for member in self.members)

    def has_body(self, least_lines: int) -> bool:
        """True where that many lines of body hold code: no docstring, no comment, not empty."""
        definition, doc = self.definition, held_doc(self.definition)
        body = b"\n" + self.data[(doc.end if doc else definition.body_start) : definition.end]
        return sum(1 for _ in islice(self.rules.code_line.finditer(body), least_lines)) == least_lines

    def has_lines(self, least: int) -> bool:
        """True where that many lines hold something, the documentation's aside."""
        return least <= 1 or sum(map(bool, map(str.strip, without_doc(self.data, self.definition).splitlines()))) >= least

    @property
    def y(self) -> str:
        """The source without what x says, dedented."""
        definition, data = self.definition, self.data
        if self.view == "name":
            source = self.rules.comment_line.sub("", without_doc(data, definition))
            head = data[definition.start : definition.name_start].decode()
            rest = source[len(head) + len(data[definition.name_start : definition.name_end].decode()) :]
            source = head + self.rules.blank_name + rest
        elif self.view == "class":
            source = without_bodies(data, definition, self.members)
        else:
            source = without_doc(data, definition)
        line_start = data.rfind(b"\n", 0, definition.start) + 1
        line = data[line_start : definition.start].decode()
        indent = line[: len(line) - len(line.lstrip())]
        if indent:
            source = source.replace("\n" + indent, "\n")
        return source.rstrip()

    def _qualified_name_words(self) -> str:
        """A method's name says little without that of its class."""
        parent = self.definition.parent
        names = [parent.name] if parent is not None and parent.kind == "class" else []
        return " ".join(map(name_words, [*names, self.definition.name]))

    def _comments(self) -> list[str]:
        body = self.data[self.definition.name_end : self.definition.end].decode()
        return [" ".join(words.split()) for words in self.rules.comment_line.findall(body)]


CodeRule = tuple[str, Callable[[Candidate, CodePairsConfig], bool]]


def _is_dunder(name: str) -> bool:
    return name.startswith("__") and name.endswith("__") and len(name) > 4


def _is_constructor(candidate: Candidate) -> bool:
    name, parent, rules = _last_name(candidate), candidate.definition.parent, candidate.rules
    return name in rules.constructors or (rules.constructor_is_class and parent is not None and parent.name == name)


def _last_name(candidate: Candidate) -> str:
    """Name without what it is a method of, where the name says it: Go's T.Name, JavaScript's Foo.bar."""
    return candidate.definition.name.rpartition(".")[2]


# In order of cost: the last ones read the function's text and its documentation.
CODE_RULES: tuple[CodeRule, ...] = (
    ("test", lambda c, _: c.definition.in_test),
    ("syntax_error", lambda c, _: c.definition.broken),
    ("dunder", lambda c, _: _is_dunder(c.definition.name)),
    ("constructor", lambda c, _: c.view != "class" and _is_constructor(c)),
    ("standard_method", lambda c, _: c.view != "class" and _last_name(c) in c.rules.standard_methods),
    ("has_doc", lambda c, _: c.view == "name" and c.definition.doc is not None),
    ("no_doc", lambda c, _: c.view != "name" and c.definition.doc is None),
    (
        "trivial",
        lambda c, config: not c.has_body(config.min_body_lines),
    ),  # half of all
    ("short_name", lambda c, config: c.view == "name" and c.name_words < config.min_name_words),
    ("short_doc", lambda c, config: c.view != "name" and count_units(c.x) < config.min_doc_words),
    ("not_text", lambda c, _: has_control_bytes(c.x)),  # escapes such as \0 and \ud800 in a docstring
    ("too_large", lambda c, config: c.size_bytes > config.max_function_bytes),
)


def code_drop(candidate: Candidate, config: CodePairsConfig) -> str | None:
    """The reason to drop a function, or None to keep it."""
    for reason, applies in CODE_RULES:
        if applies(candidate, config):
            return reason
    return None


def without_bodies(data: bytes, owner: Definition, members: Sequence[Definition]) -> str:
    """A class without its docstring and the bodies of its functions."""
    kept, at = [], owner.start
    doc = held_doc(owner)
    for hole in ([] if doc is None else [(doc.start, doc.end)]) + [(m.body_start, m.end) for m in members]:
        if hole[0] >= at:
            kept.append(data[at : hole[0]].decode().rstrip())
            at = hole[1]
    return "".join([*kept, data[at : owner.end].decode()])


def held_doc(definition: Definition) -> Doc | None:
    """The documentation where it is a part of the definition, as in Python; a comment above is none."""
    doc = definition.doc
    return None if doc is None or doc.above else doc


_AFTER_DOC = re.compile(r"[ \t]*(?:;[ \t]*)?(?:#[^\n]*)?(?:\n[ \t]*(?=\n))*")


def without_doc(data: bytes, definition: Definition) -> str:
    """The source from the definition's first byte to its last, without its docstring and what trails on its line."""
    doc = held_doc(definition)
    if doc is None:
        return data[definition.start : definition.end].decode()
    head = data[definition.start : doc.start].decode().rstrip()
    tail = data[doc.end : definition.end].decode()
    match = _AFTER_DOC.match(tail)
    assert match is not None
    tail = tail[match.end() :]
    return head + tail if tail.startswith("\n") or not tail else f"{head} {tail}"


# The end of a first paragraph: an empty line, or a line that opens a field list, a section, an underline or an example.
_PARAGRAPH_END = re.compile(
    r"\n[ \t]*(?:\n|:[a-z][\w ,*|.\[\]]*:(?:\s|$)|@(?:param|return|type|rtype|raise)|\.\. |>>>|[-=~^*]{3,}[ \t]*(?:\n|$)"
    r"|@(?:arg|keyword|kwarg|[ic]?var|note|warning|attention|bug|todo|since|version|deprecated|require|precondition"
    r"|postcondition|invariant|except|author|group)[a-z]*(?:[ \t]+[\w*.]+)?:\s"  # Epydoc's
    r"|(?:Args|Arguments|Parameters|Params|Returns?|Yields?|Raises|Examples?|Notes?|Usage)[ \t]*:?[ \t]*(?:\n|$))"
)
_ROLE = re.compile(r":[a-z][\w:+.-]*:`[~!]?([^`]*)`")


def first_paragraph(doc: str) -> str:
    """The first paragraph of a docstring as one line: spaces folded, roles and backticks of reST taken off."""
    text = "\n" + doc.strip()
    match = _PARAGRAPH_END.search(text)
    text = text[: match.start()] if match else text
    if "`" in text:
        text = _ROLE.sub(r"\1", text).replace("`", "")
    return " ".join(text.split())


_WORD = re.compile(r"[^\W\d_]+?(?=[A-Z][^\W\d_A-Z]|\b|_|\d|(?<=[^\W\d_A-Z])[A-Z])|\d+")


def name_words(name: str) -> str:
    """The words of an identifier: parseHTTPDate_v2 -> parse http date v 2."""
    return " ".join(word.lower() for word in _WORD.findall(name))
