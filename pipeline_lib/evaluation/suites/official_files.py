"""Files of official downloads: found plain or gzipped, read line by line, with an error that says where one gets them."""

from __future__ import annotations

import csv
import gzip
import json
import math
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from pipeline_lib.errors import UserError

LONGEST_CELL = 131_072  # characters


class MissingData(UserError):
    """A suite's files are not there; `--skip-missing` passes over the suite instead."""


def find_file(data: Path, places: Sequence[str], name: str | Sequence[str], source: str) -> Path:
    """The first `data/PLACE/name` or `data/PLACE/name.gz` that there is.

    Args:
        places: folders below `data` that downloads commonly make.
        name: or the names that it goes by.
        source: where one gets the file, for the message.

    Raises:
        MissingData: none is there.
    """
    names = [name] if isinstance(name, str) else name
    for place in places:
        for candidate in (data / place / f"{each}{end}" for each in names for end in ("", ".gz")):
            if candidate.is_file():
                return candidate
    raise MissingData(f"{data / places[0] / ' or '.join(names)} is not there, nor .gz beside it; get it from {source}")


@contextmanager
def open_lines(path: Path, encoding: str = "utf-8") -> Iterator[IO[str]]:
    """The text of a plain or gzipped file; "\\n" alone ends a line.

    Raises:
        UserError: the file is not of that encoding, its gzip stream is broken, or its quoting, where it is read as a table.
    """
    try:
        if path.suffix == ".gz":
            with gzip.open(path, "rt", encoding=encoding, newline="\n") as stream:
                yield stream
        else:
            with path.open(encoding=encoding, newline="\n") as stream:
                yield stream
    except (UnicodeDecodeError, EOFError, gzip.BadGzipFile, zlib.error, csv.Error) as error:
        raise UserError(f"{path}: cannot be read to its end as {encoding} ({error}); get the file again") from error


def read_lines(path: Path, encoding: str = "utf-8") -> Iterator[str]:
    """Lines without their end."""
    with open_lines(path, encoding) as stream:
        for line in stream:
            yield line.rstrip("\r\n")


def read_columns(path: Path, at_least: int, encoding: str = "utf-8") -> Iterator[list[str]]:
    """Tab-separated columns without quoting; empty lines are passed over.

    Raises:
        UserError: a line has fewer columns.
    """
    for number, line in enumerate(read_lines(path, encoding), 1):
        if not line:
            continue
        yield split_columns(line, path, number, at_least)


def split_columns(line: str, path: Path, number: int, at_least: int) -> list[str]:
    """The tab-separated columns of one line.

    Raises:
        UserError: there are fewer.
    """
    columns = line.split("\t")
    if len(columns) < at_least:
        raise UserError(f"{path}, line {number}: {len(columns)} columns, expected {at_least} or more; get the file again")
    return columns


def read_rows(stream: IO[str], delimiter: str = "\t") -> Iterator[tuple[int, list[str]]]:
    """Rows of a quoted table with the numbers of the lines at which they end.

    Raises:
        csv.Error: a cell is longer than any of a published set, as where nothing closes a quote. The csv module has one limit
            for the whole process, which whoever reads dumps raises.
    """
    for row in (reader := csv.reader(stream, delimiter=delimiter)):
        if any(len(cell) > LONGEST_CELL for cell in row):
            raise csv.Error(f"field larger than field limit ({LONGEST_CELL})")
        yield reader.line_num, row


def read_csv(path: Path, required: Sequence[str], delimiter: str = ",") -> Iterator[dict[str, str]]:
    """Rows of a quoted table with a header.

    Raises:
        UserError: the header or a row lacks a column.
    """
    with open_lines(path) as stream:
        rows = read_rows(stream, delimiter)
        _, header = next(rows, (0, []))
        missing = [name for name in required if name not in header]
        if missing:
            raise UserError(f"{path}: no column {', '.join(missing)} in its header {header}; get the file again")
        for line, cells in rows:
            row = dict(zip(header, cells, strict=False))
            if cells and any(name not in row for name in required):
                raise UserError(f"{path}, line {line}: fewer columns than its header; get the file again")
            if cells:
                yield row


def read_json_lines(path: Path, required: Sequence[str]) -> Iterator[dict[str, Any]]:
    """One object a line.

    Raises:
        UserError: a line is no object or lacks a field.
    """
    for number, line in enumerate(read_lines(path), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}, line {number}: not JSON ({error}); get the file again") from error
        missing = [name for name in required if not isinstance(record, dict) or name not in record]
        if missing:
            raise UserError(f"{path}, line {number}: no field {', '.join(missing)}; get the file again")
        yield record


def as_number(text: str, path: Path, what: str) -> float:
    """The finite number that a column holds.

    Raises:
        UserError: it holds none; NaN would make the whole set's figure NaN.
    """
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise UserError(f"{path}: {what} is {text!r}, expected a number; get the file again")
    return number
