"""Row S09: weights that lie about themselves are refused before a tensor is built, and a pickle is never run."""

from __future__ import annotations

import json
import pickle
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import GPT2Config, GPT2Model

from pipeline_lib.errors import CorruptArtifact, UserError
from pipeline_lib.model.encoder import Encoder

WEIGHTS = "model.safetensors"


class Payload:
    """Creates a file when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Callable, tuple]:
        return Path.touch, (self.canary,)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    model = GPT2Model(GPT2Config(vocab_size=20, n_positions=8, n_embd=8, n_layer=1, n_head=1))
    model.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def parse(raw: bytes) -> tuple[dict, bytes]:
    (size,) = struct.unpack("<Q", raw[:8])
    return json.loads(raw[8 : 8 + size]), raw[8 + size :]


def join(header: dict, data: bytes) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def edited(change: Callable[[dict], None]) -> Callable[[bytes], bytes]:
    def edit(raw: bytes) -> bytes:
        header, data = parse(raw)
        change(header)
        return join(header, data)

    return edit


def overlap(header: dict) -> None:
    header["wte.weight"]["data_offsets"] = header["wpe.weight"]["data_offsets"]


def negative_offset(header: dict) -> None:
    header["wte.weight"]["data_offsets"][0] = -8


def negative_shape(header: dict) -> None:
    header["wte.weight"]["shape"][0] = -20


def backwards(header: dict) -> None:
    header["wte.weight"]["data_offsets"].reverse()


def other_dtype(header: dict) -> None:
    header["wte.weight"]["dtype"] = "F16"


def unknown_dtype(header: dict) -> None:
    header["wte.weight"]["dtype"] = "object"


def other_shape(header: dict) -> None:
    header["wte.weight"]["shape"] = [21, 8]


def shape_of_as_many(header: dict) -> None:
    header["wte.weight"]["shape"] = [8, 20]  # consistent in itself, against config.json


def overflowing_shape(header: dict) -> None:
    header["wte.weight"]["shape"] = [2**62, 2**62]


def hole(header: dict) -> None:
    header["__metadata__"] = {"format": "pt"}
    header.pop("ln_f.bias")


def renamed(header: dict) -> None:
    header["another.weight"] = header.pop("ln_f.weight")


MALFORMED: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda raw: b"",
    "seven bytes": lambda raw: raw[:7],
    "header of 2**63 bytes": lambda raw: struct.pack("<Q", 2**63) + raw[8:],
    "header of 200 MB": lambda raw: struct.pack("<Q", 200_000_000) + raw[8:],
    "header longer than the file": lambda raw: struct.pack("<Q", len(raw)) + raw[8:],
    "header is no JSON": lambda raw: struct.pack("<Q", 4) + b"!!!!" + raw,
    "header nested deep": lambda raw: struct.pack("<Q", 200_000) + b"[" * 200_000,
    "truncated by a byte": lambda raw: raw[:-1],
    "truncated by half": lambda raw: raw[: len(raw) // 2],
    "bytes after the end": lambda raw: raw + b"\0",
    **{
        change.__name__: edited(change)
        for change in (
            overlap,
            negative_offset,
            negative_shape,
            backwards,
            other_dtype,
            unknown_dtype,
            other_shape,
            shape_of_as_many,
            overflowing_shape,
            hole,
            renamed,
        )
    },
}


@pytest.mark.parametrize("attack", MALFORMED)
def test_malformed_weights_are_refused(folder: Path, attack: str) -> None:
    path = folder / WEIGHTS
    path.write_bytes(MALFORMED[attack](path.read_bytes()))
    with pytest.raises(CorruptArtifact, match="model"):
        Encoder.load(folder)


@pytest.mark.parametrize("name", [WEIGHTS, "pytorch_model.bin", "model.bin", "model-00001-of-00001.safetensors"])
def test_a_pickle_is_never_run(folder: Path, tmp_path: Path, name: str) -> None:
    canary = tmp_path / "canary"
    assert pickle.loads(pickle.dumps(Payload(tmp_path / "works"))) is None and (tmp_path / "works").exists()
    (folder / WEIGHTS).unlink()
    (folder / name).write_bytes(pickle.dumps(Payload(canary)))
    with pytest.raises(CorruptArtifact if name.endswith(".safetensors") else UserError):
        Encoder.load(folder)
    assert not canary.exists()


def test_what_was_saved_is_loaded(folder: Path) -> None:
    assert Encoder.load(folder).width == 8
