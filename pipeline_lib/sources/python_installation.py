"""This machine's own Python as a dump: the standard library and the installed runtime dependencies of the project.

It is real, there by licence and needs no download. The distributions are exactly the transitive closure of the project's
requirements without extras: installing anything else changes nothing.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import importlib.metadata
import platform
import sys
import sysconfig
from collections.abc import Iterable
from email.parser import HeaderParser
from functools import cached_property

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from pipeline_lib.errors import UserError
from pipeline_lib.sources.folder import SKIPPED_FOLDERS, describe, valid_name, walk
from pipeline_lib.sources.source_file import CODE_FORMS, Form, SourceFile, form_of
from pipeline_lib.store.records import Record

PROJECT = "cpt-factory"
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

    def requirements(self, extra: str) -> Iterable[Requirement]:
        """What it requires here, with one extra or with none."""
        for line in self.distribution.requires or ():
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                yield requirement

    def files(self) -> Iterable[SourceFile]:
        """Its code, prose and description, as RECORD lists them; hashes are RECORD's where it has them."""
        root = str(self.distribution.locate_file("")).rstrip("/")
        rows = {row[0]: row for row in csv.reader(self.record.splitlines())}  # some installers list a file twice
        for path, digest, size in rows.values():
            form = _form_in_distribution(path)
            if form is None:
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


def list_python() -> list[SourceFile]:
    """Every file of the standard library and of the runtime dependencies.

    Raises:
        UserError: the project or one of its direct requirements is not installed.
    """
    files = list(_standard_library())
    for distribution in closure():
        files.extend(distribution.files())
    return files


def list_origins() -> list[Origin]:
    """The sources of `list_python` by name, version and hash of RECORD."""
    return [_standard_library_origin(), *(distribution.origin for distribution in closure())]


def closure(project: str = PROJECT, search_path: list[str] | None = None) -> list[InstalledDistribution]:
    """The installed distributions that the project needs at run time, directly or not, by name; without itself.

    Args:
        search_path: folders to look in instead of sys.path.

    Raises:
        UserError: the project or one of its direct requirements is not installed.
    """
    root = _find(project, search_path)
    if root is None:
        raise UserError(f"distribution {project} is not installed here: run `pip install -e .` in its checkout, or `make demo`")
    found: dict[str, InstalledDistribution] = {}
    seen: set[tuple[str, str]] = set()
    pending = [(root, "")]
    while pending:
        needing, extra = pending.pop()
        for requirement in needing.requirements(extra):
            name = str(canonicalize_name(requirement.name))
            wanted = {(name, extra) for extra in ("", *requirement.extras)} - seen
            seen |= wanted
            if name not in found and wanted:
                distribution = _find(name, search_path)
                if distribution is None:
                    if needing is root:
                        raise UserError(f"{project} needs {requirement}, which is not installed: run `pip install -e .`")
                    continue  # an optional backend that its packager left out: not there, so no part of the dump
                found[name] = distribution
            pending.extend((found[name], extra) for _, extra in sorted(wanted) if name in found)
    found.pop(str(canonicalize_name(project)), None)
    return [found[name] for name in sorted(found)]


def _find(name: str, search_path: list[str] | None) -> InstalledDistribution | None:
    places = sys.path if search_path is None else search_path
    for distribution in importlib.metadata.Distribution.discover(name=name, path=places):
        return InstalledDistribution(distribution)
    return None


def _standard_library_origin() -> Origin:
    version = platform.python_version()
    return Origin(source=f"python-stdlib {version}", name="python-stdlib", version=version, licence="PSF-2.0", record_sha256="")


def _standard_library() -> Iterable[SourceFile]:
    origin = _standard_library_origin()
    for place, path in walk(sysconfig.get_path("stdlib"), STDLIB_SKIPPED):
        if _is_foreign(form_of(path)):
            continue
        group = path.split("/")[0].removesuffix(".py")
        yield describe(place, path, origin.source, group, origin.licence)


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
