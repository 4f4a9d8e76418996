"""Git repositories: the files of a commit, loose or packed, and nothing that is not a file of it."""

from __future__ import annotations

import random
import shutil
import stat
import subprocess
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

pytest.importorskip("dulwich")
from dulwich import porcelain
from dulwich.index import commit_tree
from dulwich.objects import Blob, Commit, ObjectID, Tree
from dulwich.repo import Repo

from pipeline_lib.config.data import SourceConfig
from pipeline_lib.config.read_limits import ReadLimits
from pipeline_lib.errors import UserError
from pipeline_lib.sources.dump_files import list_files
from pipeline_lib.sources.folder import Skips
from pipeline_lib.sources.readers import texts_of
from pipeline_lib.sources.readers.git import describe_repository, read_repository
from pipeline_lib.sources.safe_open import Refusal, SourceText

FILES = {b"README.md": b"Hello\n", b"pkg/sums.py": b"total = 1\n", b"pkg/app.rb": b"x = 1\n", b"pkg/logo.png": b"\x89PNG"}


def commit(repository: Repo, files: dict[bytes, bytes], extra: tuple[tuple[bytes, int, bytes], ...] = ()) -> ObjectID:
    """A commit of files, and of other entries at the top as (name, mode, object id)."""
    root, folder = Tree(), Tree()
    for path, data in files.items():
        blob = Blob.from_string(data)
        repository.object_store.add_object(blob)
        (folder if b"/" in path else root).add(path.rpartition(b"/")[2], 0o100644, blob.id)
    repository.object_store.add_object(folder)
    if len(folder):
        root.add(b"pkg", stat.S_IFDIR, folder.id)
    for name, mode, sha in extra:
        root.add(name, mode, ObjectID(sha))
    repository.object_store.add_object(root)
    made = Commit()
    made.tree, made.author, made.committer, made.message = root.id, b"a <a@b>", b"a <a@b>", b"m"
    made.author_time = made.commit_time = made.author_timezone = made.commit_timezone = 0
    repository.object_store.add_object(made)
    repository.refs[b"refs/heads/master"] = made.id
    return made.id


@pytest.fixture
def bare(tmp_path: Path) -> Iterator[Repo]:
    (tmp_path / "flask.git").mkdir()
    with Repo.init_bare(str(tmp_path / "flask.git")) as repository:
        yield repository


def read(repository: Repo, revision: str = "HEAD", limits: ReadLimits | None = None) -> list[tuple[str, bytes | str]]:
    file = describe_repository(repository.path, "s", revision)
    found = texts_of(file, SourceConfig(limits=limits or ReadLimits()))
    return [
        (f.file.path, f.content.reason if isinstance(f.content, Refusal) else f.content.data)
        for f in found
        if not isinstance(f.content, Skips)
    ]


TEXTS = [
    ("flask.git!README.md", b"Hello\n"),
    ("flask.git!pkg/app.rb", b"x = 1\n"),
    ("flask.git!pkg/sums.py", b"total = 1\n"),
]


@pytest.mark.parametrize("packed", [False, True])
def test_files_of_the_head_come_out(bare: Repo, packed: bool) -> None:
    commit(bare, FILES)
    if packed:
        porcelain.repack(bare)
        assert list(Path(bare.path).glob("objects/pack/*.pack"))
        for loose in Path(bare.path).glob("objects/??/*"):
            loose.unlink()
    assert read(bare) == TEXTS


def test_a_revision_is_what_was_listed_even_when_the_branch_moves_on(bare: Repo) -> None:
    first = commit(bare, FILES)
    file = describe_repository(bare.path, "s", "master")
    commit(bare, {b"a.py": b"2\n"})
    *texts, rest = [found.file.path for found in read_repository(file, ReadLimits())]
    assert texts == [path for path, _ in TEXTS] and rest == "flask.git"  # what else it holds
    assert read(bare) == [("flask.git!a.py", b"2\n")]
    assert read(bare, first.decode()) == TEXTS


