"""Archives of source: every text of every kind of archive, and nothing else."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import lzma
import sys
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard
from dump_files import read_dump, reasons, texts
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline_lib.config.data import ExtractConfig, SourceConfig
from pipeline_lib.config.read_limits import ReadLimits
from pipeline_lib.pairs.extract import ExtractWork, extract_file
from pipeline_lib.pairs.tables import Rows
from pipeline_lib.sources.folder import Skips, describe
from pipeline_lib.sources.readers import guess, texts_of
from pipeline_lib.sources.safe_open import Refusal, SourceText
from pipeline_lib.sources.source_file import SourceFile

MEMBERS = {
    "pkg/src/sums.py": b"total = 1\n",
    "pkg/web/app.mjs": b"export const a = 1\n",
    "pkg/Main.java": b"class Main {}\n",
    "pkg/README.md": "Größe\n".encode(),
    "pkg/image.png": b"\x89PNG\0\0",
    "pkg/node_modules/other.js": b"var b",
    "pkg-1.0.dist-info/METADATA": b"Name: pkg\n\nA package.\n",
}
TEXTS = {name: data for name, data in MEMBERS.items() if not name.endswith((".png", "other.js"))}
FORMS = ["python", "javascript", "java", "markdown", "metadata"]


def tar_of(members: dict[str, bytes], format: int = tarfile.PAX_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format) as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def zip_of(members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


MAKERS: dict[str, Callable[[dict[str, bytes]], bytes]] = {
    "a.tar": tar_of,
    "gnu.tar": lambda members: tar_of(members, tarfile.GNU_FORMAT),
    "a.tar.gz": lambda members: gzip.compress(tar_of(members)),
    "a.tgz": lambda members: gzip.compress(tar_of(members)),
    "a.tar.bz2": lambda members: bz2.compress(tar_of(members)),
    "a.tar.xz": lambda members: lzma.compress(tar_of(members)),
    "a.tar.zst": lambda members: zstandard.compress(tar_of(members)),
    "a.zip": zip_of,
    "a.whl": lambda members: zip_of(members, zipfile.ZIP_STORED),
}


def container(path: Path, content: bytes) -> SourceFile:
    path.write_bytes(content)
    return describe(str(path), path.name, "wheels", path.name, "MIT").model_copy(update={"form": "archive"})


def contents(file: SourceFile, limits: ReadLimits | None = None) -> list[tuple[str, bytes | str]]:
    """Member name and its bytes, or the reason of its refusal."""
    found = list(texts_of(file, SourceConfig(limits=limits or ReadLimits())))
    return [
        (f.file.path.partition("!")[2], f.content.reason if isinstance(f.content, Refusal) else f.content.data)
        for f in found
        if not isinstance(f.content, Skips)
    ]


@pytest.mark.parametrize("name", sorted(MAKERS))
def test_every_text_comes_out_of_every_archive(tmp_path: Path, name: str) -> None:
    file = container(tmp_path / name, MAKERS[name](MEMBERS))
    *found, rest = texts_of(file, SourceConfig())
    assert rest.file.path == name and rest.content == Skips({("no_code_or_prose", ".png"): 1, ("vendored_folder", ".js"): 1})
    assert [f.file.path for f in found] == [f"{name}!{member}" for member in TEXTS]
    assert [f.content.data for f in found if isinstance(f.content, SourceText)] == list(TEXTS.values())
    assert [f.file.form for f in found] == FORMS
    assert [f.file.sha256 for f in found] == [hashlib.sha256(data).hexdigest() for data in TEXTS.values()]
    assert {(f.file.source, f.file.licence, f.file.group) for f in found} == {("wheels", "MIT", name)}


def test_what_an_archive_holds_besides_is_accounted_for(tmp_path: Path) -> None:
    body = b'def add_numbers(a, b):\n    """Add the two numbers to one sum."""\n' + b"    a += b\n" * 3 + b"    return a\n"
    members = {"p/a.py": body, "p/b.ts": b"", "p/c.ts": b"", "p/d.png": b"", "p/node_modules/e.js": b""}
    work = ExtractWork(source=SourceConfig(), extract=ExtractConfig())
    for name in ("a.tar.gz", "a.zip"):
        rows = Rows(0)
        extract_file(container(tmp_path / name, MAKERS[name](members)), work, rows)
        counts = rows.counts().check(name)
        assert counts.dropped == {"no_code_or_prose": 1, "other_language": 2, "vendored_folder": 1}
        assert (counts.n_in, counts.n_out) == (5, 1)
        assert rows.skips.facts()["other_language"] == {".ts": 2}


@settings(deadline=None, max_examples=30)
@given(
    st.dictionaries(
        st.text("abcäß/ .", min_size=1, max_size=30).map(lambda s: f"p/{s.replace('..', '').strip('/')}x.py"),
        st.text(max_size=50).map(lambda text: text.replace("\r", "").replace("\0", "").encode()),
        max_size=8,
    ),
    st.sampled_from(["a.tar", "gnu.tar", "a.tar.gz", "a.zip"]),
)
def test_names_and_contents_are_as_they_went_in(tmp_path_factory: pytest.TempPathFactory, members, name: str) -> None:
    file = container(tmp_path_factory.mktemp("archive") / name, MAKERS[name](members))
    bom = b"\xef\xbb\xbf"
    assert contents(file) == [(member, data.removeprefix(bom)) for member, data in members.items()]


@pytest.mark.parametrize("name", ["a.tar.gz", "a.zip"])
def test_bounds_are_told(tmp_path: Path, name: str) -> None:
    file = container(tmp_path / name, MAKERS[name]({"a.py": b"x" * 100, "b.py": b"y" * 10, "c.py": b"z", "d.zip": b"PK"}))
    assert contents(file, ReadLimits(max_text_bytes=50)) == [
        ("a.py", "file_too_large"),
        ("b.py", b"y" * 10),
        ("c.py", b"z"),
        ("d.zip", "nested_archive"),
    ]
    assert contents(file, ReadLimits(max_members=2))[-1] == ("", "too_many_members")


def test_a_changed_archive_is_refused(tmp_path: Path) -> None:
    file = container(tmp_path / "a.zip", zip_of(MEMBERS))
    (tmp_path / "a.zip").write_bytes(zip_of({"a.py": b"1"}))
    assert contents(file) == [("a.py", b"1"), ("", "content_changed")]  # extraction then leaves out all of it


@pytest.mark.parametrize("name", sorted(MAKERS))
def test_a_cut_archive_gives_whole_members_and_a_reason(tmp_path: Path, name: str) -> None:
    whole = MAKERS[name]({f"m{i}.py": bytes([97 + i]) * 700 for i in range(8)})
    good = {f"m{i}.py": bytes([97 + i]) * 700 for i in range(8)}
    for cut in range(0, len(whole) - 1, max(1, len(whole) // 40)):
        end = whole[cut:].strip(b"\0")
        found = contents(container(tmp_path / name, whole[:cut]))
        read = [(member, data) for member, data in found if isinstance(data, bytes)]
        assert all(good[member] == data for member, data in read)
        if end:  # more was cut off than the zeros that end a tar archive
            assert found[-1][1] in ("truncated", "damaged", "file_empty"), (cut, found[-1])


def test_a_broken_header_in_the_middle_is_not_taken_for_the_end(tmp_path: Path) -> None:
    whole = bytearray(tar_of({"a.py": b"1", "b.py": b"2", "c.py": b"3"}, tarfile.USTAR_FORMAT))
    whole[1024] ^= 1  # the name of the second member: its checksum is wrong now
    assert contents(container(tmp_path / "a.tar", bytes(whole))) == [("a.py", b"1"), ("", "damaged")]


@pytest.mark.parametrize("name", ["a.tar.gz", "a.zip"])
def test_pages_are_read_where_that_is_asked_for(tmp_path: Path, name: str) -> None:
    pytest.importorskip("resiliparse")
    page = b"<html><body><nav>Home</nav><main><h1>Pages</h1><p>A paragraph of prose.</p></main></body></html>"
    deep = b"<div>" * 5_000
    file = container(tmp_path / name, MAKERS[name]({"a.py": b"x = 1", "doc/b.html": page, "doc/c.HTM": deep}))
    assert contents(file) == [("a.py", b"x = 1")]
    asked = file.model_copy(update={"options": {"html": True}})
    (_, code), (page_name, text), last = contents(asked)
    assert (code, page_name, last) == (b"x = 1", "doc/b.html", ("doc/c.HTM", "html_depth"))
    assert [line for line in text.split(b"\n") if line] == [b"# Pages", b"A paragraph of prose."]


# ---- 7-Zip


def seven_zip(folder: Path, files: dict[str, bytes]) -> Path:
    """An archive of one compressed block."""
    libarchive = pytest.importorskip("libarchive", reason="libarchive is no part of this machine")
    path = folder / "a.7z"
    with libarchive.file_writer(str(path), "7zip") as archive:
        for name, content in files.items():
            archive.add_file_from_memory(name, len(content), content)
    return path


SEVEN = {
    "pkg/sums.py": b"total = 1\n",
    "notes/\u4e16\u754c.md": b"# A heading\n",
    "pkg/logo.png": b"\x89PNG",
    "../out.py": b"x = 1\n",
    "pkg/LICENSE": b"MIT License\n",
    "big.txt": b"x" * 3_000_000,
    "last.txt": b"The last one.",
}


def test_a_7z_is_read_member_by_member(tmp_path: Path) -> None:
    found = read_dump(seven_zip(tmp_path, SEVEN), "archive")
    assert texts(found) == {
        "pkg/sums.py": "total = 1\n", "notes/\u4e16\u754c.md": "# A heading\n", "last.txt": "The last one.",
    }  # fmt: skip
    assert reasons(found) == ["unsafe_path", "file_too_large"] and found[0].file.licence == "MIT"
    assert isinstance(found[-1].content, Skips) and found[-1].content.total() == 2
    (tmp_path / "renamed.txt").write_bytes((tmp_path / "a.7z").read_bytes())
    assert guess(str(tmp_path / "renamed.txt")) == guess(str(tmp_path / "a.7z")) == "archive"


def test_a_7z_is_bounded_and_one_that_is_cut_or_damaged_says_so(tmp_path: Path) -> None:
    path = seven_zip(tmp_path, SEVEN | {f"bomb{n}.png": bytes(2_000_000) for n in range(20)} | {"zz.txt": b"Behind."})
    found = read_dump(path, "archive", ReadLimits(free_expansion_bytes=10_000_000, max_expansion=2))
    assert reasons(found)[-1] == "expansion_limit" and "Behind." not in texts(found).values()
    tracemalloc.start()
    assert "zz.txt" in texts(read_dump(path, "archive"))
    assert tracemalloc.get_traced_memory()[1] < 20_000_000
    tracemalloc.stop()
    whole = path.read_bytes()
    for cut in (7, 40, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:cut])
        assert reasons(read_dump(path, "archive"))[-1] in ("truncated", "damaged")
    path.write_bytes(whole[:60] + bytes(20) + whole[80:])
    assert reasons(read_dump(path, "archive"))[-1] == "damaged"


def test_a_7z_without_libarchive_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = seven_zip(tmp_path, SEVEN)
    monkeypatch.setitem(sys.modules, "libarchive", None)
    (found,) = read_dump(path, "archive")
    assert isinstance(found.content, Refusal) and found.content.reason == "unsupported_compression"
    assert "apt-get install libarchive13" in found.content.detail


# ---- archives one after the other


def tarred(name: str) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        info = tarfile.TarInfo(name)
        info.size = 6
        archive.addfile(info, io.BytesIO(b"x = 1\n"))
    return out.getvalue()


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_tar_archives_one_after_the_other_are_all_read(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "both.tar"
    path.write_bytes(pack(tarred("a.py")) + pack(tarred("b.py")))
    found = read_dump(path, "archive")
    assert list(texts(found)) == ["a.py", "b.py"] and reasons(found) == []
    path.write_bytes(pack(tarred("a.py") + b"something else" * 100))
    found = read_dump(path, "archive")
    assert list(texts(found)) == ["a.py"] and reasons(found) in (["damaged"], ["truncated"])
    path.write_bytes(pack(tarred("a.py") + tarred("b.py")[:1024]))
    assert list(texts(found := read_dump(path, "archive"))) == ["a.py", "b.py"] and reasons(found) == ["truncated"]


class Pipe(io.RawIOBase):
    """A file that nobody can go back in: zip writes lengths behind the members."""

    def __init__(self) -> None:
        self.written = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        self.written += bytes(data)
        return len(data)


def test_a_zip_that_was_written_to_a_pipe_keeps_the_members_before_a_cut(tmp_path: Path) -> None:
    pipe, sources = Pipe(), {f"m{n}.py": (f"x = {n}\n" * (n * 500)).encode() for n in range(1, 9)}
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in sources.items():
            archive.writestr(name, content)
    path, whole = tmp_path / "a.zip", bytes(pipe.written)
    path.write_bytes(whole)
    assert list(texts(read_dump(path, "archive"))) == list(sources)
    directory = whole.index(b"PK\1\2")
    kept = set()
    for cut in range(1, len(whole) - 1, 7):
        path.write_bytes(whole[:cut])
        found = read_dump(path, "archive")
        assert all(text.encode() == sources[name] for name, text in texts(found).items())
        assert reasons(found)[-1] in ("truncated", "damaged")
        assert len(texts(found)) == 8 or cut < directory
        kept.add(len(texts(found)))
    assert kept == set(range(9))
