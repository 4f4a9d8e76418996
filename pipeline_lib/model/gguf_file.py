"""GGUF files as starting points: a header that is read within bounds, and a folder of transformers made of the file once.

A GGUF file says itself how many fields, texts and tensors it has, and how long each is. All of it is checked against the bytes
that are there before a library that believes it reads the file. Weights become float32, whatever they were quantised to.
"""

from __future__ import annotations

import json
import math
import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from pipeline_lib.errors import UserError
from pipeline_lib.runtime.progress import Progress, silent

if TYPE_CHECKING:
    from tokenizers.pre_tokenizers import PreTokenizer
    from transformers import PreTrainedTokenizerBase

SUFFIX = ".gguf"
MAGIC = b"GGUF"
VERSIONS = (2, 3)
MOST = 100_000  # fields, and tensors; the largest published models have some thousands
MOST_DIMENSIONS = 4
TEXT_BYTES = 1024  # longer texts are checked and passed over
STRING, ARRAY = 8, 9
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STEPS = 4

_GPT2_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
# how texts are split before merges, by `tokenizer.ggml.pre`, where that is not GPT-2's way; transformers does not look at it
SPLITS = {
    "llama-bpe": _GPT2_WORDS % r"\p{N}{1,3}",
    "llama3": _GPT2_WORDS % r"\p{N}{1,3}",
    "qwen2": _GPT2_WORDS % r"\p{N}",
}
DIGITS_APART = ("smollm", "starcoder", "refact", "command-r", "codeshell")
ADD_BOS = ("llama-bpe", "llama3")  # where the file says nothing, as llama.cpp has it
PROBE = "def area(r): return 3.14 * r[0] ** 2  # naïve"


@dataclass(frozen=True)
class Header:
    """What a GGUF file says of itself, checked against its bytes.

    Attributes:
        fields: numbers and short texts by name.
        tensors: dimensions by name.
    """

    fields: dict[str, Any]
    tensors: dict[str, tuple[int, ...]]

    @property
    def architecture(self) -> str:
        """The architecture in llama.cpp's words."""
        return str(self.fields.get("general.architecture", ""))

    @property
    def weights(self) -> int:
        """Numbers in all tensors."""
        return sum(math.prod(shape) for shape in self.tensors.values())


def read_header(path: Path) -> Header:
    """The header of a GGUF file; every count and length in it lies within the file when this returns.

    Raises:
        UserError: it is no GGUF file, a truncated one, or one that says what cannot be; or what reads such is not installed.
    """
    check_extra()
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _Reader(data).header()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, struct.error) as error:
        raise UserError(f"{path}: no whole GGUF file: {error or 'it is empty'}; fetch it again") from error


