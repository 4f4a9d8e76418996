"""A function or class on its way to a pair: what x and y would be.

y is the function from `def` to its end, without its docstring and without its decorators. A decorator's arguments
(validation tables, command-line options, documentation templates) run to dozens of lines, and would push the body out of
the tokens that y is cut to; CodeSearchNet leaves them out too. A nested function is a candidate of its own and also stays,
docstring and all, in the function around it. In the other languages y is from the first modifier or the name that the
function is given to, without annotations and attributes; the documentation stands above it anyway.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import islice

from pipeline_lib.config.data import View
from pipeline_lib.languages.rules import Doc, LanguageRules
from pipeline_lib.pairs.definitions import Definition


class Candidate:
    """A function or class under one view, and what the drop rules ask of it; what costs is computed when it is asked for.

    Args:
        members: the functions directly in a class, whose bodies its y leaves out.
    """

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
        """What describes the code: the docstring's first paragraph, or the words of its name and its comments."""
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
        """Of the source that y is made of."""
        definition = self.definition
        return definition.end - definition.start - sum(member.end - member.body_start for member in self.members)

    def has_body(self, least_lines: int) -> bool:
        """Whether that many lines of body hold code: no docstring, no comment, not empty."""
        definition, doc = self.definition, held_doc(self.definition)
        body = b"\n" + self.data[(doc.end if doc else definition.body_start) : definition.end]
        return sum(1 for _ in islice(self.rules.code_line.finditer(body), least_lines)) == least_lines

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


# Where a first paragraph ends: an empty line, or a line that opens a field list, a section, an underline or an example.
_PARAGRAPH_END = re.compile(
    r"\n[ \t]*(?:\n|:[a-z][\w ,*|.\[\]]*:(?:\s|$)|@(?:param|return|type|rtype|raise)|\.\. |>>>|[-=~^*]{3,}[ \t]*(?:\n|$)"
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
