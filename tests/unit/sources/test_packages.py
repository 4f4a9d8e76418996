"""Packages as sources: what is fetched, checked and kept; package index and Debian mirror are folders of this machine."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from flows.cli import store
from flows.cli.terminal import check_source
from pipeline_lib.config.data import SourceConfig
from pipeline_lib.config.read_limits import ReadLimits
from pipeline_lib.errors import CorruptArtifact, TransientError, UserError
from pipeline_lib.runtime.package_clients import _watched
from pipeline_lib.sources import packages
from pipeline_lib.sources.dump_files import list_files, list_source
from pipeline_lib.sources.dump_spec import read_spec
from pipeline_lib.sources.licences import is_allowed, spdx
from pipeline_lib.sources.packages import Package, fetch, package_of
from pipeline_lib.sources.readers.archive import read_archive
from pipeline_lib.sources.safe_open import SourceText

RECIPE = Path(__file__).parents[3] / "dumps" / "open-source.yaml"
PERMISSIVE = (
    "Apache-2.0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "ISC",
    "MIT",
    "PHP-3.01",
    "PSF-2.0",
    "Ruby",
    "Unicode-3.0",
    "ICU",
    "Zlib",
)
DIGEST = "0123456789abcdef" * 4
needs_apt = pytest.mark.skipif(shutil.which("apt-get") is None, reason="fetches with apt-get, which is not here")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CPT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    return tmp_path / "home"


@pytest.fixture
def wheel(tmp_path: Path) -> str:
    """The URL of a wheel that lies where pip is told to look; it asks for a Python that nobody has."""
    path = tmp_path / "wheels" / "tiny_tools-1.0-py3-none-any.whl"
    path.parent.mkdir()
    metadata = "Metadata-Version: 2.1\nName: tiny-tools\nVersion: 1.0\nRequires-Python: >=9\nLicense: MIT\n\nTools.\n"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("tiny_tools/__init__.py", "def total(a, b):\n    '''The sum of two numbers.'''\n    return a + b\n")
        archive.writestr("tiny_tools-1.0.dist-info/METADATA", metadata)
        archive.writestr("tiny_tools-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr("tiny_tools-1.0.dist-info/RECORD", "")
    return f"pypi:tiny-tools==1.0#sha256={hashlib.sha256(path.read_bytes()).hexdigest()}"


@pytest.fixture
def tarball(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of a source package on a Debian mirror that is a folder, of a suite that this machine's apt is not set up for."""
    mirror = tmp_path / "mirror" / "debian"
    pool, index = mirror / "pool", mirror / "dists" / "slink" / "main" / "source"
    pool.mkdir(parents=True)
    index.mkdir(parents=True)
    path = pool / "rb-sum_1.2.orig.tar.gz"
    write_tar(path, {"rb-sum-1.2/sum.rb": "# Sum of two.\ndef sum(a, b)\n  a + b\nend\n", "rb-sum-1.2/README.md": "Sums."})
    write_tar(pool / "rb-sum_1.2.orig-docs.tar.gz", {"more/a.md": "More."})
    (pool / "rb-sum_1.2-3.dsc").write_text("")
    files = sorted(pool.iterdir())
    sums = {
        name: "".join(f"\n {of(file.read_bytes()).hexdigest()} {file.stat().st_size} {file.name}" for file in files)
        for name, of in (("Files", hashlib.md5), ("Checksums-Sha256", hashlib.sha256))
    }
    fields = {"Package": "rb-sum", "Binary": "rb-sum", "Version": "1:1.2-3", "Format": "3.0 (quilt)", "Directory": "pool"}
    content = "".join(f"{name}: {value}\n" for name, value in {**fields, **sums}.items()).encode()
    (index / "Sources").write_bytes(content)
    listed = f" {hashlib.sha256(content).hexdigest()} {len(content)} main/source/Sources\n"
    (mirror / "dists" / "slink" / "Release").write_text(
        f"Origin: Debian\nSuite: slink\nCodename: slink\nComponents: main\nSHA256:\n{listed}"
    )
    (tmp_path / "machine.list").write_text(
        f"deb file:{mirror} hamm main\ndeb file:{tmp_path}/mirror/debian-security hamm main\n"
    )
    (tmp_path / "apt.conf").write_text(
        f'Dir::Etc::sourcelist "{tmp_path}/machine.list"; Dir::Etc::sourceparts "/dev/null";'
        'Acquire::AllowInsecureRepositories "true"; APT::Get::AllowUnauthenticated "true"; APT::Sandbox::User "root";'
    )
    monkeypatch.setenv("APT_CONFIG", str(tmp_path / "apt.conf"))
    return f"debian:slink/rb-sum=1:1.2-3#sha256={hashlib.sha256(path.read_bytes()).hexdigest()}"


def write_tar(path: Path, members: dict[str, str]) -> None:
    with tarfile.open(path, "w:gz") as archive:
        for name, text in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(text)
            archive.addfile(info, io.BytesIO(text.encode()))


def package(url: str) -> Package:
    found = package_of(url)
    assert found is not None
    return found


