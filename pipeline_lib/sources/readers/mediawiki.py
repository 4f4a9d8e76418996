"""MediaWiki XML exports (.xml, .gz, .bz2), streamed: one page in memory at a time; articles as prose.

The XML is read by expat behind defusedxml: a document type, an entity or an external reference ends the file as
`xml_forbidden`, deeper nesting than `limits.max_depth` as `xml_depth`. Behind a page whose XML is damaged reading goes on at
the next one. Namespaces are those of the export's own siteinfo; `sources/wikis/wikitext.py` says what of a page is prose.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from xml.sax import SAXException
from xml.sax.handler import ContentHandler

from pydantic import BaseModel, ConfigDict, Field

from pipeline_lib.config.read_limits import ReadLimits
from pipeline_lib.sources.decompress import Expanded, Unreadable, open_expanded
from pipeline_lib.sources.readers import Reader
from pipeline_lib.sources.records import SourceRecord, text_record, too_large
from pipeline_lib.sources.safe_open import Refusal
from pipeline_lib.sources.source_file import SourceFile
from pipeline_lib.sources.time_limit import within_time
from pipeline_lib.sources.wikis.names import WikiNames
from pipeline_lib.sources.wikis.wikitext import Prose, prose_of

_FEED_BYTES = 64 * 1024
_END = b"</mediawiki>"
_CUT = re.compile(rb"<page[\s>]|(?<=" + _END + rb")")  # a page begins, or an export is over: another may follow
_MARK_BYTES = len(_END)
_BETWEEN = b" \t\r\n\0\xef\xbb\xbf"  # what stands between two exports
_STREAM = b"  <page>"  # the beginning of each stream of a multistream file
_LATIN = re.compile(rb"\s*<\?xml[^>]{0,100}encoding=[\"'](?:iso-8859-1|latin-?1)[\"']", re.IGNORECASE)
_FIELDS = frozenset({"title", "ns", "id", "model", "text"})
_FIELD_CHARACTERS = 1_000  # of all but the text
_MOST_NAMES = 10_000  # of namespaces; Wikipedias have some 60
# where an export does not mark redirects: #REDIRECT in any language, and next to nothing else
_REDIRECT = re.compile(r"\s*#[^\s\[\]#*:;|]{2,40}(?: [^\s\[\]:]{1,20})?\s*:?\s*\[\[[^\[\]\n]{1,300}\]\][ \t]*(?=\n|\{\{|<|\Z)")
_BEHIND_REDIRECT = 300  # characters of categories and templates


class Options(BaseModel):
    """Options of the reader `mediawiki`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    namespaces: tuple[int, ...] = Field(
        (0,),
        description="Namespaces whose pages are read, by their keys: 0 articles, 1 their talk, 4 the project, 12 help.",
        min_length=1,
    )
    max_damaged_pages: int = Field(
        1_000,
        description="Most pages whose XML is damaged; beyond it the file is given up, unless more pages are whole (pages).",
        ge=0,
    )


@dataclass(slots=True)
class _Page:
    fields: dict[str, list[str]] = field(default_factory=dict)
    characters: int = 0
    redirect: bool = False

    def get(self, name: str) -> str:
        return "".join(self.fields.get(name, ()))

    @property
    def name(self) -> str:
        return self.get("title") or f"page {self.get('id')}"


class _Damage(NamedTuple):
    """A page, or what lies between two, that is no XML."""

    name: str  # of the page that was open; empty: none was
    refusal: Refusal