def test_links_submodules_and_large_files_are_refused(bare: Repo) -> None:
    target = Blob.from_string(b"/etc/passwd")
    bare.object_store.add_object(target)
    extra = ((b"link.py", stat.S_IFLNK, target.id), (b"vendored", 0o160000, b"1" * 40), (b"gone.py", 0o100644, b"2" * 40))
    commit(bare, FILES | {b"large.py": b"#" * 5000}, extra)
    found = dict(read(bare, limits=ReadLimits(max_text_bytes=1000)))
    assert {path.rpartition("!")[2]: what for path, what in found.items() if isinstance(what, str)} == {
        "link.py": "link", "vendored": "submodule", "gone.py": "damaged", "large.py": "file_too_large",
    }  # fmt: skip
    assert [(path, what) for path, what in found.items() if isinstance(what, bytes)] == TEXTS


def test_names_that_lead_out_and_bombs_of_folders_are_refused(bare: Repo) -> None:
    blob, evil = Blob.from_string(b"1\n"), Tree()
    bare.object_store.add_object(blob)
    evil.add(b"a.py", 0o100644, blob.id)
    for _ in range(12):  # 10 names to the same folder, twelve times over: 10^12 files in 14 objects
        bare.object_store.add_object(evil)
        inner, evil = evil, Tree()
        for index in range(10):
            evil.add(b"%d" % index, stat.S_IFDIR, inner.id)
    bare.object_store.add_object(evil)
    commit(bare, {}, ((b"..", stat.S_IFDIR, evil.id),))
    found = read(bare, limits=ReadLimits(max_members=200))
    assert {what for _, what in found} == {"unsafe_path", "too_many_members"}


@pytest.mark.parametrize("packed", [False, True])
def test_a_blob_that_inflates_to_gigabytes_is_not_inflated(bare: Repo, packed: bool) -> None:
    blob = Blob.from_string(b"#" * 30_000_000)
    bare.object_store.add_object(blob)
    commit(bare, {}, ((b"bomb.py", 0o100644, blob.id),))
    if packed:
        porcelain.repack(bare)
        for loose in Path(bare.path).glob("objects/??/*"):
            loose.unlink()
    del blob
    import tracemalloc

    tracemalloc.start()
    assert read(bare) == [("flask.git!bomb.py", "file_too_large")]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10_000_000


def test_s06_mutated_objects_give_texts_or_reasons(bare: Repo) -> None:
    commit(bare, FILES | {b"pkg/more%d.py" % i: b"x = %d\n" % i * 50 for i in range(10)})
    file = describe_repository(bare.path, "s", "HEAD")
    objects = sorted(Path(bare.path).glob("objects/??/*"))
    draw, reasons = random.Random(6), set()
    for index in range(300):
        path = draw.choice(objects)
        whole = path.read_bytes()
        content = bytearray(whole)
        if index % 3 == 0:  # sound zlib around unsound content
            inner = bytearray(zlib.decompress(whole))
            inner[draw.randrange(len(inner))] = draw.randrange(256)
            content = bytearray(zlib.compress(bytes(inner)))
        elif index % 3 == 1:
            content[draw.randrange(len(content))] = draw.randrange(256)
        else:
            del content[draw.randrange(len(content)) :]
        path.chmod(0o644)
        path.write_bytes(content)
        for found in read_repository(file, ReadLimits()):
            reasons.add(found.content.reason if isinstance(found.content, Refusal) else "text")
        path.write_bytes(whole)
    assert {"text", "damaged"} <= reasons


