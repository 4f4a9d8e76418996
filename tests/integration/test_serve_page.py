"""The page of the search service in headless Chromium: what is found, keyboard, filters, widths, hostile texts, axe."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from browser import CHROMIUM, WIDTHS, Page, browser
from search_homes import HOSTILE, SearchHome

from pipeline_lib.serve.config import ServeConfig
from pipeline_lib.serve.server import Service

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
CARDS = "document.querySelectorAll('.hit').length"
SECONDS = 30.0


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    home = SearchHome(tmp_path_factory.mktemp("page") / "home")
    home.publish()
    with Service(ServeConfig(port=0), home.root).in_thread() as url:
        yield url


@pytest.fixture(scope="module")
def tab() -> Iterator[Page]:
    with browser() as page:
        page.ask("Log.enable")
        yield page


def wait(tab: Page, expression: str, wanted: Any = True) -> Any:
    """The value of an expression once it is that one."""
    until = time.monotonic() + SECONDS
    while (found := tab.value(expression)) != wanted:
        assert time.monotonic() < until, f"{expression}: {found!r}, not {wanted!r}; {tab.value('document.body.innerText')}"
        time.sleep(0.05)
    return found


def find(tab: Page, url: str, query: str, width: int = 1200, scheme: str = "light") -> None:
    """Open the page, type a query and wait for its hits."""
    tab.open(f"{url}/?{time.monotonic_ns()}", width, scheme=scheme)
    tab.value(f"at('q').value = {json.dumps(query)}; search()")
    wait(tab, "/^\\d+ hits? in/.test(at('said').textContent)")


def press(tab: Page, key: str) -> None:
    for kind in ("keyDown", "keyUp"):
        tab.ask("Input.dispatchKeyEvent", type=kind, key=key, **({"text": key} if len(key) == 1 else {}))


def test_code_and_prose_stand_side_by_side(tab: Page, url: str) -> None:
    find(tab, url, "close the socket")
    assert tab.value("document.querySelectorAll('#side-code .hit').length") == 5
    assert tab.value("document.querySelectorAll('#side-text .hit').length") == 4
    tops = "['code', 'text'].map(kind => at('side-' + kind).getBoundingClientRect())"
    assert tab.value(f"(([code, text]) => code.top === text.top && code.right < text.left)({tops})")
    assert tab.value("[...document.querySelectorAll('mark')].some(mark => mark.textContent === 'close')")


def test_texts_of_the_index_stay_texts(tab: Page, url: str) -> None:
    find(tab, url, HOSTILE)
    assert tab.value("document.body.innerText").count("onerror=alert(1)") >= 2
    assert tab.value("document.title") == "Search"
    assert tab.value("document.querySelectorAll('main img, main script, main b').length") == 0


def test_marks_stand_where_the_words_are_behind_signs_of_two_units(tab: Page, url: str) -> None:
    hit = {"kind": "text", "snippet": "😀 a date", "marks": [[4, 8]]}
    tab.open(url + "/", 1200)
    assert tab.value(f"marked({json.dumps(hit)}).querySelector('mark').textContent") == "date"


def test_the_keyboard_is_enough(tab: Page, url: str) -> None:
    find(tab, url, "date")
    tab.value("document.activeElement.blur()")
    press(tab, "/")
    wait(tab, "document.activeElement.id", "q")
    assert tab.value("at('q').value") == "date"
    press(tab, "ArrowDown")
    wait(tab, "document.activeElement === document.querySelector('#side-code .hit')")
    press(tab, "ArrowDown")
    press(tab, "ArrowRight")
    wait(tab, "document.activeElement === document.querySelectorAll('#side-text .hit')[1]")
    press(tab, "Enter")
    wait(tab, "document.querySelectorAll('dl dt').length > 3")
    assert "vectors" in tab.value("document.querySelector('dl').innerText")
    press(tab, "Escape")
    wait(tab, "document.activeElement.id", "q")
    press(tab, "Escape")
    wait(tab, "document.querySelectorAll('section:not([hidden])').length", 0)


def test_filters_narrow_what_is_found(tab: Page, url: str) -> None:
    find(tab, url, "date")
    assert tab.value("[...at('language').options].map(option => option.value).join()") == ",python,en"
    tab.value("at('kind').value = 'code'; at('path').value = 'planted/code_4.py'; search()")
    wait(tab, CARDS, 1)
    assert "planted.maths" in tab.value("document.querySelector('.hit').innerText")
    tab.value("at('path').value = 'no/such/place'; search()")
    wait(tab, "at('said').className", "wrong")
    assert "no/such/place" in tab.value("at('said').textContent")


def test_the_page_fits_every_width_and_loads_nothing_from_elsewhere(tab: Page, url: str) -> None:
    for width in WIDTHS:
        find(tab, url, "word " * 40 + "x" * 200, width)
        assert tab.value("innerWidth") == width and tab.value("document.documentElement.scrollWidth") <= width
    loaded = tab.value("performance.getEntriesByType('resource').map(one => one.name)")
    assert loaded and all(name.startswith(url) for name in loaded)


def test_the_policy_lets_no_other_script_run(tab: Page, url: str) -> None:
    tab.open(url + "/", 1200)
    planted = "var made = document.createElement('script'); made.textContent = 'window.ran = 1'; document.body.append(made); 1"
    assert tab.value(planted) == 1
    assert tab.value("window.ran") is None


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(tab: Page, url: str, scheme: str, tmp_path: Path) -> None:
    axe = files("axe_core_python").joinpath("axe.min.js").read_text(encoding="utf-8")
    for width in (420, 1600):
        find(tab, url, "close the socket", width, scheme)
        tab.value("document.querySelector('.more').click()")
        wait(tab, "document.querySelectorAll('dl').length", 1)
        tab.value(axe)
        tab.value("axe.run().then(found => { window.found = found; })")
        wait(tab, "typeof window.found", "object")
        told = tab.value("window.found.violations.map(one => [one.impact, one.id, one.nodes.map(node => node.html)])")
        assert told == [], told
        assert tab.value("window.found.passes.length") > 15
        tab.picture(tmp_path / f"{scheme}-{width}.png", whole=True)
