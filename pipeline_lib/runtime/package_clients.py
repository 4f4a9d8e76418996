"""Package clients: pip and apt bring a pinned file from the index or mirror that they are set up for.

Its sha256 is checked, and nothing of a package is run. A file that came before is not asked for again.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile

from pipeline_lib.errors import CorruptArtifact, TransientError, UserError
from pipeline_lib.runtime.progress import Progress
from pipeline_lib.store.files import sha256_file

POLL_SECONDS = 0.5
# in what apt would update; the paths of all mirrors end so, as /debian-security does not
_DEBIAN_MIRROR = re.compile(r"^'(\S+/debian(?:/\S+)?)/dists/", re.MULTILINE)


def downloaded_wheel(package: str, version: str, sha256: str, coming: Path, progress: Progress) -> Path:
    """The wheel of that sha256 in `coming`, by pip and whatever index pip is configured for.

    Raises:
        UserError: this Python has no pip.
        TransientError: pip did not bring it, or another file than this one.
    """
    if found := _of_digest(coming, "*.whl", sha256):
        return found
    requirement = coming / "requirement.txt"
    requirement.write_text(f"{package}=={version} --hash=sha256:{sha256}\n", encoding="utf-8")
    asked = ["--require-hashes", "--no-deps", "--only-binary=:all:", "--ignore-requires-python"]
    asked += ["--dest", str(coming), "--requirement", str(requirement)]
    quiet = ["--quiet", "--disable-pip-version-check", "--no-input"]

    def tell() -> None:
        n_bytes = _bytes_in(Path(scratch), "*.whl")
        progress(n_bytes, 0, f"{package} {version} by pip: {n_bytes / 1e6:.0f} MB")

    with TemporaryDirectory(prefix="pip-", dir=coming) as scratch:  # where pip has it while it comes
        command = [sys.executable, "-m", "pip", "download", *quiet, *asked]
        code, said = _watched(command, coming, tell, {"TMPDIR": scratch})
    if "No module named pip" in said:
        raise UserError(f"{sys.executable} has no pip, which fetches {package}: {sys.executable} -m ensurepip")
    if code:
        raise TransientError(f"pip did not bring {package} {version}: {_why(said, code)}; run it again")
    if found := _of_digest(coming, "*.whl", sha256):
        return found
    raise CorruptArtifact(f"pip brought {package} {version}, but no file of sha256 {sha256}")


class DebianSuite:
    """Source packages of one Debian suite, by apt-get from the mirror of this machine's apt, whatever suite this machine has.

    Index and settings are its own, in a folder: no rights and no `deb-src` lines are needed, the machine's apt stays as it is.

    Args:
        folder: for its index; one of an earlier call is brought up to date.

    Raises:
        UserError: there is no apt-get here, or it knows no Debian mirror.
        TransientError: the mirror's index did not come.
    """

    def __init__(self, name: str, folder: Path, progress: Progress) -> None:
        self.name = name
        self._folder = folder
        for below in ("lists/partial", "cache/archives/partial"):
            (folder / below).mkdir(parents=True, exist_ok=True)
        (folder / "sources.list").write_text(f"deb-src {_debian_mirror(folder)} {name} main\n", encoding="utf-8")
        code, said = self._apt_get(
            ["-o", "APT::Update::Error-Mode=any", "update"],
            folder,
            lambda: progress(0, 0, f"index of {name} by apt: {_bytes_in(folder / 'lists', '*') / 1e6:.0f} MB"),
        )
        if code:
            raise TransientError(f"apt-get did not bring the index of {name}: {_why(said, code)}; run it again")

    def downloaded(self, package: str, version: str, sha256: str, coming: Path, progress: Progress) -> Path:
        """The upstream tarball of that sha256 in `coming`; other tarballs of the package are removed.

        Raises:
            UserError: the suite has no such version.
            TransientError: the mirror did not bring it.
            CorruptArtifact: the mirror has other bytes.
        """
        files = f"{package}_*.tar*"
        if found := _of_digest(coming, files, sha256):
            return found

        def tell() -> None:
            n_bytes = _bytes_in(coming, files)
            progress(n_bytes, 0, f"{package} {version} by apt: {n_bytes / 1e6:.0f} MB")

        command = ["source", "--download-only", "--tar-only", f"{package}={version}"]
        code, said = self._apt_get(command, coming, tell)
        if re.search(r"Can ?not find version|Unable to find a source package", said):
            raise UserError(f"{package} {version}: {self.name} has no source package of this version")
        found = _of_digest(coming, files, sha256)  # it may be here although another tarball of the package is not
        if code and found is None:
            raise TransientError(f"apt-get did not bring {package} {version}: {_why(said, code)}; run it again")
        for path in coming.glob(files):
            if path != found:
                path.unlink()
        if found is None:
            raise CorruptArtifact(f"apt-get brought {package} {version}, but no file of sha256 {sha256}")
        return found

    def _apt_get(self, words: Sequence[str], folder: Path, tell: Callable[[], None]) -> tuple[int, str]:
        places = {
            "Dir::State::lists": self._folder / "lists",
            "Dir::Cache": self._folder / "cache",
            "Dir::Etc::sourcelist": self._folder / "sources.list",
            "Dir::Etc::sourceparts": "/dev/null",
        }
        options = [word for name, place in places.items() for word in ("-o", f"{name}={place}")]
        return _watched(["apt-get", "--quiet", *options, *words], folder, tell, {"LC_ALL": "C"})


def _debian_mirror(folder: Path) -> str:
    """The first Debian mirror in the settings of this machine's apt, which need not have been used yet."""
    command = ["apt-get", "-o", f"Dir::State::lists={folder / 'lists'}", "--print-uris", "update"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False, stdin=subprocess.DEVNULL)
    except FileNotFoundError as error:
        raise UserError("there is no apt-get here, which fetches Debian's packages: fetch on a Debian machine") from error
    mirror = next(iter(_DEBIAN_MIRROR.findall(told.stdout)), None)
    if mirror is None:
        raise UserError("apt-get knows no Debian mirror here: fetch on a Debian machine")
    return str(mirror)


def _watched(command: Sequence[str], folder: Path, tell: Callable[[], None], environment: Mapping[str, str]) -> tuple[int, str]:
    """Exit code and output of a client that runs in a folder; `tell` is called while it runs, and it ends where that raises."""
    with TemporaryFile("w+", encoding="utf-8", errors="replace") as log:  # a client may print what its mirror said
        given = os.environ | environment
        with subprocess.Popen(command, cwd=folder, env=given, stdin=subprocess.DEVNULL, stdout=log, stderr=log) as client:
            try:
                while client.poll() is None:
                    tell()
                    time.sleep(POLL_SECONDS)
            except BaseException:
                client.terminate()
                raise
        log.seek(0)
        return client.returncode, log.read().strip()


def _of_digest(folder: Path, pattern: str, sha256: str) -> Path | None:
    return next((path for path in sorted(folder.glob(pattern)) if sha256_file(path) == sha256), None)


def _bytes_in(folder: Path, pattern: str) -> int:
    """Bytes of files below a folder that another process writes to; what vanishes meanwhile does not count."""
    with contextlib.suppress(OSError):
        return sum(path.stat().st_size for path in folder.rglob(pattern) if path.is_file())
    return 0


def _why(said: str, code: int) -> str:
    """What a client says of its failure: the file that it could not have, else its last line."""
    lines = said.splitlines() or [f"exit code {code}"]
    return next((line for line in lines if line.startswith("E: Failed to fetch ")), lines[-1])
