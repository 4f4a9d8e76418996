"""Tiny causal language models of the usual families, random weights and trained tokenizers, as folders of `transformers`."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    PreTrainedConfig,
    Qwen2Config,
    Qwen3Config,
)

CORPUS = ["anchor basket candle dragon engine feather", "def a[0]: {x} [y] } ] [ {", "garden harbor island 12 (34)"] * 20
BARE = [text.translate({ord(c): " " for c in "[]{}"}) for text in CORPUS]  # no bracket in it

SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
}


def byte_level() -> Tokenizer:
    """GPT-2's kind: brackets are tokens of their own, and grow into longer ones."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=350, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    return tokenizer


def sentence_piece(corpus: list[str] = CORPUS) -> Tokenizer:
    """Llama's kind: a space before each word and each text, bytes where the vocabulary ends, <s> before every text."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(corpus, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return tokenizer


def unigram() -> Tokenizer:
    """XLNet's and Gemma's kind: a list of pieces with their scores."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    special = ["<pad>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(vocab_size=60, special_tokens=special, unk_token="<unk>", show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return tokenizer


@dataclass(frozen=True)
class Family:
    """A model's config by the number of its ids, its tokenizer, and what tokenizer_config.json says."""

    tokenizer: Callable[[], Tokenizer]
    config: Callable[[int], PreTrainedConfig]
    fields: dict[str, Any]


FAMILIES = {
    # no padding, no beginning
    "gpt2": Family(
        byte_level,
        lambda n: GPT2Config(vocab_size=n, n_embd=32, n_layer=2, n_head=2, n_positions=64),
        {"eos_token": "<|endoftext|>"},
    ),
    # no bracket in the vocabulary, nothing special but <unk>
    "gpt_neox": Family(lambda: sentence_piece(BARE), lambda n: GPTNeoXConfig(vocab_size=n, **SIZES), {}),
    # pads on the left
    "llama": Family(
        sentence_piece,
        lambda n: LlamaConfig(vocab_size=n, num_key_value_heads=1, **SIZES),
        {"bos_token": "<s>", "eos_token": "</s>", "padding_side": "left", "add_bos_token": True},
    ),
    # more rows in the table than ids in the tokenizer
    "qwen2": Family(
        byte_level,
        lambda n: Qwen2Config(vocab_size=n + 37, num_key_value_heads=2, tie_word_embeddings=True, **SIZES),
        {"pad_token": {"content": "<|endoftext|>", "special": True}, "truncation_side": "left"},
    ),
    # another embedding width than that of its heads
    "qwen3": Family(
        unigram,
        lambda n: Qwen3Config(vocab_size=n, num_key_value_heads=1, head_dim=8, **SIZES),
        {"pad_token": "<pad>", "eos_token": "</s>"},
    ),
}


def write_causal_lm(folder: Path, family: str) -> Path:
    """config.json, model.safetensors and the tokenizer's files."""
    made = FAMILIES[family]
    tokenizer = made.tokenizer()
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(made.config(tokenizer.get_vocab_size()))
    with torch.no_grad():  # away from 0, 1 and small, as training leaves them
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight), alpha=0.1)
    model.save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    fields = {"tokenizer_class": "PreTrainedTokenizerFast", **made.fields}
    (folder / "tokenizer_config.json").write_text(json.dumps(fields))
    return folder
