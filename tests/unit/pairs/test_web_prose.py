"""Prose of web pages: articles survive in all scripts, menus, notices and lists do not, and what is left out is counted."""

# ruff: noqa: RUF001
from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from dump_files import conversion, read_dump, response
from web_pages import NO_PROSE, PAGES

from pipeline_lib.config.data import ExtractConfig
from pipeline_lib.config.filters import FilterConfig, QualityConfig, WebProseConfig
from pipeline_lib.config.read_limits import ReadLimits
from pipeline_lib.pairs.documents import extract_found
from pipeline_lib.pairs.tables import Rows
from pipeline_lib.pairs.web_prose import web_prose
from pipeline_lib.sources.readers.html import main_text

WEB = WebProseConfig(enabled=True)


def prose_of(html: str) -> tuple[str, Counter[str]]:
    text = main_text(html.encode(), ReadLimits())
    assert isinstance(text, str)
    dropped: Counter[str] = Counter()
    return web_prose(text, WEB, dropped), dropped


@pytest.mark.parametrize("name", PAGES)
def test_articles_keep_their_paragraphs_and_lose_their_chrome(name: str) -> None:
    page = PAGES[name]
    text, _ = prose_of(page.html)
    found = " ".join(text.split())
    lost = [paragraph for paragraph in page.paragraphs if paragraph not in found]
    assert len(lost) < 0.1 * len(page.paragraphs), lost
    assert [words for words in page.chrome if words in found] == []


@pytest.mark.parametrize("name", NO_PROSE)
def test_pages_without_prose_give_no_text(name: str) -> None:
    text, _ = prose_of(NO_PROSE[name])
    assert text.split() == []


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("Notes:\n\nThis is a sentence of more than eight words, is it not?", [0, 2]),  # it leads to a sentence
        ("Home\n\nThis is a sentence of more than eight words, is it not?\n\nShare", [2]),
        ("This is a sentence of more than eight words that was\ncut at a\nwidth, as mail is.\nNo more.", [0, 1, 2, 3]),
        ("Thanks a lot.\n\nThis is a sentence of more than eight words, is it not?", [0, 2]),
        ("Thanks a lot.\n\nLog in\n\nMany happy returns.", []),
        # a line that was not cut where its next word fits: a title above a sentence
        ("Great offers on all kinds of Running Shoes and Bikes\nThis is a sentence of more than eight words, is it not?\n"
         "Only the longest of all lines of a block tells what width the text was cut at, and so this one is long.", [1, 2]),
        ("Whoever wrote this line has set it at about sixty characters\nAnd so the next one begins with a capital, as in"
         " a name, or\nin verse.", [0, 1, 2]),
        ("## Menu\n- One\n- Two\n## Text\nThis is a sentence of more than eight words, is it not?\n## End", [3, 4]),
        ("- The first point of the list is a sentence that says something.\n- Short one", [0]),
        ("```\nx = 1\n```", [0, 1, 2]),
        ("Left\t\tIn this cell of a page that is laid out in tables there is prose.\t\tRight", [0]),
        ("Anna Berg, Bob Cole, Cyd Dorn, Dan Eck, Eva Funk, Flo Gast, Gus Heim, Hal Ick.", []),
        ("\n".join(f"We have the best and cheapest {what} in your city today." for what in ("cars", "pills", "watches")), []),
        ("\n".join(f"We have the best and cheapest {what} in your city today." for what in ("cars", "pills")), [0, 1]),
        # templates that take turns; of a page of two alone there is no telling
        ("\n".join(f"{start} in {place} and the towns around it."
                   for place in ("Bonn", "Rome", "Oslo")
                   for start in ("Cheap flights can be booked at any time", "We know the best and cheapest hotels")), []),
        ("\n".join(f"In {place} you can borrow money today. Our friendly experts for loans in {place} call you back at once."
                   for place in ("Bonn", "Rome", "Oslo")), []),
        (" ".join(f"Our friendly experts for loans in {place} will call you back." for place in ("Bonn", "Rome", "Oslo")), []),
        ("\n".join(f"我们在{place}提供最优惠的{what}服务，欢迎来电咨询。"
                   for place, what in (("北京", "贷款"), ("上海", "搬家"), ("广州", "租车"))), []),
        ("Nobody sells shoes as good as those of shoes-online.com these days.\nIf you need a loan, try fastloans.biz this"
         " afternoon, it is free.\nThe best offers on hotels by the sea are at www.hotels-sea.net every week.", []),
        ("The manual is at docs.example.org, and it is worth the time it takes.\nNobody has read all of it, as far as we know.",
         [0, 1]),
        # a log; times of day in prose
        ("\n".join(f"17:55:5{n},494 INFO [Cache] Received a new view of the cluster of node number {n}" for n in range(4)), []),
        ("The tower lost contact at 8:54 a.m., and the centre told its head office at 9:09 a.m. that the aircraft was missing;"
         " by 9:25 a.m. everybody in the building knew that something was very wrong.", [0]),
        ("12.3 | 14.5 | 17.8 | 19.1 | 22.4 | 25.6 | 27.0 | 30.2.", []),
        ("Cookies are small files of text, invented in 1994 by Lou Montulli, that a server hands to a client so that it is known"  # noqa: E501
         " again on its next request; without them no shop on the web would know what lies in a basket, and no forum who it is"
         " that writes. They are as old as shops on the web.", [0]),
    ],
)  # fmt: skip
def test_lines_by_what_they_hold_and_where_they_stand(text: str, want: list[int]) -> None:
    kept = web_prose(text, WEB, Counter()).split("\n")
    assert len(kept) == len(text.split("\n"))
    assert [number for number, line in enumerate(kept) if line.strip()] == want


