"""Archives, member by member: .tar (plain or compressed), .zip, .7z, wheels and sdists, never unpacked.

A member's name is metadata here, never a place: no file is written, no link followed, no device opened. An archive inside an
archive is not opened. Headers and directories are read within bounds, and one that is broken or lies is refused.
"""

from __future__ import annotations

import hashlib
import io
import re
import tarfile
from collections.abc import Iterator
from contextlib import suppress
from typing import IO, Any, ClassVar, Literal, NamedTuple, Self, cast

from pydantic import BaseModel, ConfigDict, Field

from pipeline_lib.config.read_limits import ReadLimits
from pipeline_lib.sources.codecs import SEVEN_ZIP
from pipeline_lib.sources.decompress import Expanded, Unreadable, open_expanded
from pipeline_lib.sources.folder import SKIPPED_FOLDERS, Skips, valid_name
from pipeline_lib.sources.licences import HEAD_BYTES, MAX_STATEMENT_BYTES, Licences
from pipeline_lib.sources.readers import Reader
from pipeline_lib.sources.readers.html import main_text
from pipeline_lib.sources.records import SourceRecord, as_text
from pipeline_lib.sources.safe_open import Refusal, decode
from pipeline_lib.sources.seven_zip import SevenZipEntry, seven_zip_entries
from pipeline_lib.sources.source_file import CODE_FORMS, Form, SourceFile, form_of
from pipeline_lib.sources.time_limit import sign_of_life, within_time
from pipeline_lib.sources.zip_archive import ZIPS, ZipEntry, zip_entries

_EXTENDED = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE)
_BROKEN = (tarfile.TarError, ValueError, OverflowError, RecursionError, EOFError)
_DRIVE = re.compile(r"^[A-Za-z]:")


class MemberOptions(BaseModel):
    """What the readers of archives and repositories take in a dump spec."""

    model_config = ConfigDict(extra="forbid")

    html: bool = Field(False, description="Pages (.html, .htm) are read too; in source they are mostly generated.")


def wanted_form(name: str, html: bool, more: tuple[Form, ...] = ()) -> Form | None:
    """What a member holds, by its name; None: it is not read. The folders that a tree skips are skipped here too.

    Args:
        html: whether pages are read.
        more: forms that are read beside those that are read in every source.
    """
    folders = name.split("/")[:-1]
    if not SKIPPED_FOLDERS.isdisjoint(folders):
        return None
    if name.endswith(".dist-info/METADATA"):
        return "metadata"
    if html and name.lower().endswith((".html", ".htm")):
        return "html"
    return form_of(name, more)


def unsafe_path(name: str, limits: ReadLimits) -> Refusal | None:
    """Why a name would leave the folder that it is unpacked in. Nothing is ever unpacked: it tells a hostile archive."""
    if name.startswith(("/", "\\")) or _DRIVE.match(name):
        return Refusal("unsafe_path", "an absolute path")
    if ".." in re.split(r"[/\\]", name):
        return Refusal("unsafe_path", "a path with `..`")
    if len(name) > (most := limits.max_name_characters):
        detail = f"a path of {len(name)} characters, at most {most} are read; see source.limits.max_name_characters"
        return Refusal("unsafe_path", detail)
    return None


