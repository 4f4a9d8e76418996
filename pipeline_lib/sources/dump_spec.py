"""Dump specs: the sources of one data set, as a YAML list; each says where it lies, what reads it and under which licence.

- name: wiki
  reader: mediawiki
  url: s3://dumps/enwiki-*.xml.bz2
  licence: CC-BY-SA-4.0
  weight: 0.5
- reader: git
  url: ../repositories/flask.git
  licence: BSD-3-Clause
  options: {revision: v3.0.0}
- reader: archive
  url: debian:bookworm/commons-io=2.11.0-2#sha256=...
  licence: Apache-2.0

A path, glob or URL that nobody described is a source too: its reader is the one that recognises it.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from glob import glob
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import AfterValidator, Field, ValidationError

from pipeline_lib.config.data import HoldOut
from pipeline_lib.errors import UserError, public_name
from pipeline_lib.sources import readers
from pipeline_lib.sources.folder import SKIPPED_FOLDERS, walk
from pipeline_lib.sources.licences import UNKNOWN
from pipeline_lib.sources.packages import package_of
from pipeline_lib.sources.readers import options_of, reader_names
from pipeline_lib.sources.remote import has_wild_card, is_remote, list_url
from pipeline_lib.sources.source_file import CODE_FORMS, form_of, is_about_data
from pipeline_lib.store.records import Record

# a folder of code and prose; files that are one text each; files each of which its first bytes tell
TREE, TEXT, AUTO = "tree", "text", "auto"
_VARIABLE = re.compile(r"\$\{(\w+)\}")
_FILES_TRIED = 1_000  # of a folder or a glob, to tell its reader


def known_readers() -> tuple[str, ...]:
    """The names that a spec may give as `reader`."""
    return (TREE, TEXT, *reader_names(), AUTO)


def _known_reader(name: str) -> str:
    if name not in known_readers():
        raise ValueError(f"one of {', '.join(known_readers())}")
    return name


class DumpSource(Record):
    """One entry of a dump spec."""

    reader: Annotated[str, AfterValidator(_known_reader)] = Field(description="Kind of the files, and so what reads them.")
    url: str = Field(
        description="A path, a glob, a URL of fsspec (s3://, gs://, file://) or a package for `cpt fetch` (pypi:, debian:)."
        " A relative path counts from the spec's folder. ${NAME}: a variable of the environment, where secrets belong.",
        min_length=1,
    )
    licence: str = Field(
        UNKNOWN,
        description="Licence of all texts for which the source states none (in a header, a manifest, a licence file or a"
        " record), as an SPDX expression.",
        min_length=1,
    )
    weight: float = Field(
        1.0, description="Share of the source's texts that are taken, by the hash of their path; 1: all.", gt=0, le=1
    )
    name: str = Field("", description="Names the source in every row. Empty: the last part of its URL.")
    group: str = Field(
        "", description="Group that no split cuts through, for all its texts. Empty: their folder, repository, site or file."
    )
    hold_out: HoldOut = Field(
        "auto",
        description="Splits that its texts go to. auto: by the hash of their group, as `curate` says; never: training alone;"
        " validation, test: that split alone.",
    )
    options: dict[str, Any] = Field(default_factory=dict, description="Options of its reader, such as `revision`.")


def read_spec(place: str) -> list[DumpSource]:
    """The sources of a dump spec, each with a name, its options checked by its reader and relative paths made absolute.

    Raises:
        UserError: the file cannot be read, is no YAML list, or an entry is wrong: which one, what was got and expected.
    """
    spec = Path(place).expanduser()
    entries = _entries(spec)
    sources = [_source(spec, number, entry) for number, entry in enumerate(entries, start=1)]
    numbers: dict[str, int] = {}
    for number, source in enumerate(sources, start=1):
        if (other := numbers.setdefault(source.name, number)) != number:
            raise UserError(f"{spec}: entries {other} and {number} are both named {source.name!r}; give each a `name`")
    return sources


def _entries(spec: Path) -> list[Any]:
    try:
        content = yaml.safe_load(spec.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"dump spec {spec}: {error.strerror}; give a YAML file that lists the sources") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"dump spec {spec}: no valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, list) or not content:
        got = "nothing" if not content else f"a {type(content).__name__}"
        raise UserError(f"dump spec {spec}: got {got}, expected a list of sources, each with reader and url")
    return content


def _source(spec: Path, number: int, entry: Any) -> DumpSource:
    where = f"dump spec {spec}: entry {number}"
    if not isinstance(entry, dict):
        raise UserError(f"{where}: got {entry!r}, expected a mapping with reader and url")
    try:
        source = DumpSource.model_validate(entry)
    except ValidationError as error:
        raise UserError(f"{where}: {_first(error)}") from error
    try:
        options = options_of(source.reader, source.options)
    except ValidationError as error:
        raise UserError(f"{where}: options: {_first(error)}") from error
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
    try:
        package = package_of(source.url)
    except ValueError as error:
        raise UserError(f"{where}: url: got {source.url!r}, expected: {error}") from error
    url = source.url if package else _absolute(_with_variables(source.url, where), spec.absolute().parent)
    name = source.name or (package.name if package else _name(url))
    return source.model_copy(update={"url": url, "name": name, "options": options})


def _with_variables(url: str, where: str) -> str:
    def value(found: re.Match[str]) -> str:
        if found[1] not in os.environ:
            raise UserError(f"{where}: url: there is no variable {found[1]} in the environment of this process; set it")
        return os.environ[found[1]]

    return _VARIABLE.sub(value, url)


def _first(error: ValidationError) -> str:
    first = error.errors()[0]
    field = ".".join(map(str, first["loc"]))
    if first["type"] == "missing":
        return f"{field}: is missing; expected {_expected(field)}"
    if first["type"] == "extra_forbidden":
        return f"{field}: there is no such field; known are {', '.join(DumpSource.model_fields)}"
    message = first["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
    return f"{field}: got {first['input']!r}, expected: {message}"


def _expected(field: str) -> str:
    if field == "reader":
        return f"one of {', '.join(known_readers())}"
    known = DumpSource.model_fields.get(field)
    return (known.description if known and known.description else "a value").lower()


def _absolute(url: str, folder: Path) -> str:
    if "://" in url:
        return url.removeprefix("file://")
    return str(folder / Path(url).expanduser())


def _name(url: str) -> str:
    parts = [part for part in public_name(url).rstrip("/").split("/") if part and not has_wild_card(part)]
    return parts[-1] if parts else "root"


def held_out_sources(place: str | None) -> dict[str, HoldOut]:
    """Source name to where its texts go, for those sources of a dump spec that say so; empty where there is no spec."""
    return {source.name: source.hold_out for source in read_spec(place) if source.hold_out != "auto"} if place else {}


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
    name = reader or guess_reader(url)
    if name not in known_readers():
        raise UserError(f"reader {reader!r}: choose one of {', '.join(known_readers())}")
    options = options_of(name, {})
    return [DumpSource(reader=name, url=url, name=public_name(url).rstrip("/").rsplit("/", 1)[-1], options=options)]


def guess_reader(url: str) -> str:
    """The reader that a path, glob or URL most likely is for.

    Raises:
        UserError: there is nothing at that place, or it cannot be listed.
        TransientError: a server did not answer.
    """
    if is_remote(url):
        return _reader_of_remote(url)
    if has_wild_card(url) and not Path(url).exists():
        places = islice(sorted(glob(url, recursive=True)), _FILES_TRIED)  # noqa: PTH207 - absolute
        return _reader_of_all(places) or readers.guess(url) or TEXT
    if not Path(url).exists():
        raise UserError(f"{url}: there is no such file or folder; give a path, a glob, a URL or a dump spec (.yaml)")
    return readers.guess(url) or (_reader_of_folder(url) if Path(url).is_dir() else TEXT)


def _reader_of_remote(url: str) -> str:
    folder, files = list_url(url)
    if not folder:
        return _reader_of_all(file.url for file in files[:_FILES_TRIED]) or TEXT
    read = (file for file in files if SKIPPED_FOLDERS.isdisjoint(file.path.split("/")[:-1]) and not is_about_data(file.path))
    return _reader_of_data_set({file.url: (file.path, file.bytes) for file in islice(read, _FILES_TRIED)})


def _reader_of_folder(folder: str) -> str:
    files = islice(walk(folder, wanted=lambda name: None if is_about_data(name) else "plain"), _FILES_TRIED)
    return _reader_of_data_set({place: (path, Path(place).stat().st_size) for place, path in files if Path(place).is_file()})


def _reader_of_data_set(files: Mapping[str, tuple[str, int]]) -> str:
    """The reader of a folder's files where it is a data set: no code in it, and more records than prose; else `tree`.

    Args:
        files: place to path and size.
    """
    sizes: Counter[str] = Counter()
    if any(form_of(path) in CODE_FORMS for path, _ in files.values()):
        return TREE
    for place, found in readers.guesses(files):
        sizes[found or TEXT] += files[place][1]
    prose = sizes.pop(TEXT, 0)
    if not sizes or sizes.total() < prose:
        return TREE
    return AUTO if prose or len(sizes) > 1 else next(iter(sizes))


def _reader_of_all(places: Iterable[str]) -> str | None:
    """The one reader that all files are for, `auto` where they are of several kinds, None where there is no file."""
    found = {
        name or TEXT for _, name in readers.guesses(place for place in places if is_remote(place) or Path(place).is_file())
    }
    return AUTO if len(found) > 1 else next(iter(found), None)
