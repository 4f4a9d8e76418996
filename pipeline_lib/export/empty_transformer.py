"""A transformer of no layers and width 1, which only carries a side's tokenizer through the loader of sentence-transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save as save_tensors

from pipeline_lib.model.pooling import write_json

TRANSFORMER_MODULE = {
    "transformer_task": "feature-extraction",
    "modality_config": {"text": {"method": "forward", "method_output_name": "last_hidden_state"}},
    "module_output_name": "token_embeddings",
}


def write_empty_transformer(folder: Path, vocab_size: int, max_tokens: int) -> None:
    """Write all of it but the tokenizer.

    Args:
        folder: where to.
        vocab_size: ids that it takes.
        max_tokens: longest row.
    """
    write_json(folder / "config.json", _empty_config(vocab_size, max_tokens))
    tensors = {
        "wte.weight": np.zeros((vocab_size, 1), np.float32),
        "wpe.weight": np.zeros((max_tokens, 1), np.float32),
        "ln_f.weight": np.zeros(1, np.float32),
        "ln_f.bias": np.zeros(1, np.float32),
    }
    (folder / "model.safetensors").write_bytes(save_tensors(tensors, metadata={"format": "pt"}))
    write_json(folder / "sentence_bert_config.json", TRANSFORMER_MODULE)


def _empty_config(vocab_size: int, positions: int) -> dict[str, Any]:
    """A GPT-2 of no layers, width 1, which takes any token id and costs two additions a token."""
    return {
        "architectures": ["GPT2Model"],
        "model_type": "gpt2",
        "vocab_size": vocab_size,
        "n_positions": positions,
        "n_embd": 1,
        "n_layer": 0,
        "n_head": 1,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
        "dtype": "float32",
        "use_cache": False,
    }
