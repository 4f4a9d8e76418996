from __future__ import annotations

import bz2
import gzip
import hashlib
import json
import lzma
import re
import socket
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
import zstandard

from pipeline_lib.config.data import ExtractConfig, SourceConfig
from pipeline_lib.errors import TransientError, UserError
from pipeline_lib.pairs.documents import is_taken
from pipeline_lib.pairs.extract import ExtractWork, extract_file
from pipeline_lib.pairs.tables import Rows
from pipeline_lib.sources.dump_files import bundles_of, list_bundles, list_dump, list_files, list_source, write_listing
from pipeline_lib.sources.dump_spec import DumpSource, guess_reader, held_out_sources, read_spec, sources_of
from pipeline_lib.sources.folder import Skips, describe
from pipeline_lib.sources.readers import reader_of, texts_of
from pipeline_lib.sources.safe_open import SourceText
from pipeline_lib.store.store import Store

BODY = "def {name}(items):\n    '''Adds all numbers of a list.'''\n"
BODY += "    total = 0\n    for i in items:\n        total += i\n    return total\n"


def write(folder: Path, entries: Any) -> str:
    path = folder / "dump.yaml"
    path.write_text(entries if isinstance(entries, str) else yaml.safe_dump(entries))
    return str(path)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    folder = tmp_path / "tree"
    for package in ("alpha", "beta"):
        (folder / package / "node_modules").mkdir(parents=True)
        (folder / package / "sums.py").write_text(BODY.format(name=package))
        (folder / package / "main.go").write_text("package main\n")
        (folder / package / "image.png").write_bytes(b"\x89PNG")
        (folder / package / "node_modules" / "other.js").write_text("var a")
    (folder / "README.md").write_text("Hello")
    return folder


def test_a_tree_a_glob_and_a_file_are_listed_with_their_content(tmp_path: Path, tree: Path) -> None:
    for index in range(3):
        (tmp_path / f"part-{index}.txt").write_text(f"text {index}")
    spec = write(
        tmp_path,
        [
            {"reader": "tree", "url": "tree", "licence": "MIT"},
            {"reader": "text", "url": "part-*.txt", "licence": "CC0-1.0", "name": "parts", "weight": 0.5},
            {"reader": "text", "url": f"file://{tmp_path}/part-1.txt", "licence": "CC0-1.0", "group": "one"},
        ],
    )
    files = list_files(SourceConfig(dump=spec))
    assert [(f.source, f.group, f.path, f.form) for f in files] == [
        ("tree", "tree", "README.md", "markdown"),
        ("tree", "alpha", "alpha/main.go", "go"),
        ("tree", "alpha", "alpha/sums.py", "python"),
        ("tree", "beta", "beta/main.go", "go"),
        ("tree", "beta", "beta/sums.py", "python"),
        ("parts", "part-0.txt", "part-0.txt", "plain"),
        ("parts", "part-1.txt", "part-1.txt", "plain"),
        ("parts", "part-2.txt", "part-2.txt", "plain"),
        ("part-1.txt", "one", "part-1.txt", "plain"),
    ]
    assert [f.licence for f in files[-2:]] == ["CC0-1.0"] * 2 and files[5].weight == 0.5
    assert all(f.sha256 == hashlib.sha256(Path(f.place).read_bytes()).hexdigest() for f in files)


