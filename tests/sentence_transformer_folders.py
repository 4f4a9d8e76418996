"""Tiny models of sentence-transformers, random weights, as that library saves them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from causal_lms import CORPUS, byte_level, unigram
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    AutoModel,
    BertConfig,
    MPNetConfig,
    PreTrainedConfig,
    Qwen3Config,
    RobertaConfig,
    T5Config,
    T5EncoderModel,
)

WIDTH = 32
SIZES: dict[str, Any] = {
    "hidden_size": WIDTH,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
}


def word_piece() -> Tokenizer:
    """BERT's kind: [CLS] text [SEP]."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.WordPieceTrainer(vocab_size=300, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator([*CORPUS, "query passage represent this text"] * 2, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return tokenizer


def byte_level_with(single: str) -> Callable[[], Tokenizer]:
    """A byte-level one with <|endoftext|> in these places."""

    def make() -> Tokenizer:
        tokenizer = byte_level()
        tokenizer.post_processor = processors.TemplateProcessing(single=single, special_tokens=[("<|endoftext|>", 0)])
        return tokenizer

    return make


@dataclass(frozen=True)
class Kind:
    """A model: its config by the number of ids, its tokenizer, pooling, prompts, and what else there is."""

    config: Callable[[int], PreTrainedConfig]
    tokenizer: Callable[[], Tokenizer]
    special: dict[str, str]
    pooling: str | Sequence[str] = "mean"
    include_prompt: bool = True
    prompts: dict[str, str] = field(default_factory=dict)
    default_prompt: str | None = None
    dense: bool = False
    normalize: bool = True
    max_seq_length: int | None = 24
    do_lower_case: bool = False


BERT = {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]", "unk_token": "[UNK]", "mask_token": "[MASK]"}
EOS = {"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}
T5 = {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}

KINDS = {
    "bert-mean": Kind(lambda n: BertConfig(vocab_size=n, **SIZES), word_piece, BERT),
    "bert-cls-prompts": Kind(
        lambda n: BertConfig(vocab_size=n, **SIZES),
        word_piece,
        BERT,
        pooling="cls",
        prompts={"query": "represent this text: ", "passage": "passage: "},
    ),
    "mpnet-max": Kind(
        lambda n: MPNetConfig(vocab_size=n, pad_token_id=0, **SIZES), word_piece, BERT, pooling="max", normalize=False
    ),
    "roberta-joined": Kind(
        lambda n: RobertaConfig(vocab_size=n, pad_token_id=0, **SIZES),
        byte_level_with("<|endoftext|> $A <|endoftext|>"),
        EOS,
        pooling=("cls", "mean"),
        do_lower_case=True,
    ),
    "qwen-last-prompt": Kind(
        lambda n: Qwen3Config(vocab_size=n, num_key_value_heads=1, head_dim=16, **SIZES),
        byte_level_with("$A <|endoftext|>"),
        EOS,
        pooling="lasttoken",
        prompts={"query": "Instruct: find code\nQuery:", "document": ""},
        max_seq_length=48,  # its prompt has 24 tokens
    ),
    "qwen-weighted": Kind(
        lambda n: Qwen3Config(vocab_size=n, num_key_value_heads=2, **SIZES), byte_level, EOS, pooling="weightedmean"
    ),
    "t5-dense": Kind(
        lambda n: T5Config(vocab_size=n, d_model=WIDTH, d_ff=48, num_layers=2, num_heads=2, d_kv=16, dropout_rate=0.1),
        unigram,
        T5,
        dense=True,
    ),
    "bert-without-prompt": Kind(
        lambda n: BertConfig(vocab_size=n, **SIZES),
        word_piece,
        BERT,
        include_prompt=False,
        prompts={"query": "represent this text: ", "document": "passage: "},
    ),
    "bert-default-prompt": Kind(
        lambda n: BertConfig(vocab_size=n, **SIZES),
        word_piece,
        BERT,
        pooling="mean_sqrt_len_tokens",
        prompts={"plain": "this text: "},
        default_prompt="plain",
        max_seq_length=None,
    ),
}


def write_sentence_transformer(folder: Path, name: str) -> Path:
    """The folder of a kind, written by the library itself."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling, Transformer

    kind = KINDS[name]
    tokenizer = kind.tokenizer()
    torch.manual_seed(0)
    config = kind.config(tokenizer.get_vocab_size())
    model = T5EncoderModel(config) if isinstance(config, T5Config) else AutoModel.from_config(config)
    with torch.no_grad():  # away from 0, 1 and small, as training leaves them
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight), alpha=0.1)
    bare = folder.parent / f"{folder.name}-bare"
    model.save_pretrained(bare)
    tokenizer.save(str(bare / "tokenizer.json"))
    fields = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 64, **kind.special}
    (bare / "tokenizer_config.json").write_text(json.dumps(fields))
    modules: list[Any] = [Transformer(str(bare), max_seq_length=kind.max_seq_length, do_lower_case=kind.do_lower_case)]
    pooling = Pooling(WIDTH, pooling_mode=kind.pooling, include_prompt=kind.include_prompt)
    modules.append(pooling)
    if kind.dense:
        modules.append(Dense(pooling.get_embedding_dimension(), 20, activation_function=torch.nn.Tanh()))
    if kind.normalize:
        modules.append(Normalize())
    made = SentenceTransformer(
        modules=modules, prompts=kind.prompts or None, default_prompt_name=kind.default_prompt, device="cpu"
    )
    made.save_pretrained(str(folder))
    return folder
