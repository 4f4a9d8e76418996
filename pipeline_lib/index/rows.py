"""Rows and texts of an index: written slice by slice, read where they are needed.

    rows.arrow     schemas.INDEX_ROWS, memory-mapped: what filters and results read; few values are dictionary-encoded
    texts.arrow    schemas.INDEX_TEXTS in small compressed batches, of which a search reads those of its hits alone
    texts.sha256   32 bytes for each 64 KiB of texts.arrow, so that what is read can be verified without hashing the rest

A million texts of 764 characters are 219 MB of rows and 282 MB of texts, which would cost every search 0.2 s to hash.

Legend: N rows.
"""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from pipeline_lib.errors import CorruptArtifact
from pipeline_lib.index.verified import BlockFile, write_block_digests

if TYPE_CHECKING:
    import pyarrow as pa

ROWS, TEXTS, TEXT_DIGESTS = "rows.arrow", "texts.arrow", "texts.sha256"
BATCH_TEXTS = 64  # in one compressed batch: about 30 kB, which is what one hit costs to read
CACHE_BYTES = 32 << 20  # of decoded batches: the texts of some 40,000 rows
SIGNATURE_CHARACTERS = 240
SIGNATURE_LINES = 20  # of a signature over several
_PYTHON = re.compile(r"(?:async\s+)?def\b[^\n]*[(\[]|class\b[^\n]*:\s*$", re.MULTILINE)
_BLANK_NAME = re.compile(r"\b_(?=\s*[(<\[=:])|\b_$")
_OPENING, _CLOSING, _QUOTES = frozenset("([{"), frozenset(")]}"), frozenset("\"'`")


class Searchable(Protocol):
    """A text and its columns, as attributes that are named like them."""

    @property
    def text(self) -> str: ...

    @property
    def kind(self) -> str: ...

    @property
    def name(self) -> str: ...


class Ranked(NamedTuple):
    """A row that answers a query, with its place from 1 and score by vectors and by BM25; None: not among their first."""

    row: int
    score: float
    vector_rank: int | None = None
    vector_score: float | None = None
    bm25_rank: int | None = None
    bm25_score: float | None = None


class RowWriter:
    """The three files of a folder, to be used as a context.

    Args:
        folder: where they go.
        text_characters: kept of each text at most; 0: no texts are kept, and no signatures.
        values: of dictionary-encoded columns, each once; others are taken in as they come, which costs a comparison of all at
            every write.

    Attributes:
        n_cut: texts that were longer.
    """

    def __init__(self, folder: Path, text_characters: int, values: Mapping[str, Iterable[str]] | None = None) -> None:
        self.folder, self.text_characters = folder, text_characters
        self.n_cut = 0
        self._codes = {name: {value: code for code, value in enumerate(known)} for name, known in (values or {}).items()}
        self._dictionaries: dict[str, pa.Array] = {}
        self._kept: list[tuple[str, str]] = []
        self._open = ExitStack()

    def __enter__(self) -> RowWriter:
        import pyarrow as pa

        from data_contracts.schemas import INDEX_ROWS, INDEX_TEXTS

        options = pa.ipc.IpcWriteOptions(emit_dictionary_deltas=True)  # a file's dictionary may grow, never change
        sink = self._open.enter_context(pa.OSFile(str(self.folder / ROWS), "wb"))
        self._rows = self._open.enter_context(pa.ipc.new_file(sink, INDEX_ROWS, options=options))
        if self.text_characters:
            compressed = pa.ipc.IpcWriteOptions(compression="zstd")
            sink = self._open.enter_context(pa.OSFile(str(self.folder / TEXTS), "wb"))
            self._texts = self._open.enter_context(pa.ipc.new_file(sink, INDEX_TEXTS, options=compressed))
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None and self._kept:
            self._write_texts()
        self._open.close()
        if kind is None and self.text_characters:
            write_block_digests(self.folder / TEXTS, self.folder / TEXT_DIGESTS)

    def write(self, pieces: Sequence[Searchable]) -> None:
        """Add rows, in their order."""
        import pyarrow as pa

        from data_contracts.schemas import INDEX_ROWS

        columns = [self._column(field, [getattr(piece, field.name) for piece in pieces]) for field in INDEX_ROWS]
        self._rows.write_batch(pa.RecordBatch.from_arrays(columns, schema=INDEX_ROWS))
        if not self.text_characters:
            return
        for piece in pieces:
            self.n_cut += len(piece.text) > self.text_characters
            sign = signature(piece.text, piece.name.rpartition(".")[2]) if piece.kind == "code" else ""
            self._kept.append((sign, piece.text[: self.text_characters]))
            if len(self._kept) == BATCH_TEXTS:
                self._write_texts()

    def _column(self, field: pa.Field, values: list[Any]) -> pa.Array:
        import pyarrow as pa

        if not pa.types.is_dictionary(field.type):
            return pa.array(values, field.type)
        codes = self._codes.setdefault(field.name, {})
        places = [None if value is None else codes.setdefault(value, len(codes)) for value in values]
        if len(self._dictionaries.get(field.name, ())) != len(codes) or not codes:
            self._dictionaries[field.name] = pa.array(list(codes), pa.string())
        return pa.DictionaryArray.from_arrays(pa.array(places, pa.int32()), self._dictionaries[field.name])

    def _write_texts(self) -> None:
        import pyarrow as pa

        from data_contracts.schemas import INDEX_TEXTS

        columns = [pa.array(column, pa.string()) for column in zip(*self._kept, strict=True)]
        self._texts.write_batch(pa.RecordBatch.from_arrays(columns, schema=INDEX_TEXTS))
        self._kept = []