def test_a_spec_names_a_checked_out_repository_at_a_revision(tmp_path: Path) -> None:
    (tmp_path / "project").mkdir()
    repository = Repo.init(str(tmp_path / "project"))
    first = commit(repository, FILES)
    spec = tmp_path / "dump.yaml"
    entry = {"reader": "git", "url": "project", "licence": "MIT", "options": {"revision": "master"}}
    spec.write_text(yaml.safe_dump([entry]))
    (file,) = list_files(SourceConfig(dump=str(spec)))
    assert (file.sha256, file.group, file.licence) == (f"commit:{first.decode()}", "project", "MIT")
    assert not (tmp_path / "project" / "README.md").exists()
    repository.close()
    for wrong, words in (({"revision": "v9"}, "no revision 'v9'"), ({"branch": "x"}, "branch"), ({"revision": ""}, "revision")):
        spec.write_text(yaml.safe_dump([entry | {"options": wrong}]))
        with pytest.raises(UserError, match=words):
            list_files(SourceConfig(dump=str(spec)))
    spec.write_text(yaml.safe_dump([entry | {"url": "."}]))
    with pytest.raises(UserError, match="no git repository there"):
        list_files(SourceConfig(dump=str(spec)))


@pytest.mark.parametrize("how", ["cut", "gone", "another"])
def test_a_broken_folder_costs_no_other(bare: Repo, how: str) -> None:
    files = {b"one.py": b"one = 1\n", b"deep/three.py": b"three = 3\n", b"zzz/two.py": b"two = 2\n"}
    top = folder(bare, files)
    commit(bare, FILES, ((b"more", stat.S_IFDIR, top),))
    sha = bare[top][b"deep"][1]
    place = Path(bare.path) / "objects" / sha[:2].decode() / sha[2:].decode()
    place.chmod(0o644)
    if how == "gone":
        place.unlink()
    else:
        whole = place.read_bytes()
        place.write_bytes(whole[:-9] if how == "cut" else zlib.compress(zlib.decompress(whole).replace(b"three", b"shree")))
    found = read(bare)
    assert found[0] == ("flask.git!README.md", b"Hello\n") and ("flask.git!more/zzz/two.py", b"two = 2\n") in found
    assert ("flask.git!more/deep/", "damaged") in found
    assert {what for _, what in found if isinstance(what, bytes)} == {b"one = 1\n", b"two = 2\n", *dict(TEXTS).values()}


def test_folders_that_nest_too_deep_are_one_reason(bare: Repo) -> None:
    commit(bare, FILES, ((b"a", stat.S_IFDIR, folder(bare, {b"a/" * 9 + b"deep.py": b"1\n"})),))
    found = read(bare, limits=ReadLimits(max_depth=5))
    assert [what for _, what in found if isinstance(what, str)] == ["tree_depth"]
    assert [(path, what) for path, what in found if isinstance(what, bytes)] == TEXTS


def folder(repository: Repo, files: dict[bytes, bytes]) -> ObjectID:
    """A tree of files, however deep."""
    blobs = {path: Blob.from_string(data) for path, data in files.items()}
    for blob in blobs.values():
        repository.object_store.add_object(blob)
    return commit_tree(repository.object_store, [(path, blob.id, 0o100644) for path, blob in blobs.items()])


@pytest.mark.parametrize("kind", ["sha1", "sha256"])
def test_deltas_by_name_in_packs_of_either_hash(tmp_path: Path, kind: str) -> None:
    if shutil.which("git") is None:
        pytest.skip("git writes the pack, and is not here")
    place = tmp_path / "repository"

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(place), "-c", "user.name=a", "-c", "user.email=a@b", *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    place.mkdir()
    git("init", "-q", f"--object-format={kind}")
    for number in range(4):
        for name in range(20):
            lines = [f"x = {line}\n" for line in range(300)]
            (place / f"m{name}.py").write_text("".join(lines) + f"y = {number * (name == 1)}\n")
        git("add", "-A")
        git("commit", "-q", "-m", str(number))
    git("-c", "repack.useDeltaBaseOffset=false", "repack", "-adfq")
    for number, revision in enumerate(reversed(git("rev-list", "HEAD").split())):
        found = list(texts_of(describe_repository(str(place), "s", revision), SourceConfig()))
        assert len(found) == 20 and not [item for item in found if isinstance(item.content, Refusal)]
        (changed,) = (item.content for item in found if item.file.path.endswith("!m1.py"))
        assert isinstance(changed, SourceText) and changed.text.endswith(f"y = {number}\n")