def spec_of(folder: Path, *urls: str) -> str:
    path = folder / "dump.yaml"
    path.write_text("".join(f'- {{reader: archive, licence: MIT, url: "{url}"}}\n' for url in urls))
    return str(path)


def texts(path: Path) -> dict[str, str]:
    """Path to text of what a spec's sources hold once they were fetched."""
    found = [
        record for source in read_spec(str(path)) for file in list_source(source) for record in read_archive(file, ReadLimits())
    ]
    return {record.file.path: record.content.text for record in found if isinstance(record.content, SourceText)}


def test_a_url_names_a_package_its_version_and_digest() -> None:
    assert package_of(f"pypi:Zope.Thing-2==1.0.post1#sha256={DIGEST}") == Package("Zope.Thing-2", "1.0.post1", DIGEST)
    debian = package_of(f"debian:bookworm/libfoo++=1:2.0~rc1+dfsg-1#sha256={DIGEST}")
    assert debian == Package("libfoo++", "1:2.0~rc1+dfsg-1", DIGEST, suite="bookworm")
    assert package_of("s3://dumps/pypi:x") is None and package_of("../pypi/x.whl") is None


@pytest.mark.parametrize(
    "url",
    [
        "pypi:flask",
        "pypi:flask==3.0",
        f"pypi:flask=3.0#sha256={DIGEST}",
        f"pypi:../x==1#sha256={DIGEST}",
        f"pypi:-r==1#sha256={DIGEST}",
        f"pypi:x==1 --index-url y#sha256={DIGEST}",
        f"debian:x=1-1#sha256={DIGEST}",
        f"debian:bookworm/x==1-1#sha256={DIGEST}",
        f"debian:bookworm/x=1/../..#sha256={DIGEST}",
        f"debian:bookworm/x=1-1#sha256={DIGEST[:-1]}",
    ],
)
def test_what_names_no_pinned_package_is_refused_by_what_would(url: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"entry 1: url: got .*, expected: pypi:NAME==VERSION#sha256=DIGEST or debian:SUITE"):
        read_spec(spec_of(tmp_path, url))


def test_packages_that_were_not_fetched_are_counted_and_the_command_is_named(wheel: str, tmp_path: Path) -> None:
    spec = spec_of(tmp_path, wheel, *(f"pypi:p{number}==1#sha256={DIGEST}" for number in range(6)))
    assert [source.name for source in read_spec(spec)][:2] == ["tiny-tools", "p0"]
    told = r"7 of 7 packages are not here yet \(tiny-tools, p0, p1, p2, p3 and 2 more\); `cpt fetch .*dump.yaml` fetches them"
    with pytest.raises(UserError, match=told):
        list_files(SourceConfig(dump=spec))
    with pytest.raises(UserError, match=r"tiny-tools 1.0 is not here yet"):
        list_source(read_spec(spec)[0])


@needs_apt
def test_what_was_fetched_is_read_as_archives_and_kept(wheel: str, tarball: str, tmp_path: Path, home: Path) -> None:
    notes: list[str] = []
    assert fetch([package(wheel), package(tarball)], lambda done, total, note="": notes.append(note)) == 2
    assert any("by pip" in note for note in notes) and any("index of slink by apt" in note for note in notes)
    spec = spec_of(tmp_path, wheel, tarball)
    assert set(texts(Path(spec))) == {
        "tiny_tools-1.0-py3-none-any.whl!tiny_tools/__init__.py",
        "tiny_tools-1.0-py3-none-any.whl!tiny_tools-1.0.dist-info/METADATA",
        "rb-sum_1.2.orig.tar.gz!rb-sum-1.2/sum.rb",
        "rb-sum_1.2.orig.tar.gz!rb-sum-1.2/README.md",
    }
    assert {file.group for file in list_files(SourceConfig(dump=spec))} == {
        "tiny_tools-1.0-py3-none-any.whl",
        "rb-sum_1.2.orig.tar.gz",
    }
    kept = sorted(str(path.relative_to(home / "packages")) for path in (home / "packages").rglob("*") if path.is_file())
    digests = {found.name: found.sha256[:12] for found in map(package, (wheel, tarball))}
    assert kept == [
        ".fetching/lock",
        f"rb-sum-{digests['rb-sum']}/rb-sum_1.2.orig.tar.gz",
        f"tiny-tools-{digests['tiny-tools']}/tiny_tools-1.0-py3-none-any.whl",
    ]
    shutil.rmtree(tmp_path / "mirror")
    shutil.rmtree(tmp_path / "wheels")
    assert fetch([package(wheel), package(tarball)]) == 0, "what is here is not asked for again"


@needs_apt
def test_one_that_does_not_come_stops_no_other_and_is_told(wheel: str, tarball: str, tmp_path: Path) -> None:
    other = tarball.partition("#")[0] + f"#sha256={DIGEST}"
    gone = tarball.replace("1:1.2-3", "1:1.2-4")
    nobody = f"pypi:no-such-tools-of-anybody==1.0#sha256={DIGEST}"
    with pytest.raises(TransientError) as failed:
        fetch([package(url) for url in (nobody, other, gone, tarball, wheel)])
    told = str(failed.value)
    assert "3 of 5 packages did not come, the others are kept" in told and "pip did not bring no-such-tools-of-anybody" in told
    assert f"apt-get brought rb-sum 1:1.2-3, but no file of sha256 {DIGEST}" in told
    assert "rb-sum 1:1.2-4: slink has no source package of this version" in told
    assert package(tarball).file() and package(wheel).file() and not package(other).file()


