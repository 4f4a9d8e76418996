"""Archives of source: .tar (plain or compressed), .zip, wheels and sdists, member by member; nothing is ever unpacked.

A member's name is metadata here, never a place: no file is written, no link followed, no device opened. An archive inside
an archive is not opened.
"""

from __future__ import annotations

from collections.abc import Iterator

from pipeline_lib.config import ReadLimits
from pipeline_lib.sources.decompress import Unreadable, check_stream, open_expanded
from pipeline_lib.sources.member import MemberOptions as Options
from pipeline_lib.sources.member import member, unsafe_path, wanted_form
from pipeline_lib.sources.readers import Found
from pipeline_lib.sources.safe_open import Refusal
from pipeline_lib.sources.source_file import SourceFile
from pipeline_lib.sources.tar_stream import TarEntry, tar_entries
from pipeline_lib.sources.zip_members import ZipEntry, zip_entries

__all__ = ["Options", "read_archive"]

MAX_REFUSED = 10_000  # members refused one by one; an archive with more is left there: each is a row in memory
_ARCHIVES = (".zip", ".whl", ".jar", ".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst")


def read_archive(file: SourceFile, limits: ReadLimits) -> Iterator[Found]:
    """Every member that holds code or prose, and every one that is refused, in the archive's order.

    Refusals of members: unsafe_path, link, not_a_file, nested_archive, encrypted, unsupported_compression,
    file_too_large, damaged, and those of decoding. Of the archive: truncated, damaged, expansion_limit, too_many_members.
    """
    refusal = check_stream(file.place, limits, file.sha256)
    if refusal is not None:
        yield Found(file, refusal)
        return
    html = Options.model_validate(file.options).html
    chosen = _Chosen(limits, html)
    try:
        with open_expanded(file.place, limits) as stream:
            head = stream.raw.peek(4)[:4]
            entries: Iterator[TarEntry | ZipEntry] = tar_entries(stream)
            if head in (b"PK\3\4", b"PK\5\6"):
                entries = zip_entries(stream.raw, limits)
            for count, entry in enumerate(entries, start=1):
                if count > limits.max_members:
                    raise Unreadable(Refusal("too_many_members", f"more than {limits.max_members}; see source.limits"))
                if chosen.is_read(entry):
                    yield member(file, entry.name, wanted_form(entry.name, html), chosen.content(entry), limits)
    except Unreadable as error:
        yield Found(file, error.refusal)


class _Chosen:
    """Which members are read, and how many were refused."""

    def __init__(self, limits: ReadLimits, html: bool) -> None:
        self.limits = limits
        self.html = html
        self.refused = 0

    def is_read(self, entry: TarEntry | ZipEntry) -> bool:
        """Whether a member shows in the rows, as a text or as a refusal: folders, pictures and the like do not."""
        if entry.kind == "folder":
            return False
        if entry.kind == "special" or unsafe_path(entry.name) is not None:
            return True
        return wanted_form(entry.name, self.html) is not None or entry.name.lower().endswith(_ARCHIVES)

    def content(self, entry: TarEntry | ZipEntry) -> bytes | Refusal:
        """A member's bytes, or why they are not read."""
        content = self._refusal(entry) or entry.read(self.limits.max_text_bytes)
        if isinstance(content, Refusal):
            self.refused += 1
            if self.refused > MAX_REFUSED:
                raise Unreadable(Refusal("too_many_members", f"more than {MAX_REFUSED} members were refused"))
        return content

    def _refusal(self, entry: TarEntry | ZipEntry) -> Refusal | None:
        unsafe = unsafe_path(entry.name)
        if unsafe is not None:
            return unsafe
        if entry.kind == "link":
            return Refusal("link", f"a link to {ascii(entry.target)[:200]}; links are not followed")
        if entry.kind == "special":
            return Refusal("not_a_file", "a device, a pipe, a sparse file or the like")
        if entry.name.lower().endswith(_ARCHIVES):
            return Refusal("nested_archive", "an archive in an archive is not opened: list it by itself")
        if entry.size > self.limits.max_text_bytes:
            return Refusal("file_too_large", f"{entry.size} bytes, at most {self.limits.max_text_bytes} are read")
        return None
