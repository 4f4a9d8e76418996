"""Main text of web pages: what resiliparse takes for their content, headings as Markdown's, navigation left out.

Charset: a byte order mark, the HTTP header, the page's own declaration, then detection; each as the WHATWG maps its name, each
strictly. The first that decodes every byte is taken; a page that none decodes is refused as `bad_encoding`, not patched.
"""

from __future__ import annotations

import codecs
import html
import re
from collections.abc import Iterator

from pipeline_lib.config.data import ReadLimits
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
        text, main_content=True, preserve_formatting="minimal_html", alt_texts=False, list_bullets=False
    )
    return html.unescape(_MARKED.sub(_as_markdown, marked)).strip()


def decode_page(page: bytes, charset: str = "") -> str | Refusal:
    """A page's text by the first charset of the policy above that decodes all of it."""
    from resiliparse.parse.encoding import detect_encoding, map_encoding_to_html5

    for mark, marked in _BOMS:
        if page.startswith(mark):
            text = _strictly(page[len(mark) :], marked)
            return Refusal("bad_encoding", f"not valid as {marked}, its byte order mark") if text is None else text
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
