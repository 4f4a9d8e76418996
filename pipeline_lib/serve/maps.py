"""Map of an index: a place in the plane for its rows, made once for each index and kept in a cache folder.

    HOME/cache/maps/KEY.npz    rows, places, and how many of them were laid out

Rows are sampled evenly; so many of the sample are laid out by their vectors (layout.py, in a process of its own), the others
are placed among the nearest of those. Whatever the index's size, no more vectors are read, and a block of them at a time.

N rows that are shown, S of them laid out, D width, K nearest.
"""

from __future__ import annotations

import io
import json
import logging
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from pipeline_lib.errors import CorruptArtifact, UserError
from pipeline_lib.index.fusion import evenly
from pipeline_lib.runtime.machine import cache_folder
from pipeline_lib.search.filters import codes_of
from pipeline_lib.search.hits import safe_json
from pipeline_lib.serve.config import ServeConfig
from pipeline_lib.serve.layout import SEED, STEPS
from pipeline_lib.store.files import digest_of, replace_file

if TYPE_CHECKING:
    from pipeline_lib.search.query import Searcher
    from pipeline_lib.search.registry_log import Home

VERSION = 1  # of what is kept: another one is made anew
KEPT = 8  # maps in the cache folder, the newest ones
GRID = 65_535  # places are whole numbers up to it
BLOCK_ROWS = 1024  # whose vectors are in memory at a time, beside those of the sample
NEAREST = 5  # laid-out rows that place another
SHARPNESS = 30.0  # of their weights: a cosine that is lower by 0.1 counts a twentieth
JITTER = 0.002  # of the map's width: rows with the same neighbours stay apart
COLOURS = 11  # packages that are told apart; the others share one colour
RETRY_SECONDS = 60.0  # until a map that could not be made is tried again
PACKAGES = Path(__file__).parents[2]  # where a process finds this package
_STEP = re.compile(r"Iteration (\d+):")
State = Literal["making", "ready", "failed"]
Tell = Callable[[float, str], None]  # the share that is done, and what is at work


@dataclass(frozen=True)
class Places:
    """Rows of an index and where they lie.

    Attributes:
        rows_N: in ascending order.
        places_N2: whole numbers up to GRID.
        laid_out: rows that were laid out by their vectors; the others were placed among them.
    """

    rows_N: np.ndarray
    places_N2: np.ndarray
    laid_out: int

    def to_bytes(self) -> bytes:
        """As a file holds it."""
        stream = io.BytesIO()
        np.savez_compressed(stream, rows=self.rows_N, places=self.places_N2, laid_out=self.laid_out)
        return stream.getvalue()


def read_places(path: Path, n_rows: int) -> Places | None:
    """The map in a file, of an index of so many rows; None where there is none, or what is there is no such map."""
    try:
        with np.load(path) as held:
            found = Places(held["rows"], held["places"], int(held["laid_out"]))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    rows_N, places_N2 = found.rows_N, found.places_N2
    fits = rows_N.dtype == np.int64 and places_N2.dtype == np.uint16 and places_N2.shape == (len(rows_N), 2)
    return found if fits and len(rows_N) and rows_N.min() >= 0 and rows_N.max() < n_rows else None


class Stopped(Exception):
    """The service ends; the map is made at another time."""


