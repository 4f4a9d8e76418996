"""Map, neighbours and two models side by side, over HTTP."""

from __future__ import annotations

import gc
import json
import time
import weakref
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
from search_homes import HOSTILE, SearchHome, ask, serving

from pipeline_lib.search import registry
from pipeline_lib.search.explain import vector_of
from pipeline_lib.search.query import Searcher
from pipeline_lib.search.registry import in_use
from pipeline_lib.serve.server import Service

EXTRA = 6  # few enough that their principal components are their places, which takes no second


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> SearchHome:
    made = SearchHome(tmp_path_factory.mktemp("looking") / "home")
    made.publish()
    made.publish(extra=EXTRA)
    return made


@pytest.fixture(scope="module")
def service(home: SearchHome) -> Iterator[Service]:
    with serving(home, name="planted") as service:
        yield service


def got(service: Service, path: str, body: Any = None) -> dict[str, Any]:
    status, headers, content = ask(service, path, body)
    assert status == 200 and headers["content-type"] == "application/json", content
    return json.loads(content)


def told(service: Service, path: str, body: Any = None) -> tuple[int, str, str]:
    """Status, parameter and message of a refusal."""
    status, _, content = ask(service, path, body)
    error = json.loads(content)["error"]
    return status, error["param"] or "", error["message"]


def told_apart(hit: dict[str, Any]) -> tuple[str, ...]:
    return hit["kind"], hit["name"], hit["path"], hit["doc"]


def test_the_map_shows_every_text_of_a_small_index(service: Service) -> None:
    until = time.monotonic() + 300
    while (found := got(service, "/map.json"))["state"] == "making":
        assert 0 <= found["done"] <= 1 and time.monotonic() < until
        time.sleep(0.1)
    n = 9 + EXTRA
    assert (found["state"], found["total"], found["n_code"], found["laid_out"]) == ("ready", n, 5 + EXTRA, n)
    assert found["row"] == list(range(n)) and all(len(found[name]) == n for name in ("x", "y", "package"))
    assert found["packages"] == [{"value": "planted", "count": n}] and found["others"] == {"count": 0, "distinct": 0}
    assert service.engine.maps.path(found["index"]).is_file()
    rows = got(service, f"/rows.json?row=0&row=3&index={found['index']}")["rows"]
    assert [one["row"] for one in rows] == [0, 3] and rows[0]["name"] == "planted.dates" and HOSTILE in rows[1]["snippet"]


def test_neighbours_of_a_row_are_those_by_its_vector(home: SearchHome, service: Service) -> None:
    searcher = Searcher(in_use(home.root, "planted"))
    vectors = np.concatenate([vector_of(searcher, row) for row in range(9 + EXTRA)])
    scores = vectors @ vectors.T
    found = got(service, "/neighbours.json?row=7&k=4")
    near = found["neighbours"]
    order = [row for row in np.argsort(-scores[7], kind="stable").tolist() if row != 7][:4]
    assert [one["score"] for one in near] == pytest.approx(scores[7][order].tolist(), abs=1e-5)
    assert found["of"]["row"] == 7 and 7 not in [one["row"] for one in near]
    for one in near:
        others = np.sort(np.delete(scores[one["row"]], one["row"]))[::-1][:4]
        assert one["mutual"] == (one["score"] >= others[-1] - 1e-5)
    assert {one["mutual"] for row in range(9) for one in got(service, f"/neighbours.json?row={row}&k=2")["neighbours"]} == {
        True,
        False,
    }
    histogram = found["histogram"]
    assert (
        sum(histogram["counts"]) == histogram["rows"] == 8 + EXTRA and len(histogram["edges"]) == len(histogram["counts"]) + 1
    )


def test_neighbours_of_a_place_and_of_a_text(home: SearchHome, service: Service) -> None:
    by_row = got(service, "/neighbours.json?row=1&k=3")
    by_place = got(service, "/neighbours.json?at=planted/code_1.py:11&k=3")
    longer = got(service, "/neighbours.json", {"at": "a/checkout/planted/code_1.py:400", "k": 3})
    assert by_row == by_place == longer and by_row["of"]["name"] == "planted.net"
    text = "def close(sock):\n    sock.close()\n    return None"
    found = got(service, "/neighbours.json", {"text": text, "k": 2})
    assert found["of"] is None and found["neighbours"][0]["row"] == 1 and found["neighbours"][0]["score"] > 0.999
    asked = got(service, "/neighbours.json", {"text": text, "k": 2, "side": "query", "kind": "text"})
    assert {one["kind"] for one in asked["neighbours"]} == {"text"}


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/neighbours.json", (400, "")),
        ("/neighbours.json?row=1&text=a", (400, "")),
        ("/neighbours.json?row=999999", (400, "")),
        ("/neighbours.json?row=-1", (400, "row")),
        ("/neighbours.json?row=1&k=21", (400, "k")),
        ("/neighbours.json?at=nothing", (400, "at")),
        ("/neighbours.json?at=no/such/file.py:3", (400, "")),
        ("/neighbours.json?text=%20", (400, "text")),
        ("/neighbours.json?row=1&index=" + "0" * 64, (409, "index")),
        ("/rows.json", (400, "row")),
        ("/rows.json?row=999999", (400, "")),
        ("/rows.json?" + "&".join(["row=1"] * 51), (400, "row")),
        ("/compare.json", (400, "q")),
        ("/compare.json?q=a&against=nobody", (404, "against")),
        ("/compare.json?q=a&against=..%2F..%2Fetc", (404, "against")),
        ("/compare.json?q=a&against=999", (404, "against")),
        ("/compare.json?q=a&against=" + "9" * 256, (404, "against")),
        ("/compare.json?q=a&against=a%00b", (404, "against")),
        ("/compare.json?q=a&path=no/such/place", (400, "")),
        ("/compare.json?q=a&explain=true", (400, "explain")),
    ],
)
def test_what_is_wrong_is_named(home: SearchHome, service: Service, path: str, expected: tuple[int, str]) -> None:
    status, parameter, message = told(service, path)
    assert (status, parameter) == expected and str(home.root) not in message


