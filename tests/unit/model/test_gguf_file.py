"""GGUF files: what a good one becomes, and what is said of one that is cut short, foreign or lies about its sizes."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from causal_lms import byte_level, write_causal_lm
from gguf_files import write_gguf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

from pipeline_lib.errors import UserError
from pipeline_lib.model.checkpoint import find_start, start_weights
from pipeline_lib.model.gguf_file import convert, read_header
from pipeline_lib.tokens.pair_tokenizer import PairTokenizer


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    write_gguf(path)
    return path


@pytest.mark.parametrize("quantised", [False, True])
def test_the_folder_is_the_model_and_the_tokenizer_of_the_file(tmp_path: Path, quantised: bool) -> None:
    model = write_gguf(tmp_path / "tiny.gguf", quantised)
    folder = tmp_path / "out"
    folder.mkdir()
    convert(tmp_path / "tiny.gguf", folder)
    assert {path.name for path in folder.iterdir()} == {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    loaded = AutoModelForCausalLM.from_pretrained(folder).eval()
    assert loaded.dtype == torch.float32
    ids = torch.arange(5, 25)[None]
    with torch.no_grad():
        torch.testing.assert_close(loaded(ids).logits, model(ids).logits, atol=1e-5, rtol=1e-5)
    theirs, ours = AutoTokenizer.from_pretrained(folder), byte_level()
    for text in ("anchor basket", "def a[0]: {x}", "größer als 日本", ""):
        assert theirs(text)["input_ids"] == ours.encode(text).ids and theirs.decode(theirs(text)["input_ids"]) == text
    assert theirs.tokenize("12") == ["1", "2"], "digits are apart in a tokenizer of this kind"
    assert PairTokenizer.from_causal_lm(folder).delimiters.around["x"] == (1, 1)


def test_what_lies_beside_the_file_is_not_read(tmp_path: Path) -> None:
    beside = write_causal_lm(tmp_path / "models", "qwen3")
    model = write_gguf(beside / "tiny.gguf")
    folder = tmp_path / "out"
    folder.mkdir()
    convert(beside / "tiny.gguf", folder)
    assert json.loads((folder / "config.json").read_text())["model_type"] == "llama"
    assert AutoTokenizer.from_pretrained(folder)("anchor")["input_ids"] == byte_level().encode("anchor").ids
    assert AutoModelForCausalLM.from_pretrained(folder).num_parameters() == model.num_parameters()


@pytest.mark.parametrize(
    ("fields", "adds"),
    [
        ({"tokenizer.ggml.add_bos_token": True}, True),
        ({"tokenizer.ggml.add_bos_token": None}, False),
        ({"tokenizer.ggml.add_bos_token": None, "tokenizer.ggml.pre": "llama-bpe"}, True),
    ],
)
def test_a_sequence_start_is_added_where_the_file_says_so(tmp_path: Path, fields: dict[str, Any], adds: bool) -> None:
    write_gguf(tmp_path / "tiny.gguf", **fields)
    folder = tmp_path / "out"
    folder.mkdir()
    convert(tmp_path / "tiny.gguf", folder)
    assert json.loads((folder / "tokenizer_config.json").read_text())["add_bos_token"] is adds
    assert len(PairTokenizer.from_causal_lm(folder).delimiters.x_prefix) == 1 + adds


def test_it_is_a_start_converted_once_by_its_content(good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CPT_HOME", str(tmp_path / "home"))
    n_weights = start_weights(str(good))
    assert not (tmp_path / "home").exists(), "counted without being converted"
    told: list[str] = []
    folder = Path(find_start(str(good), progress=lambda done, total, note="": told.append(note)))
    assert folder.parent == tmp_path / "home" / "starts" / "gguf" and folder.name.startswith("tiny-") and told
    assert start_weights(str(folder)) == n_weights
    made = (folder / "model.safetensors").stat().st_mtime_ns
    other = tmp_path / "models" / "other name.gguf"
    other.parent.mkdir()
    other.write_bytes(good.read_bytes())
    for same in (str(other), str(other.parent)):  # a folder with one GGUF file means that file
        assert Path(find_start(same)) == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == made
    cut = [start_weights(str(good), keep_layers) or 0 for keep_layers in (1, 2, 3)]
    assert cut[2] == n_weights and cut[2] - cut[1] == cut[1] - cut[0] > 0
    (other.parent / "second.gguf").write_bytes(b"GGUF")
    with pytest.raises(UserError, match=r"2 GGUF files \(other name.gguf, second.gguf\); name the one"):
        find_start(str(other.parent))


@pytest.mark.parametrize("share", [0.0, 0.0001, 0.01, 0.5, 0.999])
def test_a_truncated_file_is_named(good: Path, tmp_path: Path, share: float) -> None:
    path = tmp_path / "cut.gguf"
    path.write_bytes(good.read_bytes()[: int(good.stat().st_size * share)])
    with pytest.raises(UserError, match=r"cut\.gguf: no whole GGUF file"):
        find_start(str(path))


def changed(good: Path, path: Path, change: Callable[[bytearray], None]) -> Path:
    data = bytearray(good.read_bytes())
    change(data)
    path.write_bytes(data)
    return path


def put(at: int, form: str, value: int) -> Callable[[bytearray], None]:
    return lambda data: struct.pack_into(form, data, at, value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (put(0, "<I", 0), "begins with"),
        (put(4, "<I", 1), "version 1"),
        (put(4, ">I", 3), "version"),
        (put(8, "<Q", 2**60), "tensors"),
        (put(16, "<Q", 2**63), "fields"),
        (put(24, "<Q", 2**62), "it ends at byte"),
    ],
)
def test_sizes_that_cannot_be_are_refused(good: Path, tmp_path: Path, change: Callable[[bytearray], None], said: str) -> None:
    with pytest.raises(UserError, match=said):
        read_header(changed(good, tmp_path / "bad.gguf", change))


@pytest.mark.parametrize("value", [2**61, 2**33])
def test_a_list_that_is_longer_than_the_file_is_refused(good: Path, tmp_path: Path, value: int) -> None:
    at = good.read_bytes().index(b"tokenizer.ggml.token_type") + len(b"tokenizer.ggml.token_type") + 8
    with pytest.raises(UserError, match="no whole GGUF file"):
        read_header(changed(good, tmp_path / "bad.gguf", put(at, "<Q", value)))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"llama.block_count": 2_000_000_000}, "block_count is 2,000,000,000"),
        ({"llama.embedding_length": 2_000_000_000}, "embedding_length is 2,000,000,000"),
        ({"llama.feed_forward_length": 4096}, "describes a model of .* weights, its tensors hold"),
        ({"llama.block_count": 2}, "describes a model of .* weights, its tensors hold"),
        ({"general.alignment": 0}, "alignment"),
        ({"split.count": 3}, "one of 3 parts"),
        ({"architecture": "unheard-of"}, "of architecture 'unheard-of'"),
        ({"tokenizer.ggml.model": None}, "transformers does not read"),
    ],
)
def test_a_header_that_lies_costs_no_memory(tmp_path: Path, fields: dict[str, Any], said: str) -> None:
    write_gguf(tmp_path / "lies.gguf", **fields)
    folder = tmp_path / "out"
    folder.mkdir()
    with pytest.raises(UserError, match=rf"lies\.gguf.*{said}"):
        convert(tmp_path / "lies.gguf", folder)


def test_another_file_is_no_gguf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CPT_HOME", str(tmp_path / "home"))
    (tmp_path / "page.gguf").write_bytes(b"<html>not found</html>")
    with pytest.raises(UserError, match=r"page\.gguf: no whole GGUF file: it begins with b'<htm'"):
        find_start(str(tmp_path / "page.gguf"))
    assert not (tmp_path / "home" / "starts" / "gguf").exists()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_bytes_are_changed_the_answer_is_a_header_or_one_line(good: Path, tmp_path: Path, data: st.DataObject) -> None:
    size = good.stat().st_size
    header = read_header(good)
    edits = data.draw(st.lists(st.tuples(st.integers(0, size - 1), st.binary(min_size=1, max_size=8)), max_size=4))

    def change(content: bytearray) -> None:
        for at, new in edits:
            content[at : at + len(new)] = new

    try:
        assert len(read_header(changed(good, tmp_path / "any.gguf", change)).tensors) == len(header.tensors)
    except UserError as error:
        assert "any.gguf" in str(error)


def test_without_the_extra_the_command_is_told(good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"needs gguf and accelerate, not here yet: pip install 'cpt-factory\[lm\]'"):
        find_start(str(good))
