"""Documentation comments: which of them belong to a definition, and what they say without marks, tags and markup."""

from __future__ import annotations

import html
import re

from tree_sitter import Node

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