class _Pages(ContentHandler):
    """Collects pages, of several revisions the last one, and the namespaces that siteinfo names."""

    def __init__(self, limits: ReadLimits) -> None:
        super().__init__()
        self.limits = limits
        self.elements: list[str] = []
        self.root = ""
        self.page: _Page | None = None
        self.done: list[_Page] = []
        self.events = 0
        self.namespaces: dict[int, list[str]] = {}
        self.key: int | None = None  # of the namespace that is being named

    def startElement(self, name: str, attributes: Any) -> None:  # noqa: N802
        """One element deeper."""
        self.events += 1
        self.elements.append(name)
        self.root = self.root or name
        if len(self.elements) > self.limits.max_depth:
            raise Unreadable(Refusal("xml_depth", f"nested deeper than {self.limits.max_depth} elements"))
        if name == "page" and len(self.elements) == 2:
            self.page = _Page()
        elif self.page is None:
            if name == "namespace" and "siteinfo" in self.elements and len(self.namespaces) < _MOST_NAMES:
                self._begin_namespace(attributes)
        elif name == "redirect":
            self.page.redirect = True
        elif self._keeps(name):
            self.page.fields[name] = []
            self.page.characters = 0 if name == "text" else self.page.characters

    def characters(self, content: str) -> None:
        """Some of an element's text; of a text beyond the limit only the length is kept."""
        self.events += 1
        name = self.elements[-1] if self.elements else ""
        if self.page is None:
            if self.key is not None and name == "namespace":
                self.namespaces[self.key][-1] = (self.namespaces[self.key][-1] + content)[:_FIELD_CHARACTERS]
            return
        if not self._keeps(name):
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
        self.elements.pop()
        self.key = None
        if name == "page" and self.page is not None and len(self.elements) == 1:
            self.done.append(self.page)
            self.page = None

    def begin_anew(self) -> str:
        """Forget the page that is open, and return its name."""
        name = self.page.name if self.page else ""
        self.page, self.key = None, None
        self.elements.clear()
        return name

    def _begin_namespace(self, attributes: Any) -> None:
        key = str(attributes.get("key", ""))
        if key.lstrip("-").isdecimal() and len(key) < 10:
            self.key = int(key)
            self.namespaces.setdefault(self.key, []).extend((str(attributes.get("canonical", ""))[:_FIELD_CHARACTERS], ""))

    def _keeps(self, name: str) -> bool:
        """True where an element is one of a page's own fields, or of its revision's: a contributor has an id too."""
        parent = self.elements[-2] if len(self.elements) > 1 else ""
        return name in _FIELDS and parent == ("revision" if name in ("model", "text") else "page")


def read_mediawiki(file: SourceFile, limits: ReadLimits) -> Iterator[SourceRecord]:
    """The articles of an export, in its order, as Markdown headings and paragraphs; group: the page.

    Refusals of pages: redirect, not_an_article (another namespace, or no wikitext), file_too_large, xml_damaged (reading goes
    on at the next page). Of the file, under its own path: no_pages, xml_forbidden, xml_depth, xml_damaged,
    truncated and what decompression finds; what came before is kept.
    """
    options = Options.model_validate(file.options)
    namespaces = frozenset(options.namespaces)
    export = _Export(limits, options.max_damaged_pages)
    names = WikiNames()
    spaces: dict[int, list[str]] | None = None
    try:
        for page in export.pages(file.place):
            if isinstance(page, _Damage):
                yield text_record(file, page.name, page.refusal, limits) if page.name else SourceRecord(file, page.refusal)
                continue
            if export.handler.namespaces is not spaces:
                spaces = export.handler.namespaces
                names = WikiNames(spaces) if spaces else names
            prose = _prose(page, names, namespaces, limits)
            text, omitted = prose if isinstance(prose, Prose) else (prose, {})
            record = text_record(file, page.name, text, limits, form="markdown", group=page.name)
            yield record._replace(omitted=omitted)
    except Unreadable as error:
        yield SourceRecord(file, error.refusal)


def _prose(page: _Page, names: WikiNames, namespaces: frozenset[int], limits: ReadLimits) -> Prose | Refusal:
    if page.redirect:
        return Refusal("redirect", "to another page")
    stated = page.get("ns").strip()
    key = names.split(page.name)[0] or 0 if not stated else int(stated) if stated.lstrip("-").isdecimal() else None
    if key not in namespaces or page.get("model").strip() not in ("", "wikitext"):
        return Refusal("not_an_article", f"namespace {stated[:20] or key}, model {page.get('model')[:50]}")
    if page.characters > limits.max_text_bytes:
        return too_large(page.characters, limits)
    text = page.get("text")
    if (redirect := _REDIRECT.match(text)) is not None and len(text) - redirect.end() < _BEHIND_REDIRECT:
        return Refusal("redirect", "to another page")
    return within_time("page", lambda: prose_of(text, names, page.name))


