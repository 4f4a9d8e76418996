"""Objects of records, lists of texts, and files that end inside a line."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from dump_files import read_dump, reasons, texts

from pipeline_lib.config.read_limits import ReadLimits
from pipeline_lib.sources.safe_open import Refusal

WORDS = [f'Text {i}: "quoted", {{braces}}, [b] \\\\ é' for i in range(5)]
MANY = [{"id": f"r{i}", "text": words, "more": [{"a": i}, {"b": "]}"}]} for i, words in enumerate(WORDS)]


def write_text(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


BY_KEY = {f"d{i}": {"title": f"T{i}", "text": record["text"], "more": [{"a": {"text": "no"}}]} for i, record in enumerate(MANY)}


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("end", ["", "\n"])
def test_an_object_of_records_is_read_by_its_keys(tmp_path: Path, indent: int | None, end: str) -> None:
    wanted = {f"d{i}#L{i + 1}": f"T{i}\n\n{words}" for i, words in enumerate(WORDS)}
    for value in (BY_KEY, {"data": BY_KEY, "count": 5}):
        found = read_dump(write_text(tmp_path / "a.json", json.dumps(value, indent=indent) + end), "json_lines")
        assert texts(found) == wanted and reasons(found) == []
    own = json.dumps({"x": {"id": "its own", "text": "One."}}, indent=indent) + end
    assert list(texts(read_dump(write_text(tmp_path / "b.json", own), "json_lines"))) == ["its own#L1"]
    split = {"version": "1", "train": MANY[:2], "test": MANY[2:]}
    found = read_dump(write_text(tmp_path / "c.json", json.dumps(split, indent=indent) + end), "json_lines")
    assert list(texts(found).values()) == WORDS and reasons(found) == []


@pytest.mark.parametrize("indent", [None, 2])
def test_damage_in_an_object_of_records_costs_no_other(tmp_path: Path, indent: int | None) -> None:
    whole = json.dumps(BY_KEY, indent=indent, ensure_ascii=False)
    for wrong, right in (('"Text 2', "Text 2"), ('"T2"', "T2"), ('"T2",', '"T2"'), ('"d2": {', '"d2" {'), ('"T2"', "nul")):
        found = read_dump(write_text(tmp_path / "a.json", whole.replace(wrong, right)), "json_lines")
        kept = list(texts(found).values())
        assert [text.partition("\n\n")[2] for text in kept] == [*WORDS[:2], *WORDS[3:]], wrong
        assert reasons(found)[0] == "not_json"
    many = {f"k{i}": {"text": f"Text {i}. " + "x" * 500} for i in range(1_000)}
    whole = json.dumps(many, indent=indent)
    for cut in (0.01, 0.4, 0.99):
        found = read_dump(write_text(tmp_path / "a.json", whole[: int(len(whole) * cut)]), "json_lines")
        assert reasons(found) == ["truncated"] and len(texts(found)) > 1_000 * cut - 3


@pytest.mark.parametrize(
    "value",
    [{"title": "One", "parts": [{"text": "No."}]}, {"a": "x", "b": "y"}, {"name": "p", "version": "1", "scripts": {"x": "y"}}],
)
def test_an_object_that_is_no_set_of_records_is_one(tmp_path: Path, value: Any) -> None:
    found = read_dump(write_text(tmp_path / "a.json", json.dumps(value)), "json_lines")
    assert texts(found) == {} and reasons(found) == ["no_text_column"]
    found = read_dump(write_text(tmp_path / "a.json", json.dumps(value | {"text": "Some prose."})), "json_lines")
    assert [text.partition("\n\n")[2] or text for text in texts(found).values()] == ["Some prose."]


@pytest.mark.parametrize("shape", ["array", "lines"])
def test_texts_without_records_around_them(tmp_path: Path, shape: str) -> None:
    text = json.dumps(WORDS) if shape == "array" else "\n".join(map(json.dumps, WORDS))
    found = read_dump(write_text(tmp_path / "a.json", text), "json_lines")
    assert list(texts(found).values()) == WORDS and len({item.file.group for item in found}) == 5


@pytest.mark.parametrize("ascii_only", [True, False])
def test_a_last_line_that_is_cut_is_a_loss_wherever_that_is(tmp_path: Path, ascii_only: bool) -> None:
    record = {"text": 'Täxt \\ "q"', "n": [1.5e-7, True, None, {"a": -1}]}
    line = json.dumps(record, ensure_ascii=ascii_only).encode()
    for cut in range(1, len(line)):
        (tmp_path / "a.jsonl").write_bytes(line + b"\n" + line + b"\n" + line[:cut])
        found = read_dump(tmp_path / "a.jsonl", "json_lines")
        assert len(texts(found)) == 2 and reasons(found) == ["truncated"], line[:cut]
        assert isinstance(found[-1].content, Refusal) and found[-1].content.lost_bytes


@pytest.mark.parametrize("last", ["{broken", '{"a" "b"}', "foo", '{"a": "b"}x', '{"text": "x\n', '{"a": nul\n'])
def test_a_last_line_that_is_wrong_in_itself_is_a_bad_line(tmp_path: Path, last: str) -> None:
    found = read_dump(write_text(tmp_path / "a.jsonl", '{"text": "One."}\n{"text": "Two."}\n' + last), "json_lines")
    assert len(texts(found)) == 2 and reasons(found) == ["not_json"]


def test_the_longest_record_can_be_set(tmp_path: Path) -> None:
    records = [{"text": "Short.", "more": "x" * 20_000}, {"text": "Last."}]
    path = write_text(tmp_path / "a.jsonl", "".join(json.dumps(record) + "\n" for record in records))
    assert reasons(read_dump(path, "json_lines", ReadLimits(max_text_bytes=1_000))) == ["file_too_large"]
    assert len(texts(read_dump(path, "json_lines", ReadLimits(max_text_bytes=1_000, max_record_bytes=30_000)))) == 2
    assert reasons(read_dump(path, "json_lines", ReadLimits(max_record_bytes=15_000))) == ["file_too_large"]


@pytest.mark.parametrize("indent", [None, 1])
def test_a_wrong_character_in_an_object_of_records_costs_no_other(tmp_path: Path, indent: int | None) -> None:
    lost = []
    for seed in range(150):
        chance = random.Random(seed)
        odd = chance.choice(['"q"', "{x}", "[y]", "\\", 'a, {"b": 1}', '"d5": {'])
        many = {f"d{i}": {"no": i, "text": f"Text {i} {odd}", "turns": [{"a": [1, {}]}], "o": {"text": "-"}} for i in range(20)}
        parts = [f"{json.dumps(key)}: {json.dumps(record, indent=indent)}" for key, record in many.items()]
        bad = chance.randrange(4, 17)
        at, put = chance.randrange(1, len(parts[bad])), chance.choice(["", *'{}[]",:x\\'])
        parts[bad] = parts[bad][:at] + put + parts[bad][at + chance.randint(0, 1) :]
        found = read_dump(write_text(tmp_path / "a.json", "{" + ", ".join(parts) + "}"), "json_lines")
        kept = set(texts(found).values())
        if not all(record["text"] in kept for i, record in enumerate(many.values()) if i != bad):
            lost.append((seed, parts[bad]))
    assert len(lost) <= 1, lost  # a bracket more may end the object around the records
