"""WARC and WET files to texts."""

from __future__ import annotations

import gzip
from collections import Counter
from pathlib import Path

import pytest
from dump_files import conversion, page, read_dump, reasons, response, texts

from pipeline_lib.config.read_limits import ReadLimits
from pipeline_lib.sources.folder import describe
from pipeline_lib.sources.readers import guess
from pipeline_lib.sources.readers.html import decode_page, main_text
from pipeline_lib.sources.readers.warc import read_warc
from pipeline_lib.sources.records import SourceRecord
from pipeline_lib.sources.safe_open import Refusal, SourceText


@pytest.mark.parametrize("packed", [True, False])
def test_pages_become_their_main_text_under_their_url_and_host(tmp_path: Path, packed: bool) -> None:
    path = tmp_path / "a.warc"
    path.write_bytes(b"".join(response(f"http://host{i}.org/p?q={i}", page(f"topic {i}"), gzip=packed) for i in range(3)))
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


def warc_record(kind: str, block: bytes, version: str = "1.0", end: str = "\r\n", **fields: str) -> bytes:
    """A record with these header fields, `_` in their names for `-`."""
    lines = [f"WARC/{version}", f"WARC-Type: {kind}", *(f"{name.replace('_', '-')}: {value}" for name, value in fields.items())]
    return end.join([*lines, f"Content-Length: {len(block)}", "", ""]).encode() + block + 2 * end.encode()


def http(words: str, status: str = "200 OK") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Type: text/html\r\n\r\n".encode() + page(words)


def capture(url: str, words: str, date: str = "2026-01-01T00:00:00Z", **fields: str) -> bytes:
    return warc_record("response", http(words), WARC_Target_URI=url, WARC_Date=date, **fields)


def arc(*records: tuple[str, str, bytes], version: int = 1) -> list[bytes]:
    """The records of an ARC file, its description first; each: URL, type and block."""
    names = "URL IP-address Archive-date Content-type Archive-length"
    about = f"{version} 0 InternetArchive\n{names}\n\n".encode()
    more = " 200 - - 0 a.arc" if version == 2 else ""
    heads = [("filedesc://a.arc", "0.0.0.0", "text/plain", about), *((u, "127.0.0.1", t, b) for u, t, b in records)]
    return [f"{u} {ip} 20011231235959 {t}{more} {len(b)}\n".encode() + b + b"\n" for u, ip, t, b in heads]


@pytest.mark.parametrize("version", ["0.17", "0.18", "1.0", "1.1"])
@pytest.mark.parametrize("end", ["\r\n", "\n"])
def test_every_version_of_warc(tmp_path: Path, version: str, end: str) -> None:
    records = (warc_record("response", http(f"t {n}"), version, end, warc_target_uri=f"<http://a.org/{n}>") for n in range(3))
    (tmp_path / "a.warc").write_bytes(b"".join(records))
    assert list(texts(read_dump(tmp_path / "a.warc", "warc"))) == [f"http://a.org/{n}" for n in range(3)]


@pytest.mark.parametrize("shape", ["plain", "member each", "one stream"])
@pytest.mark.parametrize("version", [1, 2])
def test_arc(tmp_path: Path, version: int, shape: str) -> None:
    pages = [(f"http://a.org/{n} x", "text/html", http(f"topic {n}")) for n in range(3)]
    none = [
        ("dns:a.org", "text/dns", b"a.org. 1 IN A 127.0.0.1"),
        ("http://a.org/i.png", "image/png", b"HTTP/1.0 200 OK\r\n\r\n\x89PNG"),
    ]
    old = ("http://old.org/", "text/html", page("the first web"))  # HTTP/0.9
    parts = arc(*pages, *none, old, version=version)
    whole = b"".join(parts)
    shapes = {"plain": whole, "member each": b"".join(map(gzip.compress, parts)), "one stream": gzip.compress(whole)}
    path = tmp_path / ("a.arc" if shape == "plain" else "a.arc.gz")
    path.write_bytes(shapes[shape])
    found = read_dump(path, "warc")
    assert list(texts(found)) == ["http://a.org/0 x", "http://a.org/1 x", "http://a.org/2 x", "http://old.org/"]
    assert reasons(found) == ["not_html"]
    assert {item.file.group for item in found if not isinstance(item.content, Refusal)} == {"a.org", "old.org"}
    assert guess(str(path)) == "warc"


