"""Records of one name: each text of a container has a path, and so an id, of its own, and both come out."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
import warnings
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from dump_files import page, response

from pipeline_lib.config.data import SourceConfig
from pipeline_lib.pairs.inspect import sample_source
from pipeline_lib.pairs.tables import document_id
from pipeline_lib.sources.dump_files import bundles_of
from pipeline_lib.sources.dump_spec import DumpSource, sources_of
from pipeline_lib.sources.folder import describe
from pipeline_lib.sources.readers import texts_of
from pipeline_lib.sources.records import SourceRecord
from pipeline_lib.sources.safe_open import SourceText
from pipeline_lib.sources.source_file import Form, SourceFile

URL = "https://a.org/x"
LONG = "https://a.org/" + "x" * 600


def warc(path: Path) -> None:
    urls = [URL, URL, URL + "?q=1", URL + "#copy=2", URL.upper(), URL, LONG + "1", LONG + "2"]
    missing = response(URL, page("gone"), status="404 Not SourceRecord")  # a refusal takes no number
    path.write_bytes(missing + b"".join(response(url, page(f"topic {n}")) for n, url in enumerate(urls)))


def mediawiki(path: Path) -> None:
    titles = ["Yeast", "Yeast", "yeast", "Yeast  (bread)", "Yeast (bread)", "T" * 600 + "1", "T" * 600 + "2"]
    pages = (
        f"<page><title>{title}</title><ns>0</ns><id>1</id><revision><text>About {n}.</text></revision></page>"
        for n, title in enumerate(titles)
    )
    path.write_text(f"<mediawiki>{''.join(pages)}</mediawiki>")


def records() -> list[dict[str, str]]:
    ids = ["a", "a", "a b", "a  b", "a\nb", "i" * 600, "i" * 600, "i" * 600 + "2"]
    return [{"id": name, "text": f"Text {n}."} for n, name in enumerate(ids)]


def json_lines(path: Path) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records()))


def parquet(path: Path) -> None:
    pq.write_table(pa.Table.from_pylist(records()), path)


def zipped(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive, warnings.catch_warnings(action="ignore"):
        for n, name in enumerate(["p/a.py", "p/a.py", "p/b.py", "p/A.py", "p/a.py"]):
            archive.writestr(name, f"x = {n}\n")


def tarred(path: Path) -> None:
    with tarfile.open(path, "w") as archive:
        for n, name in enumerate(["p/a.py", "./p/a.py", "p/\udcff.py", "p/\\xff.py"]):
            info = tarfile.TarInfo(name)
            info.size = len(data := f"x = {n}\n".encode())
            archive.addfile(info, io.BytesIO(data))


def code_search_net(path: Path) -> None:
    urls = [URL + "#L1", URL + "#L1", URL + "#L2", LONG + "1", LONG + "2", None, None]
    rows = ({"repo": "o/r", "path": "a.py", "language": "python", "code": f"x = {n}", "url": u} for n, u in enumerate(urls))
    path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))


WRITERS: dict[str, tuple[Form, object]] = {
    "a.warc.gz": ("warc", warc),
    "a.xml": ("mediawiki", mediawiki),
    "a.jsonl": ("json_lines", json_lines),
    "a.parquet": ("parquet", parquet),
    "a.zip": ("archive", zipped),
    "a.tar": ("archive", tarred),
    "b.jsonl.gz": ("code_search_net", code_search_net),
}


def found_in(folder: Path, name: str) -> list[SourceRecord]:
    form, write = WRITERS[name]
    write(folder / name)  # type: ignore[operator]
    options = {"captures": "all"} if form == "warc" else {}
    file = describe(str(folder / name), name, "dump", "group").model_copy(update={"form": form, "options": options})
    return [item for item in texts_of(file, SourceConfig()) if isinstance(item.content, SourceText)]


@pytest.mark.parametrize("name", WRITERS)
def test_every_text_of_a_container_has_an_id_of_its_own(tmp_path: Path, name: str) -> None:
    found = found_in(tmp_path, name)
    assert len({item.content.text for item in found}) == len(found) >= 4, "a text is missing or came twice"
    assert len({document_id(item.file, "text") for item in found}) == len(found)
    assert max(len(item.file.path) for item in found) < 700


def test_what_comes_again_is_numbered_and_what_comes_once_keeps_its_address(tmp_path: Path) -> None:
    found = [item.file.path.removeprefix("a.warc.gz!") for item in found_in(tmp_path, "a.warc.gz")]
    assert found[:6] == [URL, URL + "#copy=2", URL + "?q=1", URL + "#copy=2#copy=2", URL.upper(), URL + "#copy=3"]
    assert [path.partition("#sha256=")[0] for path in found[6:]] == [LONG[:500]] * 2


def test_the_path_inside_a_repository_is_free_of_what_tells_records_apart(tmp_path: Path) -> None:
    assert {item.file.inner_path for item in found_in(tmp_path, "a.zip")} == {"p/a.py", "p/b.py", "p/A.py"}


@pytest.mark.parametrize("name", WRITERS)
def test_a_sample_of_a_container_with_records_of_one_name_is_shown(tmp_path: Path, name: str) -> None:
    form, write = WRITERS[name]
    write(tmp_path / name)  # type: ignore[operator]
    options = {"captures": "all"} if form == "warc" else {}
    source = DumpSource(reader=form, url=str(tmp_path / name), licence="MIT", name="dump", options=options)
    paths = [row["path"] for row in sample_source(source, 1000, 50).documents_shown]
    assert len(set(paths)) == len(paths) >= 3


def test_a_sample_never_compares_rows(tmp_path: Path) -> None:
    """Files whose names are shown alike have one id."""
    for name in (b"\xff.md", rb"\xff.md"):
        (tmp_path / name.decode("utf-8", "surrogateescape")).write_text(f"A text of {len(name)} bytes. " * 30)
    shown = sample_source(sources_of(str(tmp_path))[0], 1000, 2).documents_shown
    assert [row["path"] for row in shown] == ["\\xff.md"] * 2


def test_files_whose_names_are_shown_alike_have_paths_of_their_own() -> None:
    def file(place: str, path: str) -> SourceFile:
        return SourceFile(
            place=place, path=path, source="s", group="g", licence=None, form="plain", bytes=1, sha256=place[-1] * 64
        )

    (bundle,) = bundles_of([file("/2", "b"), file("/1", "b"), file("/1", "a")], 100)
    assert [(f.path, f.place) for f in bundle.files] == [("a", "/1"), ("b", "/1"), ("b#copy=2", "/2")]
