"""Files of official downloads that are damaged."""

from __future__ import annotations

import gzip

import pytest

from pipeline_lib.errors import UserError
from pipeline_lib.evaluation.suites.official_files import read_csv, read_lines


@pytest.mark.parametrize("damage", ["cut off", "checksum", "a block of no type", "not gzip"])
def test_a_broken_gzip_file_is_named(tmp_path, damage):
    content = bytearray(gzip.compress(b"1" * 500_000, mtime=0))
    damaged = {
        "cut off": content[:-20],
        "checksum": content[:-6] + b"\xff\xff" + content[-4:],
        "a block of no type": content[:10] + b"\xff" + content[11:],
        "not gzip": b"<html>404</html>",
    }
    path = tmp_path / "sentiment-train.gz"
    path.write_bytes(damaged[damage])
    with pytest.raises(UserError, match=r"sentiment-train.gz: cannot be read to its end .*get the file again"):
        list(read_lines(path))


def test_a_table_that_was_cut_off_names_its_line(tmp_path):
    path = tmp_path / "annotationStore.csv"
    path.write_text('Language,Query,Relevance\nGo,"a ""quoted"", query",3\nGo,an\n')
    rows = read_csv(path, ("Query", "Relevance"))
    assert next(rows)["Query"] == 'a "quoted", query'
    with pytest.raises(UserError, match=r"annotationStore.csv, line 3: fewer columns than its header"):
        next(rows)
