"""Export of vectors: ids, texts, places and embeddings of a published index as one Parquet file, for other vector stores.

    DIR/vectors.parquet

Rows come in the index's order, functions before passages, a slice at a time. Vectors are those of the store's cache; where
that has lost some, an index that keeps them whole gives them back. The file is there whole or not at all.

N rows of a slice, D width.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline_lib.errors import CorruptArtifact, UserError
from pipeline_lib.index.factories import OpenIndex, files_of, open_index
from pipeline_lib.index.pieces import Piece, choose_pieces, read_pieces
from pipeline_lib.index.rows import signature
from pipeline_lib.index.verified import check_files, read_json
from pipeline_lib.runtime.progress import Progress, silent
from pipeline_lib.search.registry_log import Champion, opened
from pipeline_lib.store.artifact import Artifact
from pipeline_lib.store.files import fault_point, sync_folder
from pipeline_lib.store.store import Store
from pipeline_lib.store.vectors import VectorCache, text_hashes

FILE = "vectors.parquet"
VERSION = 1
METADATA = b"cpt_vectors"  # key of the Parquet's metadata, its value JSON
SIDE = "document"  # of every text of an index; a query is embedded as the other
SLICE_ROWS = 8192  # 16 MiB of vectors of 512 dimensions; also the rows of a row group
COLUMNS = (
    *("row", "id", "pair_id", "side", "kind", "name", "path", "line", "doc"),
    *("language", "package", "licence", "source", "signature", "text", "vector"),
)
REPEATED = ("side", "kind", "language", "package", "licence", "source", "path")
SIDE_FILES = ("search.json", "config_sentence_transformers.json")

VectorPrecision = Literal["float32", "float16"]
_TYPES: dict[VectorPrecision, pa.DataType] = {"float32": pa.float32(), "float16": pa.float16()}


@dataclass(frozen=True)
class VectorExport:
    """Choices of an export.

    Attributes:
        kind: code or text alone; None: both.
        precision: of the vectors' values.
        overwrite: write in place of an earlier file.
    """

    kind: str | None = None
    precision: VectorPrecision = "float32"
    overwrite: bool = False


@dataclass(frozen=True)
class Exported:
    """An export as it was written.

    Attributes:
        path: of the file.
        reconstructed: rows whose vector the index gave back, because the cache had lost it.
    """

    path: Path
    rows: int
    dim: int
    bytes: int
    reconstructed: int


def export_vectors(pair: Champion, out: Path, options: VectorExport, progress: Progress = silent) -> Exported:
    """Write the vectors of a published pair as DIR/vectors.parquet.

    Args:
        pair: see `registry.in_use`.
        out: the folder; made where it is not there.
        progress: counts rows.

    Raises:
        UserError: the file is there already, the index holds no such rows, or the pairs that it was made of are gone.
        CorruptArtifact: a byte of index or model has changed, or vectors are gone that the index does not keep whole.
    """
    target = out / FILE
    if target.is_dir():
        raise UserError(f"{target}: a folder of that name lies there; give another --out")
    if target.exists() and not options.overwrite:
        raise UserError(f"{target}: there already; give another --out, or --overwrite to write in its place")
    source = _Source(opened(pair))
    first, end = source.bounds(options.kind)
    if first == end:
        raise UserError(f"{source.pair.index}: the index holds no {options.kind or 'text'}; there is nothing to export")
    schema = _schema(source, options)
    _make_folder(out)
    handle, name = tempfile.mkstemp(prefix=f".{FILE}.", dir=out)
    beside = Path(name)
    try:
        with os.fdopen(handle, "wb") as stream:
            with pq.ParquetWriter(stream, schema, **_encoding(schema)) as writer:
                for at, pieces in source.slices(first, end):
                    writer.write_table(_table(source, at, pieces, schema), row_group_size=SLICE_ROWS)
                    done = at + len(pieces) - first
                    progress(done, end - first, f"{done:,} rows")
            os.fchmod(handle, 0o644)
            stream.flush()
            os.fsync(stream.fileno())
        fault_point("vectors:before_rename")
        _put(beside, target, options.overwrite)
    finally:
        beside.unlink(missing_ok=True)
    return Exported(target, end - first, source.dim, target.stat().st_size, source.reconstructed)


class _Source:
    """The texts and vectors of a published pair, in its index's order: verified, and read slice by slice."""

    def __init__(self, pair: Champion) -> None:
        self.pair, self.reconstructed = pair, 0
        check_files(pair.index, pair.index_digest, ("index.json", "rows.arrow"))
        check_files(pair.model, pair.model_digest, self.side_files)
        self.facts = read_json(pair.index / "index.json")
        self.dim: int = self.facts["dim"]
        home = str(pair.home)
        self.store = Store.at(home) if "://" in home else Store(pair.index.parents[2])  # ROOT/index/parts/KEY-CONTENT
        self._ids: pa.ChunkedArray = pa.ipc.open_file(pa.memory_map(str(pair.index / "rows.arrow"))).read_all()["id"]
        self._cache = VectorCache(self.store, self.facts.get("vectors", "none"), "y", _refuse)
        self._index: OpenIndex | None = None

    @property
    def side_files(self) -> tuple[str, ...]:
        """The model's files that say how its sides are embedded."""
        return tuple(name for name in SIDE_FILES if (self.pair.model / name).is_file())

    def bounds(self, kind: str | None) -> tuple[int, int]:
        """The first row of a kind, and the one after its last: functions come first."""
        n_code, total = self.facts["code"], self.facts["count"]
        return {"code": (0, n_code), "text": (n_code, total)}.get(kind or "", (0, total))

    def slices(self, first: int, end: int) -> Iterator[tuple[int, list[Piece]]]:
        """The row that each slice begins at, and its texts.

        Raises:
            CorruptArtifact: the pairs are not those that were indexed.
        """
        paths = self._curated().paths("pairs.parquet")
        pieces = islice(read_pieces(paths, choose_pieces(paths)), first, end)
        for at in range(first, end, SLICE_ROWS):
            slice_ = list(islice(pieces, min(SLICE_ROWS, end - at)))
            if [piece.id for piece in slice_] != self._ids.slice(at, SLICE_ROWS).to_pylist()[: min(SLICE_ROWS, end - at)]:
                raise CorruptArtifact(f"{self.pair.index}: rows from {at:,} on are not the pairs that were indexed")
            yield at, slice_

    def vectors(self, pieces: Sequence[Piece], first: int) -> np.ndarray:
        """Vectors (N, D) float32 of the rows from `first` on, whose texts these are."""
        hashes_N2 = text_hashes([piece.text for piece in pieces])
        lost = self._cache.missing(hashes_N2)
        if not len(lost):
            return self._cache.read(hashes_N2)
        self.reconstructed += len(pieces)
        return self._from_index(first, len(pieces), len(lost))

    def _curated(self) -> Artifact:
        """The pairs that were indexed, verified: rows of the index keep the beginning of a text alone."""
        digest = self.store.open("index", self.pair.index.name.rpartition("-")[0]).manifest.inputs["curated"]
        for found in self.store.artifacts("curate"):
            if found.digest == digest and (curated := self.store.find("curate", found.manifest.key)):
                curated.verify()
                return curated
        raise UserError(f"{self.store.place}: the pairs that {self.pair.name} was indexed from are gone; run `cpt run` again")

    def _from_index(self, first: int, rows: int, lost: int) -> np.ndarray:
        """The vectors as the index has them, where it has them whole."""
        import faiss

        if self._index is None:
            check_files(self.pair.index, self.pair.index_digest, files_of(self.facts))
            index = open_index(self.pair.index, self.facts)
            if index.exact is None and not isinstance(index.faiss, faiss.IndexFlat):
                raise CorruptArtifact(
                    f"{lost:,} texts of {self.pair.index} have no vector in the store any more, and its kind "
                    f"{self.facts.get('factory')} does not give them back; run `cpt run` again, which embeds them"
                )
            self._index = index
        return self._index.reconstruct_n(first, rows)


