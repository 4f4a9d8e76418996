"""MediaWiki exports to prose."""

from __future__ import annotations

import bz2
import gzip
import time
from pathlib import Path
from xml.sax.saxutils import escape

import pytest
from dump_files import read_dump, reasons, texts

from pipeline_lib.config.data import ReadLimits
from pipeline_lib.pairs.prose import paragraphs
from pipeline_lib.sources.readers.mediawiki import prose_of
from pipeline_lib.sources.safe_open import Refusal


def page(title: str, text: str, ns: int = 0, extra: str = "", model: str = "wikitext") -> str:
    revision = f"<revision><id>5</id><contributor><id>9</id></contributor><model>{model}</model><text>{escape(text)}</text>"
    return f"<page><title>{escape(title)}</title><ns>{ns}</ns><id>1</id>{extra}{revision}</revision></page>"


def export(*pages: str) -> bytes:
    return f"<mediawiki><siteinfo><sitename>W</sitename></siteinfo>{''.join(pages)}</mediawiki>".encode()


ARTICLE = """{{Infobox|a={{b|c}}}}
'''Yeast''' is a [[Fungus|fungus]]<ref name="x">A book, p. 5.</ref> used in [[bread]] and [http://a.org beer].<ref name="x" />
[[File:Yeast.jpg|thumb|A picture of [[yeast]].]]
{| class="wikitable"
| cell || other
|}
== History ==
It is old &amp; known.<!-- a remark -->
* first
* second
=== Egypt ===
They had it too.
== References ==
{{reflist}}
Books.
=== More books ===
Still more.
== Legacy ==
The end.
[[Category:Fungi]]
[[de:Hefe]]"""


def test_wikitext_becomes_markdown_headings_and_prose() -> None:
    prose = prose_of(ARTICLE)
    assert isinstance(prose, str)
    assert [paragraph.text for paragraph in paragraphs(prose)] == [
        "Yeast is a fungus used in bread and beer.",
        "History",
        "It is old & known.",
        "first",
        "second",
        "Egypt",
        "They had it too.",
        "Legacy",
        "The end.",
    ]
    assert "## History" in prose and "### Egypt" in prose


@pytest.mark.parametrize(
    "mark", ["{{a|", "[[a|", "{|\n|", "<b>", "<ref>", "[http://a ", "}}{{a|{{b|", "</b><b><i>", "<div class=x>"]
)
def test_markup_that_is_never_closed_is_refused_at_once(mark: str) -> None:
    begin = time.perf_counter()
    refusal = prose_of(mark * (1_000_000 // len(mark)))
    assert isinstance(refusal, Refusal) and refusal.reason == "unclosed_markup"
    assert time.perf_counter() - begin < 10  # parsed, it would be hours
    assert isinstance(prose_of("{{a|[[b]]<b>c</b>}}<br>" * 1_000), str)


@pytest.mark.parametrize("suffix", ["xml", "xml.gz", "xml.bz2"])
def test_articles_come_out_and_what_is_none_is_dropped_by_its_reason(tmp_path: Path, suffix: str) -> None:
    content = export(
        page("Yeast", ARTICLE),
        page("Old", "#REDIRECT [[Yeast]]", extra='<redirect title="Yeast"/>'),
        page("Talk:Yeast", "Hm.", ns=1),
        page("Data", "{}", model="json"),
        page("Long", "word " * 1000),
        page("Bread & butter", "Both."),
    )
    path = tmp_path / f"wiki.{suffix}"
    path.write_bytes({"xml": bytes, "gz": gzip.compress, "bz2": bz2.compress}[suffix.rsplit(".", 1)[-1]](content))
    found = read_dump(path, "mediawiki", ReadLimits(max_text_bytes=4_000))
    assert reasons(found) == ["redirect", "not_an_article", "not_an_article", "file_too_large"]
    assert list(texts(found)) == ["Yeast", "Bread & butter"] and texts(found)["Bread & butter"] == "Both."
    assert found[0].file.group == "Yeast" and {item.file.form for item in found} == {"markdown"}


def test_of_several_revisions_the_last_is_read(tmp_path: Path) -> None:
    twice = page("A", "First.").replace("</page>", "<revision><text>Second.</text></revision></page>")
    (tmp_path / "a.xml").write_bytes(export(twice))
    assert texts(read_dump(tmp_path / "a.xml", "mediawiki")) == {"A": "Second."}


def test_a_truncated_export_is_refused(tmp_path: Path) -> None:
    whole = export(page("A", "Text."), page("B", "Text."))
    path = tmp_path / "a.xml"
    path.write_bytes(whole[:-60])
    assert reasons(read_dump(path, "mediawiki"))[-1] == "truncated"
    path = tmp_path / "a.xml.bz2"
    path.write_bytes(bz2.compress(whole)[:-5])
    assert reasons(read_dump(path, "mediawiki")) == ["truncated"]
    assert list(texts(read_dump(path, "mediawiki"))) == ["A", "B"]


def test_real_wikipedia(eval_data: Path, tmp_path: Path) -> None:
    (dump,) = (eval_data / "dumps" / "mediawiki").glob("*.bz2")
    head = bz2.decompress(dump.read_bytes())[:1_500_000]  # of 6.5 MB
    (tmp_path / "head.xml").write_bytes(head[: head.rindex(b"</page>") + 7] + b"</mediawiki>")
    found = read_dump(tmp_path / "head.xml", "mediawiki")
    articles = texts(found)
    assert set(reasons(found)) == {"redirect"} and len(found) == len(articles) + len(reasons(found))
    assert articles["Anarchism"].startswith("Anarchism is a political philosophy that advocates self-governed societies")
    marks = sum(text.count(mark) for text in articles.values() for mark in ("{{", "[[", "'''", "<ref"))
    assert len(articles) > 15 and marks < len(articles)