@pytest.mark.parametrize("fault", ["length", "head", "noise", "member"])
def test_a_damaged_record_of_an_arc_costs_no_other(tmp_path: Path, fault: str) -> None:
    parts = arc(*((f"http://a.org/{n}", "text/html", http(f"topic {n}")) for n in range(4)))
    bad = {
        "length": parts[2].replace(b" %d\n" % len(http("topic 1")), b" 120\n", 1),
        "head": parts[2][9:],
        "noise": b"\x01\x02 noise \n of a disk\n" * 40,
        "member": parts[2],
    }[fault]
    members = [gzip.compress(part) for part in (*parts[:2], bad, *parts[3:])]
    if fault == "member":
        members[2] = members[2][:60] + bytes(20) + members[2][80:]
    (tmp_path / "a.arc.gz").write_bytes(b"".join(members))
    (tmp_path / "a.arc").write_bytes(b"".join((*parts[:2], bad, *parts[3:])))
    for name in ("a.arc.gz", *(["a.arc"] if fault != "member" else [])):
        found = read_dump(tmp_path / name, "warc")
        assert list(texts(found)) == [f"http://a.org/{n}" for n in (0, 2, 3)] and len(reasons(found)) == 1


def test_a_stale_coding_and_a_body_cut_short_are_pages(tmp_path: Path) -> None:
    stale = http("stale").replace(b"\r\n\r\n", b"\r\nContent-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n", 1)
    cut = http("cut é")[:-30]
    records = [
        warc_record("response", stale, WARC_Target_URI="http://a.org/stale"),
        warc_record("response", cut, WARC_Target_URI="http://a.org/cut", WARC_Truncated="length"),
        warc_record("response", b"HTTP/1.1 200 OK\r\n\r\n" + page("sniffed"), WARC_Target_URI="http://a.org/sniffed"),
        warc_record("resource", page("saved"), WARC_Target_URI="http://a.org/saved", Content_Type="text/html"),
        warc_record("resource", b"--quiet", WARC_Target_URI="metadata://gnu.org/wget", Content_Type="text/plain"),
        warc_record("continuation", b"more", WARC_Target_URI="http://a.org/cut", WARC_Segment_Number="2"),
    ]
    (tmp_path / "a.warc").write_bytes(b"".join(records))
    found = read_dump(tmp_path / "a.warc", "warc")
    assert list(texts(found)) == [f"http://a.org/{name}" for name in ("stale", "cut", "sniffed", "saved")]
    assert reasons(found) == ["segmented"]


def test_a_record_before_a_damaged_member_is_kept(tmp_path: Path) -> None:
    bare = capture("http://a.org/0", "topic").rstrip(b"\r\n")  # its empty lines are missing
    (tmp_path / "a.warc.gz").write_bytes(
        gzip.compress(bare) + b"\x1f\x8b\x08" + bytes(range(60)) + gzip.compress(capture("http://a.org/1", "x"))
    )
    found = read_dump(tmp_path / "a.warc.gz", "warc")
    assert list(texts(found)) == ["http://a.org/0", "http://a.org/1"] and reasons(found) == ["damaged"]


def read_captures(path: Path, rule: str) -> list[SourceRecord]:
    file = describe(str(path), path.name, "dump", "group").model_copy(update={"form": "warc", "options": {"captures": rule}})
    return list(read_warc(file, ReadLimits()))


def test_captures_of_a_url_by_their_date(tmp_path: Path) -> None:
    pages = [("http://a.org/x", 3), ("http://a.org/y", 1), ("http://a.org/x", 5), ("http://a.org/x", 1), ("http://a.org/X", 2)]
    gone = warc_record(
        "response", http("gone", "404 Not Found"), WARC_Target_URI="http://a.org/x", WARC_Date="2026-01-09T00:00:00Z"
    )
    path = tmp_path / "a.warc"
    path.write_bytes(b"".join(capture(url, f"day {day}", f"2026-01-0{day}T00:00:00Z") for url, day in pages) + gone)
    kept = {
        rule: [
            item.content.text.splitlines()[0][-5:] for item in read_captures(path, rule) if isinstance(item.content, SourceText)
        ]
        for rule in ("latest", "first", "all")
    }
    assert kept == {
        "latest": ["day 1", "day 5", "day 2"],
        "first": ["day 1", "day 1", "day 2"],
        "all": ["day 3", "day 1", "day 5", "day 1", "day 2"],
    }
    assert Counter(reasons(read_captures(path, "latest"))) == {"other_capture": 2, "http_status": 1}
    assert reasons(read_dump(path, "warc")) == reasons(read_captures(path, "latest"))