def _refuse(texts: Sequence[str], _: object) -> NoReturn:
    raise AssertionError(f"{len(texts)} texts were to be embedded by an export")


def _schema(source: _Source, options: VectorExport) -> pa.Schema:
    vector = pa.list_(pa.field("element", _TYPES[options.precision], nullable=False), source.dim)
    types = {"row": pa.int64(), "line": pa.int32(), "text": pa.large_string(), "vector": vector}
    fields = [pa.field(name, types.get(name, pa.string()), nullable=name == "licence") for name in COLUMNS]
    return pa.schema(fields, metadata={METADATA: json.dumps(_told(source, options), sort_keys=True).encode()})


def _told(source: _Source, options: VectorExport) -> dict[str, Any]:
    """What a reader must know: whose vectors these are, and how a query is embedded beside them."""
    pair, settings = source.pair, {name: read_json(source.pair.model / name) for name in source.side_files}
    search = settings.get("search.json", {})
    prompts = settings.get("config_sentence_transformers.json", {}).get("prompts", {})
    sides = {name: {"prompt": prompts.get(name, ""), **search.get(name, {})} for name in ("query", "document")}
    return {
        "version": VERSION,
        "name": pair.name,
        "model_digest": pair.model_digest,
        "index_digest": pair.index_digest,
        "checkpoint": pair.checkpoint,
        "dim": source.dim,
        "precision": options.precision,
        "normalised": True,
        "similarity": "cosine, which is the inner product of vectors of length 1",
        "side": SIDE,
        "sides": sides,
    }