class _Export:
    """An export that is being read, in pieces that begin with a page each: behind a damaged one the next can be read."""

    def __init__(self, limits: ReadLimits, most_damaged: int) -> None:
        self.limits = limits
        self.most_damaged = most_damaged
        self.handler = _Pages(limits)
        self.parser: Any = None  # None: behind damage, up to the next page
        self.damage: _Damage | None = None
        self.root = b"<mediawiki>"  # of what is read behind damage
        self.silent = 0  # bytes since expat last said something
        self.between = False  # an export is over, and nothing of another has come
        self.read = 0  # bytes
        self.damaged = self.whole = 0  # pages

    def pages(self, place: str) -> Iterator[_Page | _Damage]:
        """Pages in order, and the damage between them.

        Raises:
            Unreadable: the file cannot be read on.
        """
        with open_expanded(place, self.limits) as stream:
            self.begin()
            rest = end = b""
            while data := self.more(stream):
                if not self.read:
                    data = data.lstrip(b" \t\r\n")  # an XML declaration stands at the very beginning or nowhere
                    if _LATIN.match(data):
                        self.root = b'<?xml version="1.0" encoding="iso-8859-1"?><mediawiki>'
                data = rest + data
                at = data.rfind(b"<", -_MARK_BYTES)  # a mark may lie on both sides of this bound
                begun = at > 0 and any(mark.startswith(data[at:]) for mark in (b"<page", _END))
                data, rest = (data[:at], data[at:]) if begun else (data, b"")
                yield from self.cut(data)
                end = (end + data)[-100:]
            yield from self.cut(rest)
            yield from self.close(end + rest)

    def more(self, stream: Expanded) -> bytes:
        """The next bytes; behind a damaged stream of a multistream file those of the next one, which begins with a page."""
        while True:
            try:
                return stream.read_some(_FEED_BYTES)
            except Unreadable as error:
                if error.refusal.reason != "damaged" or not stream.skip_damage(_STREAM):
                    raise
                self.handler.begin_anew()
                self.damage = self.damage or _Damage("", error.refusal)

    def cut(self, data: bytes) -> Iterator[_Page | _Damage]:
        """Feed some bytes, each page's beginning apart."""
        start = 0
        for begin in _CUT.finditer(data):
            yield from self.feed(data[start : begin.start()])
            start = begin.start()
            if not begin.group():
                self.between = self.damage is None and not self.handler.elements
                continue
            if self.handler.page is not None:
                self.note_damage("a page has no end")
            if self.damage is not None:
                yield self.damage
                self.begin(self.root)
        yield from self.feed(data[start:])

    def begin(self, root: bytes = b"") -> None:
        """Start a parser; behind damage within a new root."""
        from defusedxml.sax import make_parser

        self.handler.begin_anew()
        self.damage = None
        self.parser = make_parser()
        self.parser.forbid_dtd = True
        self.parser.setContentHandler(self.handler)
        if root:
            self.parser.feed(root)

    def feed(self, data: bytes) -> Iterator[_Page]:
        """The pages that end in some bytes."""
        before = self.handler.events
        if self.between:
            self.read += len(data) - len(data := data.lstrip(_BETWEEN))
            if data:
                self.between, self.handler.namespaces = False, {}
                self.begin()
        if self.damage is None and data:
            try:
                self.parser.feed(data)
            except SAXException as error:
                self.note_damage(ascii(str(error))[:200])
            except ValueError as error:  # defusedxml's own
                raise Unreadable(Refusal("xml_forbidden", ascii(str(error))[:200], self.read)) from error
        self.read += len(data)
        self.silent = self.silent + len(data) if self.handler.events == before else 0
        if self.silent > self.limits.max_text_bytes and self.damage is None:  # expat holds a tag until its end
            raise Unreadable(Refusal("xml_forbidden", f"one tag of more than {self.limits.max_text_bytes} bytes", self.read))
        self.whole += len(self.handler.done)
        yield from self.handler.done
        self.handler.done.clear()

    def note_damage(self, detail: str) -> None:
        """Remember what is wrong up to the next page."""
        self.damage = _Damage(self.handler.begin_anew(), Refusal("xml_damaged", detail, self.read))
        self.damaged += 1
        if self.damaged > max(self.most_damaged, self.whole):
            raise Unreadable(Refusal("xml_damaged", f"{self.damaged} damaged pages, {self.whole} whole ones", self.read))

    def close(self, end: bytes) -> Iterator[_Damage]:
        """The last damage, where the file ends as it should.

        Args:
            end: the file's last bytes.

        Raises:
            Unreadable: it does not.
        """
        if not self.read:
            raise Unreadable(Refusal("xml_damaged", "the file is empty"))
        if self.damage is not None:
            if not self.damage.name or _END not in end:
                raise Unreadable(self.damage.refusal)
            yield self.damage
            return
        if self.handler.root != "mediawiki" and not self.whole:
            raise Unreadable(Refusal("no_pages", f"<{self.handler.root[:50]}> holds none: no export of a wiki", self.read))
        try:
            self.parser.close()
        except (SAXException, ValueError) as error:
            reason = "truncated" if self.handler.elements else "xml_damaged"
            raise Unreadable(Refusal(reason, ascii(str(error))[:200], self.read)) from error


READER = Reader(
    read=read_mediawiki,
    suffixes=(".xml.bz2", ".xml.gz", ".xml", "-shortened.bz2"),
    options=Options,
    needs=("defusedxml",),
)
