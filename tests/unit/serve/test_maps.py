"""Layout, placing and keeping of a map, without a service."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipeline_lib.errors import UserError
from pipeline_lib.search.filters import codes_of
from pipeline_lib.serve import maps
from pipeline_lib.serve.config import ServeConfig
from pipeline_lib.serve.layout import FEWEST, laid_out, principal

CLUSTERS, WIDTH = 3, 24


@pytest.fixture(autouse=True)
def _no_cache_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CPT_CACHE", raising=False)


def vectors(n: int, seed: int = 1) -> np.ndarray:
    """Unit vectors in a few clusters, row i in cluster i % CLUSTERS."""
    random = np.random.default_rng(seed)
    centres = np.random.default_rng(0).normal(size=(CLUSTERS, WIDTH))
    found = centres[np.arange(n) % CLUSTERS] + 0.15 * random.normal(size=(n, WIDTH))
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)


def searcher(n: int, packages: list[str | None] | None = None, holds_vectors: bool = True) -> Any:
    """As much of a searcher as a map reads."""
    held, read = vectors(n), []
    rows = pa.table({"package": pa.array((packages or ["p"]) * n, pa.string())[:n].dictionary_encode()})

    def of(rows_N: np.ndarray) -> np.ndarray | None:
        read.extend(rows_N.tolist())
        return held[rows_N] if holds_vectors else None

    current = SimpleNamespace(index_digest=f"{n:064x}", index=Path("index"))
    index = SimpleNamespace(vectors=of)
    return SimpleNamespace(rows=rows, index=index, texts=None, current=current, n_code=n // 2, read=read)


def make(found: Any, **options: int) -> maps.Places:
    return maps.made(found, ServeConfig(**options), lambda done, note: None, threading.Event())


@pytest.mark.parametrize("n", [1, 2, 10, FEWEST - 1])
def test_a_few_rows_have_their_principal_components_as_places(n: int) -> None:
    found = make(searcher(n))
    assert found.rows_N.tolist() == list(range(n)) and found.laid_out == n
    assert found.places_N2.shape == (n, 2) and found.places_N2.dtype == np.uint16
    if n > 1:
        assert int(np.ptp(found.places_N2.astype(int), axis=0).max()) == maps.GRID  # the longer side is filled


def test_near_rows_lie_near_one_another_whether_laid_out_or_placed() -> None:
    found = make(searcher(240), map_sample=60)
    assert found.laid_out == 60 and len(found.rows_N) == 240
    places, cluster = found.places_N2.astype(float), found.rows_N % CLUSTERS
    centres = np.stack([places[cluster == one].mean(0) for one in range(CLUSTERS)])
    nearest = np.linalg.norm(places[:, None] - centres, axis=2).argmin(1)
    assert (nearest == cluster).mean() > 0.97


@pytest.mark.slow
def test_the_same_index_comes_to_the_same_map() -> None:
    one, other = (make(searcher(80), map_sample=40) for _ in range(2))
    assert one.to_bytes() == other.to_bytes() or (one.places_N2 == other.places_N2).all()


def test_equal_vectors_and_a_width_of_one_are_laid_out() -> None:
    assert laid_out(np.ones((40, 8), np.float32)).tolist() == [[0.0, 0.0]] * 40
    assert np.isfinite(laid_out(np.linspace(-1, 1, 5, dtype=np.float32)[:, None])).all()
    assert principal(np.eye(4, dtype=np.float32), 50).shape == (4, 4)


def test_of_a_large_index_a_bounded_number_of_vectors_is_read() -> None:
    large = searcher(5000)
    found = make(large, map_points=100, map_sample=12)
    assert len(found.rows_N) == 100 and len(set(large.read)) == 100 and found.rows_N.max() >= 4900


def test_an_index_that_gives_no_vectors_back_shows_the_texts_of_the_sample_embedded_again() -> None:
    found, held = searcher(50, holds_vectors=False), vectors(50)
    found.texts = SimpleNamespace(of=lambda rows: [("", str(row)) for row in rows])
    found.embed_documents = lambda texts: held[[int(text) for text in texts]]
    made = make(found, map_sample=12)
    whole = searcher(50)
    assert made.laid_out == len(made.rows_N) == 12
    assert (made.places_N2 == make(whole, map_points=12).places_N2).all() and made.rows_N.tolist() == sorted(set(whole.read))


def test_an_index_without_vectors_and_texts_says_so() -> None:
    with pytest.raises(UserError, match="neither vectors nor texts"):
        make(searcher(5, holds_vectors=False))


def test_packages_beyond_the_colours_share_one_and_none_is_a_value() -> None:
    many = searcher(400, [f"package {n}" for n in range(100)] + [None])
    found = maps.drawn(many, maps.Places(np.arange(400), np.zeros((400, 2), np.uint16), 400))
    assert len(found["packages"]) == maps.COLOURS and found["others"]["distinct"] == 101 - maps.COLOURS
    shown = sum(one["count"] for one in found["packages"])
    assert shown + found["others"]["count"] == 400 and found["package"].count(maps.COLOURS) == found["others"]["count"]
    codes_N, values = codes_of(many.rows, "package")
    assert values[codes_N[100]] == "none" and values[codes_N[3]] == "package 3"
    assert codes_of(pa.table({"id": ["a", "b"]}), "package")[1] == ["none"]  # an index of an earlier version


def wait_for(held: maps.Maps, found: Any) -> bytes:
    until = time.monotonic() + 120
    while b'"making"' in (answer := held.answer(found)):
        assert time.monotonic() < until, answer
        time.sleep(0.02)
    return answer


def test_a_map_is_made_once_and_a_damaged_file_is_made_anew(tmp_path: Path) -> None:
    config = ServeConfig()
    first = searcher(12)
    answer = wait_for(maps.Maps(config, tmp_path), first)
    path = maps.Maps(config, tmp_path).path(first.current.index_digest)
    kept = path.read_bytes()
    assert path.parent == tmp_path / "cache" / "maps" and first.read
    again = searcher(12)
    assert wait_for(maps.Maps(config, tmp_path), again) == answer and again.read == []
    for damage in (b"", kept[:40], b"x" * 500, maps.Places(np.array([99]), np.zeros((1, 2), np.uint16), 1).to_bytes()):
        path.write_bytes(damage)
        assert wait_for(maps.Maps(config, tmp_path), searcher(12)) == answer
        assert path.read_bytes() == kept
    assert maps.Maps(ServeConfig(map_sample=5), tmp_path).path(first.current.index_digest) != path


def test_another_index_has_another_map_and_the_folder_stays_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maps, "KEPT", 2)
    held = maps.Maps(ServeConfig(), tmp_path)
    for n in range(3, 7):
        assert f'"total": {n}'.encode() in wait_for(held, searcher(n))
    assert len(list(held.folder.glob("*.npz"))) == maps.KEPT


def test_where_nothing_can_be_written_a_map_is_made_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file lies here")
    assert b'"ready"' in wait_for(maps.Maps(ServeConfig(), tmp_path), searcher(4))


def test_what_cannot_be_laid_out_is_told_and_not_tried_at_once_again(tmp_path: Path) -> None:
    found = searcher(6, holds_vectors=False)
    held = maps.Maps(ServeConfig(), tmp_path)
    assert b"neither vectors nor texts" in wait_for(held, found)
    assert b'"failed"' in held.answer(found)


def test_a_stop_ends_the_process_that_lays_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[subprocess.Popen[bytes]] = []

    def sleeping(command: list[str], **options: Any) -> subprocess.Popen[bytes]:
        begun.append(start([sys.executable, "-c", "import time; time.sleep(600)"], **options))
        return begun[0]

    start = subprocess.Popen
    monkeypatch.setattr(maps.subprocess, "Popen", sleeping)
    held = maps.Maps(ServeConfig(), tmp_path)
    assert b'"making"' in held.answer(searcher(20))
    until = time.monotonic() + 60
    while not begun and time.monotonic() < until:
        time.sleep(0.02)
    held.stop()
    assert begun[0].wait(60) != 0