class Maps:
    """The map of the index that answers: made in a thread when it is first asked for, and kept.

    Args:
        home: the artifact root, or the URL of a bucket's store.
    """

    def __init__(self, config: ServeConfig, home: Home) -> None:
        self.config = config
        self.folder = cache_of(home) / "maps"
        self._lock, self._stopped = threading.Lock(), threading.Event()
        self._index = ""  # digest of the index that the rest is about
        self._state: State = "making"
        self._done, self._note, self._failed_at = 0.0, "", 0.0
        self._answer = b""
        self._thread: threading.Thread | None = None

    def answer(self, searcher: Searcher) -> bytes:
        """The map as JSON, or how far it is."""
        digest = searcher.current.index_digest
        with self._lock:
            again = self._state == "failed" and time.monotonic() - self._failed_at > RETRY_SECONDS
            if (digest != self._index or again) and not (self._thread and self._thread.is_alive()):
                self._index, self._state, self._done, self._note, self._answer = digest, "making", 0.0, "begins", b""
                self._thread = threading.Thread(target=self._make, args=(searcher,), daemon=True, name="map")
                self._thread.start()
            if self._state == "ready" and digest == self._index:
                return self._answer
            of_another = _told(searcher, "making", 0.0, "waits for that of the index before")
            told = _told(searcher, self._state, self._done, self._note) if digest == self._index else of_another
        return json.dumps(told).encode()

    def stop(self) -> None:
        """Give up what is being made."""
        self._stopped.set()
        if self._thread:
            self._thread.join(1.0)

    def path(self, index_digest: str) -> Path:
        """The file of an index's map."""
        content = [VERSION, index_digest, self.config.map_sample, self.config.map_points]
        return self.folder / f"{digest_of(content)[:24]}.npz"

    def _make(self, searcher: Searcher) -> None:
        answer, said = b"", "the map could not be made; the service's log says why"
        try:
            answer, said = self._ready(searcher), ""
        except Stopped:
            said = "the service stops"
        except UserError as error:
            said = str(error)
        except (CorruptArtifact, OSError, RuntimeError, ValueError, MemoryError) as error:
            logging.getLogger(__name__).warning("no map of %s: %s", searcher.current.index, error)
        finally:  # whatever went wrong, nobody waits for this thread any more
            with self._lock:
                self._state, self._note, self._answer = "ready" if answer else "failed", said, answer
                self._failed_at = time.monotonic()

    def _ready(self, searcher: Searcher) -> bytes:
        path, began = self.path(searcher.current.index_digest), time.monotonic()
        found = read_places(path, searcher.rows.num_rows)
        if found is None:
            found = made(searcher, self.config, self._tell, self._stopped)
            logging.getLogger(__name__).info("the map took %.1f s", time.monotonic() - began)
            self._keep(path, found)
        return safe_json(drawn(searcher, found)).encode(errors="replace")

    def _tell(self, done: float, note: str) -> None:
        if self._stopped.is_set():
            raise Stopped
        with self._lock:
            self._done, self._note = done, note

    def _keep(self, path: Path, found: Places) -> None:
        """Write it beside the last few; where that cannot be, it is made again at the next start."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            replace_file(path, found.to_bytes())
            for old in sorted(self.folder.glob("*.npz"), key=lambda one: one.stat().st_mtime)[:-KEPT]:
                old.unlink(missing_ok=True)
        except OSError as error:
            logging.getLogger(__name__).warning("the map is not kept: %s", error)


def cache_of(home: Home) -> Path:
    """The folder of what this machine makes of a home's artifacts and can make again."""
    if "://" in str(home):
        return cache_folder(str(home))
    return Path(os.environ.get("CPT_CACHE") or Path(home) / "cache").absolute()


def made(searcher: Searcher, config: ServeConfig, tell: Tell, stopped: threading.Event) -> Places:
    """The map of an index.

    Raises:
        UserError: the index keeps neither vectors nor texts.
    """
    rows_N = evenly(searcher.rows.num_rows, config.map_points)
    if searcher.index.vectors(rows_N[:1]) is None:  # its texts are embedded again, which takes milliseconds each
        rows_N = evenly(searcher.rows.num_rows, min(config.map_sample, config.map_points))
    sample_S = evenly(len(rows_N), config.map_sample)
    vectors_SD = vectors_of(searcher, rows_N[sample_S], lambda done: tell(0.2 * done, "reading vectors"))
    places_S2 = _scaled(_in_a_process(vectors_SD, lambda done: tell(0.2 + 0.7 * done, "laying out"), stopped))
    places_N2 = np.empty((len(rows_N), 2), np.float64)
    rest = np.setdiff1d(np.arange(len(rows_N)), sample_S)
    for at in range(0, len(rest), BLOCK_ROWS):
        tell(0.9 + 0.1 * at / len(rest), "placing the others")
        block = rest[at : at + BLOCK_ROWS]
        places_N2[block] = placed(vectors_of(searcher, rows_N[block]), vectors_SD, places_S2)
    places_N2[rest] += np.random.default_rng(SEED).normal(0, JITTER, (len(rest), 2))
    places_N2[sample_S] = places_S2
    return Places(rows_N, np.round(np.clip(places_N2, 0, 1) * GRID).astype(np.uint16), len(sample_S))