def _encoding(schema: pa.Schema) -> dict[str, Any]:
    """Vectors as they are, since they hardly shrink; a dictionary for what repeats; all else by zstd."""
    paths = ["vector.list.element" if name == "vector" else name for name in schema.names]
    return {
        "compression": {path: "none" if path.startswith("vector") else "zstd" for path in paths},
        "use_dictionary": [name for name in schema.names if name in REPEATED],
    }


def _table(source: _Source, first: int, pieces: Sequence[Piece], schema: pa.Schema) -> pa.Table:
    vectors_ND = source.vectors(pieces, first)
    if vectors_ND.shape != (len(pieces), source.dim) or not np.isfinite(vectors_ND).all():
        raise CorruptArtifact(f"rows from {first:,} on: vectors {vectors_ND.shape} are not {source.dim} finite numbers each")
    kept = schema.field("vector").type
    values = pa.array(vectors_ND.astype(kept.value_type.to_pandas_dtype()).reshape(-1), kept.value_type)
    made: dict[str, Any] = {
        "row": range(first, first + len(pieces)),
        "id": [text_id(piece.kind, piece.text) for piece in pieces],
        "pair_id": [piece.id for piece in pieces],
        "side": [SIDE] * len(pieces),
        "signature": [signature(piece.text, piece.name.rpartition(".")[2]) if piece.kind == "code" else "" for piece in pieces],
        "text": [piece.text.encode("utf-8", "replace").decode("utf-8") for piece in pieces],
        "vector": pa.FixedSizeListArray.from_arrays(values, type=kept),
    }
    columns = [made[name] if name in made else [getattr(piece, name) for piece in pieces] for name in schema.names]
    return pa.table([pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)], schema=schema)


def text_id(kind: str, text: str) -> str:
    """A UUID that names a text of a kind: the same in every later export, so that a store can replace what it has.

    A pair's id does not do: its two passages share it.
    """
    content = f"{kind}\0{text}".encode("utf-8", "surrogatepass")
    return str(uuid.UUID(bytes=hashlib.sha256(content).digest()[:16]))


def _make_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise UserError(f"{out}: a file lies there, or on the way there; give a folder") from error


def _put(beside: Path, target: Path, overwrite: bool) -> None:
    """Give the finished file its name; of two writers that may not overwrite, one wins and the other says so."""
    try:
        if not overwrite:
            _claim(beside, target)
    except FileExistsError as error:
        raise UserError(f"{target}: came to be meanwhile; give another --out, or --overwrite") from error
    os.replace(beside, target)
    sync_folder(target.parent)


def _claim(beside: Path, target: Path) -> None:
    """Take a name that nobody has, at once with the file, or empty where a disk knows no second names, as FAT."""
    try:
        os.link(beside, target)
    except FileExistsError:
        raise
    except OSError:
        target.open("xb").close()
