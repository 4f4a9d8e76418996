"""Ruby: methods, singleton methods too, and the RDoc or YARD comment above them."""

from __future__ import annotations

import re
from bisect import bisect_right
from operator import methodcaller

from tree_sitter import Node

from pipeline_lib.languages.doc_comments import headings_apart, run_of_lines, without_markup
from pipeline_lib.languages.rules import CommentedRules, named


def scoped_name(node: Node, data: bytes) -> tuple[str, Node] | None:
    """class A::B -> A.B; an operator's name is the operator."""
    found = named(node, data)
    return (found[0].replace("::", ".").lstrip("."), found[1]) if found else None


def hash_lines_or_block(data: bytes, comments: list[Node]) -> list[Node]:
    """The `#` comments on the lines above, or one `=begin ... =end`."""
    if data.startswith(b"=begin", comments[-1].start_byte):
        return comments[-1:]
    run = run_of_lines(data, comments)
    if not run or data.find(b"=begin", run[0].start_byte, run[-1].end_byte) < 0:
        return run
    blocks = [index for index, comment in enumerate(run) if data.startswith(b"=begin", comment.start_byte)]
    return run[blocks[-1] + 1 :] if blocks else run


# as in comments.py: patterns for a line begin with its newline
_BLOCK = re.compile(r"\A=begin[^\n]*\n|\n?=end[^\n]*\Z")
# remarks to Ruby and to tools, what hides a method from RDoc, and types in RBS (`#: (Integer) -> String`)
_REMARK = re.compile(
    r"\n(?:!|[ \t]*(?:-\*-|(?:frozen[_-]string[_-]literal|(?:en)?coding|warn_indent|typed|shareable_constant_value)[ \t]*:"
    r"|rubocop:|:nocov:|:(?:nodoc|startdoc|stopdoc|enddoc|doc|notnew|include|category|section|title|main|markup|method|attr"
    r"|attr_(?:reader|writer|accessor)|singleton-method|arg|args|yields?):|@!|:[ \t]+(?=[^\n]*->)))[^\n]*"
)
_HIDDEN = re.compile(r"\n--[ \t]*(?=\n).*?(?:\n\+\+[ \t]*(?=\n|\Z)|\Z)", re.S)  # RDoc: between #-- and #++
_HEADING = re.compile(r"\n(?:[ \t]*={1,6}(?:[ \t]+(?=\S)|(?=[A-Z]))|#{1,6}[ \t]+(?=[^\W\d_]))([^\n]+)")  # RDoc's, Markdown's
_TOMDOC = re.compile(r"\s*(?:Public|Internal|Private|Deprecated):[ \t]+")
# what follows TomDoc's description: arguments, examples, what comes back
_TOMDOC_SECTION = re.compile(
    r"\n[ \t]*(?:(?:Returns?|Raises|Yields|Signature|Examples?)\b|[*&]{0,2}\w+:?[ \t]+-[ \t]+(?=The\b|An?\b|[A-Z]))"
)
_CALLS = re.compile(r"\n[ \t]*:?call-seq:[^\n]*(?:\n[ \t]*(?=\n)|\n[ \t]+[^\n]*)*")  # RDoc: the ways to call it, indented
_TAG_LINE = re.compile(r"\n[ \t]*@[a-z]\w*")
_TAGGED = re.compile(r"\n[ \t]*@[a-z][^\n]*(?:(?:\n[ \t]*)*\n[ \t]+\S[^\n]*)*")  # it goes on in indented lines
_YARD_LINK = re.compile(r"\{([A-Za-z:#.][\w:#.!?=]*)(?:[ \t]+([^{}\n]+))?\}(?!\[)")
_RDOC_TARGET = re.compile(r"\[(?:https?:|link:|rdoc-|mailto:)")
_RDOC_LINK = re.compile(rf"(?:\{{([^{{}}\n]+)\}}|\b([\w.]+)){_RDOC_TARGET.pattern}[^\]\s]*\]")
_RDOC_WORD = re.compile(r"([+*_])(?<![\w+*_][+*_])(?=\S)([\w:.#@?!$=-]+)\1(?![\w+*_])")
_RDOC_ESCAPE = re.compile(r"(?<![\w\\])\\(?=[A-Z#*+_<])")


def unmarked(comments: list[str]) -> str:
    """The text of the comments without their marks, each line after a newline."""
    if comments[0].startswith("=begin"):  # it stands alone
        return "\n" + _BLOCK.sub("", comments[0])
    text = _REMARK.sub("", "\n" + "\n".join([comment.lstrip("#").removeprefix(" ") for comment in comments]))
    return _HIDDEN.sub("", text) if "\n--" in text else text


