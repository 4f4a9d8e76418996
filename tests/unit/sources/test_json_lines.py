"""JSON Lines in the layouts of the known data sets, and lines that are none."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path
from typing import Any

import pytest
import zstandard
from dump_files import read_dump, reasons, texts

from pipeline_lib.config.read_limits import ReadLimits
from pipeline_lib.sources.folder import describe
from pipeline_lib.sources.readers.json_lines import read_json_lines
from pipeline_lib.sources.record_fields import Options
from pipeline_lib.sources.safe_open import Refusal, SourceText

RECORDS: dict[str, dict[str, Any]] = {
    "dolma": {"id": "doc-7", "text": "Some prose.", "source": "web", "metadata": {"source_domain": "a.org", "license": "CC0"}},
    "c4": {"text": "Some prose.", "url": "http://a.org/x", "timestamp": "2019"},
    "redpajama": {"text": "Some prose.", "meta": {"url": "http://a.org/x", "language": "en"}},
    "the_stack": {
        "content": "x = 1\n",
        "lang": "Python",
        "max_stars_repo_path": "src/a.py",
        "max_stars_repo_name": "me/it",
        "max_stars_repo_licenses": ["MIT", "BSD-3-Clause"],
    },
    "the_stack_smol": {"content": "x = 1\n", "lang": "Ruby", "path": "a.rb", "repository_name": "me/it", "licenses": ["MIT"]},
}
WANTED = {  # path, group, licence, form
    "dolma": ("doc-7#L1", "a.org", "CC0", "plain"),
    "c4": ("http://a.org/x#L1", "http://a.org/x", "CC0-1.0", "plain"),
    "redpajama": ("http://a.org/x#L1", "http://a.org/x", "CC0-1.0", "plain"),
    "the_stack": ("me/it/src/a.py#L1", "me/it", "MIT OR BSD-3-Clause", "python"),
    "the_stack_smol": ("me/it/a.rb#L1", "me/it", "MIT", "ruby"),
}


def write(path: Path, *lines: Any) -> Path:
    path.write_bytes(b"".join((line if isinstance(line, bytes) else json.dumps(line).encode()) + b"\n" for line in lines))
    return path


@pytest.mark.parametrize("layout", sorted(RECORDS))
def test_a_layout_is_known_by_its_fields(tmp_path: Path, layout: str) -> None:
    (found,) = read_dump(write(tmp_path / "a.jsonl", RECORDS[layout]), "json_lines")
    path, group, licence, form = WANTED[layout]
    assert (found.file.path, found.file.group, found.file.licence, found.file.form) == (f"a.jsonl!{path}", group, licence, form)
    assert isinstance(found.content, SourceText) and found.content.text in ("Some prose.", "x = 1\n")


def test_fields_of_ones_own(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", {"body": {"en": "Hello."}, "no": 17, "by": "me"})
    options = Options(text="body.en", name="no", group="by").model_dump(mode="json")
    file = describe(str(path), path.name, "s", "g").model_copy(update={"form": "json_lines", "options": options})
    (found,) = read_json_lines(file, ReadLimits())
    assert (found.file.path, found.file.group, found.content) == ("a.jsonl!17#L1", "me", SourceText("Hello.", b"Hello."))


def test_a_bad_line_is_refused_by_its_number_and_the_next_is_read(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.jsonl",
        {"text": "first"},
        b"{broken",
        b"",
        b"[" * 100_000,
        b"[1]",
        {"title": "no text"},
        {"text": 5},
        {"text": "a\0b"},
        b'{"text": "\\ud800"}',
        {"text": "x" * 3_000},
        {"text": "y" * 10_000},
        {"content": "int x;", "lang": "C", "max_stars_repo_path": "x.c"},
        b'{"text": "\xff"}',
        {"text": "last"},
    )
    found = read_dump(path, "json_lines", ReadLimits(max_text_bytes=1_000))
    assert list(texts(found).values()) == ["first", "", "last"]  # a text that is missing is an empty one
    assert [(item.content.reason, item.content.offset) for item in found if isinstance(item.content, Refusal)] == [
        ("not_json", 2),
        ("file_too_large", 4),
        ("not_a_record", 5),
        ("not_a_record", 7),
        ("nul_byte", 8),
        ("not_utf8", 9),
        ("file_too_large", 10),
        ("file_too_large", 11),
        ("unknown_language", 12),
        ("not_json", 13),
    ]


@pytest.mark.parametrize("suffix", ["gz", "zst"])
def test_a_truncated_file_gives_the_rows_before_the_cut(tmp_path: Path, suffix: str) -> None:
    rows = b"".join(json.dumps({"text": f"text {i} {i * 7919 % 1000}"}).encode() + b"\n" for i in range(1000))
    whole = gzip.compress(rows) if suffix == "gz" else zstandard.ZstdCompressor().compress(rows)
    path = tmp_path / f"a.jsonl.{suffix}"
    path.write_bytes(whole)
    assert len(texts(read_dump(path, "json_lines"))) == 1000
    path.write_bytes(whole[:-20])
    found = read_dump(path, "json_lines")
    kept = list(texts(found).values())
    assert reasons(found) == ["truncated"] and (suffix == "zst" or len(kept) > 990)
    assert kept == [f"text {i} {i * 7919 % 1000}" for i in range(len(kept))]
    found = read_dump(write(tmp_path / "b.jsonl", *[{"text": "x"}] * 5), "json_lines", ReadLimits(max_members=3))
    assert len(texts(found)) == 3 and reasons(found) == ["too_many_members"]


# ---- shapes

MANY = [
    {"id": f"r{i}", "text": f'Text {i}: "quoted", {{braces}}, [b] \\\\ é', "more": [{"a": i}, {"b": "]}"}]} for i in range(5)
]
WORDS = [record["text"] for record in MANY]
SHAPES = {
    "lines": "\n".join(map(json.dumps, MANY)),
    "lines of CRLF": "\r\n".join(map(json.dumps, MANY)) + "\r\n",
    "lines with a mark": "\ufeff" + "\n".join(map(json.dumps, MANY)),
    "array": json.dumps(MANY),
    "array, indented": json.dumps(MANY, indent=2),
    "array, a line each": "[\n" + ",\n".join(map(json.dumps, MANY)) + "\n]\n",
    "array with a last comma": json.dumps(MANY)[:-1] + ",]",
    "arrays": json.dumps(MANY[:2]) + "\n" + json.dumps(MANY[2:]),
    "objects": "".join(map(json.dumps, MANY)),
    "objects, indented": "\n".join(json.dumps(record, indent=4) for record in MANY),
    "objects after marks": "".join("\x1e" + json.dumps(record) + "\n" for record in MANY),
    "a list in an object": json.dumps({"version": {"data": 1}, "data": MANY, "rows": [1, {"text": "no"}]}),
    "a list in an object, indented": json.dumps({"count": 5, "rows": MANY}, indent=1),
}


def write_text(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.write_bytes(text.encode(encoding))
    return path


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
@pytest.mark.parametrize("shape", SHAPES)
def test_records_of_any_shape(tmp_path: Path, shape: str, encoding: str) -> None:
    found = read_dump(write_text(tmp_path / "a.json", SHAPES[shape], encoding), "json_lines")
    assert list(texts(found).values()) == WORDS and reasons(found) == []
    assert len({item.file.path for item in found}) == 5


def test_a_list_by_its_name(tmp_path: Path) -> None:
    path = write_text(tmp_path / "a.json", json.dumps({"data": [{"text": "no"}], "hits": MANY}))
    file = describe(str(path), path.name, "s", "g").model_copy(update={"form": "json_lines", "options": {"records": "hits"}})
    assert list(texts(list(read_json_lines(file, ReadLimits()))).values()) == WORDS


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ('"Text 2', "Text 2"), ('"id": "r2"', '"id": r2'), ('"id": "r2"', '"id" "r2"'), ('"id": "r2"', '"id": "r2",'),
        ('"id": "r2"', '"id": ' + "9" * 5000), ('"id": "r2"', '"id": ' + "[" * 3000 + "]" * 3000), ('"r2"', "nul"),
        ('"id": "r2"', '"id": "r2'), ('"id": "r2"', "'id': 'r2'"),
    ],
)  # fmt: skip
def test_a_bad_record_of_an_array_costs_no_other(tmp_path: Path, indent: int | None, wrong: str, right: str) -> None:
    filler = [{"text": "x" * 2_000}] * 3
    damaged = json.dumps(MANY + filler, indent=indent, ensure_ascii=False).replace(wrong, right)
    found = read_dump(write_text(tmp_path / "a.json", damaged), "json_lines")
    kept = [text for text in texts(found).values() if text in WORDS]
    assert kept == [*WORDS[:2], *WORDS[3:]]
    refused = [item.content for item in found if isinstance(item.content, Refusal)]
    assert refused[0].reason == "not_json" and refused[0].offset == 3 and "character" in refused[0].detail
    assert len([text for text in texts(found).values() if text.startswith("xx")]) == 3


@pytest.mark.parametrize("shape", ["array", "array, indented", "array, a line each", "lines"])
def test_a_wrong_character_anywhere_in_a_record_costs_no_other(tmp_path: Path, shape: str) -> None:
    odd = ['"q"', "{x}", "[y]", "\\", "é\n", 'a, {"b": 1}']
    for seed in range(150):
        chance = random.Random(seed)
        many = [
            {"id": f"r{i}", "text": f"Text {i} {chance.choice(odd)}", "turns": [{"role": "u", "content": "c"}, {"a": [1, {}]}]}
            for i in range(20)
        ]
        parts = [json.dumps(record, indent=1 if "indented" in shape else None) for record in many]
        bad = chance.randrange(2, 15)
        at = chance.randrange(1, len(parts[bad]))
        put = chance.choice(["", *'{}[]",:x\\'])
        parts[bad] = parts[bad][:at] + put + parts[bad][at + chance.randint(0, 1) :]
        between = {"array": ", ", "lines": "\n"}.get(shape, ",\n")
        text = between.join(parts) if shape == "lines" else f"[{between[1:]}{between.join(parts)}{between[1:]}]"
        found = set(texts(read_dump(write_text(tmp_path / "a.json", text), "json_lines")).values())
        missing = [record["id"] for i, record in enumerate(many) if i != bad and record["text"] not in found]
        assert missing == [], (seed, parts[bad])


def test_garbage_between_records_costs_none(tmp_path: Path) -> None:
    text = json.dumps(MANY).replace('}, {"id": "r2"', '} ??? {"id": "r2"') + " the end"
    found = read_dump(write_text(tmp_path / "a.json", text), "json_lines")
    assert list(texts(found).values()) == WORDS and reasons(found) == ["not_json", "not_json"]


@pytest.mark.parametrize("cut", [0.05, 0.3, 0.5, 0.7, 0.9, 0.99])
@pytest.mark.parametrize("shape", ["array", "array, indented", "objects", "objects, indented", "a list in an object"])
@pytest.mark.parametrize("packed", [False, True])
def test_what_came_before_the_end_of_a_cut_file_is_kept(tmp_path: Path, shape: str, cut: float, packed: bool) -> None:
    many = [{"id": str(i), "text": f"Text {i} {i * 7919 % 1000}"} for i in range(2_000)]
    text = {
        "array": json.dumps(many),
        "array, indented": json.dumps(many, indent=1),
        "objects": "".join(map(json.dumps, many)),
        "objects, indented": "\n".join(json.dumps(record, indent=1) for record in many),
        "a list in an object": json.dumps({"data": many}),
    }[shape]
    data = gzip.compress(text.encode()) if packed else text.encode()
    path = tmp_path / ("a.json.gz" if packed else "a.json")
    path.write_bytes(data[: int(len(data) * cut)])
    found = read_dump(path, "json_lines")
    kept = list(texts(found).values())
    assert kept == [record["text"] for record in many[: len(kept)]] and reasons(found) == ["truncated"]
    assert found[-1].file.path == path.name, "the loss is the file's"
    assert packed or len(kept) > len(many) * cut * 0.9 - 3


def test_a_record_that_is_too_long_is_passed_over_in_any_shape(tmp_path: Path) -> None:
    many = [MANY[0], {"text": "x" * 300_000, "more": [{"a": 1}]}, MANY[1]]
    for text in (
        json.dumps(many),
        "\n".join(map(json.dumps, many)),
        "".join(map(json.dumps, many)),
        json.dumps(many, indent=1),
    ):
        found = read_dump(write_text(tmp_path / "a.json", text), "json_lines", ReadLimits(max_text_bytes=1_000))
        assert [text for text in texts(found).values() if text] == WORDS[:2]
        assert "file_too_large" in reasons(found) and len(reasons(found)) == 1


@pytest.mark.parametrize("text", ["[]", "[ ]\n", "{}", "[{}]", " \n"])
def test_nothing_is_no_error_and_no_text(tmp_path: Path, text: str) -> None:
    found = read_dump(write_text(tmp_path / "a.json", text), "json_lines")
    assert "".join(texts(found).values()) == "" and reasons(found) == []


# ---- fields


def test_nulls_are_empty_texts(tmp_path: Path) -> None:
    lines = [b'{"text": null}', b'{"text": ""}', b'{"other": 1}', b'{"text": NaN}', b'{"text": "  \\n"}', b'{"text": []}']
    found = read_dump(write(tmp_path / "a.jsonl", *lines, {"text": "last"}), "json_lines")
    assert [text.strip() for text in texts(found).values()] == [""] * 6 + ["last"] and reasons(found) == []


def test_values_that_are_no_strings(tmp_path: Path) -> None:
    chat = [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": [{"type": "text", "text": "Yes?"}]}]
    found = read_dump(
        write(
            tmp_path / "a.jsonl",
            {"text": ["One part.", "Two parts."]},
            {"text": ["Just", "some", "words"]},
            {"messages": chat},
            {"conversations": [{"from": "human", "value": "Who?"}, {"from": "gpt", "value": None}]},
            {"text": 5},
            {"text": True},
            {"text": {"en": "One.", "de": "Eins."}},
            {"text": ["One.", 2]},
        ),
        "json_lines",
    )
    assert list(texts(found).values()) == ["One part.\n\nTwo parts.", "Just some words", "Hi.\n\nYes?", "Who?"]
    assert reasons(found) == ["not_a_record"] * 4
    details = [item.content.detail for item in found if isinstance(item.content, Refusal)]
    assert "int" in details[0] and "en" in details[2] and "dot" in details[2]


def test_without_any_text_the_file_says_what_it_has(tmp_path: Path) -> None:
    found = read_dump(write(tmp_path / "a.jsonl", *[{"head": "x", "meta": {"words": "Some."}}] * 3), "json_lines")
    (last,) = found
    assert isinstance(last.content, Refusal) and last.file.path == "a.jsonl"
    assert last.content.reason == "no_text_column" and "'head', 'meta.words'" in last.content.detail
    assert "option `text`" in last.content.detail


@pytest.mark.parametrize("name", ["text", "content", "body", "raw_content", "Text", "article", "document", "markdown"])
def test_usual_names_of_a_text(tmp_path: Path, name: str) -> None:
    (found,) = read_dump(write(tmp_path / "a.jsonl", {"_id": "d1", "title": "Head", name: "Some prose."}), "json_lines")
    assert texts([found]) == {"d1#L1": "Head\n\nSome prose."}


def test_a_title_that_the_text_begins_with_comes_once(tmp_path: Path) -> None:
    (found,) = read_dump(write(tmp_path / "a.jsonl", {"title": "Head", "text": "Head of it."}), "json_lines")
    assert texts([found]) == {"#L1": "Head of it."}


def test_reddit(tmp_path: Path) -> None:
    """Submissions and comments of Pushshift: a thread is one group, what was taken back is counted."""
    found = read_dump(
        write(
            tmp_path / "RS",
            {"id": "abc", "subreddit": "a", "title": "Why?", "selftext": "Some prose.", "name": "t3_abc"},
            {"id": "abf", "subreddit": "a", "title": "Gone", "selftext": "[removed]"},
            {"id": "abe", "subreddit": "a", "title": "A link", "selftext": ""},
            {"id": "c1", "subreddit": "a", "body": "An answer.", "link_id": "t3_abc"},
            {"id": "c2", "subreddit": "a", "body": "[deleted]", "link_id": "t3_abc"},
        ),
        "json_lines",
    )
    assert texts(found) == {"abc#L1": "Why?\n\nSome prose.", "abe#L3": "", "c1#L4": "An answer."}
    assert reasons(found) == ["deleted", "deleted"]
    assert [item.file.group for item in found if isinstance(item.content, SourceText)] == ["abc", "abe", "abc"]


def test_code_of_a_hub(tmp_path: Path) -> None:
    rows = [
        {"code": "x = 1\n", "repo_name": "me/it", "path": "a.py", "language": "Python", "license": "mit"},
        {"content": "x = 1\n", "repo_name": "me/it", "path": "b.rb", "language": "Ruby", "detected_licenses": ["MIT"]},
        {"content": "x = 1\n", "max_stars_repo_name": "me/it", "max_stars_repo_path": "c.go"},  # by its name
    ]
    for row, (name, form, licence) in zip(
        rows, [("a.py", "python", "mit"), ("b.rb", "ruby", "MIT"), ("c.go", "go", "CC0-1.0")], strict=True
    ):
        (found,) = read_dump(write(tmp_path / "a.jsonl", row), "json_lines")
        assert (found.file.path, found.file.form, found.file.licence) == (f"a.jsonl!me/it/{name}#L1", form, licence)


def test_a_key_that_comes_twice_has_its_last_value(tmp_path: Path) -> None:
    found = read_dump(
        write(tmp_path / "a.jsonl", b'{"text": "a", "text": "b"}', b'{"text": "c", "\\ud800": 1e999}'), "json_lines"
    )
    assert list(texts(found).values()) == ["b", "c"]


def test_real_dolma_and_redpajama(eval_data: Path) -> None:
    for path in sorted((eval_data / "dumps" / "jsonl").glob("*.gz")):
        found = read_dump(path, "json_lines")
        assert len(texts(found)) == 10 and reasons(found) == [], path.name
        assert len({item.file.group for item in found}) == 10
