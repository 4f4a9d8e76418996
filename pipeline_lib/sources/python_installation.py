"""Python installation as a dump: this machine's standard library, and the installed distributions of a tracked list.

It is real, there by licence and needs no download. demo_distributions.txt names each distribution with its version and a digest
of the files that are read of it, as `benchmarks.pin_demo` wrote them; constraints.txt installs these versions. What else is
installed, and what the project comes to require, changes nothing.

A listed distribution that is missing is left out, and one of another version is read as it is, as is another Python's standard
library: the demo runs on any machine. `differences` then says why its figures are not comparable with others'.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import importlib.metadata
import platform
import re
import sysconfig
from collections import defaultdict
from collections.abc import Iterable, Iterator
from email.parser import HeaderParser
from functools import cache, cached_property
from pathlib import Path
from typing import NamedTuple

import pyarrow.parquet as pq
from packaging.utils import canonicalize_name

from pipeline_lib.sources.folder import SKIPPED_FOLDERS, Skips, describe, valid_name, walk
from pipeline_lib.sources.source_file import CODE_FORMS, Form, SourceFile, form_of
from pipeline_lib.store.artifact import Artifact
from pipeline_lib.store.records import Record
from pipeline_lib.store.store import Store

LIST = Path(__file__).with_name("demo_distributions.txt")
STDLIB = "python-stdlib"
DIGEST_DIGITS = 16
_OF_THE_BUILD = re.compile(r"_sysconfigdata|config-")  # files of the standard library that hold the paths it was built at
STDLIB_SKIPPED = SKIPPED_FOLDERS | {"test", "tests", "idle_test"}
MAX_LICENCE_CHARACTERS = 100  # some distributions put the whole licence text into the field


class Origin(Record):
    """What a source is, as far as its installer recorded it."""

    source: str
    name: str
    version: str
    licence: str | None
    record_sha256: str  # of the RECORD file; empty for the standard library


class InstalledDistribution:
    """One installed distribution, read from its .dist-info folder."""

    def __init__(self, distribution: importlib.metadata.Distribution) -> None:
        self.distribution = distribution
        text = distribution.read_text("METADATA") or distribution.read_text("PKG-INFO") or ""
        self.headers = HeaderParser().parsestr(text.split("\n\n", 1)[0])  # the description may be 100 kB: not parsed
        self.name = str(canonicalize_name(self.headers["Name"] or ""))
        self.version = self.headers["Version"] or ""

    @cached_property
    def record(self) -> str:
        return self.distribution.read_text("RECORD") or ""

    @property
    def source(self) -> str:
        return f"{self.name} {self.version}"

    @property
    def origin(self) -> Origin:
        """What lineage records of the distribution: the hash of its RECORD stands for all its files."""
        return Origin(
            source=self.source,
            name=self.name,
            version=self.version,
            licence=self.licence,
            record_sha256=hashlib.sha256(self.record.encode()).hexdigest(),
        )

    @cached_property
    def licence(self) -> str | None:
        """The licence expression, else the short licence field, else the trove classifier."""
        for field in ("License-Expression", "License"):
            value = (self.headers[field] or "").strip()
            if value and value.upper() != "UNKNOWN" and "\n" not in value and len(value) <= MAX_LICENCE_CHARACTERS:
                return value
        classifiers = [c.rsplit(" :: ", 1)[-1] for c in self.headers.get_all("Classifier", []) if c.startswith("License ::")]
        return ", ".join(sorted(classifiers)) or None

    def files(self, skips: Skips | None = None) -> Iterable[SourceFile]:
        """Its code, prose and description, as RECORD lists them; hashes are RECORD's where it has them.

        Args:
            skips: counts what else is installed with it.
        """
        root = str(self.distribution.locate_file("")).rstrip("/")
        rows = {row[0]: row for row in csv.reader(self.record.splitlines())}  # some installers list a file twice
        for path, digest, size in rows.values():
            form = _form_in_distribution(path)
            if form is None:
                if skips is not None:
                    skips.note(path, "outside_folder" if path.startswith(("../", "/")) else "")
                continue
            place = f"{root}/{path}"
            if not digest.startswith("sha256=") or not size:
                yield describe(place, path, self.source, self.name, self.licence)
                continue
            yield SourceFile(
                place=place,
                path=valid_name(path),
                source=self.source,
                group=self.name,
                licence=self.licence,
                form=form,
                bytes=int(size),
                sha256=_hex(digest.removeprefix("sha256=")),
            )


class Pinned(NamedTuple):
    """A line of the list: NAME==VERSION DIGEST."""

    name: str
    version: str
    digest: str


@cache
def pinned() -> tuple[Pinned, ...]:
    """The tracked list by name, the standard library among them."""
    lines = (line.partition(" ") for line in LIST.read_text(encoding="utf-8").splitlines() if not line.startswith("#"))
    return tuple(Pinned(what.partition("==")[0], what.partition("==")[2], digest) for what, _, digest in lines)


def list_python(skips: Skips | None = None) -> list[SourceFile]:
    """Every file of the standard library and of the listed distributions that are installed.

    Args:
        skips: counts what is there besides.
    """
    skips = Skips() if skips is None else skips
    files = list(_standard_library(skips))
    for distribution in installed():
        files.extend(distribution.files(skips))
    return files


def list_origins() -> list[Origin]:
    """The sources of `list_python` by name, version and hash of RECORD."""
    return [_standard_library_origin(), *(distribution.origin for distribution in installed())]


def installed() -> list[InstalledDistribution]:
    """The listed distributions that are installed, in whatever version, by name."""
    found = (_find(line.name) for line in pinned() if line.name != STDLIB)
    return [distribution for distribution in found if distribution is not None]


def digests_of(files: Iterable[tuple[str, str, str]]) -> dict[str, tuple[str, str]]:
    """Name to version and digest of each source of a listing.

    Args:
        files: source ("numpy 2.4.6"), path and sha256 of each file.
    """
    by_source: dict[str, list[str]] = defaultdict(list)
    for source, path, sha256 in files:
        if not (source.startswith(STDLIB) and _OF_THE_BUILD.match(path)):
            by_source[source].append(f"{path} {sha256}\n")
    digests = {source: hashlib.sha256("".join(sorted(lines)).encode()).hexdigest() for source, lines in by_source.items()}
    return {source.split(" ")[0]: (source.split(" ")[1], digest[:DIGEST_DIGITS]) for source, digest in digests.items()}


def differences(extracted: Artifact) -> list[str]:
    """Why the Python that was extracted is not that of the tracked list, a reason a distribution; none where it is."""
    return list(_differences(digests_of(read_listed(extracted))))


def read_listed(extracted: Artifact) -> list[tuple[str, str, str]]:
    """Source, path and sha256 of every file that an extraction read."""
    store = Store(extracted.root, extracted.bucket.url if extracted.bucket else "")
    digest = extracted.manifest.inputs["source"]
    listing = next(artifact for artifact in store.artifacts("source") if artifact.digest == digest)
    table = pq.read_table(listing.part_folder() / "files.parquet", columns=["source", "path", "sha256"])
    return list(zip(*(column.to_pylist() for column in table.columns), strict=True))


def _differences(found: dict[str, tuple[str, str]]) -> Iterator[str]:
    for name, version, digest in pinned():
        got, got_digest = found.get(name, ("", ""))
        if not got:
            yield f"{name} {version} is not installed"
        elif got != version:
            yield f"{name} is {got} instead of {version}"
        elif got_digest != digest:
            yield f"{name} {version} has other files"


def _find(name: str) -> InstalledDistribution | None:
    distribution = next(iter(importlib.metadata.Distribution.discover(name=name)), None)
    return InstalledDistribution(distribution) if distribution is not None else None


def _standard_library_origin() -> Origin:
    version = platform.python_version()
    return Origin(source=f"{STDLIB} {version}", name=STDLIB, version=version, licence="PSF-2.0", record_sha256="")


def _standard_library(skips: Skips) -> Iterable[SourceFile]:
    origin, own = _standard_library_origin(), Skips()
    for place, path in walk(sysconfig.get_path("stdlib"), STDLIB_SKIPPED, skips=own):
        if _is_foreign(form_of(path)):
            own.note(path)
            continue
        group = path.split("/")[0].removesuffix(".py")
        yield describe(place, path, origin.source, group, origin.licence)
    # what is installed lies below it and is no part of it: the list of packages says what is read of that
    skips.update({key: count for key, count in own.items() if key[0] != "vendored_folder"})


def _form_in_distribution(path: str) -> Form | None:
    if path.startswith(("../", "/")) or "/__pycache__/" in path:
        return None
    if ".dist-info/" in path or ".egg-info/" in path:
        return "metadata" if path.endswith(".dist-info/METADATA") else None
    form = form_of(path)
    return None if _is_foreign(form) else form


def _is_foreign(form: Form | None) -> bool:
    """Code in another language: what a Python package ships of it is mostly bundled and minified for the browser."""
    return form in CODE_FORMS and form != "python"


def _hex(digest: str) -> str:
    return base64.urlsafe_b64decode(digest + "=" * (-len(digest) % 4)).hex()