def test_moving_a_dump_changes_no_digest_and_a_changed_weight_does(tmp_path: Path, tree: Path) -> None:
    entries = [{"reader": "tree", "url": "tree", "licence": "MIT"}]
    (tmp_path / "elsewhere").mkdir()
    here = [bundle.digest for bundle in list_bundles(SourceConfig(dump=write(tmp_path, entries)))]
    tree.rename(tmp_path / "elsewhere" / "tree")
    assert [b.digest for b in list_bundles(SourceConfig(dump=write(tmp_path / "elsewhere", entries)))] == here
    entries[0] |= {"weight": 0.5}
    assert [b.digest for b in list_bundles(SourceConfig(dump=write(tmp_path / "elsewhere", entries)))] != here


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ("", "got nothing, expected a list"),
        ("reader: tree", "got a dict, expected a list"),
        ("- [", "no valid YAML"),
        ([3], "entry 1: got 3, expected a mapping"),
        ([{"url": "x", "licence": "MIT"}], "entry 1: reader: is missing; expected one of tree, text, archive"),
        ([{"reader": "tree", "url": "x", "hold_out": "train"}], "entry 1: hold_out: got 'train', expected: 'auto', 'never'"),
        ([{"reader": "zip", "url": "x", "licence": "MIT"}], "entry 1: reader: got 'zip', expected: one of tree, text, archive"),
        (
            [{"reader": "tree", "url": "x", "licence": "MIT", "weight": 2}],
            "entry 1: weight: got 2, expected: less than",
        ),
        ([{"reader": "tree", "url": "x", "licence": "MIT", "share": 1}], "entry 1: share: there is no such field; known are"),
        ([{"reader": "tree", "url": "x", "licence": "MIT", "options": {"a": 1}}], "entry 1: options: got a, but the reader"),
        ([{"reader": "tree", "url": "x", "licence": "MIT"}] * 2, "entries 1 and 2 are both named 'x'"),
        ([{"reader": "tree", "url": "x", "licence": "MIT"}], "nothing for the reader tree at"),
        ([{"reader": "text", "url": "nosuch://x", "licence": "MIT"}], "Protocol not known: nosuch"),
    ],
)
def test_a_wrong_spec_is_one_line_that_says_where(tmp_path: Path, entries: Any, words: str) -> None:
    with pytest.raises(UserError) as failure:
        list_dump(read_spec(write(tmp_path, entries)))
    assert words in str(failure.value)
    assert "\n" not in str(failure.value)


def test_a_missing_spec_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No such file"):
        read_spec(str(tmp_path / "none.yaml"))


def test_a_weight_takes_its_share_of_texts_by_path_and_counts_the_rest(tmp_path: Path) -> None:
    for index in range(200):
        (tmp_path / f"{index}.py").write_text(BODY.format(name=f"add{index}"))
    spec = write(tmp_path, [{"reader": "tree", "url": "*.py", "licence": "MIT", "name": "all", "weight": 0.25}])
    config = SourceConfig(dump=spec)
    files = list_files(config)
    taken = [file for file in files if is_taken(file)]
    assert 30 < len(taken) < 70
    rows = Rows(0)
    for file in files:
        extract_file(file, ExtractWork(source=config, extract=ExtractConfig()), rows)
    assert len(rows.pairs) == len(taken)
    assert rows.dropped["not_sampled"] == 200 - len(taken)


def test_a_listing_keeps_hashes_in_its_artifact_and_places_beside_it(tmp_path: Path, tree: Path) -> None:
    config = SourceConfig(dump=write(tmp_path, [{"reader": "tree", "url": "tree", "licence": "MIT", "weight": 0.5}]))
    store = Store(tmp_path / "store")
    listing = write_listing(store, config, list_bundles(config))
    assert json.loads((listing.part_folder() / "listing.json").read_text())["sources"] == [
        {"reader": "tree", "licence": "MIT", "weight": 0.5, "name": "tree", "group": "", "options": {}}
    ]
    files = {row["path"]: row for row in pq.read_table(listing.part_folder() / "files.parquet").to_pylist()}
    assert files["alpha/sums.py"]["sha256"] == hashlib.sha256((tree / "alpha" / "sums.py").read_bytes()).hexdigest()
    assert json.loads((listing.folder / "places.json").read_text()) == {"tree": f"{tree}/"}


