"""What a dump is that nobody described: its reader, by its name and, for JSON Lines, its first record."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import get_args

from pipeline_lib.config import ReadLimits
from pipeline_lib.errors import UserError
from pipeline_lib.sources.decompress import Unreadable, open_expanded
from pipeline_lib.sources.dump_spec import DumpSource, ReaderName, read_spec
from pipeline_lib.sources.readers import options_of
from pipeline_lib.sources.remote import is_remote

_SUFFIXES: dict[ReaderName, tuple[str, ...]] = {
    "warc": (".warc.gz", ".warc", ".wet.gz", ".wet"),
    "mediawiki": (".xml.bz2", ".xml.gz", ".xml", "-shortened.bz2"),
    "parquet": (".parquet",),
    "archive": (".zip", ".whl", ".jar", ".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst"),
    "json_lines": (".jsonl", ".jsonl.gz", ".jsonl.zst", ".json.gz", ".ndjson"),
}


def sources_of(target: str, reader: str = "") -> list[DumpSource]:
    """The sources of a dump spec (.yaml, .yml), or a path, glob or URL as a source of its own.

    Args:
        reader: of a path, glob or URL; guessed where it is empty.

    Raises:
        UserError: the spec is wrong, there is no such file, or the reader cannot be loaded.
    """
    if target.endswith((".yaml", ".yml")):
        return read_spec(target)
    url = target if is_remote(target) else os.path.abspath(Path(target.removeprefix("file://")).expanduser())  # noqa: PTH100
    known = {name: name for name in get_args(ReaderName)}
    name = known.get(reader or guess_reader(url))
    if name is None:
        raise UserError(f"reader {reader!r}: choose one of {', '.join(known)}")
    options = options_of(name, {})
    return [DumpSource(reader=name, url=url, licence="unknown", name=url.rstrip("/").rsplit("/", 1)[-1], options=options)]


def guess_reader(url: str) -> ReaderName:
    """The reader that a path, glob or URL most likely is for.

    Raises:
        UserError: a path on this machine at which there is nothing.
    """
    place = Path(url)
    if not is_remote(url) and not any(c in url for c in "*?["):
        if not place.exists():
            raise UserError(f"{url}: there is no such file or folder; give a path, a glob, a URL or a dump spec (.yaml)")
        if place.is_dir():
            bare = (place / "HEAD").is_file() and (place / "objects").is_dir()
            return "git" if bare or (place / ".git").exists() else "tree"
    for reader, suffixes in _SUFFIXES.items():
        if url.lower().endswith(suffixes):
            return "code_search_net" if reader == "json_lines" and _holds_functions(url) else reader
    return "text"


def _holds_functions(place: str) -> bool:
    """Whether the first record of a JSON Lines file is one of CodeSearchNet's."""
    if not Path(place).is_file():
        return False
    try:
        with open_expanded(place, ReadLimits()) as stream:
            record = json.loads(stream.readline(10_000_000))
    except (Unreadable, ValueError):
        return False
    return isinstance(record, dict) and {"repo", "func_name", "docstring"} <= record.keys()