@needs_apt
def test_a_tarball_beside_the_named_one_may_be_missing_from_the_mirror(tarball: str, tmp_path: Path) -> None:
    (tmp_path / "mirror" / "debian" / "pool" / "rb-sum_1.2.orig-docs.tar.gz").unlink()
    assert fetch([package(tarball)]) == 1
    assert package(tarball).file()


@needs_apt
def test_a_mirror_that_does_not_answer_is_asked_once(wheel: str, tarball: str, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "mirror")
    notes: list[str] = []
    urls = [tarball, tarball.replace("rb-sum", "rb-other"), wheel]
    with pytest.raises(TransientError, match=r"2 of 3 packages .*rb-sum, rb-other: apt-get did not bring the index of slink"):
        fetch([package(url) for url in urls], lambda done, total, note="": notes.append(note))
    assert package(wheel).file()


def test_without_apt_get_the_packages_of_pypi_come(
    wheel: str, tarball: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(TransientError, match=r"1 of 2 packages did not come.*there is no apt-get here"):
        fetch([package(tarball), package(wheel)])
    assert package(wheel).file()


def test_an_interrupted_fetch_goes_on_with_what_came(wheel: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(done: float, total: float, note: str = "") -> None:
        if "tiny-tools 1.0 by pip" in note:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch([package(wheel)], interrupt)
    assert package(wheel).file() is None
    half = home / "packages" / ".fetching" / f"{package(wheel).folder.name}.whole"
    half.mkdir()  # of a process that was killed between its two renames
    (half / "half.whl").write_text("half")
    assert fetch([package(wheel)]) == 1
    assert [path.name for path in package(wheel).folder.iterdir()] == ["tiny_tools-1.0-py3-none-any.whl"]


def test_a_package_that_is_named_twice_is_fetched_once(wheel: str, tmp_path: Path) -> None:
    again = wheel.replace("==1.0#", "==1.0.0#")  # the same version to pip
    assert fetch([package(wheel), package(wheel), package(again)]) == 2
    assert len(list_files(SourceConfig(dump=spec_of(tmp_path, wheel)))) == 1


def test_a_package_that_was_changed_since_is_not_read(wheel: str, tmp_path: Path) -> None:
    fetch([package(wheel)])
    file = package(wheel).file()
    assert file is not None
    file.write_bytes(file.read_bytes() + b"more")
    told = r"source tiny-tools: .*whl: sha256 is [0-9a-f]{64}, its url says [0-9a-f]{64}; remove .*/tiny-tools-[0-9a-f]{12} "
    with pytest.raises(CorruptArtifact, match=told):
        list_files(SourceConfig(dump=spec_of(tmp_path, wheel)))


def test_a_client_that_prints_no_text_is_told_of_all_the_same(tmp_path: Path) -> None:
    client = tmp_path / "client"
    client.write_text("#!/bin/sh\nprintf 'caf\\351 is closed\\n' >&2\nexit 1\n")
    client.chmod(0o755)
    assert _watched([str(client)], tmp_path, lambda: None, {}) == (1, "caf\ufffd is closed")


def test_at_a_terminal_a_spec_is_fetched(wheel: str, tmp_path: Path, home: Path) -> None:
    spec = spec_of(tmp_path, wheel)
    cpt = [sys.executable, "-m", "flows.cli"]
    with pytest.raises(UserError, match=r"`cpt fetch .*dump.yaml` fetches them"):
        check_source({"source.dump": spec})  # before anything of a run starts
    done = subprocess.run([*cpt, "fetch", spec], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "package 1 of 1: tiny-tools 1.0" in done.stderr, done.stderr
    assert f"{home / 'packages'}: 1 packages, 0 MB; 0 of them were here already" in done.stdout
    (tmp_path / "tree.yaml").write_text("- {reader: tree, url: .}\n")
    with pytest.raises(UserError, match="none of its sources is a package"):
        store.fetch(str(tmp_path / "tree.yaml"))


def test_the_recipe_names_pinned_packages_and_permissive_licences() -> None:
    sources = read_spec(str(RECIPE))
    assert len(sources) >= 50 and {source.reader for source in sources} == {"archive"}
    found = [package(source.url) for source in sources]
    assert len({each.sha256 for each in found}) == len(found) and {bool(each.suite) for each in found} == {True, False}
    kept = frozenset(name.lower() for name in PERMISSIVE)
    for source in sources:
        assert spdx(source.licence) == source.licence and is_allowed(source.licence, kept), source.name
        assert packages.package_of(source.url)
    assert {"validation", "test"} <= {source.hold_out for source in sources}
    assert os.access(RECIPE, os.R_OK)