def test_a_listing_accounts_for_what_is_not_read(tmp_path: Path, tree: Path) -> None:
    (tree / "alpha" / "more.ts").write_text("no")
    config = SourceConfig(dump=write(tmp_path, [{"reader": "tree", "url": "tree"}]))
    store, skips = Store(tmp_path / "store"), Skips()
    listing = write_listing(store, config, list_bundles(config, skips), skips)
    counts = listing.manifest.counts
    assert listing.manifest.facts["skipped"]["other_language"] == {".ts": 1}
    assert counts.dropped["other_language"] == 1 and counts.n_out == listing.manifest.facts["files"] > 0
    (tree / "alpha" / "most.ts").write_text("no")
    again = Skips()
    other = write_listing(store, config, list_bundles(config, again), again)
    assert other.manifest.facts["skipped"]["other_language"] == {".ts": 2}  # not that of the earlier listing


def test_the_licence_of_a_spec_holds_where_the_tree_states_none(tmp_path: Path, tree: Path) -> None:
    (tree / "beta").mkdir(exist_ok=True)
    (tree / "beta" / "package.json").write_text('{"license": "ISC"}')
    (tree / "beta" / "a.js").write_text("a")
    for said, expected in ({"licence": "MIT"}, "MIT"), ({}, "unknown"):
        files = list_files(SourceConfig(dump=write(tmp_path, [{"reader": "tree", "url": "tree", **said}])))
        assert {file.licence for file in files if file.path.startswith("beta/a")} == {"ISC"}
        assert {file.licence for file in files if file.path.startswith("alpha/")} == {expected}


def test_a_spec_says_which_sources_are_held_out_and_the_listing_is_the_same(tmp_path: Path, tree: Path) -> None:
    entries = [{"reader": "tree", "url": "tree", "name": name} for name in "abc"]
    before = list_bundles(SourceConfig(dump=write(tmp_path, entries)))
    entries[0]["hold_out"], entries[2]["hold_out"] = "never", "test"
    spec = write(tmp_path, entries)
    assert held_out_sources(spec) == {"a": "never", "c": "test"} and held_out_sources(None) == {}
    assert [bundle.digest for bundle in list_bundles(SourceConfig(dump=spec))] == [bundle.digest for bundle in before]


