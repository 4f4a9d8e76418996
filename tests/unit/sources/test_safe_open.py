from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from pipeline_lib.sources.safe_open import Refusal, SourceText, decode, read_source


def text_of(data: bytes, python: bool = True) -> str:
    got = decode(data, python)
    assert isinstance(got, SourceText), got
    assert got.data.decode() == got.text
    return got.text


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", ""),
        (b"x = 1\n", "x = 1\n"),
        (b"\xef\xbb\xbfx = 1\n", "x = 1\n"),
        (b"a\r\nb\rc\n", "a\nb\nc\n"),
        ("naïve = 'é'\n".encode(), "naïve = 'é'\n"),
        ("# -*- coding: latin-1 -*-\ns = 'é'\n".encode("latin-1"), "# -*- coding: latin-1 -*-\ns = 'é'\n"),
        ("#!/bin/python\n# vim: fileencoding=koi8-r\ns = 'да'\n".encode("koi8-r"), "s = 'да'"),
    ],
)
def test_text_comes_out_with_folded_newlines_and_no_mark(data: bytes, text: str) -> None:
    got = text_of(data)
    assert got == text or (text and text in got and "vim" in got)


@pytest.mark.parametrize(
    ("data", "reason", "offset"),
    [
        (b"a\0b", "nul_byte", 1),
        ("text".encode("utf-16"), "nul_byte", 3),
        (b"s = '\xe9'\n", "not_utf8", 5),
        (b"# coding: no-such-codec\ns = '\xe9'\n", "not_utf8", 29),
        (b"# coding: ascii\ns = '\xe9'\n", "not_utf8", 21),
        (b"s = '\xed\xa0\x80'", "not_utf8", 5),  # an unpaired surrogate in UTF-8's clothes
        (b"# coding: utf-7\n# +2AA-\xff", "not_utf8", 23),
    ],
)
def test_what_is_no_text_is_refused_with_its_place(data: bytes, reason: str, offset: int) -> None:
    got = decode(data, python=True)
    assert isinstance(got, Refusal)
    assert (got.reason, got.offset) == (reason, offset)


@pytest.mark.parametrize("mark", ["utf-16-le", "utf-16-be"])
def test_prose_in_utf16_is_read_where_its_mark_says_so(mark: str) -> None:
    got = decode("\ufeffé = 世界\r\n".encode(mark), prose=True)
    assert isinstance(got, SourceText) and (got.text, got.data) == ("é = 世界\n", "é = 世界\n".encode())


@pytest.mark.parametrize("data", ["text".encode("utf-16-le"), "text".encode("utf-16")[:-1], "text".encode("utf-32")])
def test_prose_in_other_encodings_is_refused(data: bytes) -> None:
    got = decode(data, prose=True)
    assert isinstance(got, Refusal) and got.reason == "nul_byte"


def test_prose_declares_no_encoding() -> None:
    assert isinstance(decode("# coding: latin-1\né".encode("latin-1"), python=False), Refusal)


def test_too_large_changed_missing_and_irregular_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.py"
    path.write_bytes(b"x = 1\n")
    right = hashlib.sha256(b"x = 1\n").hexdigest()
    assert isinstance(read_source(str(path), 6, right), SourceText)
    os.mkfifo(tmp_path / "pipe.py")
    (tmp_path / "link.py").symlink_to(path)
    reasons = [
        read_source(str(path), 5),
        read_source(str(path), 6, "0" * 64),
        read_source(str(tmp_path / "none.py"), 6),
        read_source(str(tmp_path / "pipe.py"), 6),
        read_source(str(tmp_path / "link.py"), 6),
        read_source(str(tmp_path), 6),
    ]
    assert [r.reason for r in reasons if isinstance(r, Refusal)] == [
        "file_too_large", "content_changed", "unreadable", "not_a_file", "unreadable", "not_a_file"
    ]  # fmt: skip
