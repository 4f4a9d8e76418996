"""MediaWiki exports to prose."""

from __future__ import annotations

import bz2
import gzip
import tracemalloc
from pathlib import Path

import pytest
from dump_files import LIMITS, read_dump, reasons, texts
from wiki_exports import WIKIS, articles, export_of, markup_in, page_xml, siteinfo

from data_contracts.schemas import PAIRS
from pipeline_lib.config.data import ExtractConfig, TextPairsConfig
from pipeline_lib.config.read_limits import ReadLimits
from pipeline_lib.pairs.documents import extract_found
from pipeline_lib.pairs.tables import Rows
from pipeline_lib.sources.folder import describe
from pipeline_lib.sources.readers.mediawiki import READER
from pipeline_lib.sources.records import SourceRecord

MOST_MARKUP = 0.005  # share of the pairs
FIFTY = [page_xml(f"P{number}", f"Text of page {number}, in é.") for number in range(50)]


def export(*pages: str, head: str = "<siteinfo><sitename>W</sitename></siteinfo>") -> bytes:
    return f'<?xml version="1.0" encoding="UTF-8"?><mediawiki>{head}{"".join(pages)}</mediawiki>'.encode()


def pairs_of(found: list[SourceRecord], code: str = "en") -> list[tuple[str, str]]:
    """All pairs of a dump; of languages without spaces they are cut by characters."""
    unit = TextPairsConfig(unit="characters", min_words=20, target_words=60) if code in ("ja", "zh") else TextPairsConfig()
    rows = Rows(0)
    for record in found:
        extract_found(record, ExtractConfig(text=unit), rows)
    x, y = PAIRS.names.index("x"), PAIRS.names.index("y")
    return [(row[x], row[y]) for row in rows.pairs]


@pytest.mark.parametrize("suffix", ["xml", "xml.gz", "xml.bz2"])
def test_articles_come_out_and_what_is_none_is_dropped_by_its_reason(tmp_path: Path, suffix: str) -> None:
    content = export(
        page_xml("Yeast", "It is a [[fungus]]."),
        page_xml("Old", "Text.").replace("<id>1</id>", '<id>1</id><redirect title="Yeast"/>'),
        page_xml("Talk:Yeast", "Hm.", ns=1),
        page_xml("Data", "{}").replace("wikitext", "json"),
        page_xml("Long", "word " * 1000),
        page_xml("Bread & butter", "Both."),
    )
    path = tmp_path / f"wiki.{suffix}"
    path.write_bytes({"xml": bytes, "gz": gzip.compress, "bz2": bz2.compress}[suffix.rsplit(".", 1)[-1]](content))
    found = read_dump(path, "mediawiki", ReadLimits(max_text_bytes=4_000))
    assert reasons(found) == ["redirect", "not_an_article", "not_an_article", "file_too_large"]
    assert texts(found) == {"Yeast": "It is a fungus.", "Bread & butter": "Both."}
    assert found[0].file.group == "Yeast" and {item.file.form for item in found} == {"markdown"}


@pytest.mark.parametrize("code", WIKIS)
def test_pairs_of_each_language_hold_no_markup_and_lose_no_words(tmp_path: Path, code: str) -> None:
    pages = articles(code, 12)
    path = tmp_path / f"{code}.xml"
    path.write_bytes(export_of(code, pages))
    found = read_dump(path, "mediawiki")
    assert reasons(found) == ["redirect", "not_an_article", "not_an_article"]
    prose = {name: "".join(text.split()) for name, text in texts(found).items()}
    lost = [sentence for page in pages for sentence in page.sentences if "".join(sentence.split()) not in prose[page.title]]
    assert not lost
    pairs = pairs_of(found, code)
    marked = [pair for pair in pairs if markup_in(pair[0], code) or markup_in(pair[1], code)]
    print(f"{code}: {len(marked)} of {len(pairs)} pairs hold markup")
    assert len(pairs) > 20 and len(marked) <= MOST_MARKUP * len(pairs), marked[:3]


def test_namespaces_are_the_exports_own(tmp_path: Path) -> None:
    text = "A [[Avbildning:x|b|c]] [[Grupp:d]] e."
    named = export(page_xml("A", text), head=siteinfo("sv").replace("Fil<", "Avbildning<").replace("Kategori<", "Grupp<"))
    (tmp_path / "a.xml").write_bytes(named)
    assert texts(read_dump(tmp_path / "a.xml", "mediawiki")) == {"A": "A e."}
    (tmp_path / "b.xml").write_bytes(export(page_xml("A", text + " [[File:x|y]] [[Category:z]]"), head=""))
    assert texts(read_dump(tmp_path / "b.xml", "mediawiki")) == {"A": "A c Grupp:d e."}


