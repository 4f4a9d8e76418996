"""Main text of web pages: what resiliparse takes for their content, headings as Markdown's, navigation left out.

A line but a heading whose characters are links for the most part leads to other pages and is left out too.

Charset: a byte order mark; UTF-8, where all beyond ASCII is that, for servers say `latin-1` of everything; the HTTP header, the
page's own declaration, then detection; each as the WHATWG maps its name, each strictly. The first that decodes every byte is
taken. A page of UTF-8 that was cut inside a character, or has few damaged bytes, is read as browsers show it; a page that
nothing decodes is refused as `bad_encoding`.
"""

from __future__ import annotations

import codecs
import html
import re
from collections.abc import Iterator

from pipeline_lib.config.read_limits import ReadLimits
from pipeline_lib.sources.decompress import read_whole
from pipeline_lib.sources.readers import Reader
from pipeline_lib.sources.records import SourceRecord, as_text
from pipeline_lib.sources.safe_open import Refusal
from pipeline_lib.sources.source_file import SourceFile
from pipeline_lib.sources.time_limit import within_time

# The time of resiliparse grows with the square of the depth of blocks: 0.5 s at 3,000, 6 s at 10,000, hours at a million.
_HARMLESS_TAGS = 2_000
_TAG = re.compile(r"<(/?)([a-zA-Z][a-zA-Z0-9-]*)")
# elements that never hold others, or whose end tag pages leave out: they do not nest
_FLAT = frozenset(
    "area base br col embed hr img input link meta source track wbr p li dt dd option tr td th thead tbody tfoot".split()  # noqa: SIM905
)
_MARKED = re.compile(r"<(/?)(h[1-6]|p|ul|ol|li|pre|br)>")
_HEADING = re.compile(r"\s*<h[1-6]>")
_MOST_LINKED = 0.6  # of a line's characters; a line with more leads to other pages
_UNDAMAGED = 20  # characters beyond ASCII for each damaged byte: other charsets give a valid sequence here and there
_BOMS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))


def read_html(file: SourceFile, limits: ReadLimits) -> Iterator[SourceRecord]:
    """A page in a file of its own, as its main text."""
    page = read_whole(file.place, limits, limits.max_text_bytes, file.sha256)
    text = page if isinstance(page, Refusal) else within_time("page", lambda: main_text(page, limits))
    yield SourceRecord(file, text if isinstance(text, Refusal) else as_text(text, limits))


def main_text(page: bytes, limits: ReadLimits, charset: str = "") -> str | Refusal:
    """The main text of a page; empty where it has none.

    Args:
        page: the bytes of an HTML document.
        charset: what the HTTP header says, if it says anything.

    Refusals: file_too_large, bad_encoding, html_depth (nested deeper than `limits.max_depth`).
    """
    from resiliparse.extract.html2text import extract_plain_text

    if len(page) > limits.max_text_bytes:
        return Refusal("file_too_large", f"{len(page)} bytes, at most {limits.max_text_bytes} are read")
    text = decode_page(page, charset)
    if isinstance(text, Refusal):
        return text
    if text.count("<") - text.count("</") > _HARMLESS_TAGS and (offset := _too_deep(text, limits.max_depth)) >= 0:
        return Refusal("html_depth", f"nested deeper than {limits.max_depth} elements", offset)
    marked: str = extract_plain_text(
        text, main_content=True, preserve_formatting="minimal_html", alt_texts=False, list_bullets=False, links=True
    )
    return html.unescape(_MARKED.sub(_as_markdown, _without_links(marked))).strip()


def _without_links(marked: str) -> str:
    """The text of links in place of them, and no line but headings that is links for the most part."""
    if "<a" not in marked:
        return marked
    kept, inside = [], False
    for line in marked.split("\n"):
        if not inside and "<a" not in line:
            kept.append(line)
            continue
        parts = line.replace("</a>", "<a/").split("<a")  # each but the first begins with the rest of its tag
        texts, linked = [parts[0]], len(parts[0].strip()) if inside else 0
        for part in parts[1:]:
            inside = not part.startswith("/")
            text = part[1:] if not inside else part.partition(">")[2]
            texts.append(text)
            linked += len(text.strip()) if inside else 0
        text = "".join(texts)
        if linked <= _MOST_LINKED * len(_MARKED.sub("", text).strip()) or _HEADING.match(text):
            kept.append(text)
    return "\n".join(kept)


def fragment_text(fragment: str, limits: ReadLimits) -> str | Refusal:
    """All text of a piece of HTML that is no page, such as a post: nothing in it is taken for navigation.

    Refusals: html_depth.
    """
    from resiliparse.extract.html2text import extract_plain_text

    nested = fragment.count("<") - fragment.count("</") > _HARMLESS_TAGS
    if nested and (offset := _too_deep(fragment, limits.max_depth)) >= 0:
        return Refusal("html_depth", f"nested deeper than {limits.max_depth} elements", offset)
    marked: str = extract_plain_text(
        fragment, main_content=False, preserve_formatting="minimal_html", alt_texts=False, list_bullets=False
    )
    return html.unescape(_MARKED.sub(_as_markdown, marked)).strip()


def decode_page(page: bytes, charset: str = "") -> str | Refusal:
    """A page's text by the first charset of the policy above that decodes all of it."""
    from resiliparse.parse.encoding import detect_encoding, map_encoding_to_html5

    for mark, marked in _BOMS:
        if page.startswith(mark):
            text = _strictly(page[len(mark) :], marked)
            return Refusal("bad_encoding", f"not valid as {marked}, its byte order mark") if text is None else text
    if (text := _utf_8(page)) is not None:
        return text
    tried: list[str] = []
    for candidate in (  # each only where those before failed
        lambda: map_encoding_to_html5(charset.strip("\"' "), fallback_utf8=False) if charset else None,
        lambda: detect_encoding(page, from_html_meta=True),
        lambda: detect_encoding(page),
    ):
        encoding = candidate()
        if encoding and encoding not in tried:
            tried.append(encoding)
            text = _strictly(page, encoding)
            if text is not None:
                return text
    return Refusal("bad_encoding", f"not valid as {', '.join(tried)}")


def _utf_8(page: bytes) -> str | None:
    """The text of a page that is UTF-8 beyond doubt: not ASCII alone, hardly a byte that is damaged, none that is NUL."""
    if page.isascii() or b"\0" in page:
        return None
    text = page.decode("utf-8", "replace")
    damaged = text.count("\ufffd")
    whole = len(text) - len(text.encode("ascii", "ignore")) - damaged
    if damaged == 1 and whole and text.endswith("\ufffd"):
        return text[:-1]
    return text if damaged * _UNDAMAGED <= whole else None


def _strictly(page: bytes, encoding: str) -> str | None:
    try:
        return page.decode(encoding)
    except (UnicodeDecodeError, LookupError):
        return None


def _too_deep(text: str, most: int) -> int:
    """Offset at which elements nest deeper than allowed; -1: none. Elements that are left open count as nesting."""
    depth = 0
    for tag in _TAG.finditer(text):
        if tag.group(2).lower() not in _FLAT:
            depth += -1 if tag.group(1) else 1
            if depth > most:
                return tag.start()
            depth = max(depth, 0)
    return -1


def _as_markdown(tag: re.Match[str]) -> str:
    end, name = tag.groups()
    if name[0] == "h":
        return "\n" if end else f"\n{'#' * int(name[1])} "
    if name == "li":
        return "" if end else "- "
    return "\n```\n" if name == "pre" else "\n" if name == "br" else ""


READER = Reader(read=read_html, needs=("resiliparse",), one_text=True)  # the reader `text` takes pages by their suffix
