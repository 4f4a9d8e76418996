"""Packages as sources: a dump spec names files of package indexes, and one command fetches them.

- {reader: archive, licence: BSD-3-Clause, url: "pypi:Django==5.2.8#sha256=..."}
- {reader: archive, licence: Apache-2.0, url: "debian:bookworm/commons-io=2.11.0-2#sha256=..."}

Of PyPI it is a wheel, of Debian the upstream tarball of a source package: nothing of either is run. What was fetched is kept
under CPT_HOME/packages, each in a folder that is there whole or not at all.

    packages/Django-37e687f7bd73/django-5.2.8-py3-none-any.whl     by the first digits of its sha256
    packages/.fetching/                                            what is on its way; the same command goes on from there
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from pipeline_lib.errors import CorruptArtifact, TransientError, UserError
from pipeline_lib.runtime.machine import artifact_home
from pipeline_lib.runtime.package_clients import DebianSuite, downloaded_wheel
from pipeline_lib.runtime.progress import WARNING, Progress, silent
from pipeline_lib.store.files import exclusive

DIGEST_DIGITS = 12  # of a sha256, in the name of a folder
NAMES_SHOWN = 5
FAILURES = (UserError, TransientError, CorruptArtifact)
FORMS = "pypi:NAME==VERSION#sha256=DIGEST or debian:SUITE/NAME=VERSION#sha256=DIGEST"

_NAME, _VERSION = r"(?P<name>[A-Za-z0-9][A-Za-z0-9._+-]*)", r"(?P<version>[A-Za-z0-9][A-Za-z0-9.+~:!_-]*)"
_SHA256 = r"#sha256=(?P<sha256>[0-9a-f]{64})"
_PYPI = re.compile(rf"pypi:{_NAME}=={_VERSION}{_SHA256}")
_DEBIAN = re.compile(rf"debian:(?P<suite>[a-z][a-z0-9-]*)/{_NAME}=(?!=){_VERSION}{_SHA256}")


@dataclass(frozen=True)
class Package:
    """One file of a package index.

    Attributes:
        suite: of Debian; empty: a wheel of PyPI.
    """

    name: str
    version: str
    sha256: str
    suite: str = ""

    @property
    def folder(self) -> Path:
        """Where it is kept."""
        return packages_folder() / f"{self.name}-{self.sha256[:DIGEST_DIGITS]}"

    def file(self) -> Path | None:
        """The file, where it was fetched."""
        return next(self.folder.iterdir(), None) if self.folder.is_dir() else None


def packages_folder() -> Path:
    """Where packages are kept."""
    return artifact_home() / "packages"


def package_of(url: str) -> Package | None:
    """The package that a source's URL names; None: it names none.

    Raises:
        ValueError: it begins as a package's does, and goes on otherwise.
    """
    if not url.startswith(("pypi:", "debian:")):
        return None
    found = _PYPI.fullmatch(url) or _DEBIAN.fullmatch(url)
    if found is None:
        raise ValueError(FORMS)
    return Package(**found.groupdict())


def check_fetched(urls: Iterable[str], spec: str) -> None:
    """Look for the packages that URLs name.

    Args:
        spec: the dump spec that they stand in, for the message.

    Raises:
        UserError: some were not fetched.
    """
    packages = [package for url in urls if (package := package_of(url))]
    if missing := [package for package in packages if package.file() is None]:
        told = f"{len(missing)} of {len(packages)} packages are not here yet ({_names(missing)})"
        raise UserError(f"{spec}: {told}; `cpt fetch {spec}` fetches them")


def fetched_file(package: Package) -> Path:
    """The file of a package.

    Raises:
        UserError: it was not fetched.
    """
    file = package.file()
    if file is None:
        raise UserError(f"{package.name} {package.version} is not here yet; `cpt fetch` with the dump spec fetches it")
    return file


def fetch(packages: Iterable[Package], progress: Progress = silent) -> int:
    """Fetch, verify and keep packages; how many came now. One that is here is left as it is, one that fails stops no other.

    Raises:
        TransientError: some did not come; which and why. Those that came are kept, and the same call goes on.
    """
    coming = packages_folder() / ".fetching"
    failed: dict[str, list[Package]] = {}
    with exclusive(coming / "lock", lambda: progress(0, 0, "another command fetches packages: waiting")):
        missing = [package for package in dict.fromkeys(packages) if package.file() is None]
        suite_of = _suites(coming, progress)
        for number, package in enumerate(missing):
            progress(number, len(missing), f"package {number + 1} of {len(missing)}: {package.name} {package.version}")
            try:
                if package.file() is None:  # else the same file came by another version's name
                    _fetch_one(package, suite_of, coming, progress)
            except FAILURES as error:
                progress(0, 0, f"{WARNING}{error}")
                failed.setdefault(str(error), []).append(package)
        if not failed:
            shutil.rmtree(coming / "apt", ignore_errors=True)
    if failed:
        count = sum(map(len, failed.values()))
        why = "; ".join(f"{_names(of)}: {reason}" for reason, of in list(failed.items())[:NAMES_SHOWN])
        why += f"; and {len(failed) - NAMES_SHOWN} reasons more" if len(failed) > NAMES_SHOWN else ""
        raise TransientError(f"{count} of {len(missing)} packages did not come, the others are kept: {why}")
    return len(missing)


def _fetch_one(package: Package, suite_of: Callable[[str], DebianSuite], coming: Path, progress: Progress) -> None:
    """Fetch one package into a folder that gets its name once it is whole."""
    place = coming / package.folder.name
    place.mkdir(parents=True, exist_ok=True)
    given = (package.name, package.version, package.sha256, place, progress)
    file = suite_of(package.suite).downloaded(*given) if package.suite else downloaded_wheel(*given)
    making = coming / f"{package.folder.name}.whole"
    shutil.rmtree(making, ignore_errors=True)
    making.mkdir()
    shutil.copyfile(file, making / file.name)  # of a mirror on this machine apt leaves a link
    making.rename(package.folder)
    shutil.rmtree(place, ignore_errors=True)


def _suites(coming: Path, progress: Progress) -> Callable[[str], DebianSuite]:
    """What opens a suite at its first package: once, for an index that does not come would not for the next one."""
    opened: dict[str, DebianSuite | Exception] = {}

    def suite_of(name: str) -> DebianSuite:
        if name not in opened:
            try:
                opened[name] = DebianSuite(name, coming / "apt" / name, progress)
            except FAILURES as error:
                opened[name] = error
        suite = opened[name]
        if isinstance(suite, Exception):
            raise suite
        return suite

    return suite_of


def _names(packages: list[Package]) -> str:
    names = ", ".join(package.name for package in packages[:NAMES_SHOWN])
    return names + (f" and {len(packages) - NAMES_SHOWN} more" if len(packages) > NAMES_SHOWN else "")