@pytest.mark.parametrize("code", WIKIS)
def test_exports_that_state_no_namespace_and_no_redirect_are_read_by_their_names(tmp_path: Path, code: str) -> None:
    wiki = WIKIS[code]
    titles = [f"{wiki.user}:X", f"{wiki.template}:X", "Category:X", "Talk:X", f"{wiki.talk}:X"]
    redirects = [f"{wiki.redirect} [[A]]", f"{wiki.redirect.lower()}: [[A#b]] {{{{R}}}}", "#REDIRECT [[A]]\n[[Category:X]]"]
    pages = [page_xml(title, "Text.", None) for title in titles] + [page_xml("R", text, None) for text in redirects]
    articles = page_xml("re:publica", "# [[A]] is [[b]] in a list\n" + "words " * 60, None)
    path = tmp_path / "a.xml"
    path.write_bytes(export(*pages, articles, head=siteinfo(code)))
    found = read_dump(path, "mediawiki")
    assert reasons(found) == ["not_an_article"] * 5 + ["redirect"] * 3
    assert list(texts(found)) == ["re:publica"]


def test_other_namespaces_are_read_where_a_spec_says_so(tmp_path: Path) -> None:
    path = tmp_path / "a.xml"
    path.write_bytes(export(page_xml("A", "Article."), page_xml("Help:A", "Help.", 12), page_xml("Talk:A", "Talk.", 1)))
    file = describe(str(path), "a.xml", "dump", "group", "CC0-1.0").model_copy(update={"options": {"namespaces": [0, 12]}})
    found = list(READER.read(file, LIMITS))
    assert list(texts(found)) == ["A", "Help:A"] and reasons(found) == ["not_an_article"]


def test_what_is_omitted_of_pages_is_a_fact_of_the_run(tmp_path: Path) -> None:
    path = tmp_path / "a.xml"
    path.write_bytes(export(page_xml("A", "{{x}}\nWords {{y}}."), page_xml("B", "Words {{y}}. [[File:x.jpg]]")))
    rows = Rows(0)
    for record in read_dump(path, "mediawiki"):
        extract_found(record, ExtractConfig(), rows)
    assert rows.omitted == {"templates": 1, "inline_templates": 2, "media": 1}


def test_of_several_revisions_the_last_is_read(tmp_path: Path) -> None:
    twice = page_xml("A", "First.").replace("</page>", "<revision><text>Second.</text></revision></page>")
    (tmp_path / "a.xml").write_bytes(export(twice))
    assert texts(read_dump(tmp_path / "a.xml", "mediawiki")) == {"A": "Second."}


@pytest.mark.parametrize(
    ("whole", "damaged"),
    [
        ("page 7,", "page 7 & "), ("page 7,", "page 7 < "), ("page 7,", "page 7\0"), ("page 7, in é.</text>", "page 7"),
        ("</page><page><title>P8<", "<page><title>P8<"), ("<title>P7</title>", "<title>P7</other>"),
    ],
)  # fmt: skip
def test_behind_a_damaged_page_reading_goes_on(tmp_path: Path, whole: str, damaged: str) -> None:
    content = export(*FIFTY).decode()
    assert whole in content
    path = tmp_path / "a.xml"
    for cut in (content, content.replace("UTF-8", "ISO-8859-1")):
        path.write_bytes(cut.replace(whole, damaged).encode("latin-1" if cut is not content else "utf-8"))
        found = read_dump(path, "mediawiki")
        assert reasons(found) == ["xml_damaged"] and len(texts(found)) == 49 and "P7" not in texts(found)
        assert found[7].file.path.endswith("!P7") and texts(found)["P8"] == "Text of page 8, in é."


def test_a_file_of_damaged_pages_is_given_up(tmp_path: Path) -> None:
    path = tmp_path / "a.xml"
    path.write_bytes(export(*(page.replace("Text", "&") for page in FIFTY)))
    options = {"max_damaged_pages": 5}
    file = describe(str(path), "a.xml", "dump", "group", "CC0-1.0").model_copy(update={"options": options})
    found = list(READER.read(file, LIMITS))
    assert reasons(found) == ["xml_damaged"] * 6 and found[-1].file.path == "a.xml"
    assert reasons(read_dump(path, "mediawiki")) == ["xml_damaged"] * 50


def test_damage_that_is_no_pages_is_the_files(tmp_path: Path) -> None:
    path = tmp_path / "a.xml"
    for content, count in [
        (b"x" + export(*FIFTY), 50),
        (export(*FIFTY).replace(b"<page><title>P9<", b"</x><page><title>P9<"), 50),
        (b"<feed><entry><title>A</title></entry></feed>", 0),
    ]:
        path.write_bytes(content)
        found = read_dump(path, "mediawiki")
        assert len(texts(found)) == count and len(reasons(found)) == 1
        assert {item.file.path for item in found if "!" not in item.file.path} == {"a.xml"}