class Texts:
    """Signature and text of any row; of the file no byte is parsed that was not verified.

    Args:
        folder: an index that keeps texts; its texts.sha256 must have been verified.
        cache_bytes: of decoded batches that are kept for the next hits, those that were read last; 0: none.

    Raises:
        CorruptArtifact: bytes of texts.arrow have changed.
    """

    def __init__(self, folder: Path, cache_bytes: int = CACHE_BYTES) -> None:
        import pyarrow as pa

        self.path, self.cache_bytes, self.cached_bytes = folder / TEXTS, cache_bytes, 0
        source = BlockFile(self.path, (folder / TEXT_DIGESTS).read_bytes())
        self._lock = threading.Lock()
        self._cached: OrderedDict[int, pa.RecordBatch] = OrderedDict()  # by number, the one that was read last at the end
        self._read = _parsed(lambda: pa.ipc.open_file(pa.PythonFile(source, "r")), self.path)

    def of(self, rows: Iterable[int]) -> list[tuple[str, str]]:
        """(signature, text) of each row, in the order asked for."""
        batches: dict[int, pa.RecordBatch] = {}
        found = []
        for row in rows:
            number, place = divmod(row, BATCH_TEXTS)
            if number not in batches:
                batches[number] = self._batch(number)
            found.append((batches[number]["signature"][place].as_py(), batches[number]["text"][place].as_py()))
        return found

    def _batch(self, number: int) -> pa.RecordBatch:
        with self._lock:  # the file has one position
            batch = self._cached.pop(number, None)
            if batch is None:
                batch = _parsed(lambda: self._read.get_batch(number), self.path)
                self.cached_bytes += batch.nbytes
            self._cached[number] = batch
            while self.cached_bytes > self.cache_bytes:
                self.cached_bytes -= self._cached.popitem(last=False)[1].nbytes
        return batch


def _parsed(read: Any, path: Path) -> Any:
    try:
        return read()
    except OSError as error:  # pyarrow's error about a file's form is a kind of it
        raise CorruptArtifact(f"{path}: {error}; run `cpt run` again") from error


def signature(source: str, name: str = "") -> str:
    """The head of a function in one line: up to its body, in any language.

    It ends with the first line on which no bracket stands open; what opens the body there is left out.

    Args:
        name: of the function; it stands where the source has "_" for it, as pairs of names and functions do.
    """
    depth, head = 0, []
    opens = _PYTHON.match(source) is not None
    for line in source.splitlines()[:SIGNATURE_LINES]:
        depth, end = _after(line, depth, ":" if opens else "{")
        head.append(line[:end].strip())
        if depth <= 0 or end < len(line):
            break
    else:
        head = head[:1]
    found = " ".join(" ".join(head).split()).rstrip("{:= ").removesuffix("=>").rstrip("= ")
    found = found.replace("( ", "(").replace(", )", ")").replace(" )", ")")
    if name and name not in found:
        found = _BLANK_NAME.sub(lambda _: name, found, count=1)
    return found if len(found) <= SIGNATURE_CHARACTERS else found[: SIGNATURE_CHARACTERS - 1] + "…"


def _after(line: str, depth: int, body: str) -> tuple[int, int]:
    """Open brackets behind a line, and where in it the sign of a body stands; its end where none does."""
    quote, at = "", 0
    while at < len(line):
        character = line[at]
        if quote:
            if character == "\\":
                at += 1
            elif character == quote:
                quote = ""
        elif character in _QUOTES and line.find(character, at + 1) > 0:  # Rust's lifetimes have no second one
            quote = character
        elif character == body and depth == 0 and (body == ":" or ")" in line[:at]):
            return depth, at
        elif character in _OPENING:
            depth += 1
        elif character in _CLOSING:
            depth -= 1
        at += 1
    return depth, len(line)
