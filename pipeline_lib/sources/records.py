"""Records of a file: its texts, each with a path, a group and a licence of its own, or the reason why it has no text."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from pipeline_lib.config.read_limits import ReadLimits
from pipeline_lib.errors import redacted
from pipeline_lib.sources.decompress import Unreadable, open_expanded
from pipeline_lib.sources.folder import Skips
from pipeline_lib.sources.safe_open import Refusal, SourceText, bounded_lines, decode
from pipeline_lib.sources.source_file import DIGEST_MARK, SourceFile

_NAME_CHARACTERS = 500  # a URL may be of any length, and stands in every row
_DIGEST_DIGITS = 16
_NOTHING: Mapping[str, int] = MappingProxyType({})


class SourceRecord(NamedTuple):
    """One text inside a file, or why it could not be read.

    `file` describes the container with what is the text's own: path (the container's, "!" and the record's name, member
    or URL; no two texts of a container have the same), form, group, licence, the sha256 and the length of its bytes.
    A container that holds other files than texts says so in a last record of its own path: how many, by reason.
    """

    file: SourceFile
    content: SourceText | Refusal | Skips
    omitted: Mapping[str, int] = _NOTHING  # parts of the text that its reader leaves out on purpose, by kind

    def changed(self, **own: Any) -> SourceRecord:
        """The same text under another path, group or the like."""
        return self._replace(file=self.file.model_copy(update=own))


class DataLoss(SourceRecord):
    """A part of a container that was not read, up to its end or to where reading went on: no text, and none is refused.

    `content` is a Refusal that says why, where, and how many of the container's bytes on disk it cost.
    """

    __slots__ = ()


class ContentChangedError(Exception):
    """A file of which texts were read is found to be another than was listed."""

    def __init__(self, file: SourceFile, refusal: Refusal) -> None:
        super().__init__(redacted(f"{file.place}: {refusal.detail}"))
        self.file, self.refusal = file, refusal


def text_record(
    container: SourceFile, name: str, content: str | Refusal, limits: ReadLimits, mark: str = "", **own: Any
) -> SourceRecord:
    """A record that states its text as a string.

    Args:
        name: of the record: its URL, title or id.
        content: its text, or why there is none. NUL bytes and unpaired surrogates, which escapes can make, are refused.
        mark: stands behind the name, such as the record's line.
        own: what is the record's own among group, licence and form.
    """
    text = as_text(content, limits) if isinstance(content, str) else content
    data = text.data if isinstance(text, SourceText) else b""
    changes: dict[str, Any] = {key: one_line(value) for key, value in own.items() if value}
    changes |= {
        "path": f"{container.path}!{address(name)}{mark}",
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
    }
    return SourceRecord(container.model_copy(update=changes), text)


def refused_record(container: SourceFile, name: str, refusal: Refusal, number: int) -> SourceRecord:
    """A record without a text; its number, from 1, is the refusal's offset."""
    file = container.model_copy(update={"path": f"{container.path}!{name}", "bytes": 0, "sha256": ""})
    return SourceRecord(file, Refusal(refusal.reason, refusal.detail, number))


def as_text(text: str, limits: ReadLimits) -> SourceText | Refusal:
    """A string of unknown origin as text: valid Unicode without NUL, its newlines folded, no longer than the limit."""
    data = text.encode("utf-8", "surrogatepass")
    if len(data) > limits.max_text_bytes:
        return too_large(len(data), limits)
    return decode(data)


def too_large(size: int, limits: ReadLimits) -> Refusal:
    """The refusal of a text that is longer than the limit (bytes)."""
    return Refusal("file_too_large", f"{size} bytes, at most {limits.max_text_bytes} are read")


def address(name: str) -> str:
    """A record's name as a path that no other name has: one that cannot be shown whole ends in a digest of all of it."""
    short = one_line(name)
    if short == name:
        return name
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:_DIGEST_DIGITS]
    return f"{short}{DIGEST_MARK}{digest}"


def one_line(name: str) -> str:
    """A name that any table can hold: on one line, valid Unicode, not endless."""
    return " ".join(name[:_NAME_CHARACTERS].replace("\0", " ").encode("utf-8", "replace").decode().split())


def json_of_lines(file: SourceFile, limits: ReadLimits, line_per_text: int) -> Iterator[tuple[int, Any]]:
    """The values that the lines of a file state as JSON, each with its line's number from 1; or why a line states none.

    Refusals: not_json, file_too_large. Blank lines are passed over.

    Args:
        line_per_text: how many times as long as a text a line may be: it holds metadata and escapes too.

    Raises:
        Unreadable: the file ends early; its last line, which is no whole one, is not given.
    """
    with open_expanded(file.place, limits) as stream:
        lines = bounded_lines(io.BufferedReader(stream), limits.record_bytes(line_per_text))
        for number, line in enumerate(lines, start=1):
            if isinstance(line, Refusal):
                yield number, line
            elif line.strip():
                value = _json_of(line)
                if isinstance(value, Refusal) and _is_cut(line):
                    detail = f"the file ends inside line {number}, {len(line)} bytes into it: {value.detail}"
                    raise Unreadable(Refusal("truncated", detail, number))
                yield number, value


def _json_of(line: bytes) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        return Refusal("not_json", ascii(str(error))[:200])


def _is_cut(line: bytes) -> bool:
    """True for a line without its newline that begins as a value in JSON does and ends before that."""
    if line.endswith((b"\n", b"\r")):
        return False
    text = line.decode("utf-8-sig", "ignore").strip()  # a character may be cut too
    try:
        json.loads(text)
    except json.JSONDecodeError as error:
        rest = text[error.pos :]
        ends_inside = error.msg.startswith("Unterminated string") or any(begun.startswith(rest) for begun in _BEGUN)
        return text.startswith(("{", "[")) and (ends_inside or ("uXXXX" in error.msg and len(rest) < _ESCAPE))
    except (ValueError, RecursionError):
        pass
    return False


_BEGUN = ("true", "false", "null", "NaN", "Infinity", "-Infinity", ".", "e+", "e-", "E+", "E-")  # what a cut leaves of a value
_ESCAPE = 6  # characters of one in full: \\u00e9
