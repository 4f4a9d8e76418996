"""`cpt inspect` and `cpt trace` on a generated dump: what they print, and that they write nothing and start no server."""

from __future__ import annotations

import hashlib
import io
import tarfile
from pathlib import Path

import pytest
import yaml
from dump_files import response
from typer.testing import CliRunner

from data_contracts.validate import validate
from flows.cli.commands import app
from pipeline_lib.config.data import ContractConfig, ExtractConfig, SourceConfig
from pipeline_lib.errors import UserError
from pipeline_lib.pairs.extract import STAGE, ExtractWork, extract_bundle
from pipeline_lib.pairs.inspect import sample_source
from pipeline_lib.pairs.trace import trace_pair
from pipeline_lib.sources.dump_files import list_bundles, write_listing
from pipeline_lib.sources.dump_spec import guess_reader, read_spec, sources_of
from pipeline_lib.store.artifact import Artifact
from pipeline_lib.store.records import Manifest, Outcome, Part, sum_counts
from pipeline_lib.store.store import Store

CODE = 'def {name}(items):\n    """Adds all numbers of {name}."""\n    total = 0\n'
CODE += "    for i in items:\n        total += i\n    return total\n"


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    """A tree of two packages and an archive of one file."""
    for package in ("alpha", "beta"):
        (tmp_path / "tree" / package).mkdir(parents=True)
        for index in range(12):
            (tmp_path / "tree" / package / f"m{index}.py").write_text(CODE.format(name=f"{package}_{index}"))
    with tarfile.open(tmp_path / "old.tar.gz", "w:gz") as archive:
        for name, data in (("pkg/sums.py", CODE.format(name="gamma").encode()), ("../out.py", b"x = 1\n")):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    path = tmp_path / "dump.yaml"
    path.write_text(
        yaml.safe_dump(
            [
                {"reader": "tree", "url": "tree", "licence": "MIT"},
                {"reader": "archive", "url": "*.tar.gz", "licence": "BSD-3-Clause", "name": "archives"},
            ]
        )
    )
    return path


@pytest.fixture
def store(spec: Path, tmp_path: Path) -> Store:
    """What `extract` makes of the dump, made in this process."""
    store = Store(tmp_path / "home" / "store")
    extracted(store, spec)
    return store


def extracted(store: Store, spec: Path) -> Artifact:
    source = SourceConfig(dump=str(spec))
    work = ExtractWork(source=source, extract=ExtractConfig())
    bundles = list_bundles(source)

    def make(_: str) -> Outcome:
        parts = tuple(Part.model_validate_json(extract_bundle(str(store.root), bundle, work)) for bundle in bundles)
        return Outcome(parts=parts, counts=sum_counts(parts))

    return store.build(STAGE, work, {"source": write_listing(store, source, bundles)}, make)


def cpt(*words: str) -> str:
    answer = CliRunner().invoke(app, list(words), env={"COLUMNS": "200"}, catch_exceptions=False)
    assert answer.exit_code == 0, answer.output
    return answer.output


def test_inspect_says_what_a_dump_is_and_shows_documents_and_pairs(spec: Path) -> None:
    before = sorted(spec.parent.rglob("*"))
    output = cpt("inspect", str(spec))
    for words in (
        "tree",
        "24, ",
        "10 documents",
        "10 pairs",
        "MIT",
        "archives",
        "unsafe_path",
        "old.tar.gz!pkg/sums.py",
        "gamma",
    ):
        assert words in output, words
    assert sorted(spec.parent.rglob("*")) == before


def test_inspect_is_bounded_and_shows_the_same_again(spec: Path) -> None:
    source = read_spec(str(spec))[0]
    sample = sample_source(source, 5, 3)
    assert (sample.texts, sample.whole, sample.files, sample.pairs) == (5, False, 24, 5)
    assert len(sample.documents_shown) == len(sample.pairs_shown) == 3
    assert sample_source(source, 5, 3).pairs_shown == sample.pairs_shown
    assert "there are more" in cpt("inspect", str(spec.parent / "tree"), "--records", "5", "--samples", "1")


@pytest.mark.parametrize(
    ("name", "reader"),
    [
        ("a.warc.gz", "warc"), ("a.warc.wet.gz", "warc"), ("a.xml.bz2", "mediawiki"), ("a.jsonl.zst", "json_lines"),
        ("a.parquet", "parquet"), ("a-1.0.whl", "archive"), ("a.tar.xz", "archive"), ("a.txt", "text"), ("d", "tree"),
        ("b", "git"),
    ],
)  # fmt: skip
def test_a_reader_is_guessed_by_name(tmp_path: Path, name: str, reader: str) -> None:
    path = tmp_path / name
    if reader in ("tree", "git"):
        (path / ("objects" if reader == "git" else "x")).mkdir(parents=True)
        (path / "HEAD").write_text("ref: refs/heads/main")
    else:
        path.write_text("")
    assert guess_reader(str(path)) == reader


def test_wrong_targets_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file or folder"):
        sources_of(str(tmp_path / "none"))
    with pytest.raises(UserError, match="choose one of tree, text, archive"):
        sources_of(str(tmp_path), "zip")


