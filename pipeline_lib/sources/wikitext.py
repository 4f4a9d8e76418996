"""Wikitext to prose: templates, tables, references, files and categories left out, headings as Markdown's."""

from __future__ import annotations

import re
from typing import Any

from pipeline_lib.sources.safe_open import Refusal

_NO_PROSE = frozenset(
    "ref references table gallery math chem score timeline syntaxhighlight source pre code imagemap hiero graph".split()  # noqa: SIM905
)
# sections that hold lists of links, never prose; in the Wikipedias of other languages they give lists, which filters drop
_BACK_MATTER = frozenset(
    {"references", "external links", "see also", "further reading", "notes", "footnotes", "bibliography", "sources"}
)
_PREFIXES = frozenset(
    "file image category media datei bild kategorie fichier catégorie archivo imagen categoría immagine categoria bestand"  # noqa: SIM905
    " categorie plik kategoria файл изображение категория".split()  # codespell:ignore categorie
)
# a third of a page; taken off before, for the parser builds twenty nodes for each. Bounded, so that unclosed ones stay cheap.
_REFERENCE = re.compile(r"<!--[^<]{0,1000}?-->|<ref\b[^>]{0,200}/>|<ref\b[^>]{0,200}>[^<]{0,2000}</ref>")
# mwparserfromhell's time grows with the square of the markup that is left open: 0.3 s at 500, minutes at 10,000
_MOST_OPEN = 500
_BOUND = re.compile(r"\{\{|\}\}|\[\[|\]\]|\[(?:https?:)?//|\]|</|/>|<(?!br\b|hr\b|li\b)[a-zA-Z]|\{\||\|\}")
_OPENS = {"{{": "}}", "[[": "]]", "{|": "|}"}
_SPACES = re.compile(r"[ \t]+")
_INDENT = re.compile(r"\n +")
_EMPHASIS = re.compile(r"'{2,5}")
_EMPTY_LINES = re.compile(r"\n{3,}")
_EMPTY_BRACKETS = re.compile(r"\(\s*[,;]*\s*\)")  # what a template of pronunciation or dates leaves behind


def prose_of(wikitext: str) -> str | Refusal:
    """The prose of a page, or `unclosed_markup` where parsing would take too long; the parser bounds depth itself (40)."""
    import mwparserfromhell

    wikitext = _REFERENCE.sub("", wikitext)
    left_open = _left_open(wikitext)
    if left_open > _MOST_OPEN:
        return Refusal(
            "unclosed_markup", f"{left_open} templates, links, tables or tags are not closed, at most {_MOST_OPEN} may be"
        )
    code = mwparserfromhell.parse(wikitext, skip_style_tags=True)
    parts: list[str] = []
    skipping = 0  # the level of the heading whose section is left out
    nodes: list[Any] = code.nodes
    for node in nodes:
        if type(node).__name__ == "Heading":
            title = "".join(_plain(inner) for inner in node.title.nodes).strip()
            if skipping and node.level > skipping:
                continue
            skipping = node.level if title.lower() in _BACK_MATTER else 0
            if not skipping:
                parts.append(f"\n\n{'#' * node.level} {title}\n\n")
        elif not skipping:
            parts.append(_plain(node))
    text = _INDENT.sub("\n", _SPACES.sub(" ", _EMPHASIS.sub("", "".join(parts))))
    return _EMPTY_LINES.sub("\n\n", _EMPTY_BRACKETS.sub("", text)).strip()


def _left_open(wikitext: str) -> int:
    """How many pieces of markup of one kind have no end."""
    depths = dict.fromkeys(("}}", "]]", "|}", "]", "</"), 0)
    for bound in _BOUND.finditer(wikitext):
        mark = bound.group()
        end = _OPENS.get(mark) or ("</" if mark.startswith("<") or mark == "/>" else "]" if mark.startswith("[") else mark)
        opens = mark in _OPENS or (mark[0] in "<[" and mark not in ("</", "[["))
        depths[end] = max(0, depths[end] + (1 if opens else -1))
    return max(depths.values())


def _plain(node: Any) -> str:
    """What a reader of the page would see of a node as prose."""
    kind = type(node).__name__
    if kind == "Text":
        return str(node.value)
    if kind == "Wikilink":
        shown = node.text if node.text is not None else node.title
        return "" if _is_file(str(node.title)) else _all(shown)
    if kind == "ExternalLink":
        return _all(node.title) if node.title is not None else ""
    if kind == "HTMLEntity":
        return _entity(node)
    if kind == "Tag":
        return _tag(node)
    return ""  # templates, arguments, comments


def _tag(node: Any) -> str:
    name = str(node.tag).strip().lower()
    if name in _NO_PROSE:
        return ""
    if name in ("li", "dt", "dd") and node.wiki_markup:
        return "- " if name == "li" else ""
    return "\n" if name == "br" else _all(node.contents)


def _all(code: Any) -> str:
    return "".join(_plain(inner) for inner in code.nodes) if code is not None else ""


def _is_file(title: str) -> bool:
    """Whether a link shows a file or names a category, or leads to another wiki: a known prefix, or a foreign one of it."""
    prefix, colon, _ = title.partition(":")
    return bool(colon) and (prefix.strip().lower() in _PREFIXES or (prefix.islower() and 2 <= len(prefix) <= 3))


def _entity(node: Any) -> str:
    try:
        return str(node.normalize())
    except (ValueError, OverflowError):
        return ""
