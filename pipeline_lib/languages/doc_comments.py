"""Documentation comments: which of the comments above a definition they are, and the prose in them, without marks and markup.

What several languages share; what one of them has alone is in its file.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable

from tree_sitter import Node

_GAP = re.compile(rb"\s*")


def last_doc_block(data: bytes, comments: list[Node], line_mark: bytes = b"") -> list[Node]:
    """The last `/** */` of those before a definition; other comments may follow it, code may not (javac, jsdoc, PHP).

    Args:
        line_mark: what begins a line of documentation in a language that has such lines too: Java's `///`.
    """
    for index in range(len(comments) - 1, -1, -1):
        comment = comments[index]
        start = comment.start_byte
        if data.startswith(b"/**", start) and comment.end_byte - start > len(b"/**/"):
            return [comment]
        if line_mark and _is_doc_line(data, start, line_mark):
            run = run_of_lines(data, comments[: index + 1])
            others = [at for at, line in enumerate(run) if not _is_doc_line(data, line.start_byte, line_mark)]
            return run[others[-1] + 1 :] if others else run
        if index and _GAP.fullmatch(data, comments[index - 1].end_byte, start) is None:
            break
    return []


def _is_doc_line(data: bytes, start: int, mark: bytes) -> bool:
    """True for the mark, but not where it is longer: a line of slashes is a rule."""
    return data.startswith(mark, start) and data[start + len(mark) : start + len(mark) + 1] != mark[-1:]


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


_TEXT_TAGS = ("desc", "description", "summary", "classdesc")
_ANY_TEXT_TAG = "|".join(_TEXT_TAGS)
_TAG_LINE = re.compile(r"\n[ \t]*@([A-Za-z]\w*)[ \t]*")
_TEXT_TAG_BEGINNINGS = ("@desc", "@summary", "@classdesc")
_TEXT_TAG = re.compile(rf"\n[ \t]*@(?:{_ANY_TEXT_TAG})\b[ \t]*")
# the same before the stars are taken off
_STARRED = r"\n[ \t]*(?:\*+(?!/)[ \t]?)?[ \t]*@"
_STARRED_TAG = re.compile(_STARRED + rf"(?!(?:{_ANY_TEXT_TAG})\b)[A-Za-z]")
_ABOUT_ANOTHER = "file|fileoverview|overview|module|packageDocumentation|typedef|callback|namespace"
_OTHER_TAG = re.compile(rf"@(?:{_ANY_TEXT_TAG}|{_ABOUT_ANOTHER})\b")  # few, and found several times as fast
_STARRED_OTHER_TAG = re.compile(_STARRED + rf"(?:{_ANY_TEXT_TAG}|{_ABOUT_ANOTHER})\b")
_OF_ANOTHER = re.compile(_STARRED + rf"(?:{_ABOUT_ANOTHER})\b")


def tagged_prose(blocks: list[str]) -> str:
    """What Javadoc, JSDoc and PHPDoc say before their first tag (`@param`): inline tags and HTML become plain words.

    The text of `@description`, `@summary` and `@classdesc` counts wherever it stands; a comment about the file, module or a
    type says nothing here.
    """
    text = "\n" + _inside(blocks[0])  # `last_doc_block` gives one
    at = text.find("@")
    tag = _STARRED_TAG.search(text, text.rfind("\n", 0, at)) if at >= 0 else None
    if tag is None:
        text = _STAR.sub("\n", text).rstrip("* \t\n")
    elif _OTHER_TAG.search(text, tag.start()) is None or (other := _STARRED_OTHER_TAG.search(text, tag.start())) is None:
        text = _STAR.sub("\n", text[: tag.start()])  # half of most comments are tags: what they say is not looked at
    elif _OF_ANOTHER.search(text, other.start()):
        return ""
    else:
        text = _texts_of_tags(_STAR.sub("\n", text).rstrip("* \t\n"))
    return without_inline_tags(text).strip()


def before_tags(text: str) -> str:
    """The text before the first tag, and that of the tags that hold text; each line after a newline."""
    tag = _TAG_LINE.search(text) if "@" in text else None
    return _texts_of_tags(text) if tag else text


def _texts_of_tags(text: str) -> str:
    before, *rest = _TAG_LINE.split(text)
    return "\n\n".join([before, *(said for tag, said in zip(rest[::2], rest[1::2], strict=True) if tag in _TEXT_TAGS)])


# a tag and what it says, which may hold two pairs of braces in each other: {@code Map{k{v}}}
_IN_BRACES = r"[^{}]*+(?:\{[^{}]*+(?:\{[^{}]*+\}[^{}]*+)*+\}[^{}]*+)*+"
_INLINE_TAG = re.compile(rf"\{{@(\w+)({_IN_BRACES})\}}")
_LABELLED = re.compile(r"\[([^\[\]]+)\](?=\{@(?:link|linkcode|linkplain|tutorial)\b)(\{@\w+[^{}]*\})")
_INTERNAL = re.compile(r"\{@internal\b(?:[^{}]|\{(?!@internal)|\}(?!\}))*+\}\}")  # phpDocumentor: closed by two braces
# Javadoc's target may list parameters, #of(int, Object[]), and types
_LINK = re.compile(r"((?:[^\s(<]++|<(?:[^<>]|<[^<>]*>)*>|<)*+(?:\([^()]*+\))?)(.*)", re.S)
_NAMEPATH = re.compile(r"^(?:module|external|event):|#$")
# what is no markup in code, while markup is taken off
_KEPT = str.maketrans("<&[", "\ue000\ue001\ue002")
_GIVEN_BACK = str.maketrans("\ue000\ue001\ue002", "<&[")
_SILENT = frozenset({"inheritdoc", "docroot", "internal", "example", "snippet", "source", "toc", "id"})
_LINKS = frozenset({"link", "linkplain", "linkcode", "see", "tutorial", "spec"})


def without_inline_tags(text: str) -> str:
    """The text with inline tags (`{@link X}`) and markup as plain words."""
    if "@" not in text:
        return without_markup(text)
    if any(map(text.__contains__, _TEXT_TAG_BEGINNINGS)):
        text = _TEXT_TAG.sub("\n\n", text)
    if "]{@" in text:
        text = _LABELLED.sub(r"\1", text)
    if "{@internal" in text:
        text = _INTERNAL.sub("", text)
    text = without_markup(_INLINE_TAG.sub(_inline_text, text))
    return text.translate(_GIVEN_BACK) if any(map(text.__contains__, "\ue000\ue001\ue002")) else text


def _inline_text(inline: re.Match[str]) -> str:
    name, content = inline.groups()
    tag, said = name.lower(), content.strip()
    if tag in ("code", "literal"):  # most are
        return said.translate(_KEPT)
    if "{@" in said:
        said = _INLINE_TAG.sub(_inline_text, said)
    if tag in _LINKS:
        match = _LINK.fullmatch(said.replace("|", " "))
        assert match is not None, f"no target in {said!r}"  # it fits any text
        target, label = match.groups()
        return label.strip() or _named_target(target)
    if tag == "return":  # Java 16: what it says of the method, too
        return f"Returns {said.removesuffix('.')}."
    if tag == "index":  # a term, or several words in quotes, and what an index says of it
        return said.split('"')[1] if said.count('"') > 1 else said.split(None, 1)[0] if said else ""
    return "" if tag in _SILENT else said


def _named_target(target: str) -> str:
    if "://" in target:
        return target
    name = _NAMEPATH.sub("", target.lstrip("#"))
    return name.replace("#", ".").replace("~", ".").translate(_KEPT)


_HTML_COMMENT = re.compile(r"<!--(?:[^-<]|-(?!->)|<(?!!--))*+-->")  # linear, where many are never closed too
_PARAGRAPH_TAG = re.compile(r"(?i)</?(?:p|ul|ol|li|dl|dt|dd|pre|table|tr|td|th|div|h[1-6]|hr|blockquote)(?=[\s/>])[^<>]*>")
_MARKUP_TAG = re.compile(
    r"(?i)</?(?:a|b|big|cite|code|em|font|i|img|kbd|samp|small|span|strong|sub|sup|tt|u|var)(?=[\s/>])[^<>]*>"
)
_BREAK = re.compile(r"(?i)<br[ \t]*/?>")
_MARKDOWN_LINK = re.compile(r"!?\[([^\[\]\n]+)\]\((?:[^()\s]+)\)")


def without_markup(text: str) -> str:
    """Text without HTML and Markdown links; where a block of HTML begins, a new paragraph does."""
    if "<" in text:
        text = _HTML_COMMENT.sub("", text) if "<!--" in text else text
        text = _MARKUP_TAG.sub("", _BREAK.sub(" ", _PARAGRAPH_TAG.sub("\n\n", text)))
    if "](" in text:
        text = _MARKDOWN_LINK.sub(r"\1", text)
    return html.unescape(text) if "&" in text else text


_LINE_MARKS = re.compile(r"\n[ \t]*//[/!]*[ \t]?")


def doc_text(comments: list[str]) -> str:
    """The text of one block, or of several lines behind slashes, without marks; each line after a newline."""
    if comments[0].startswith("/*"):
        block = _STAR.sub("\n", "\n" + _inside(comments[0]).lstrip("*!")).rstrip("* \t\n")
        return "\n" + "\n".join(line.rstrip() for line in block.split("\n")).strip()
    return _LINE_MARKS.sub("\n", "\n" + "\n".join(comment.rstrip() for comment in comments))


_EMPTY_LINES = re.compile(r"[ \t]*(?:\n[ \t]*(?=\n))*")


def headings_apart(text: str, heading: re.Pattern[str]) -> str:
    """Text whose headings are paragraphs; those before the first prose are left out, unless there is nothing else.

    Args:
        text: each line after a newline.
        heading: a line that is one, after its newline; its group is what it says.
    """
    if heading.search(text) is None:
        return text
    text = "\n" + text.strip("\n")
    at, end = 0, len(text.rstrip())
    while (first := heading.match(text, at)) and first.end() < end:
        gap = _EMPTY_LINES.match(text, first.end())
        assert gap is not None, "there is something behind the heading"
        at = gap.end()
    return heading.sub(r"\n\n\1\n", text[at:])


def first_that_is_not(text: str, is_one: Callable[[str], bool]) -> str:
    """Text without its first paragraphs of a kind, unless there are no others."""
    rest = text.strip()
    while is_one(rest):
        _, gap, after = rest.partition("\n\n")
        if not gap or not after.strip():
            return text
        rest = after.strip()
    return rest


# a heading by its underline, behind an empty line, and a rule
_UNDERLINED = re.compile(r"(?<=\n)(\n {0,3})([^\s#>*+-][^\n]*)\n {0,3}(={3,}|-{3,})[ \t]*(?=\n|\Z)")
_RULE = re.compile(r"\n {0,3}(?:={3,}|-{3,}|\*{3,}|_{3,})[ \t]*(?=\n|\Z)")
_HEADING = re.compile(r"\n {0,3}#{1,6}[ \t]+([^\n]*?)[ \t#]*(?=\n|\Z)")
FENCE = re.compile(r"\n[ \t]*(```|~~~)[^\n]*\n.*?(?:\n[ \t]*\1[^\n]*|\Z)", re.S)
# a span of code is looked over; a link has a text and a target, or one of the two: [the list][java.util.List], [List#of]
_SPAN_OR_LINK = re.compile(r"(?<!`)(`++).*?\1|(?<![\w\]\\])!?\[([^\[\]\n]+)\](?:\[([^\]\n]*(?:\[\])*)\])?(?![\[(:])", re.S)
_EMPHASIS = re.compile(r"(?<![\w*\\])(\*{1,3}|(?<!_)_{1,3})(?=[^\s*_])([^*\n]{0,200}?[^\s*_\\])\1(?![\w*])")


def markdown_words(text: str) -> str:
    """What a comment in Markdown says: no fences, no headings before the prose, links and emphasis as plain words.

    Args:
        text: each line after a newline.
    """
    text = FENCE.sub("\n", text)
    if "---" in text or "===" in text or "***" in text or "___" in text:
        text = _RULE.sub("\n", _UNDERLINED.sub(_as_heading, "\n" + text))
    text = headings_apart(text, _HEADING)
    if "[" in text:
        text = _SPAN_OR_LINK.sub(_without_target, text)
    return _EMPHASIS.sub(r"\2", without_inline_tags(text)).strip()


def _as_heading(underlined: re.Match[str]) -> str:
    """A heading; what stands above a line of dashes of another length is none, for many write it as a rule."""
    before, title, line = underlined.groups()
    return f"{before}# {title}" if line[0] == "=" or len(title.rstrip()) == len(line) else underlined.group()


def _without_target(found: re.Match[str]) -> str:
    """A span of code as it is, and of a link what a reader sees."""
    span, words, target = found.groups()
    if span:
        return found.group()
    return words if target else words.lstrip("#").replace("#", ".")