def test_revisits_are_given_the_page_that_they_refer_to(tmp_path: Path) -> None:
    refers: list[dict[str, str]] = [
        {"WARC_Refers_To": "<urn:uuid:1>"},
        {"WARC_Payload_Digest": "sha1:ABC"},
        {"WARC_Refers_To_Target_URI": "http://a.org/0", "WARC_Refers_To_Date": "2026-01-01T00:00:00.000Z"},
        {"WARC_Refers_To": "<urn:uuid:elsewhere>"},
        {"WARC_Payload_Digest": "sha1:LATER"},
    ]
    revisits = [
        warc_record(
            "revisit",
            b"HTTP/1.1 200 OK\r\n\r\n",
            WARC_Target_URI=f"http://b.org/{n}",
            WARC_Date="2026-02-01T00:00:00Z",
            **fields,
        )
        for n, fields in enumerate(refers)
    ]
    original = capture("http://a.org/0", "once", WARC_Record_ID="<urn:uuid:1>", WARC_Payload_Digest="sha1:abc")
    later = capture("http://a.org/1", "late", WARC_Payload_Digest="sha1:LATER")
    again = warc_record(
        "revisit", b"", WARC_Target_URI="http://a.org/0", WARC_Date="2026-03-01T00:00:00Z", WARC_Refers_To="<urn:uuid:1>"
    )
    path = tmp_path / "a.warc"
    path.write_bytes(original + b"".join(revisits) + later + again)
    found = read_captures(path, "all")
    got = {name: text.split("\n")[0] for name, text in texts(found).items()}
    assert got == {
        "http://a.org/0": "## About once", "http://a.org/1": "## About late", "http://b.org/4": "## About late",
        **{f"http://b.org/{n}": "## About once" for n in range(3)},
    }  # fmt: skip
    assert reasons(found) == ["revisit_unresolved"]
    latest = read_captures(path, "latest")
    assert reasons(latest) == ["other_capture", "revisit_unresolved"] and list(texts(latest))[-1] == "http://a.org/0"


def test_a_page_in_utf_8_is_read_so_whatever_its_header_says() -> None:
    words = "<html><p>Über die Brücke fährt heute früh kein einziger großer Wagen.</p></html>"
    for charset in ("iso-8859-1", "windows-1252", "us-ascii", ""):
        assert decode_page(words.encode(), charset) == words
    cut = words.encode()[: words.encode().index("ß".encode()) + 1]
    assert decode_page(cut, "utf-8") == cut[:-1].decode()
    damaged = decode_page(words.encode() * 30 + b"\xff" + words.encode(), "utf-8")
    assert isinstance(damaged, str) and damaged.count("\ufffd") == 1 and "Brücke" in damaged


def test_long_headers_are_read(tmp_path: Path) -> None:
    """Such as of sites that set a cookie for each visit."""
    cookies = http("rain").replace(b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nSet-Cookie: " + b"a" * 100_000 + b"\r\n", 1)
    path = tmp_path / "a.warc"
    path.write_bytes(
        warc_record("response", cookies, **{"WARC-Target-URI": "http://a.org/1"})
        + warc_record("response", http("snow"), **{"WARC-Target-URI": "http://a.org/2", "X-Long": "b" * 100_000})
    )
    found = read_dump(path, "warc")
    assert ["rain" in text or "snow" in text for text in texts(found).values()] == [True, True] and reasons(found) == []
    lost = read_dump(path, "warc", ReadLimits(max_header_bytes=50_000))
    assert len(texts(lost)) == 1 and reasons(lost) == ["no_warc_header"]
