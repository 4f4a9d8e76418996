"""Small dumps in the formats of the large ones, written for the tests."""

from __future__ import annotations

import io
from pathlib import Path

from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

from pipeline_lib.config.data import SourceConfig
from pipeline_lib.config.read_limits import ReadLimits
from pipeline_lib.sources.folder import describe
from pipeline_lib.sources.readers import texts_of
from pipeline_lib.sources.records import SourceRecord
from pipeline_lib.sources.safe_open import Refusal, SourceText
from pipeline_lib.sources.source_file import Form

LIMITS = ReadLimits()


def read_dump(path: Path, form: Form, limits: ReadLimits = LIMITS) -> list[SourceRecord]:
    """All that a reader finds in a file."""
    file = describe(str(path), path.name, "dump", "group", "CC0-1.0").model_copy(update={"form": form})
    return list(texts_of(file, SourceConfig(limits=limits)))


def texts(found: list[SourceRecord]) -> dict[str, str]:
    """Texts by the name of their record."""
    return {item.file.path.split("!", 1)[1]: item.content.text for item in found if isinstance(item.content, SourceText)}


def reasons(found: list[SourceRecord]) -> list[str]:
    """The reasons of all refusals, in order."""
    return [item.content.reason for item in found if isinstance(item.content, Refusal)]


def page(words: str) -> bytes:
    """A page with navigation, a heading and two paragraphs."""
    body = f"<h2>About {words}</h2><p>The first paragraph is about {words}.</p><p>So is the second, {words}.</p>"
    return f"<html><head><title>{words}</title></head><body><nav>Home Next</nav><main>{body}</main></body></html>".encode()


def response(
    url: str, body: bytes, content_type: str = "text/html; charset=utf-8", status: str = "200 OK", gzip: bool = True
) -> bytes:
    """One response record of a WARC file."""
    out = io.BytesIO()
    writer = WARCWriter(out, gzip=gzip)
    headers = StatusAndHeaders(status, [("Content-Type", content_type)], protocol="HTTP/1.1")
    writer.write_record(writer.create_warc_record(url, "response", payload=io.BytesIO(body), http_headers=headers))
    return out.getvalue()


def conversion(url: str, text: str) -> bytes:
    """One record of a WET file."""
    out = io.BytesIO()
    writer = WARCWriter(out, gzip=True)
    payload = io.BytesIO(text.encode())
    writer.write_record(writer.create_warc_record(url, "conversion", payload=payload, warc_content_type="text/plain"))
    return out.getvalue()
