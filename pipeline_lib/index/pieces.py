"""Pieces of curated pairs that an index holds: every distinct function body and every distinct piece of prose.

A function may come in several pairs (views of it); the one made of its docstring speaks for it. A passage stands in up to two
pairs, as y of one and x of the next: y is preferred, because a pair's line is that of its y.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from pipeline_lib.config.queries import QUERIES_VIEW
from pipeline_lib.store.artifact import Artifact

BATCH_ROWS = 4096
DOC_CHARACTERS = 160
DOC_WORDS = 12
DOCSTRING = "docstring"
_COLUMNS = ["id", "kind", "x", "y", "source", "group", "path", "line", "name", "language", "licence"]


@dataclass(frozen=True)
class Piece:
    """One searchable text and its columns of INDEX_ROWS; `id` is that of a pair it stands in."""

    text: str
    id: str
    kind: str
    name: str
    path: str
    line: int
    doc: str
    source: str
    language: str
    package: str
    licence: str | None


@dataclass(frozen=True)
class Choice:
    """The chosen texts: x of pair p is 2 p, y of it 2 p + 1, p counting over all files in order; both arrays ascend.

    Attributes:
        hashes: of the functions, and of the passages, in that order.
    """

    code: np.ndarray
    text: np.ndarray
    n_seen: int
    hashes: tuple[np.ndarray, np.ndarray]

    @property
    def n_code(self) -> int:
        """Distinct functions."""
        return len(self.code)

    @property
    def n_text(self) -> int:
        """Distinct passages."""
        return len(self.text)


def choose_pieces(paths: Sequence[Path]) -> Choice:
    """One text of each hash and kind, from the hashes alone: 24 bytes of memory a text."""
    seen: dict[str, list[np.ndarray]] = {"code": [], "text": []}
    first = 0
    for path in paths:
        for batch in pq.ParquetFile(path).iter_batches(BATCH_ROWS, columns=["kind", "view", "x_hash", "y_hash"]):
            kinds, views = (np.array(batch[name].to_pylist(), dtype=object) for name in ("kind", "view"))
            pairs = np.arange(first, first + len(kinds), dtype=np.int64)
            x_hash, y_hash = (batch[name].to_numpy() for name in ("x_hash", "y_hash"))
            own = views != QUERIES_VIEW  # whose texts are in other pairs, or are documents as a whole
            code, text = (kinds == "code") & own, (kinds == "text") & own
            seen["code"].append(_candidates(y_hash, views != DOCSTRING, 2 * pairs + 1)[:, code])
            seen["text"].append(_candidates(y_hash, np.zeros(len(kinds)), 2 * pairs + 1)[:, text])
            seen["text"].append(_candidates(x_hash, np.ones(len(kinds)), 2 * pairs)[:, text])
            first += len(kinds)
    (code, code_hashes), (text, text_hashes) = (_first_of_each(seen[kind]) for kind in ("code", "text"))
    n_seen = sum(part.shape[1] for parts in seen.values() for part in parts)
    return Choice(code, text, n_seen, (code_hashes, text_hashes))


def read_pieces(paths: Sequence[Path], choice: Choice) -> Iterator[Piece]:
    """The chosen texts, all functions before all passages, each kind in the order of the files."""
    for kind, chosen in (("code", choice.code), ("text", choice.text)):
        first = at = 0
        for path in paths:
            for batch in pq.ParquetFile(path).iter_batches(BATCH_ROWS, columns=_COLUMNS):
                end = np.searchsorted(chosen, 2 * (first + batch.num_rows))
                wanted = chosen[at:end]
                rows = batch.take(wanted // 2 - first).to_pylist()
                for row, is_y in zip(rows, (wanted % 2).tolist(), strict=True):
                    yield _function(row) if kind == "code" else _passage(row, bool(is_y))
                first, at = first + batch.num_rows, int(end)


def distinct_values(paths: Sequence[Path]) -> dict[str, list[str]]:
    """The values of columns that have few, in alphabetical order; some may stand in no chosen text."""
    columns = {"kind": "kind", "source": "source", "language": "language", "package": "group", "licence": "licence"}
    found: dict[str, set[str]] = {name: set() for name in columns}
    for path in paths:
        for batch in pq.ParquetFile(path).iter_batches(BATCH_ROWS, columns=[*columns.values()]):
            for name, column in columns.items():
                found[name].update(batch[column].unique().to_pylist())
    return {name: sorted(value for value in values if value is not None) for name, values in found.items()}


def validation_queries(curated: Artifact, most: int) -> list[str]:
    """Texts x of the validation split, each once, those with the lowest hashes; the test split is not opened."""
    parts = [part for part in curated.manifest.parts if part.label == "validation"]
    kept: dict[int, str] = {}
    for part in parts:
        path = curated.part_folder(part.label) / "pairs.parquet"
        for batch in pq.ParquetFile(path).iter_batches(BATCH_ROWS, columns=["x_hash", "x"]):
            kept |= zip(batch["x_hash"].to_pylist(), batch["x"].to_pylist(), strict=True)
            kept = dict(sorted(kept.items())[:most])
    return [text for text in kept.values() if text.strip()]


def _candidates(hashes: np.ndarray, priority: np.ndarray, places: np.ndarray) -> np.ndarray:
    return np.stack([hashes, priority.astype(np.int64), places])


def _first_of_each(candidates: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The place with the lowest priority of each hash, then the lowest place; ascending, and the hash of each."""
    if not candidates:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    hashes, priority, places = np.concatenate(candidates, axis=1)
    order = np.lexsort((places, priority, hashes))
    hashes, places = hashes[order], places[order]
    is_first = np.ones(len(hashes), bool)
    is_first[1:] = hashes[1:] != hashes[:-1]
    hashes, places = hashes[is_first], places[is_first]
    order = np.argsort(places)
    return places[order], hashes[order]


def _function(row: dict[str, Any]) -> Piece:
    return _piece(row, "code", row["y"], _first_line(row["x"]))


def _passage(row: dict[str, Any], is_y: bool) -> Piece:
    text = row["y"] if is_y else row["x"]
    return _piece(row, "text", text, _first_words(text))


def _piece(row: dict[str, Any], kind: str, text: str, doc: str) -> Piece:
    same = {name: row[name] for name in ("id", "name", "path", "line", "source", "language", "licence")}
    return Piece(text=text, kind=kind, doc=doc, package=row["group"], **same)


def _first_line(text: str) -> str:
    line = next((line for line in text.splitlines() if line.strip()), "")
    line = " ".join(line.split())
    return line if len(line) <= DOC_CHARACTERS else line[: DOC_CHARACTERS - 1] + "…"


def _first_words(text: str) -> str:
    words = text.split(maxsplit=DOC_WORDS)
    shown = " ".join(words[:DOC_WORDS]) + (" …" if len(words) > DOC_WORDS else "")
    return shown if len(shown) <= DOC_CHARACTERS else shown[: DOC_CHARACTERS - 1] + "…"