class _Reader:
    """One pass over the bytes; every method fails where the file ends."""

    def __init__(self, data: mmap.mmap) -> None:
        self.data = data
        self.at = 0

    def header(self) -> Header:
        if self.data[:4] != MAGIC:
            raise ValueError(f"it begins with {self.data[:4]!r} in place of {MAGIC!r}")
        self.at = 4
        version, n_tensors, n_fields = self.number("I"), self.number("Q"), self.number("Q")
        if version not in VERSIONS:
            raise ValueError(f"version {version}, read are {VERSIONS} in little-endian")
        if max(n_tensors, n_fields) > MOST:
            raise ValueError(f"{n_tensors:,} tensors and {n_fields:,} fields; at most {MOST:,} are read")
        fields = dict(self.field() for _ in range(n_fields))
        if (n_parts := fields.get("split.count") or 1) != 1:
            raise ValueError(f"it is one of {n_parts} parts; merge them first (llama-gguf-split --merge)")
        tensors = [self.tensor() for _ in range(n_tensors)]
        self.check_data(int(fields.get("general.alignment", 32)), tensors)
        shapes = {name: shape for name, shape, _, _ in tensors}
        if len(shapes) != n_tensors:
            raise ValueError("two tensors have one name")
        header = Header(fields, shapes)
        _check_sizes(header)
        return header

    def number(self, form: str) -> Any:
        (value,) = struct.unpack_from(f"<{form}", self.data, self.at)
        self.at += struct.calcsize(form)
        return value

    def skip(self, n_bytes: int) -> None:
        if n_bytes > len(self.data) - self.at:
            raise ValueError(f"it ends at byte {len(self.data):,}, within {n_bytes:,} bytes from {self.at:,} on")
        self.at += n_bytes

    def text(self) -> str:
        length, start = self.number("Q"), self.at
        self.skip(length)
        return self.data[start : start + length].decode("utf-8", "replace") if length <= TEXT_BYTES else ""

    def field(self) -> tuple[str, Any]:
        name = self.text()
        return name, self.value(self.number("I"))

    def value(self, kind: int) -> Any:
        if kind == STRING:
            return self.text()
        if kind in SCALARS:
            return self.number(SCALARS[kind])
        if kind != ARRAY:
            raise ValueError(f"a field of kind {kind}, which there is not")
        item, count = self.number("I"), self.number("Q")
        if item in SCALARS:
            self.skip(count * struct.calcsize(SCALARS[item]))
        elif item == STRING and count <= (len(self.data) - self.at) // 8:
            for _ in range(count):
                self.skip(self.number("Q"))
        else:
            raise ValueError(f"a list of {count:,} items of kind {item}")
        return None

    def tensor(self) -> tuple[str, tuple[int, ...], int, int]:
        name, n_dimensions = self.text(), self.number("I")
        if n_dimensions > MOST_DIMENSIONS:
            raise ValueError(f"tensor {name!r} of {n_dimensions:,} dimensions")
        shape = tuple(self.number("Q") for _ in range(n_dimensions))
        return name, shape, self.number("I"), self.number("Q")

    def check_data(self, alignment: int, tensors: list[tuple[str, tuple[int, ...], int, int]]) -> None:
        """Every tensor lies within the file, and all together are no more than it: none is two."""
        from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

        if not 0 < alignment <= len(self.data):
            raise ValueError(f"an alignment of {alignment:,} bytes")
        start, total = -(-self.at // alignment) * alignment, 0
        for name, shape, kind, offset in tensors:
            per_block, block_bytes = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
            n_bytes = -(-math.prod(shape) // per_block) * block_bytes
            total += n_bytes
            if start + offset + n_bytes > len(self.data):
                raise ValueError(f"tensor {name!r} would end at byte {start + offset + n_bytes:,} of {len(self.data):,}")
        if total > len(self.data):
            raise ValueError(f"its tensors would be {total:,} bytes of {len(self.data):,}")


def _check_sizes(header: Header) -> None:
    """No size of the model is beyond what its tensors show: a library would make room for it first."""
    largest = max((max(shape, default=0) for shape in header.tensors.values()), default=0)
    for name, value in header.fields.items():
        if not name.startswith(f"{header.architecture}.") or isinstance(value, bool) or not isinstance(value, int):
            continue
        most = {"block_count": len(header.tensors), "context_length": 2**31}.get(name.rpartition(".")[2], max(largest, 2**20))
        if not 0 <= value <= most:
            raise ValueError(f"{name} is {value:,}; its tensors allow up to {most:,}")


def check_extra() -> None:
    """Raise a UserError where what reads GGUF files is not installed."""
    import importlib.util

    if missing := [name for name in ("gguf", "accelerate") if importlib.util.find_spec(name) is None]:
        raise UserError(f"a GGUF file needs {' and '.join(missing)}, not here yet: pip install 'cpt-factory[lm]'")


def convert(path: Path, folder: Path, progress: Progress = silent) -> None:
    """Write config.json, model.safetensors (float32), tokenizer.json and its settings; nothing of the file is executed.

    Args:
        path: a GGUF file.
        folder: is there, and empty.
        progress: counts steps.

    Raises:
        UserError: it is no whole GGUF file, of an architecture that transformers does not read, or without a tokenizer.
    """
    header = read_header(path)
    try:
        with TemporaryDirectory() as alone:  # transformers would read what lies beside the file
            place = Path(alone) / path.name
            place.symlink_to(path.absolute())
            progress(0, STEPS, f"{path.name}: tokenizer")
            _write_tokenizer(place, header, folder)
            progress(1, STEPS, f"{path.name}: {header.weights / 1e6:.0f} million weights to float32")
            _write_model(place, header, folder)
    except UserError:
        raise
    except Exception as error:  # what the libraries raise on a file that they do not know has no kind of its own
        kind = header.architecture or "unnamed"
        raise UserError(f"{path}: transformers does not read this GGUF file of architecture {kind!r}: {error!r}") from error
    progress(STEPS, STEPS, f"{path.name}: converted")


def _write_model(path: Path, header: Header, folder: Path) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    place: dict[str, Any] = {"gguf_file": path.name, "local_files_only": True, "trust_remote_code": False}
    config = AutoConfig.from_pretrained(path.parent, **place)
    with torch.device("meta"):
        n_weights = sum(weight.numel() for weight in AutoModelForCausalLM.from_config(config).parameters())
    tied = math.prod(header.tensors.get("output.weight", (0,))) if config.tie_word_embeddings else 0
    if abs(n_weights - (header.weights - tied)) > 0.01 * n_weights:  # some files hold a table of rotations too
        raise UserError(
            f"{path.name}: it describes a model of {n_weights:,} weights, its tensors hold {header.weights - tied:,}"
        )
    model, info = AutoModelForCausalLM.from_pretrained(path.parent, dtype=torch.float32, output_loading_info=True, **place)
    if info["missing_keys"] or info["mismatched_keys"]:  # transformers would draw them at random
        missing = sorted(info["missing_keys"])[:3] or info["mismatched_keys"]
        raise UserError(f"{path.resolve()}: this GGUF file lacks weights of a {model.config.model_type}: {missing}")
    model.hf_quantizer = None  # these are plain numbers now
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    vars(model.config).pop("_model_name_or_path", None)  # a text of the file's
    model.config.name_or_path = ""
    model.save_pretrained(folder, max_shard_size="1000GB")
    (folder / "generation_config.json").unlink(missing_ok=True)


def _write_tokenizer(path: Path, header: Header, folder: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name, local_files_only=True, trust_remote_code=False)
    tokenizer.chat_template = None  # a program of the file's
    _split_as_trained(tokenizer, header)
    tokenizer.save_pretrained(folder)
    read_back = tokenizer.decode(tokenizer(PROBE, add_special_tokens=False)["input_ids"])
    if read_back.replace(" ", "") != PROBE.replace(" ", ""):
        raise UserError(f"{path.resolve()}: its tokenizer does not read back what it wrote: {PROBE!r} became {read_back!r}")
    settings = folder / "tokenizer_config.json"
    fields = json.loads(settings.read_text(encoding="utf-8"))
    kept = {name: fields[name] for name in ("bos_token", "eos_token", "pad_token", "unk_token") if fields.get(name)}
    kept |= {"tokenizer_class": "PreTrainedTokenizerFast", "add_bos_token": _adds_bos(header)}
    settings.write_text(json.dumps(kept, indent=1, ensure_ascii=False, sort_keys=True) + "\n", encoding="utf-8")


def _adds_bos(header: Header) -> bool:
    said = header.fields.get("tokenizer.ggml.add_bos_token")
    by_kind = header.fields.get("tokenizer.ggml.model") == "llama" or header.fields.get("tokenizer.ggml.pre") in ADD_BOS
    return bool(by_kind if said is None else said)


def _split_as_trained(tokenizer: PreTrainedTokenizerBase, header: Header) -> None:
    """Give a byte-level BPE the split that it was trained with."""
    from tokenizers import Regex, pre_tokenizers

    pre = str(header.fields.get("tokenizer.ggml.pre", ""))
    steps: list[PreTokenizer] = []
    if pre in DIGITS_APART:
        steps = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    elif pre in SPLITS:
        words = pre_tokenizers.Split(Regex(SPLITS[pre]), behavior="isolated")
        steps = [words, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    if steps and header.fields.get("tokenizer.ggml.model") == "gpt2":
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
