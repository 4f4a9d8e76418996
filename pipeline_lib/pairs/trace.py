"""Origin of a pair: artifact, source, file or record, line, and the hash of the dump's file."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb

from pipeline_lib.errors import UserError
from pipeline_lib.sources.dump_files import FILES, PLACES
from pipeline_lib.store.artifact import Artifact
from pipeline_lib.store.records import Manifest, Part
from pipeline_lib.store.store import Store

MIN_DIGITS = 6  # a shorter start of an id would fit many pairs of a large set


@dataclass(frozen=True)
class Trace:
    """One pair and its origin."""

    pair: dict[str, Any]  # a row of schemas.PAIRS
    extracted: str  # key of the `extract` artifact
    part: str  # label of its part
    listing: str  # key of the `source` artifact; empty where it is gone
    file: str  # path of the dump's file inside its source
    record: str  # URL, member or record inside that file, with "#copy=2" the second of that name; empty: the file is one text
    place: str  # where the file lay when it was listed last, as a path or URL; empty where nobody knows
    bytes: int
    sha256: str  # of the dump's file, or commit:ID or etag:DIGEST; empty where its listing is gone

    def facts(self) -> dict[str, str]:
        """What is known of the pair's origin, in words."""
        pair, sha256 = self.pair, self.sha256
        return {
            "pair": f"{pair['id']} ({pair['view']}, {pair['language']})",
            "name": pair["name"],
            "source": pair["source"],
            "licence": pair["licence"] or "not stated",
            "group": pair["group"],
            "file": self.file,
            "record": self.record or "the file is one text",
            "line": str(pair["line"]),
            "place": self.place or "not recorded",
            "hash": sha256 if ":" in sha256 else f"sha256:{sha256}" if sha256 else "not recorded",
            "bytes": f"{self.bytes:,}",
            "extracted": f"extract/{self.extracted}, part {self.part}",
            "listed": f"source/{self.listing}" if self.listing else "its listing is gone",
        }


def trace_pair(store: Store, pair_id: str) -> Trace:
    """Find a pair in the finished `extract` artifacts of a store.

    Args:
        pair_id: its 32 hexadecimal digits, or the first ones of them, 6 at least.

    Raises:
        UserError: the id is none, is of no pair, or is the beginning of several.
    """
    if not re.fullmatch(rf"[0-9a-f]{{{MIN_DIGITS},32}}", pair_id):
        raise UserError(f"pair id {pair_id!r}: expected 32 hexadecimal digits, or the first {MIN_DIGITS} or more of them")
    parts = _parts(store)
    rows = _rows(list(parts), pair_id)
    if not rows:
        raise UserError(f"no pair {pair_id} in {len(parts)} parts under {store.place}; is CPT_HOME the root of its run?")
    if len({row["id"] for row in rows}) > 1:
        raise UserError(f"{pair_id} begins {len(rows)} ids, such as {rows[0]['id']} and {rows[1]['id']}; give more digits")
    manifest, part = parts[rows[0].pop("filename")]
    return _located(store, rows[0], manifest, part)


def trace_pairs(store: Store, pair_ids: Sequence[str]) -> dict[str, Trace]:
    """Traces of whole ids in one pass over the store; an id that no artifact holds any more is not among them."""
    parts = _parts(store)
    if not parts or not pair_ids:
        return {}
    found: dict[str, Trace] = {}
    for row in _read(list(parts), "list_contains(?, id)", list(pair_ids)):
        manifest, part = parts[row.pop("filename")]
        found.setdefault(row["id"], _located(store, row, manifest, part))
    return found


def _parts(store: Store) -> dict[str, tuple[Manifest, Part]]:
    """The pairs of every part, by the place of its table; of artifacts that share a part, the one with the last key."""
    found: dict[str, tuple[Manifest, Part]] = {}
    for artifact in store.artifacts("extract"):
        gone = {part.key for part in artifact.missing()}
        there = artifact.with_parts(part for part in artifact.manifest.parts if part.key not in gone)
        tables = there.paths("pairs.parquet")
        found |= {str(table): (artifact.manifest, part) for table, part in zip(tables, there.manifest.parts, strict=True)}
    return found


def _rows(tables: list[str], pair_id: str) -> list[dict[str, Any]]:
    return _read(tables, "starts_with(id, ?) ORDER BY id LIMIT 2", pair_id) if tables else []


def _read(tables: list[str], condition: str, value: Any) -> list[dict[str, Any]]:
    with duckdb.connect() as connection:
        query = f"SELECT * FROM read_parquet(?, filename = true) WHERE {condition}"  # noqa: S608 - ours
        answer = connection.execute(query, [tables, value])
        names = [column[0] for column in answer.description or ()]
        return [dict(zip(names, row, strict=True)) for row in answer.fetchall()]


def _located(store: Store, pair: dict[str, Any], manifest: Manifest, part: Part) -> Trace:
    listing = _listing(store, manifest.inputs.get("source", ""))
    file, size, sha256, place = "", 0, "", ""
    if listing is not None:
        file, size, sha256 = _listed_file(listing, pair["source"], pair["path"])
        places = listing.note(PLACES)
        root = json.loads(places).get(pair["source"]) if places else None
        place = root if root is not None and sha256.startswith("commit:") else "" if root is None else root + file
    file = file or pair["path"].partition("!")[0]
    return Trace(
        pair=pair,
        extracted=manifest.key,
        part=part.label,
        listing=listing.manifest.key if listing else "",
        file=file,
        record=pair["path"].removeprefix(file).removeprefix("!"),
        place=place,
        bytes=size,
        sha256=sha256,
    )


def _listing(store: Store, digest: str) -> Artifact | None:
    for listing in store.artifacts("source"):
        if listing.digest == digest:
            return listing
    return None


def _listed_file(listing: Artifact, source: str, path: str) -> tuple[str, int, str]:
    """Path, bytes and hash of the listed file that is the path, or the container that the path begins with."""
    table = Path(listing.part_folder()) / FILES
    if not table.is_file():
        return "", 0, ""  # listed by an earlier version
    with duckdb.connect() as connection:
        query = """SELECT path, bytes, sha256 FROM read_parquet(?)
            WHERE source = ? AND (path = ? OR starts_with(?, path || '!')) ORDER BY length(path) DESC LIMIT 1"""
        found = connection.execute(query, [str(table), source, path, path]).fetchone()
    return found or ("", 0, "")