def test_trace_leads_from_a_pair_to_its_file_and_hash(spec: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CPT_HOME", str(spec.parent / "home"))
    rows = pairs_of(store)
    assert {row["path"] for row in rows} >= {"old.tar.gz!pkg/sums.py", "alpha/m3.py"}
    for row in rows:
        found = trace_pair(store, row["id"])
        file = spec.parent / ("old.tar.gz" if row["source"] == "archives" else f"tree/{row['path']}")
        assert (found.place, found.sha256) == (str(file), hashlib.sha256(file.read_bytes()).hexdigest())
        assert found.record == ("pkg/sums.py" if row["source"] == "archives" else "")
        assert found.pair["line"] == 1 and found.bytes == file.stat().st_size
    last = rows[-1]
    output = cpt("trace", last["id"][:12])
    for words in (last["id"], last["path"].partition("!")[0], last["source"], last["licence"], last["x"], "sha256:"):
        assert words in output, words


def test_trace_of_nothing_is_one_line(store: Store) -> None:
    for wrong, words in (("0" * 32, "no pair 000"), ("xyz", "hexadecimal"), ("", "hexadecimal")):
        with pytest.raises(UserError, match=words):
            trace_pair(store, wrong)


def pairs_of(store: Store) -> list[dict[str, object]]:
    import pyarrow.parquet as pq

    found = []
    for path in sorted((store.root / "extract").glob("*/manifest.json")):
        for part in Manifest.model_validate_json(path.read_bytes()).parts:
            found += pq.read_table(store.root / part.folder / "pairs.parquet").to_pylist()
    return found


def test_inspect_shows_what_each_filter_drops(spec: Path, tmp_path: Path) -> None:
    (tmp_path / "tree" / "alpha" / "made.py").write_text("# Generated by a tool. DO NOT EDIT!\n" + CODE.format(name="made"))
    (tmp_path / "tree" / "alpha" / "short.py").write_text('def f(x):\n    """Doc."""\n    return x\n')
    (tmp_path / "tree" / "notes.md").write_text("Two words.\n")
    sample = sample_source(sources_of(str(spec), "")[0], 1000, 0, 3)
    assert sample.filters.seen == 27 and sample.filters.dropped["generated"] == 1 and sample.filters.dropped["few_words"] == 1
    assert sample.filters.samples["generated"][0].startswith("# Generated by a tool.")
    assert sample.dropped.total() > 0 and all(sample.dropped.samples.values())
    result = CliRunner().invoke(app, ["inspect", str(spec), "--filters"])
    assert result.exit_code == 0
    assert "filters of documents" in result.output and "Generated by a tool" in result.output
    for name in sample.dropped:
        assert name in result.output


def test_a_container_with_one_address_twice_is_shown_built_and_traced(tmp_path: Path) -> None:
    """Four captures of one page, another page, and one page again in a second file: every text is there, the ids differ."""
    captures = ["topic one", "topic two", "topic one", "topic three"]
    pages = [(URL, words) for words in captures] + [("https://a.org/" + "y" * 600 + end, f"topic {end}") for end in "pq"]
    for name in ("a.warc.gz", "b.warc.gz"):
        (tmp_path / name).write_bytes(b"".join(response(url, long_page(words)) for url, words in pages))
    path = tmp_path / "crawl.yaml"
    spec = {"reader": "warc", "url": "*.warc.gz", "licence": "MIT", "name": "crawl", "options": {"captures": "all"}}
    path.write_text(yaml.safe_dump([spec]))
    assert "12 documents" in cpt("inspect", str(path), "--samples", "50")
    store = Store(tmp_path / "home" / "store")
    validated = validate(store, extracted(store, path), ContractConfig())
    assert validated.manifest.facts["documents"] == 12 and validated.manifest.facts["quarantined"] == 0
    rows = pairs_of(store)
    assert len({row["id"] for row in rows}) == len(rows) > 12
    for row in rows:
        found = trace_pair(store, str(row["id"]))
        url, _, copy = found.record.partition("#copy=")
        digest = found.record.rpartition("#sha256=")[2]
        place = int(copy or 1) - 1 if url == URL else [sha256(url)[:16] for url, _ in pages].index(digest)
        assert f"{pages[place][1]}." in str(row["x"])
        assert found.file in ("a.warc.gz", "b.warc.gz") and found.sha256


URL = "https://a.org/x"


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


ARTICLE = (
    "For most of its history the harbour belonged to a small order of monks, who kept careful accounts of every ship that "
    "came in. Among their papers {} is mentioned for the first time, in a letter that nobody has dated. A later hand added "
    "the price.",
    "What became of the letter is not known. Two copies were made before the fire, one of which a merchant took along to "
    "the capital; the other lay in a chest until workmen found it under the floor. Neither of them agrees with the other "
    "about {}.",
    "When the railway reached the town, its inhabitants were divided. Fishermen feared for the quiet of the bay, while the "
    "owner of the mill hoped to sell his flour further inland. Newspapers of those years report hardly anything else than "
    "{}.",
    "Today visitors come mainly in summer. They walk along the old wall, look at the tower, and buy postcards from a shop "
    "that has been in one family since the war. Ask the woman behind the counter about {}, and she will close the door to "
    "tell you.",
    "Scholars remain sceptical. Without another source, one of them wrote last year, there is little reason to believe that "
    "the monks knew more than they put down. Still, each spring a few students arrive with cameras and search the cellars "
    "for {}.",
    "Nothing has been found so far, apart from some coins and the handle of a jug. The museum keeps both in a drawer, where "
    "a label explains in three languages how {} and the town belong together. Whoever wants to see them has to ring the "
    "bell.",
)


def long_page(words: str) -> bytes:
    paragraphs = "".join(f"<p>{text.format(words)}</p>" for text in ARTICLE)
    return f"<html><body><main><h2>About</h2>{paragraphs}</main></body></html>".encode()
