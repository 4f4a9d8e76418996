"""MediaWiki XML exports (.xml, .gz, .bz2), streamed: one page in memory at a time; articles as prose.

The XML is read by expat behind defusedxml: a document type, an entity or an external reference ends the file as
`xml_forbidden`, deeper nesting than `limits.max_depth` as `xml_depth`. The time of a page is bounded by its length
(`limits.max_text_bytes`) and by how much markup it may leave open: a parser in C cannot be interrupted from a thread.

Prose is what a reader sees of the wikitext: templates, tables, references, files and categories are left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from xml.sax import SAXException
from xml.sax.handler import ContentHandler

from defusedxml.common import DefusedXmlException
from defusedxml.sax import make_parser

from pipeline_lib.config.data import ReadLimits
from pipeline_lib.sources.decompress import Unreadable, open_expanded
from pipeline_lib.sources.readers import Reader
from pipeline_lib.sources.records import SourceRecord, text_record, too_large
from pipeline_lib.sources.safe_open import Refusal
from pipeline_lib.sources.source_file import SourceFile
from pipeline_lib.sources.time_limit import within_time

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
    """The most templates, links, tables or tags that have no end."""
    depths = dict.fromkeys(("}}", "]]", "|}", "]", "</"), 0)
    for bound in _BOUND.finditer(wikitext):
        mark = bound.group()
        end = _OPENS.get(mark) or ("</" if mark.startswith("<") or mark == "/>" else "]" if mark.startswith("[") else mark)
        opens = mark in _OPENS or (mark[0] in "<[" and mark not in ("</", "[["))
        depths[end] = max(0, depths[end] + (1 if opens else -1))
    return max(depths.values())


def _plain(node: Any) -> str:
    """The prose of a node, as a reader of the page sees it."""
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
    """True where a link shows a file or names a category, or leads to another wiki: a known prefix, or a foreign one of it."""
    prefix, colon, _ = title.partition(":")
    return bool(colon) and (prefix.strip().lower() in _PREFIXES or (prefix.islower() and 2 <= len(prefix) <= 3))


def _entity(node: Any) -> str:
    try:
        return str(node.normalize())
    except (ValueError, OverflowError):
        return ""


_FEED_BYTES = 64 * 1024
_FIELDS = frozenset({"title", "ns", "id", "model", "text"})
_FIELD_CHARACTERS = 1_000  # of all but the text


@dataclass(slots=True)
class _Page:
    fields: dict[str, list[str]] = field(default_factory=dict)
    characters: int = 0
    redirect: bool = False
    offset: int = 0

    def get(self, name: str) -> str:
        return "".join(self.fields.get(name, ()))


class _Pages(ContentHandler):
    """Collects pages; of several revisions the last one stays."""

    def __init__(self, limits: ReadLimits) -> None:
        super().__init__()
        self.limits = limits
        self.names: list[str] = []
        self.page: _Page | None = None
        self.done: list[_Page] = []
        self.events = 0

    def startElement(self, name: str, attributes: Any) -> None:  # noqa: N802
        """One element deeper."""
        self.events += 1
        self.names.append(name)
        if len(self.names) > self.limits.max_depth:
            raise Unreadable(Refusal("xml_depth", f"nested deeper than {self.limits.max_depth} elements"))
        if name == "page" and len(self.names) == 2:
            self.page = _Page()
        elif self.page is not None and name == "redirect":
            self.page.redirect = True
        elif self.page is not None and self._keeps(name):
            self.page.fields[name] = []
            self.page.characters = 0 if name == "text" else self.page.characters

    def characters(self, content: str) -> None:
        """Some of an element's text; of a text beyond the limit only the length is kept."""
        self.events += 1
        name = self.names[-1] if self.names else ""
        if self.page is None or not self._keeps(name):
            return
        parts = self.page.fields.setdefault(name, [])
        if name == "text":
            self.page.characters += len(content)
            if self.page.characters <= self.limits.max_text_bytes:
                parts.append(content)
        elif len(parts) < _FIELD_CHARACTERS:
            parts.append(content[:_FIELD_CHARACTERS])

    def endElement(self, name: str) -> None:  # noqa: N802
        """One element is whole."""
        self.events += 1
        self.names.pop()
        if name == "page" and self.page is not None and len(self.names) == 1:
            self.done.append(self.page)
            self.page = None

    def _keeps(self, name: str) -> bool:
        """True where an element is one of a page's own fields, or of its revision's: a contributor has an id too."""
        parent = self.names[-2] if len(self.names) > 1 else ""
        return name in _FIELDS and parent == ("revision" if name in ("model", "text") else "page")


def read_mediawiki(file: SourceFile, limits: ReadLimits) -> Iterator[SourceRecord]:
    """The articles of an export, in its order, as Markdown headings and paragraphs; group: the page.

    Refusals of pages: redirect, not_an_article (another namespace, or no wikitext), file_too_large, unclosed_markup. Of the
    file: xml_forbidden, xml_depth, xml_damaged, truncated, damaged, expansion_limit, too_many_members.
    """
    try:
        for page in _pages(file.place, limits):
            title = page.get("title") or f"page {page.get('id')}"
            yield text_record(file, title, _text(page, limits), limits, form="markdown", group=title)
    except Unreadable as error:
        yield SourceRecord(file, error.refusal)


def _text(page: _Page, limits: ReadLimits) -> str | Refusal:
    if page.redirect:
        return Refusal("redirect", "to another page")
    if page.get("ns").strip() not in ("", "0") or page.get("model").strip() not in ("", "wikitext"):
        return Refusal("not_an_article", f"namespace {page.get('ns')[:20]}, model {page.get('model')[:50]}")
    if page.characters > limits.max_text_bytes:
        return too_large(page.characters, limits)
    return within_time("page", lambda: prose_of(page.get("text")))


def _pages(place: str, limits: ReadLimits) -> Iterator[_Page]:

    handler = _Pages(limits)
    parser = make_parser()
    parser.forbid_dtd = True
    parser.setContentHandler(handler)
    fed = silent = 0
    with open_expanded(place, limits) as stream:
        try:
            while data := stream.read_some(_FEED_BYTES):
                before = handler.events
                parser.feed(data)
                fed += len(data)
                silent = silent + len(data) if handler.events == before else 0
                if silent > limits.max_text_bytes:  # expat holds a tag until its end
                    raise Unreadable(Refusal("xml_forbidden", f"one tag of more than {limits.max_text_bytes} bytes", fed))
                yield from handler.done
                handler.done.clear()
            if not fed:
                raise Unreadable(Refusal("xml_damaged", "the file is empty"))
            parser.close()
        except DefusedXmlException as error:
            raise Unreadable(Refusal("xml_forbidden", ascii(str(error))[:200], fed)) from error
        except (SAXException, ValueError) as error:
            reason = "truncated" if handler.names and "no element found" in str(error) else "xml_damaged"
            raise Unreadable(Refusal(reason, ascii(str(error))[:200], fed)) from error
        yield from handler.done


READER = Reader(
    read=read_mediawiki,
    suffixes=(".xml.bz2", ".xml.gz", ".xml", "-shortened.bz2"),
    needs=("defusedxml", "mwparserfromhell"),
)
