"""Tables with named columns."""

from __future__ import annotations

import csv
import gzip
import io
from pathlib import Path
from typing import Any

import pytest
from dump_files import reasons, texts

from pipeline_lib.config.read_limits import ReadLimits
from pipeline_lib.sources.folder import describe
from pipeline_lib.sources.readers import options_of
from pipeline_lib.sources.readers.csv import read_csv
from pipeline_lib.sources.records import SourceRecord
from pipeline_lib.sources.safe_open import Refusal

ROWS = [("r1", 'He said: "Yes, we\ncan".'), ("r2", "Semi; colons, commas | bars"), ("r3", "")]


def read(path: Path, content: bytes | str, limits: ReadLimits | None = None, **options: Any) -> list[SourceRecord]:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    file = describe(str(path), path.name, "dump", "group", "CC0-1.0")
    file = file.model_copy(update={"form": "csv", "options": options_of("csv", options)})
    return list(read_csv(file, limits or ReadLimits()))


def table(delimiter: str = ",", **how: Any) -> str:
    out = io.StringIO()
    csv.writer(out, delimiter=delimiter, **how).writerows([("id", "text"), *ROWS])
    return out.getvalue()


@pytest.mark.parametrize("delimiter", [",", "\t", ";", "|"])
@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_table_of_any_dialect(tmp_path: Path, delimiter: str, quoting: int, newline: str, encoding: str) -> None:
    content = table(delimiter, quoting=quoting, lineterminator=newline).encode(encoding)
    found = read(tmp_path / "a.csv", content)
    assert texts(found) == {f"{name}#L{n}": text for n, (name, text) in enumerate(ROWS, 1)} and reasons(found) == []


def test_a_compressed_table(tmp_path: Path) -> None:
    assert len(texts(read(tmp_path / "a.csv.gz", gzip.compress(table().encode())))) == 3


def test_a_bad_row_costs_no_other(tmp_path: Path) -> None:
    content = 'id,text,by\n1,one,a\n2,"left open,b\n3,three,c\n4,four\n5,"two\nlines",e\n6,six,f,g\n7,"s"even,h\n\n8,eight,i\n'
    found = read(tmp_path / "a.csv", content)
    assert list(texts(found).values()) == ["one", "three", "two\nlines", "seven", "eight"]
    refused = [(item.content.reason, item.content.offset) for item in found if isinstance(item.content, Refusal)]
    assert refused == [("unclosed_quote", 2), ("wrong_columns", 4), ("wrong_columns", 6)]


def test_an_unclosed_quote_is_bounded(tmp_path: Path) -> None:
    content = "id,text\n1,one\n" + '2,"left open\n' + "".join(f"{n},line {n}\n" for n in range(3, 2_000))
    found = read(tmp_path / "a.csv", content, ReadLimits(max_text_bytes=1_000))
    assert len(texts(found)) == 1_998 and reasons(found) == ["file_too_large"]


def test_quotes_of_a_table_with_tabs_are_characters_where_nothing_closes_them(tmp_path: Path) -> None:
    found = read(tmp_path / "a.tsv", 'id\ttext\n1\t"Yes" he said\n2\t"An open one\n3\tThe "last" one\n')
    assert list(texts(found).values()) == ["Yes he said", '"An open one', 'The "last" one'] and reasons(found) == []


def test_a_row_of_another_encoding_is_refused_alone_unless_the_encoding_is_given(tmp_path: Path) -> None:
    content = "id,text\n1,café\n".encode() + "2,naïve\n".encode("latin-1") + b"3,last\n"
    found = read(tmp_path / "a.csv", content)
    assert list(texts(found).values()) == ["café", "last"] and reasons(found) == ["not_utf8"]
    found = read(tmp_path / "a.csv", "id,text\n1,naïve\n".encode("latin-1"), encoding="latin-1")
    assert list(texts(found).values()) == ["naïve"]
    assert reasons(read(tmp_path / "a.csv", content, encoding="no-such")) == ["bad_encoding"]
    assert reasons(read(tmp_path / "a.csv", "id,text\n1,a\n".encode("utf-16")[:-1])) == ["bad_encoding"]


def test_columns_by_option_and_without_a_header(tmp_path: Path) -> None:
    found = read(tmp_path / "a.csv", "no,words,by\n7,Some words.,me\n", text="words", id="no", group="by")
    assert texts(found) == {"7#L1": "Some words."} and found[0].file.group == "me"
    assert texts(read(tmp_path / "a.csv", "7,Some words.\n", columns=("id", "text"))) == {"7#L1": "Some words."}
    assert texts(read(tmp_path / "a.csv", "text\nOne, two\nThree\n")) == {"#L1": "One, two", "#L2": "Three"}
    assert texts(read(tmp_path / "a.csv", 'id, text\n1, "a, b"\n')) == {"1#L1": "a, b"}
    assert texts(read(tmp_path / "a.csv", "text~id\na,b~1\n", delimiter="~")) == {"1#L1": "a,b"}


def test_without_a_text_column_the_file_says_what_it_has(tmp_path: Path) -> None:
    found = read(tmp_path / "a.csv", "height,width\n1,2\n3,4\n")
    assert isinstance(found[-1].content, Refusal) and found[-1].content.reason == "no_text_column"
    assert "'height', 'width'" in found[-1].content.detail and found[-1].file.path == "a.csv"
    assert read(tmp_path / "a.csv", "") == [] and read(tmp_path / "a.csv", "id,text\n") == []


@pytest.mark.parametrize("before", ["sep=;\n", "\ufeffsep=;\r\n", "# made by hand, on Monday\n", "#one\n#two\n"])
def test_what_stands_before_the_header_is_passed_over(tmp_path: Path, before: str) -> None:
    table = before + "id,text,by\n1,Some words.,me\n2,More.,me\n".replace(",", ";" if "sep" in before else ",")
    assert list(texts(read(tmp_path / "a.csv", table)).values()) == ["Some words.", "More."]
    found = read(tmp_path / "b.csv", "#id,text\n1,Some words.\n")
    assert list(texts(found).values()) == ["Some words."]
