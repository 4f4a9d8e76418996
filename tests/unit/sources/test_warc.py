"""WARC and WET files to texts."""

from __future__ import annotations

from pathlib import Path

import pytest
from dump_files import conversion, page, read_dump, reasons, response, texts

from pipeline_lib.config.data import ReadLimits
from pipeline_lib.sources.readers.html import decode_page, main_text
from pipeline_lib.sources.safe_open import Refusal


@pytest.mark.parametrize("gzip", [True, False])
def test_pages_become_their_main_text_under_their_url_and_host(tmp_path: Path, gzip: bool) -> None:
    path = tmp_path / "a.warc"
    path.write_bytes(b"".join(response(f"http://host{i}.org/p?q={i}", page(f"topic {i}"), gzip=gzip) for i in range(3)))
    found = read_dump(path, "warc")
    assert [item.file.path for item in found] == [f"a.warc!http://host{i}.org/p?q={i}" for i in range(3)]
    assert [item.file.group for item in found] == ["host0.org", "host1.org", "host2.org"]
    assert {item.file.licence for item in found} == {"CC0-1.0"} and {item.file.form for item in found} == {"html"}
    text = texts(found)["http://host1.org/p?q=1"]
    assert [line for line in text.split("\n") if line] == [
        "## About topic 1",
        "The first paragraph is about topic 1.",
        "So is the second, topic 1.",
    ]


def test_wet_is_taken_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "a.warc.wet.gz"
    path.write_bytes(conversion("https://a.org/", "Ça va.\nOui.") + conversion("https://b.org/", "x"))
    assert texts(read_dump(path, "warc")) == {"https://a.org/": "Ça va.\nOui.", "https://b.org/": "x"}


def test_what_is_no_page_is_refused_by_its_reason(tmp_path: Path) -> None:
    path = tmp_path / "a.warc.gz"
    records = [
        response("http://a.org/1", b"%PDF", content_type="application/pdf"),
        response("http://a.org/2", page("gone"), status="404 Not SourceRecord"),
        response("http://a.org/3", page("large") * 50),
        response("http://a.org/4", page("fine")),
    ]
    path.write_bytes(b"".join(records))
    found = read_dump(path, "warc", ReadLimits(max_text_bytes=5_000))
    assert reasons(found) == ["not_html", "http_status", "file_too_large"]
    assert list(texts(found)) == ["http://a.org/4"]


@pytest.mark.parametrize(
    ("body", "charset", "want"),
    [
        ("é".encode(), "", "é"),
        ("é".encode("latin-1"), "iso-8859-1", "é"),
        ("“é”".encode("cp1252"), "latin1", "“é”"),  # the web's Latin-1 is Windows' code page
        ('<meta charset="koi8-r">да'.encode("koi8-r"), "", "да"),
        ("да".encode(), "ascii-of-mars", "да"),
        ("\ufeffé".encode("utf-16-le"), "", "é"),
        ("日本語のページ".encode("shift_jis"), "shift_jis", "日本語のページ"),
    ],
)
def test_charset_from_mark_header_declaration_or_detection(body: bytes, charset: str, want: str) -> None:
    text = decode_page(body, charset)
    assert isinstance(text, str) and text.endswith(want)


def test_a_page_that_no_charset_decodes_is_refused() -> None:
    got = decode_page(b"<meta charset=utf-8>" + bytes(range(128, 256)) * 3, "utf-8")
    assert isinstance(got, str) or got.reason == "bad_encoding"
    marked = decode_page(b"\xef\xbb\xbf\xff\xfe", "")
    assert isinstance(marked, Refusal) and marked.reason == "bad_encoding"


def test_depth_is_bounded_and_a_long_flat_page_is_not_deep() -> None:
    deep = main_text(b"<div>" * 300_000 + b"x", ReadLimits())
    assert isinstance(deep, Refusal) and (deep.reason, deep.offset) == ("html_depth", 200 * 5)
    flat = main_text(b"<main>" + b"<p>A line of text.<br><b>Bold</b> and <i>more</i>.</p>" * 3_000, ReadLimits())
    assert isinstance(flat, str) and flat.count("A line of text.") == 3_000


def test_a_page_in_a_file_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_bytes(page("files"))
    (found,) = read_dump(tmp_path / "a.html", "html")
    assert not isinstance(found.content, Refusal) and found.content.text.startswith("## About files")
    assert found.file.path == "a.html"


def test_real_common_crawl(eval_data: Path) -> None:
    folder = eval_data / "dumps"
    found = read_dump(folder / "warc" / "sample-0000.warc.gz", "warc")
    assert (len(found), reasons(found)) == (22, [])
    assert sum(map(len, texts(found).values())) > 60_000
    wet = texts(read_dump(folder / "wet" / "whirlwind.warc.wet.gz", "warc"))
    web = texts(read_dump(folder / "warc" / "whirlwind.warc.gz", "warc"))
    assert list(wet) == list(web) == ["https://an.wikipedia.org/wiki/Escopete"]
    assert read_dump(folder / "wat" / "whirlwind.warc.wat.gz", "warc") == []
