"""Prose of web pages: articles survive in all scripts, menus, notices and lists do not, and what is left out is counted."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from dump_files import conversion, read_dump, response
from web_pages import NO_PROSE, PAGES

from pipeline_lib.config.data import ExtractConfig, FilterConfig, QualityConfig, ReadLimits, WebProseConfig
from pipeline_lib.pairs.extract import extract_found
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
