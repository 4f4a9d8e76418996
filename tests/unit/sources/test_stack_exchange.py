"""Stack Exchange dumps."""

from __future__ import annotations

import bz2
from pathlib import Path
from xml.sax.saxutils import quoteattr

import pytest
from dump_files import read_dump, reasons, texts

from pipeline_lib.config.read_limits import ReadLimits
from pipeline_lib.sources.safe_open import Refusal, SourceText

HTML = (
    "<p>Use <code>sum(items)</code> &amp; be <em>done</em>.</p>\n<ul><li>It is short.</li><li>It is fast.</li></ul>\n"
    "<pre><code>x = 1\n</code></pre>"
)


def row(**fields: str) -> str:
    attributes = " ".join(f"{name}={quoteattr(value, {chr(10): '&#xA;'})}" for name, value in fields.items())
    return f"  <row {attributes} />\r\n"


def dump(*rows: str, root: str = "posts") -> bytes:
    return f'\ufeff<?xml version="1.0" encoding="utf-8"?>\r\n<{root}>\r\n{"".join(rows)}</{root}>'.encode()


POSTS = [
    row(Id="4", PostTypeId="1", CreationDate="2010-07-31T21:42:52.667", Title="How to add?", Body="<p>I have numbers.</p>"),
    row(Id="7", PostTypeId="2", ParentId="4", CreationDate="2012-01-01T00:00:00", Body=HTML),
    row(Id="9", PostTypeId="2", ParentId="4", ContentLicense="CC BY-SA 4.0", Body="<p>Or so.</p>"),
    row(Id="11", PostTypeId="1", Title="Never filled", Body=""),
]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("lines", [False, True])
def test_posts_are_prose_with_their_question_as_group(tmp_path: Path, packed: bool, lines: bool) -> None:
    content = dump(*POSTS) if lines else dump(*map(str.strip, POSTS))
    path = tmp_path / ("Posts.xml.bz2" if packed else "Posts.xml")
    path.write_bytes(bz2.compress(content) if packed else content)
    found = read_dump(path, "stack_exchange")
    question, answer, *_ = texts(found).values()
    assert question == "How to add?\n\nI have numbers."
    assert answer.startswith("Use sum(items) & be done.\n") and "It is short." in answer and "```\nx = 1\n" in answer
    assert list(texts(found)) == ["4#L1", "7#L2", "9#L3", "11#L4"] and list(texts(found).values())[3] == ""
    assert [item.file.licence for item in found] == ["CC-BY-SA-2.5", "CC-BY-SA-3.0", "CC-BY-SA-4.0", "CC0-1.0"]
    assert len({item.file.group for item in found[:3]}) == 1 and found[3].file.group != found[0].file.group


def test_a_bad_row_costs_no_other_and_a_cut_file_keeps_what_came_before(tmp_path: Path) -> None:
    path = tmp_path / "Posts.xml"
    bad = [
        '  <row Id="1" Body="a & b" />\n',
        '  <row Id="2" Body="no end\n',
        '<row Id=3 Body="x" />',
        row(Id="5", Body="z" * 9_000),
    ]
    path.write_bytes(dump(POSTS[0], *bad, POSTS[2]))
    found = read_dump(path, "stack_exchange", ReadLimits(max_text_bytes=1_000))
    assert list(texts(found)) == ["4#L1", "9#L6"]
    assert reasons(found) == ["bad_row"] * 3 + ["file_too_large"]
    assert [item.content.offset for item in found if isinstance(item.content, Refusal)] == [2, 3, 4, 5]
    whole = dump(*POSTS)
    for cut in range(1, len(whole), 37):
        path.write_bytes(whole[:cut])
        found = read_dump(path, "stack_exchange")
        kept = [item for item in found if isinstance(item.content, SourceText)]
        assert len(kept) == max(0, whole[:cut].count(b"<row") - (b"</" not in whole[:cut])) and len(reasons(found)) <= 1
        assert all(item.file.path == path.name for item in found if isinstance(item.content, Refusal))


def test_comments_are_read_and_tables_without_text_say_so(tmp_path: Path) -> None:
    path = tmp_path / "Comments.xml"
    path.write_bytes(dump(row(Id="1", PostId="4", Text="Nice & short <i>."), root="comments"))
    (found,) = read_dump(path, "stack_exchange")
    assert texts([found]) == {"1#L1": "Nice & short <i>."} and found.file.group == "Comments.xml!4"
    path.write_bytes(dump(row(Id="1", VoteTypeId="2"), row(Id="2", VoteTypeId="3"), root="votes"))
    last = read_dump(path, "stack_exchange")[-1]
    assert isinstance(last.content, Refusal) and last.content.reason == "no_text_column" and last.file.path == path.name
    assert "VoteTypeId" in last.content.detail


def test_entities_are_never_expanded(tmp_path: Path) -> None:
    path = tmp_path / "Posts.xml"
    path.write_bytes(b'<!DOCTYPE p [<!ENTITY a "boom">]><posts><row Id="1" Body="&a;" /><row Id="2" Body="fine" /></posts>')
    found = read_dump(path, "stack_exchange")
    assert list(texts(found).values()) == ["fine"] and reasons(found) == ["bad_row"]


def test_a_dump_in_utf16_and_a_file_without_rows(tmp_path: Path) -> None:
    rows = "".join(f'  <row Id="{i}" Body="&lt;p&gt;Some prose é {i}.&lt;/p&gt;" />\n' for i in range(2_000))
    path = tmp_path / "Posts.xml"
    path.write_bytes(f'<?xml version="1.0" encoding="utf-16"?>\n<posts>\n{rows}</posts>'.encode("utf-16"))
    found = read_dump(path, "stack_exchange")
    assert len(texts(found)) == 2_000 and reasons(found) == []
    for content, wanted in ((b"<posts>\n</posts>\n", []), (b"<posts/>", []), (b"Not a dump at all.", ["no_rows"])):
        path.write_bytes(content)
        assert reasons(read_dump(path, "stack_exchange")) == wanted