def test_where_an_export_is_cut_does_not_matter_to_the_pages_before(tmp_path: Path) -> None:
    content = export(*FIFTY)
    ends = [place + 7 for place in range(len(content)) if content.startswith(b"</page>", place)]
    path = tmp_path / "a.xml"
    for cut in range(len(content) - 400, len(content) - 1):
        path.write_bytes(content[:cut])
        found = read_dump(path, "mediawiki")
        assert reasons(found) == ["truncated"] and len(texts(found)) == sum(end <= cut for end in ends), cut


def test_the_streams_of_a_multistream_file_are_read_around_one_that_is_damaged(tmp_path: Path) -> None:
    blocks = [b"<mediawiki>", *(("  " + "".join(FIFTY[at : at + 10])).encode() for at in range(0, 50, 10)), b"</mediawiki>"]
    streams = [bz2.compress(block) for block in blocks]
    path = tmp_path / "a.xml.bz2"
    path.write_bytes(b"".join(streams))
    assert len(texts(read_dump(path, "mediawiki"))) == 50
    path.write_bytes(b"".join(streams[:3]) + streams[3][:-60])
    found = read_dump(path, "mediawiki")
    assert len(texts(found)) == 20 and reasons(found) == ["truncated"]
    flipped = bytearray(streams[3])
    flipped[len(flipped) // 2] ^= 1
    path.write_bytes(b"".join([*streams[:3], bytes(flipped), *streams[4:]]))
    found = read_dump(path, "mediawiki")
    assert list(texts(found)) == [f"P{number}" for number in range(50) if not 20 <= number < 30]
    assert reasons(found) == ["damaged"] and found[20].file.path == path.name


def test_memory_does_not_grow_with_the_pages(tmp_path: Path) -> None:
    path = tmp_path / "a.xml"
    peaks = []
    for count in (300, 2_000):
        path.write_bytes(export(*(page_xml(f"P{number}", "Words of [[a|page]]. " * 20) for number in range(count))))
        file = describe(str(path), "a.xml", "dump", "group", "CC0-1.0")
        tracemalloc.start()
        assert sum(1 for _ in READER.read(file, LIMITS)) == count
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 300_000  # the second file is 0.9 MB longer


def test_real_wikipedia(eval_data: Path) -> None:
    (dump,) = (eval_data / "dumps" / "mediawiki").glob("*.bz2")
    found = read_dump(dump, "mediawiki")
    articles = texts(found)
    assert set(reasons(found)) == {"redirect"} and len(found) == 206 and len(articles) == 106
    assert articles["Anarchism"].startswith("Anarchism is a political philosophy that advocates self-governed societies")
    pairs = pairs_of(found)
    marked = [pair for pair in pairs if markup_in(pair[0]) or markup_in(pair[1])]
    print(f"{len(marked)} of {len(pairs)} pairs hold markup")
    assert len(pairs) > 3_000 and len(marked) <= MOST_MARKUP * len(pairs)


@pytest.mark.parametrize("between", [b"", b"\n", b"\r\n\n", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("declared", [False, True])
@pytest.mark.parametrize("filler", [0, 65_000, 65_530, 65_536])
def test_exports_one_after_the_other_are_read_without_a_loss(
    tmp_path: Path, between: bytes, declared: bool, filler: int
) -> None:
    """As `cat a.xml b.xml` makes them, wherever the joint lies in what is read at a time; each with its own namespaces."""
    pages = {code: f"[[{WIKIS[code].file}:A.xyz|{WIKIS[code].thumb}|no]] Prose of {code}." for code in ("sv", "pl")}
    head = b'<?xml version="1.0" encoding="utf-8"?>\n' if declared else b""
    parts = []
    for code, text in pages.items():
        body = siteinfo(code) + page_xml(f"A {code}", text) + f"<!--{'x' * filler}-->"
        parts.append(head + f"<mediawiki>{body}</mediawiki>".encode())
        filler = 0
    path = tmp_path / "both.xml"
    path.write_bytes(between.join(parts) + b"\n")
    found = read_dump(path, "mediawiki")
    assert list(texts(found).values()) == ["Prose of sv.", "Prose of pl."] and reasons(found) == []
    path.write_bytes(between.join(parts)[:-40])
    assert reasons(read_dump(path, "mediawiki"))[-1:] in (["truncated"], ["xml_damaged"])
    path.write_bytes(parts[0] + b" and something else")
    assert reasons(read_dump(path, "mediawiki")) == ["xml_damaged"]


def test_empty_lines_before_an_export_are_no_damage(tmp_path: Path) -> None:
    path = tmp_path / "a.xml"
    path.write_bytes(b"\n \r\n" + export(*FIFTY))
    found = read_dump(path, "mediawiki")
    assert len(texts(found)) == 50 and reasons(found) == []
