"""Common Crawl: WARC responses to the main text of their pages, WET conversions as they are.

Read: `response` records of HTML with status 200, `conversion` records of plain text. Requests, metadata, warcinfo, resources
and revisits hold no page and are passed over; responses of other kinds are refused as `not_html` or `http_status`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from pipeline_lib.config import ReadLimits
from pipeline_lib.sources.decompress import Unreadable, open_expanded
from pipeline_lib.sources.found_text import found_text, too_large
from pipeline_lib.sources.html import main_text
from pipeline_lib.sources.readers import Found
from pipeline_lib.sources.safe_open import Refusal
from pipeline_lib.sources.source_file import SourceFile
from pipeline_lib.sources.time_limit import within_time
from pipeline_lib.sources.warc_records import warc_records

_HTML = ("text/html", "application/xhtml+xml")


def read_warc(file: SourceFile, limits: ReadLimits) -> Iterator[Found]:
    """The pages of a WARC or WET file, in its order; group: the host.

    A file that is cut off or damaged keeps the records that are whole (each has a digest of its own), and the rest is looked
    for behind the damage.
    """
    try:
        with open_expanded(file.place, limits) as stream:
            for count, record in enumerate(warc_records(stream, limits), 1):
                if count > limits.max_members:
                    yield Found(file, Refusal("too_many_members", f"more than {limits.max_members}; see source.limits"))
                    return
                if isinstance(record, Refusal):
                    yield Found(file, record)
                else:
                    yield _page(file, record, limits)
    except Unreadable as error:
        yield Found(file, error.refusal)


def _page(file: SourceFile, record: Any, limits: ReadLimits) -> Found:
    url = (record.headers.get("WARC-Target-URI") or record.record_id or "").strip("<>")
    try:
        text = within_time("page", lambda: _text(record, limits))
        host = urlsplit(url).hostname or ""
    except (OSError, ValueError) as error:  # of HTTP headers and transfer codings; of a URL that is none
        text, host = Refusal("bad_record", str(error)), ""
    return found_text(file, url, text, limits, form="plain" if _is_wet(record) else "html", group=host)


def _is_wet(record: Any) -> bool:
    return str(record.headers.get("WARC-Type", "")).lower() == "conversion"


def _text(record: Any, limits: ReadLimits) -> str | Refusal:
    if _is_wet(record):
        data = record.reader.read(limits.max_text_bytes + 1)
        try:
            return data.decode("utf-8") if len(data) <= limits.max_text_bytes else too_large(len(data), limits)
        except UnicodeDecodeError as error:
            return Refusal("bad_encoding", f"{error.reason} (0x{data[error.start]:02x})", error.start)
    record.parse_http(auto_decode="all")
    if record.http_headers is None or record.http_headers.status_code != 200:
        status = record.http_headers.status_code if record.http_headers is not None else "none"
        return Refusal("http_status", f"{status}, 200 is read")
    kind = (record.http_content_type or "").lower()
    if kind not in _HTML:
        return Refusal("not_html", f"Content-Type is {kind[:100] or 'not given'}")
    return main_text(record.reader.read(limits.max_text_bytes + 1), limits, record.http_charset or "")