def member_record(
    container: SourceFile, name: str, form: Form | None, content: bytes | Refusal, limits: ReadLimits, licences: Licences
) -> SourceRecord:
    """A member's text, a page's main text, or why there is none; its path is the container's, "!" and its own.

    Args:
        licences: what the container's manifests and licence files say.
    """
    path = f"{container.path}!{valid_name(name[: limits.max_name_characters])}"
    update: dict[str, Any] = {"path": path, "form": form or "plain"}
    if isinstance(content, Refusal):
        return SourceRecord(container.model_copy(update={**update, "bytes": 0, "sha256": ""}), content)
    update |= {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    update["licence"] = licences.of(valid_name(name), content[:HEAD_BYTES])
    file = container.model_copy(update=update)
    if form != "html":
        return SourceRecord(file, decode(content, form == "python", form not in CODE_FORMS))
    text = within_time("page", lambda: main_text(content, limits))
    return SourceRecord(file, text if isinstance(text, Refusal) else as_text(text, limits))


class TarEntry(NamedTuple):
    """One member: readable until the next one is asked for."""

    name: str
    kind: Literal["file", "folder", "link", "special"]
    size: int
    target: str  # of a link
    archive: tarfile.TarFile
    info: tarfile.TarInfo

    def read(self, max_bytes: int) -> bytes | Refusal:
        """Its content, of which no more than `max_bytes` + 1 are read."""
        try:
            stream = self.archive.extractfile(self.info)
            assert stream is not None, f"{self.name}: a regular member without content"
            content = stream.read(max_bytes + 1)
        except _BROKEN as error:
            raise _unreadable(error) from error
        return content if len(content) == self.size else Refusal("damaged", f"{len(content)} bytes of {self.size}")


def tar_entries(stream: io.RawIOBase, limits: ReadLimits) -> Iterator[TarEntry]:
    """The entries of a tar archive in its order.

    Raises:
        Unreadable: `truncated`, `damaged` or `expansion_limit`; the members before were good.
    """
    header = type("Header", (_Header,), {"most": limits.max_header_bytes})
    options: dict[str, Any] = {"tarinfo": header, "encoding": "utf-8", "ignore_zeros": True}  # another may follow (`cat`)
    try:
        with tarfile.open(fileobj=cast(IO[bytes], stream), mode="r|", **options) as archive:
            while (info := archive.next()) is not None:
                archive.members.clear()  # type: ignore[attr-defined]  # it keeps them all: a gigabyte for a million
                yield TarEntry(info.name.removeprefix("./"), _kind(info), info.size, info.linkname, archive, info)
    except _BROKEN as error:
        raise _unreadable(error) from error


def _unreadable(error: Exception) -> Unreadable:
    reason = "truncated" if "unexpected end" in str(error) else "damaged"
    return Unreadable(Refusal(reason, f"no sound tar archive: {type(error).__name__}: {ascii(str(error))[:200]}"))


class _Header(tarfile.TarInfo):
    """A header that ends the reading where it is broken; tarfile itself would take it for the end of the archive."""

    most: ClassVar[int]  # bytes of an extended header, which tarfile reads whole
    ended: ClassVar[bool] = False  # the last header was the end mark

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        """Read a header as tarfile does, but refuse a broken one."""
        try:
            info = super().frombuf(buf, encoding, errors)
            cls.ended = False
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            cls.ended = True
            raise
        except (tarfile.EmptyHeaderError, tarfile.TruncatedHeaderError) as error:  # type: ignore[attr-defined]
            if cls.ended and not buf.strip(b"\0"):
                raise tarfile.EmptyHeaderError("end") from error  # type: ignore[attr-defined]
            raise Unreadable(Refusal("truncated", "the archive ends without its end mark: get the file again")) from error
        except tarfile.HeaderError as error:
            raise Unreadable(Refusal("damaged", f"a broken header: {error}")) from error
        if info.type in _EXTENDED and info.size > cls.most:
            detail = f"an extended header of {info.size} bytes, at most {cls.most} are read; see source.limits.max_header_bytes"
            raise Unreadable(Refusal("expansion_limit", detail))
        if info.size < 0:
            raise Unreadable(Refusal("damaged", f"a member of {info.size} bytes"))
        return info


def _kind(info: tarfile.TarInfo) -> Literal["file", "folder", "link", "special"]:
    if info.issparse():
        return "special"  # a terabyte of holes in one block, and a map that tarfile does not check
    if info.isreg():
        return "file"
    if info.isdir():
        return "folder"
    return "link" if info.issym() or info.islnk() else "special"


_ARCHIVES = (".zip", ".whl", ".jar", ".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst", ".tar.lz4", ".7z", ".rar")


def read_archive(file: SourceFile, limits: ReadLimits) -> Iterator[SourceRecord]:
    """Every member that holds code or prose, and every one that is refused, in the archive's order.

    Refusals of members: unsafe_path, link, not_a_file, nested_archive, encrypted, unsupported_compression,
    file_too_large, damaged, and those of decoding. Raises `Unreadable` where the archive ends early.
    """
    html = MemberOptions.model_validate(file.options).html
    chosen, licences = _Chosen(limits, html, file.more_forms), _licences(file, limits)
    broken: Unreadable | None = None
    try:
        with open_expanded(file.place, limits, read=SEVEN_ZIP) as stream:
            for entry in _entries(stream, limits):
                if chosen.is_read(entry):
                    form = wanted_form(entry.name, html, file.more_forms)
                    yield member_record(file, entry.name, form, chosen.content(entry), limits, licences)
            while stream.raw_read and stream.read_some():  # behind a tar archive's end mark stands what tells that it is whole
                pass
    except Unreadable as error:
        broken = error
    if chosen.skips:
        yield SourceRecord(file, chosen.skips)
    if broken is not None:
        raise broken


def _entries(stream: Expanded, limits: ReadLimits) -> Iterator[TarEntry | ZipEntry | SevenZipEntry]:
    head = stream.raw.peek(len(SEVEN_ZIP))
    if head.startswith(SEVEN_ZIP):
        yield from seven_zip_entries(stream, limits)
    else:
        yield from zip_entries(stream.raw, limits) if head.startswith(ZIPS) else tar_entries(stream, limits)


def _licences(file: SourceFile, limits: ReadLimits) -> Licences:
    """What manifests and licence files say, in a pass of its own: they may stand behind the files that they are of."""
    licences = Licences(file.licence)
    with suppress(Unreadable), open_expanded(file.place, limits, read=SEVEN_ZIP) as stream:  # the pass over the texts says so
        for entry in _entries(stream, limits):
            sign_of_life()
            if entry.kind == "file" and entry.size <= MAX_STATEMENT_BYTES and licences.is_statement(entry.name):
                content = entry.read(MAX_STATEMENT_BYTES)
                licences.add(valid_name(entry.name), b"" if isinstance(content, Refusal) else content)
    return licences


class _Chosen:
    """Which members are read, and how many were refused."""

    def __init__(self, limits: ReadLimits, html: bool, more: tuple[Form, ...] = ()) -> None:
        self.limits = limits
        self.html = html
        self.more = more
        self.refused = 0
        self.skips = Skips()

    def is_read(self, entry: TarEntry | ZipEntry | SevenZipEntry) -> bool:
        """True where a member shows in the rows, as a text or as a refusal: folders, pictures and the like do not."""
        if entry.kind == "folder":
            return False
        if entry.kind == "special" or unsafe_path(entry.name, self.limits) is not None:
            return True
        if wanted_form(entry.name, self.html, self.more) is not None or entry.name.lower().endswith(_ARCHIVES):
            return True
        self.skips.note(entry.name)
        return False

    def content(self, entry: TarEntry | ZipEntry | SevenZipEntry) -> bytes | Refusal:
        """A member's bytes, or why they are not read."""
        content = self._refusal(entry) or entry.read(self.limits.max_text_bytes)
        if isinstance(content, Refusal):
            self.refused += 1
            if self.refused > (most := self.limits.max_refused_members):  # each is a row in memory
                detail = f"more than {most} members were refused; see source.limits.max_refused_members"
                raise Unreadable(Refusal("too_many_members", detail))
        return content

    def _refusal(self, entry: TarEntry | ZipEntry | SevenZipEntry) -> Refusal | None:
        unsafe = unsafe_path(entry.name, self.limits)
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


READER = Reader(read=read_archive, suffixes=_ARCHIVES, options=MemberOptions)