def test_compressed_texts_are_read_and_a_truncated_one_is_set_aside(tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt.gz").write_bytes(gzip.compress(b"Some prose.\n"))
    (tmp_path / "texts" / "b.html.bz2").write_bytes(bz2.compress(b"<html><body><p>A page of prose.</p></body></html>"))
    (tmp_path / "texts" / "c.md.gz").write_bytes(gzip.compress(b"# Cut off\n" * 100)[:-9])
    (tmp_path / "texts" / "d.csv.gz").write_bytes(b"")
    config = SourceConfig(dump=write(tmp_path, [{"reader": "text", "url": "texts", "licence": "CC0-1.0"}]))
    found = {f.file.path: f.content for file in list_files(config) for f in texts_of(file, config)}
    assert list(found) == ["a.txt.gz", "b.html.bz2", "c.md.gz"]
    assert found["a.txt.gz"].text == "Some prose.\n"  # type: ignore[union-attr]
    assert "A page of prose." in found["b.html.bz2"].text  # type: ignore[union-attr]
    assert found["c.md.gz"].reason == "truncated"  # type: ignore[union-attr]


def test_a_group_that_the_spec_gives_is_that_of_every_text(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "One.", "url": "http://a.org/1"}\n{"text": "Two.", "url": "http://b.org/2"}\n')
    entry = {"reader": "json_lines", "url": "a.jsonl", "licence": "MIT"}
    groups = []
    for extra in ({}, {"group": "all"}):
        config = SourceConfig(dump=write(tmp_path, [{**entry, **extra}]))
        groups.append([found.file.group for file in list_files(config) for found in texts_of(file, config)])
    assert groups == [["http://a.org/1", "http://b.org/2"], ["all", "all"]]


# ---- servers that do not answer


def test_a_server_that_does_not_answer_is_a_fault_that_may_pass(tmp_path: Path) -> None:
    pytest.importorskip("aiohttp")
    with socket.socket() as taken:  # bound, and nobody listens
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/a.txt"
        with pytest.raises(TransientError, match="listing failed"):
            list_files(SourceConfig(dump=write(tmp_path, [{"reader": "text", "url": url, "licence": "MIT"}])))
        file = describe(str(tmp_path / "dump.yaml"), "a.txt", "web", "web").model_copy(update={"place": url})
        with pytest.raises(TransientError, match="reading failed"):
            list(texts_of(file, SourceConfig()))


# ---- buckets


@pytest.fixture(scope="module")
def bucket(s3: Any) -> Any:
    """A bucket of moto's S3 server."""
    s3.mkdir("dumps")
    return s3


def test_a_bucket_is_listed_and_read_as_a_folder_is(bucket: Any, tmp_path: Path) -> None:
    bucket.pipe_file("dumps/code/alpha/sums.py", BODY.format(name="alpha").encode())
    bucket.pipe_file("dumps/code/beta/sums.py", BODY.format(name="beta").encode())
    bucket.pipe_file("dumps/code/beta/image.png", b"\x89PNG")
    bucket.pipe_file("dumps/code/beta/package.json", b'{"license": "ISC"}')
    bucket.pipe_file("dumps/code/.git/x.py", b"x = 1")
    entries = [
        {"reader": "tree", "url": "s3://dumps/code", "licence": "MIT"},
        {"reader": "text", "url": "s3://dumps/code/*/sums.py", "licence": "MIT", "name": "texts"},
    ]
    config, skips = SourceConfig(dump=write(tmp_path, entries)), Skips()
    files = list_files(config, skips)
    assert [(f.source, f.path, f.group) for f in files] == [
        ("code", "alpha/sums.py", "alpha"),
        ("code", "beta/sums.py", "beta"),
        ("texts", "alpha/sums.py", "alpha/sums.py"),
        ("texts", "beta/sums.py", "beta/sums.py"),
    ]
    assert [file.licence for file in files] == ["MIT", "ISC", "MIT", "MIT"]
    assert skips.facts() == {
        "no_code_or_prose": {".json": 1, ".png": 1}, "version_control": {".py": 1},
    }  # fmt: skip
    assert files[0].place == "s3://dumps/code/alpha/sums.py" and files[0].sha256.startswith("etag:")
    rows = Rows(0)
    for file in files[:2]:
        extract_file(file, ExtractWork(source=config, extract=ExtractConfig()), rows)
    assert len(rows.pairs) == 2 and not rows.quarantine
    digest = bundles_of(files, 10**6)[0].digest
    bucket.pipe_file("dumps/code/beta/sums.py", b"# another\n")
    assert bundles_of(list_files(config), 10**6)[0].digest != digest
    (changed,) = texts_of(files[1], config)
    assert changed.content.reason == "content_changed"  # type: ignore[union-attr]
    bucket.rm("dumps/code/beta/sums.py")
    (gone,) = texts_of(files[1], config)
    assert gone.content.reason == "unreadable"  # type: ignore[union-attr]


LINES = "".join(json.dumps({"id": f"r{i}", "text": f"The text with number {i}."}) + "\n" for i in range(3)).encode()
MISNAMED = {
    "gzip.txt": gzip.compress(LINES), "zstd.dat": zstandard.ZstdCompressor().compress(LINES), "bzip2.json": bz2.compress(LINES),
    "xz": lzma.compress(LINES), "array.txt": json.dumps([json.loads(line) for line in LINES.splitlines()]).encode(),
    "part-0": LINES,
}  # fmt: skip


def test_the_first_bytes_decide_in_a_bucket_as_on_a_disk(bucket: Any, tmp_path: Path) -> None:
    for name, content in MISNAMED.items():
        bucket.pipe_file(f"dumps/misnamed/{name}", content)
        (tmp_path / name).write_bytes(content)
    bucket.pipe_file("dumps/misnamed/README.md", b"# A card\n")
    wanted = sorted(f"The text with number {i}." for i in range(3))
    for name in MISNAMED:
        (source,) = sources_of(f"s3://dumps/misnamed/{name}")
        assert (source.reader, guess_reader(str(tmp_path / name))) == ("json_lines", "json_lines"), name
        (file,) = list_source(source)
        found = [text.content.text for text in texts_of(file, SourceConfig()) if isinstance(text.content, SourceText)]
        assert sorted(found) == wanted, name
    for place, reader in (("s3://dumps/misnamed", "json_lines"), ("s3://dumps/misnamed/*i*", "json_lines")):
        (source,) = sources_of(place)
        assert source.reader == reader
    entry = DumpSource(reader="auto", url="s3://dumps/misnamed", name="all")
    assert {file.path: file.form for file in list_source(entry)} == dict.fromkeys(MISNAMED, "json_lines")
    bucket.pipe_file("dumps/misnamed/a.py", b"x = 1\n")
    bucket.pipe_file("dumps/misnamed/b.dat", b"%PDF-1.7\n")
    assert guess_reader("s3://dumps/misnamed") == "tree"
    skips = Skips()
    assert {file.form for file in list_source(entry, skips)} == {"json_lines", "python"} and skips.total() == 2
    bucket.rm("dumps/misnamed", recursive=True)


def test_a_file_of_a_bucket_is_under_the_licence_of_its_header(bucket: Any, tmp_path: Path) -> None:
    header = "# SPDX-License-Identifier: BSD-3-Clause\n"
    contents = {
        "a/own.py": header + BODY.format(name="own"),
        "a/plain.py": BODY.format(name="plain"),
        "a/sub/pyproject.toml": '[project]\nname = "sub"\nlicense = "Zlib"\n',
        "a/sub/deep/part.py": BODY.format(name="part"),
        "a/sub/deep/own.js": "/* SPDX-License-Identifier: ISC */\n",
    }
    for path, content in contents.items():
        bucket.pipe_file(f"dumps/licensed/{path}", content.encode())
    spec = write(tmp_path, [{"reader": "tree", "url": "s3://dumps/licensed", "licence": "MIT"}])
    config = SourceConfig(dump=spec)
    found = [text.file for file in list_files(config) for text in texts_of(file, config)]
    assert {file.path: file.licence for file in found} == {
        "a/own.py": "BSD-3-Clause", "a/plain.py": "MIT", "a/sub/deep/own.js": "ISC", "a/sub/deep/part.py": "Zlib",
    }  # fmt: skip
    rows = Rows(0)
    for file in list_files(config):
        extract_file(file, ExtractWork(source=config, extract=ExtractConfig()), rows)
    assert sorted(str(row[15]) for row in rows.pairs) == ["BSD-3-Clause", "MIT", "Zlib"]


def test_an_empty_bucket_or_none_is_one_line(bucket: Any, tmp_path: Path) -> None:
    for url in ("s3://dumps/nothing/*.gz", "s3://dumps/nothing", "s3://nosuchbucket/x"):
        spec = write(tmp_path, [{"reader": "text", "url": url, "licence": "MIT"}])
        with pytest.raises(UserError, match=re.escape(url)):
            list_files(SourceConfig(dump=spec))


def test_a_reader_without_its_package_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = write(tmp_path, [{"reader": "mediawiki", "url": "x.xml", "licence": "CC-BY-SA-4.0"}])
    read_spec(spec)
    reader_of.cache_clear()
    monkeypatch.setitem(sys.modules, "defusedxml", None)
    with pytest.raises(UserError, match=r"mediawiki needs defusedxml.*pip install 'cpt-factory\[dumps\]'"):
        read_spec(spec)
    assert guess_reader(str(Path(spec).parent / "*.xml.bz2")) == "mediawiki"  # recognised without it