def vectors_of(searcher: Searcher, rows_N: np.ndarray, tell: Callable[[float], None] = lambda _: None) -> np.ndarray:
    """Vectors (N, D) of rows: as the index holds them, else of their texts embedded again.

    Raises:
        UserError: the index keeps neither.
    """
    blocks = []
    for at in range(0, len(rows_N), BLOCK_ROWS):
        tell(at / len(rows_N))
        rows = rows_N[at : at + BLOCK_ROWS]
        found_ND = searcher.index.vectors(rows)
        if found_ND is None:
            if searcher.texts is None:
                raise UserError("this index keeps neither vectors nor texts; run `cpt run` with index.text_characters over 0")
            found_ND = searcher.embed_documents([text for _, text in searcher.texts.of(rows.tolist())])
        blocks.append(np.asarray(found_ND, np.float32))
    return np.concatenate(blocks)


def placed(vectors_ND: np.ndarray, vectors_SD: np.ndarray, places_S2: np.ndarray) -> np.ndarray:
    """Places (N, 2) of further vectors: the mean of the nearest that are laid out, by how near each is."""
    scores_NS = vectors_ND @ vectors_SD.T
    most = min(NEAREST, len(vectors_SD))
    nearest_NK = np.argpartition(-scores_NS, most - 1, axis=1)[:, :most]
    scores_NK = np.take_along_axis(scores_NS, nearest_NK, 1)
    weights_NK = np.exp(SHARPNESS * (scores_NK - scores_NK.max(1, keepdims=True)))
    weights_NK /= weights_NK.sum(1, keepdims=True)
    return np.einsum("nk,nkx->nx", weights_NK, places_S2[nearest_NK])


def _scaled(places_S2: np.ndarray) -> np.ndarray:
    """Between 0 and 1, the longer side from end to end, the other in the middle."""
    low_2, high_2 = places_S2.min(0), places_S2.max(0)
    side = float((high_2 - low_2).max()) or 1.0
    return 0.5 + (places_S2 - (low_2 + high_2) / 2) / side


def _in_a_process(vectors_SD: np.ndarray, tell: Callable[[float], None], stopped: threading.Event) -> np.ndarray:
    """Places (S, 2) of vectors; see layout.py."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    with tempfile.TemporaryDirectory(prefix="cpt-map-", ignore_cleanup_errors=True) as folder:
        vectors, places, log = (Path(folder) / name for name in ("vectors.npy", "places.npy", "log"))
        np.save(vectors, vectors_SD)
        command = [sys.executable, "-u", "-m", "pipeline_lib.serve.layout", str(vectors), str(places)]
        with log.open("wb") as out:
            process = subprocess.Popen(
                command, cwd=PACKAGES, env={**os.environ, **threads}, stdout=out, stderr=out, stdin=subprocess.DEVNULL
            )
        try:
            while process.poll() is None:
                if stopped.wait(0.1):
                    raise Stopped
                steps = _STEP.findall(log.read_text(errors="replace"))
                tell(min(1.0, int(steps[-1]) / STEPS) if steps else 0.0)
        finally:
            process.kill()
            process.wait()
        if process.returncode:
            raise RuntimeError(f"the layout ended with {process.returncode}: {log.read_text(errors='replace')[-2000:]}")
        return np.load(places)


def drawn(searcher: Searcher, found: Places) -> dict[str, Any]:
    """The map as JSON: see `looking.MapAnswer`."""
    codes_N, values = codes_of(searcher.rows, "package")
    codes_N = codes_N[found.rows_N]
    counts = np.bincount(codes_N, minlength=len(values))
    order = sorted(np.flatnonzero(counts).tolist(), key=lambda code: (-counts[code], values[code]))
    colours = np.full(len(values), min(COLOURS, len(order)))
    colours[order[:COLOURS]] = np.arange(len(order[:COLOURS]))
    others = order[COLOURS:]
    return _told(searcher, "ready", 1.0, "") | {
        "laid_out": found.laid_out,
        "row": found.rows_N.tolist(),
        "x": found.places_N2[:, 0].tolist(),
        "y": found.places_N2[:, 1].tolist(),
        "package": colours[codes_N].tolist(),
        "packages": [{"value": values[code][:256], "count": int(counts[code])} for code in order[:COLOURS]],
        "others": {"count": int(counts[others].sum()), "distinct": len(others)},
    }


def _told(searcher: Searcher, state: State, done: float, note: str) -> dict[str, Any]:
    empty: dict[str, Any] = {"laid_out": 0, "row": [], "x": [], "y": [], "package": [], "packages": []}
    about = {"index": searcher.current.index_digest, "total": searcher.rows.num_rows, "n_code": searcher.n_code, "grid": GRID}
    return {"state": state, "done": round(done, 3), "note": note, **about, **empty, "others": {"count": 0, "distinct": 0}}