def test_a_list_behind_the_last_sentence_of_a_paragraph_is_cut_off() -> None:
    prose = " ".join(PAGES["news"].paragraphs)
    menu = " ".join(f"News Sport Weather Archive {year} Contact Us Privacy Jobs" for year in range(2001, 2006))
    dropped: Counter[str] = Counter()
    assert web_prose(f"{prose} {menu}", WEB, dropped) == prose.rstrip() and dropped == {"web_list": 1}
    unfinished = f"{prose} This last sentence was cut off somewhere in the middle, as crawlers do with pages that are very long"
    assert web_prose(unfinished, WEB, Counter()) == unfinished


def test_bounds_of_lines_can_be_set() -> None:
    line = "Six short words are no prose."
    assert web_prose(line, WEB, Counter()) == "" != web_prose(line, WebProseConfig(min_words=5), Counter())


def test_runs_of_lines_are_counted_by_their_reason() -> None:
    text = "Home\nNews\n\nAll rights reserved.\n\nThis is a sentence of more than eight words, is it not?\n\nOne\n\nTwo\nThree"
    dropped: Counter[str] = Counter()
    web_prose(text, WEB, dropped)
    assert dropped == {"web_list": 2, "web_notice": 1}


def extracted(path: Path, filters: FilterConfig) -> tuple[list[str], Counter[str]]:
    """Texts of all pairs and the drops, of a web archive."""
    rows = Rows(0)
    for found in read_dump(path, "warc"):
        extract_found(found, ExtractConfig(filters=filters), rows)
    return [f"{row[3]} {row[4]}" for row in rows.pairs], rows.dropped


def test_texts_of_web_archives_are_filtered_for_the_web_unless_told_otherwise(tmp_path: Path) -> None:
    article, other = (" ".join(PAGES[name].paragraphs) for name in ("news", "docs"))
    menu = "\n".join(["Home", "News", "Sport", "Contact us", "Log in"] * 12)
    (tmp_path / "a.warc.wet.gz").write_bytes(
        conversion("http://a.org/1", f"{menu}\n{article}\n{other}") + conversion("http://a.org/2", menu)
    )
    web = extracted(tmp_path / "a.warc.wet.gz", FilterConfig())
    assert web == extracted(tmp_path / "a.warc.wet.gz", FilterConfig(preset="web"))
    assert web[0] and not any("Sport" in pair for pair in web[0]) and (web[1]["web_page"], web[1]["web_list"]) == (1, 2)
    none = extracted(tmp_path / "a.warc.wet.gz", FilterConfig(preset="none"))
    assert any("Sport" in pair for pair in none[0]) and not {"web_page", "web_list"} & none[1].keys()
    # one choice over the preset keeps the others
    strict = extracted(tmp_path / "a.warc.wet.gz", FilterConfig(quality=QualityConfig(enabled=True, min_words=500)))
    assert strict[0] == [] and strict[1]["few_words"] == 1 and strict[1]["web_page"] == 1


def test_pages_of_an_archive_are_filtered_too(tmp_path: Path) -> None:
    (tmp_path / "a.warc.gz").write_bytes(response("http://a.org/", PAGES["news"].html.encode()))
    pairs, _ = extracted(tmp_path / "a.warc.gz", FilterConfig())
    assert len(pairs) == 1 and "cookies" not in pairs[0] and "bridge" in pairs[0]
