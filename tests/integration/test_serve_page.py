"""The pages of the service in headless Chromium: what they show, keyboard, pointers, widths, hostile texts, axe."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from importlib.resources import files
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
    home.publish(extra=20)
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


READY = {
    "/map": "data !== null",
    "/neighbours?at=planted/code_3.py:13": "!at('near').hidden",
    "/compare?q=close&k=20": "!at('sides').hidden",
}


def see(tab: Page, url: str, path: str, width: int = 1200, scheme: str = "light") -> None:
    """Open a page that looks at the model, and wait until it shows something."""
    tab.open(f"{url}{path}{'&' if '?' in path else '?'}z={time.monotonic_ns()}", width, scheme=scheme)
    wait(tab, READY[path])


def touch(tab: Page, kind: str, *spots: tuple[float, float]) -> None:
    tab.ask("Input.dispatchTouchEvent", type=kind, touchPoints=[{"x": x, "y": y, "id": n} for n, (x, y) in enumerate(spots)])


def spot(tab: Page, point: int) -> tuple[float, float]:
    """Where a point of the map is on the page."""
    tab.value("scrollTo(0, 0)")
    return tuple(tab.value(f"(box => [box.left + across({point}), box.top + down({point})])(canvas.getBoundingClientRect())"))


def test_the_map_shows_a_text_under_the_pointer_and_its_neighbours_on_a_click(tab: Page, url: str) -> None:
    see(tab, url, "/map")
    assert tab.value("data.row.length") == 9
    x, y = spot(tab, 3)
    tab.ask("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
    wait(tab, "at('tip').hidden", False)
    assert "planted.html" in tab.value("at('tip').innerText") and "onerror=alert(1)" in tab.value("at('tip').innerText")
    for kind in ("mousePressed", "mouseReleased"):
        tab.ask("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)
    wait(tab, "at('panel').hidden", False)
    assert tab.value("[chosen, marks.length, document.querySelectorAll('#list .hit').length]") == [3, 8, 8]
    assert tab.value("document.querySelectorAll('main img, main script, main b').length") == 0


def test_the_map_is_moved_zoomed_and_filtered(tab: Page, url: str) -> None:
    see(tab, url, "/map")
    x, y = spot(tab, 0)
    tab.ask("Input.dispatchMouseEvent", type="mouseWheel", x=x, y=y, deltaX=0, deltaY=-400)
    wait(tab, "view.scale > 1.5")
    where = "(box => [across(0) + box.left, down(0) + box.top])(canvas.getBoundingClientRect())"
    assert tab.value(where) == pytest.approx([x, y], abs=2)
    for kind, dx in (("mousePressed", 0), ("mouseMoved", 40), ("mouseMoved", 80), ("mouseReleased", 80)):
        tab.ask("Input.dispatchMouseEvent", type=kind, x=x + dx, y=y, button="left", buttons=1, clickCount=1)
    wait(tab, f"Math.abs({where}[0] - {x} - 80) < 2")
    assert tab.value("at('panel').hidden"), "a drag is no click"
    tab.value("document.querySelector('[name=by][value=kind]').click()")
    names = "[...document.querySelectorAll('#key button')].map(button => button.innerText.replace(/\\s+/g, ' ').trim())"
    assert tab.value(names)[:2] == ["code 5", "prose 4"]
    tab.value("document.querySelector('#key button').click()")
    assert tab.value("[...Array(9).keys()].filter(seen)") == [5, 6, 7, 8]
    x, y = spot(tab, 0)
    tab.ask("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
    assert tab.value("over") != 0


def test_the_keyboard_walks_over_the_map(tab: Page, url: str) -> None:
    see(tab, url, "/map")
    tab.value("canvas.focus()")
    press(tab, "ArrowRight")
    wait(tab, "at('told').textContent !== ''")
    seen = set()
    for key in ("ArrowLeft", "ArrowUp", "ArrowRight", "ArrowDown") * 2:
        press(tab, key)
        wait(tab, "at('tip').hidden", False)
        seen.add(tab.value("over"))
    assert len(seen) > 2 and -1 not in seen
    press(tab, "Enter")
    wait(tab, "at('panel').hidden", False)
    assert tab.value("chosen") == tab.value("over")
    press(tab, "+")
    wait(tab, "view.scale > 1")
    press(tab, "0")
    wait(tab, "view.scale === 1")
    press(tab, "Escape")
    wait(tab, "at('panel').hidden")


def test_fingers_choose_and_pinch(tab: Page, url: str) -> None:
    see(tab, url, "/map", 420)
    tab.ask("Emulation.setTouchEmulationEnabled", enabled=True)
    try:
        x, y = spot(tab, 2)
        touch(tab, "touchStart", (x, y))
        touch(tab, "touchEnd")
        wait(tab, "at('panel').hidden", False)
        assert tab.value("chosen") == 2
        x, y = spot(tab, 0)
        touch(tab, "touchStart", (x - 20, y), (x + 20, y))
        for apart in (30, 50, 70):
            touch(tab, "touchMove", (x - apart, y), (x + apart, y))
        touch(tab, "touchEnd")
        wait(tab, "view.scale > 1.5")
    finally:
        tab.ask("Emulation.setTouchEmulationEnabled", enabled=False)


def test_words_mark_what_is_near_them_on_the_map(tab: Page, url: str) -> None:
    see(tab, url, "/map")
    tab.value("at('q').value = 'planted/code_1.py:11'; at('form').requestSubmit()")
    wait(tab, "chosen", 1)
    tab.value("at('q').value = 'a date with hyphens'; at('form').requestSubmit()")
    wait(tab, "chosen === -1")
    assert tab.value("marks.length") == 9 and "a date with hyphens" in tab.value("at('said').textContent")
    tab.value("at('q').value = 'no/such/file.py:3'; at('form').requestSubmit()")
    wait(tab, "at('said').className", "wrong")


def test_a_map_that_is_being_made_or_has_failed_says_so(tab: Page, url: str) -> None:
    see(tab, url, "/map")
    answer = "window.fetched = async () => ({{state: '{}', done: 0.4, note: 'laying out', total: 3}}); data = null; begin()"
    tab.value(answer.format("making"))
    wait(tab, "at('making').hidden", False)
    assert tab.value("at('done').value") == 0.4 and "laying out" in tab.value("at('note').textContent")
    tab.value(answer.format("failed"))
    wait(tab, "at('done').hidden")


def test_neighbours_go_on_from_one_another(tab: Page, url: str) -> None:
    see(tab, url, "/neighbours?at=planted/code_3.py:13")
    assert (
        "planted.html" in tab.value("at('of').innerText") and tab.value("document.querySelectorAll('#list .hit').length") == 8
    )
    assert tab.value("document.querySelectorAll('.histogram .near').length") == 8
    assert tab.value("at('q').value + at('side').value") == "planted/code_3.py:13at"
    first = tab.value("document.querySelector('#list h3').textContent")
    tab.value("document.querySelector('#list .acts button').click()")
    wait(tab, "document.querySelector('#of h3').textContent", first)
    tab.value("history.back()")
    wait(tab, "document.querySelector('#of h3').textContent", "planted.html")
    tab.value(f"at('q').value = {json.dumps(HOSTILE)}; at('side').value = 'document'; submit()")
    wait(tab, "document.querySelector('#of h3') === null && !at('near').hidden")
    assert "onerror" in tab.value("at('of').innerText")
    assert tab.value("document.querySelectorAll('main img, main script, main b').length") == 0


def test_two_models_stand_side_by_side_and_what_moved_is_marked(tab: Page, url: str) -> None:
    see(tab, url, "/compare?q=close&k=20")
    marks = "[...document.querySelectorAll('#{} .badge')].map(badge => badge.className.split(' ')[1])"
    champion, candidate = (tab.value(marks.format(side)) for side in ("champion", "candidate"))
    assert len(champion) == 9 and len(candidate) == 20 and candidate.count("new") >= 11
    assert "%" in tab.value("at('told').innerText") and tab.value("at('against').options.length") == 2
    tab.value("document.querySelector('#champion .hit').focus()")
    assert tab.value("document.querySelectorAll('#candidate .twin').length") == (0 if champion[0] == "gone" else 1)
    tab.value("at('against').value = '1'; at('against').dispatchEvent(new Event('change'))")
    wait(tab, "new URLSearchParams(location.search).get('against')", "1")
    tab.value("at('q').value = ''; compare()")
    wait(tab, "at('sides').hidden")


def test_pages_lead_to_one_another(tab: Page, url: str) -> None:
    for path in ("/", *READY):
        tab.open(f"{url}{path}", 420)
        links = tab.value("[...document.querySelectorAll('nav a')].map(one => one.pathname + (one.ariaCurrent || ''))")
        here = path.partition("?")[0]
        assert links == [one + ("page" if one == here else "") for one in ("/", "/map", "/neighbours", "/compare")]


@pytest.mark.parametrize("path", READY)
def test_they_fit_every_width_and_load_nothing_from_elsewhere(tab: Page, url: str, path: str) -> None:
    for width in (420, 1000):
        see(tab, url, path, width)
        assert tab.value("innerWidth") == width and tab.value("document.documentElement.scrollWidth") <= width
    assert all(name.startswith(url) for name in tab.value("performance.getEntriesByType('resource').map(one => one.name)"))


@pytest.mark.parametrize("path", ["/", *READY])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(tab: Page, url: str, path: str, scheme: str) -> None:
    axe = files("axe_core_python").joinpath("axe.min.js").read_text(encoding="utf-8")
    for width in (420, 1600) if path == "/" else (420,) if scheme == "dark" else (1600,):
        if path == "/":
            find(tab, url, "close the socket", width, scheme)
            tab.value("document.querySelector('.more').click()")
            wait(tab, "document.querySelectorAll('dl').length", 1)
        else:
            see(tab, url, path, width, scheme)
        if path == "/map":
            tab.value("choose(3)")
            wait(tab, "at('panel').hidden", False)
        tab.value(axe)
        tab.value("axe.run().then(found => { window.found = found; })")
        wait(tab, "typeof window.found", "object")
        told = tab.value("window.found.violations.map(one => [one.impact, one.id, one.nodes.map(node => node.html)])")
        assert told == [], told
        assert tab.value("window.found.passes.length") > 15