def ruby_prose(comments: list[str]) -> str:
    """What an RDoc or YARD comment says before its first tag, without markup."""
    text = unmarked(comments) + "\n"
    if "call-seq:" in text:
        text = _CALLS.sub("", text)
    tag = _TAG_LINE.search(text) if "@" in text else None
    if tag is not None:
        text = text[: tag.start()] if text[: tag.start()].strip() else _TAGGED.sub("", text)
    if ": " in text and (status := _TOMDOC.match(text)):
        section = _TOMDOC_SECTION.search(text, status.end())
        text = "\n" + text[status.end() : section.start() if section else None]
    if "=" in text or "#" in text:
        text = headings_apart(text, _HEADING)
    if "{" in text:
        text = _YARD_LINK.sub(lambda match: match.group(2) or match.group(1), text)
    if "[" in text and _RDOC_TARGET.search(text):
        text = _RDOC_LINK.sub(lambda match: match.group(1) or match.group(2), text)
    if "+" in text or "*" in text or "_" in text:
        text = _RDOC_WORD.sub(methodcaller("group", 2), text)  # a template would be filled in by Python
    if "\\" in text:
        text = _RDOC_ESCAPE.sub("", text)
    return without_markup(text).strip()


_HEREDOC = re.compile(rb"<<([~-]?)([\"'`]?)([A-Za-z_]\w*)\2(?=[^\w\"'`]|$)")


def without_heredocs(data: bytes) -> bytes:
    """The source with blanks for what stands in heredocs: the grammar loses itself in one inside another's interpolation."""
    lines = data.split(b"\n")
    ends: dict[bytes, list[int]] = {}
    for number, line in enumerate(lines):
        ends.setdefault(line.strip(), []).append(number)
    at = 0
    while at < len(lines):
        line = lines[at]
        for indented, quote, name in _HEREDOC.findall(line) if b"<<" in line else ():
            if indented or quote or name[:1].isupper():  # others are shifts
                at = _blanked(lines, at, ends.get(name, []), indented)
        at += 1
    return b"\n".join(lines)


def _blanked(lines: list[bytes], opened: int, ends: list[int], indented: bytes) -> int:
    """Blank the heredoc behind a line. Returns the number of the line that ends it; of one without an end, the line's own."""
    for last in ends[bisect_right(ends, opened) :][:20]:
        if indented or not lines[last][:1].isspace():
            lines[opened + 1 : last] = [b" " * len(line) for line in lines[opened + 1 : last]]
            return last
    return opened


# Sorbet's types of a method, which stand between its documentation and itself
_SIGNATURE = (
    rb"(?:(?:T::Sig::WithoutRuntime\.)?sig\b(?:[ \t]*\([^()\n]*\))?[ \t]*"
    rb"(?:\{[^{}]*+(?:\{[^{}]*+\}[^{}]*+)*+\}|do\b(?:[^\n]*\n){1,60}?[ \t]*end)[ \t]*\n(?:[ \t]*\n)?[ \t]*)?"
)

RULES = CommentedRules(
    suffixes=(".rb",),
    grammar="tree_sitter_ruby:language",
    definitions={"method": "function", "singleton_method": "function", "class": "class", "module": "class"},
    comments=("comment",),
    signs=tuple(map(re.compile, (rb"def\b", rb"class\b", rb"module\b"))),
    name_of=scoped_name,
    # YARD: on one of the two lines above; `private def` and the like belong to the definition
    between=re.compile(rb"[ \t]*\n(?:[ \t]*\n)?[ \t]*" + _SIGNATURE + rb"(?:[a-z_]\w*[!?]?[ \t(]+)*+"),
    doc_above=hash_lines_or_block,
    clean=ruby_prose,
    mend=without_heredocs,
    tag=re.compile(rb"\n[ \t]*#*[ \t]*@[a-z]"),
    text_tag=re.compile(rb"\A#+[ \t]*@"),  # where tags come first, the text stands behind them
    code_line=re.compile(rb"\n[ \t;})\]]*(?!#|end\b)[^\s;})\]]"),
    comment_line=re.compile(r"\n[ \t]*#+[ \t!:]*([^\n]*)"),
    module_suffix=re.compile(r"\.(?:rb|rake)$"),
    test_function=re.compile(r"test_"),
    constructors=frozenset({"initialize"}),
    standard_methods=frozenset(
        {
            "to_text", "display", "dup", "clone", "equal?", "==", "<=>", "===", "<=", "<", ">", ">=", "between?", "eql?",
            "hash",
        }
    ),
)  # fmt: skip