def test_two_pairs_side_by_side(home: SearchHome, service: Service) -> None:
    candidates = got(service, "/candidates.json")
    assert [(one["against"], one["event"]) for one in candidates["candidates"]] == [("1", "promoted")]
    now = Searcher(in_use(home.root, "planted"))
    found = got(service, f"/compare.json?q={quote('number of many')}&k=8")
    assert found == got(service, "/compare.json", {"query": "number of many", "k": 8, "against": "1"})
    ranks = {side: {told_apart(hit): hit["rank"] for hit in found[side]["hits"]} for side in ("champion", "candidate")}
    assert [hit["name"] for hit in found["champion"]["hits"]] == [hit.name for hit in now.search("number of many", k=8)]
    both = ranks["champion"].keys() & ranks["candidate"].keys()
    assert found["overlap"] == pytest.approx(len(both) / 8, abs=1e-4)
    for side, alone in (("champion", "gone"), ("candidate", "new")):
        for hit in found[side]["hits"]:
            one, other = (ranks[name].get(told_apart(hit)) for name in ("champion", "candidate"))
            moved = alone if None in (one, other) else "same" if one == other else "up" if other < one else "down"
            assert (hit["change"], hit["before"], hit["now"]) == (moved, one, other)
    assert found["counts"]["gone"] == 8 - len(both) and sum(found["counts"].values()) == 8 + found["counts"]["gone"]
    assert (found["champion"]["model"]["event"], found["candidate"]["model"]["event"]) == (2, 1)


def test_a_candidate_that_was_held_back_and_another_name(home: SearchHome) -> None:
    """Neither is in use: of the first the history has its run and checkpoint alone."""
    trained = home.store.artifacts("train")[0]
    label = home.exported.manifest.config["label"]
    indexed = home.publish("held")
    registry.record(
        home.root, "held", {"event": "rejected", "why": "not better", "candidate": f"{trained.manifest.key}/{label}"}
    )
    registry.record(home.root, "held", {"event": "rejected", "why": "lost", "candidate": "0" * 24 + "/step-000001"})
    home.index(extra=2)  # of the same export: the newest index of the candidate
    with serving(home, name="held", against="planted") as service:
        shown = got(service, "/candidates.json")
        assert [one["against"] for one in shown["candidates"]] == ["3", "2"] and shown["against"] == "planted"
        by_event = got(service, "/compare.json?q=date&against=2")
        assert by_event["candidate"]["model"]["texts"] == 11 and by_event["champion"]["model"]["index_digest"] == indexed.digest
        by_run = got(service, f"/compare.json?q=date&against={trained.manifest.key[:8]}/{label}")
        assert by_run["candidate"] == by_event["candidate"]
        assert got(service, "/compare.json?q=date")["candidate"]["model"]["name"] == "planted"
        assert told(service, "/compare.json?q=date&against=3")[:2] == (404, "against")
        assert told(service, f"/compare.json?q=date&against={trained.manifest.key}/step-999999")[:2] == (404, "against")


def test_a_damaged_event_hides_no_other(home: SearchHome) -> None:
    for extra in (0, 1, 2):
        home.publish("damaged", extra)
    (home.root / "registry" / "damaged" / "history" / "000002.json").write_text("{")
    with serving(home, name="damaged") as service:
        assert [one["against"] for one in got(service, "/candidates.json")["candidates"]] == ["1"]
        assert got(service, "/compare.json?q=date")["candidate"]["model"]["event"] == 1


def test_without_another_pair_there_is_nothing_to_compare_with(home: SearchHome) -> None:
    home.publish("alone")
    with serving(home, name="alone") as service:
        assert got(service, "/candidates.json")["candidates"] == []
        status, _, message = told(service, "/compare.json?q=date")
        assert status == 404 and "no other pair or candidate" in message


def test_the_other_pair_is_closed_when_nobody_compares(home: SearchHome) -> None:
    with serving(home, name="planted", against_idle_seconds=0.2, follow_seconds=0.05) as service:
        assert service.engine.rivals._open is None, "opened before anybody asked"
        got(service, "/compare.json?q=date")
        opened = weakref.ref(service.engine.rivals._open) if service.engine.rivals._open else lambda: None
        until = time.monotonic() + 30
        while service.engine.rivals._open is not None or opened() is not None:
            assert time.monotonic() < until, "still open"
            gc.collect()
            time.sleep(0.05)
        assert len(got(service, "/compare.json?q=date")["candidate"]["hits"]) == 9


def test_pages_need_no_token_and_their_data_does(home: SearchHome, monkeypatch: pytest.MonkeyPatch) -> None:
    token = "t0ken-of-the-test-that-nobody-knows"
    monkeypatch.setenv("CPT_SERVE_TOKEN", token)
    with serving(home, name="planted") as service:
        for path in ("/", "/map", "/neighbours?row=1", "/compare?q=date"):
            status, headers, content = ask(service, path)
            assert status == 200 and headers["content-type"].startswith("text/html") and b"planted" not in content
            assert "'unsafe" not in headers["content-security-policy"]
        for path in ("/map.json", "/rows.json?row=1", "/neighbours.json?row=1", "/compare.json?q=a", "/candidates.json"):
            assert ask(service, path)[0] == 401
            assert ask(service, path, headers={"Authorization": f"Bearer {token}"})[0] == 200
