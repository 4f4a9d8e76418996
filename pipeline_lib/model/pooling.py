"""Pooling of token states to one vector a text, and the first of its dimensions that are kept.

B rows, L tokens, V ids of the vocabulary, D width of the states, N vectors.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from pipeline_lib.errors import CorruptArtifact, UserError

Prompt = tuple[tuple[int, ...], int]
Pooling = Literal["last", "mean", "idf_mean", "cls", "max", "mean_sqrt_len_tokens", "weightedmean"]
POOLING_FIELD = "cpt_pooling"  # of config.json
OWN_POOLINGS = ("last", "mean", "idf_mean")
DIM_FIELD = "cpt_truncate_dim"  # of config.json, where an export has fewer dimensions than its weights give
PROMPTS_FILE = "prompt_ids.json"  # of a checkpoint whose pooling leaves prompts out
IDF_FILE = "token_weights.safetensors"  # of a checkpoint whose mean weighs tokens


def pool(
    states_BLD: Tensor,
    lengths_B: Tensor,
    pooling: Pooling,
    skipped_B: Tensor | None = None,
    weights_BL: Tensor | None = None,
) -> Tensor:
    """One vector a row (B, D) from the last layer's states at its own positions.

    Args:
        lengths_B: tokens of each row; what lies behind them is padding.
        pooling: "last": the state at `lengths_B - 1`; "cls": the first; "mean" and "max" of all; "idf_mean": the mean, weighted
            by `weights_BL`; "mean_sqrt_len_tokens": their sum over the root of their number; "weightedmean": weighted by their
            position from 1.
        skipped_B: positions at the beginning that are left out, a prompt's.
        weights_BL: of each token, above 0, for "idf_mean" alone; what padding holds does not matter.
    """
    rows_B = torch.arange(states_BLD.shape[0], device=states_BLD.device)
    if pooling == "last":
        return states_BLD[rows_B, lengths_B - 1]  # `len` would be traced as a number
    if pooling == "cls":
        return states_BLD[:, 0] if skipped_B is None else states_BLD[rows_B, skipped_B]
    positions_L = torch.arange(states_BLD.shape[1], device=states_BLD.device)
    inside_BL = positions_L < lengths_B[:, None]
    if skipped_B is not None:
        inside_BL = inside_BL & (positions_L >= skipped_B[:, None])
    mask_BL1 = inside_BL[:, :, None]
    if pooling == "max":
        return states_BLD.masked_fill(~mask_BL1, -torch.inf).max(dim=1).values
    inner_BLD = states_BLD.masked_fill(~mask_BL1, 0.0)
    assert pooling != "idf_mean" or weights_BL is not None, "the weights of tokens are not known yet"
    if pooling == "weightedmean":
        weights_BL = (positions_L + 1).to(states_BLD.dtype)[None]
    if weights_BL is not None:
        weights_BL = weights_BL * inside_BL
        return (inner_BLD * weights_BL[:, :, None]).sum(dim=1) / weights_BL.sum(dim=1, keepdim=True)
    number_B1 = (lengths_B if skipped_B is None else lengths_B - skipped_B)[:, None]
    return inner_BLD.sum(dim=1) / (number_B1 if pooling == "mean" else number_B1**0.5)


def prompt_tokens(prompts: Sequence[Prompt], ids: Tensor, lengths_B: Tensor) -> Tensor | None:
    """Tokens of each row that are a prompt's, told by the ids that it begins with: rows of all tasks come together.

    Args:
        prompts: those that the pooling leaves out; see `EmbeddingHead`.
        ids: int64 token ids, right-padded (B, L) or end to end (T,).
    """
    if not prompts:
        return None
    lengths_B = lengths_B.to(ids.device)
    begins_BK = _beginnings(ids, lengths_B, max(len(prompt) for prompt, _ in prompts))
    skipped_B = torch.zeros_like(lengths_B)
    for prompt, n_tokens in prompts:
        begins_B = (begins_BK[:, : len(prompt)] == torch.tensor(prompt, device=ids.device)).all(dim=1)
        skipped_B = torch.where(begins_B, skipped_B.clamp(min=n_tokens), skipped_B)
    return torch.minimum(skipped_B, lengths_B - 1)


def _beginnings(ids: Tensor, lengths_B: Tensor, n_tokens: int) -> Tensor:
    """The first `n_tokens` ids of each row, -1 behind its end."""
    places_K = torch.arange(n_tokens, device=ids.device)
    if ids.dim() == 1:
        begins_BK = ids[((lengths_B.cumsum(0) - lengths_B)[:, None] + places_K).clamp(max=len(ids) - 1)]
    else:
        begins_BK = ids[:, places_K.clamp(max=ids.shape[1] - 1)]
    return begins_BK.masked_fill(places_K >= lengths_B[:, None], -1)


def saved_prompts(folder: Path) -> tuple[Prompt, ...]:
    """The prompts that the pooling of a checkpoint leaves out."""
    said = folder / PROMPTS_FILE
    found = json.loads(said.read_text(encoding="utf-8")) if said.is_file() else ()
    return tuple((tuple(ids), int(n_tokens)) for ids, n_tokens in found)


def save_prompts(folder: Path, prompts: Sequence[Prompt]) -> None:
    """Write what `saved_prompts` reads."""
    write_json(folder / PROMPTS_FILE, prompts)


def saved_token_weights(folder: Path) -> Tensor | None:
    """Weights (V,) of the tokens in a checkpoint's mean, float32; None: it has none.

    Raises:
        CorruptArtifact: it holds something else.
    """
    path = folder / IDF_FILE
    if not path.is_file():
        return None
    weights_V = load_file(path).get("weights")
    if weights_V is None or weights_V.dim() != 1 or not bool((weights_V > 0).all()):
        raise CorruptArtifact(f"{path}: expected one weight above 0 for each token; train or export it again")
    return weights_V.float()


def save_token_weights(folder: Path, weights_V: Tensor) -> None:
    """Write what `saved_token_weights` reads."""
    save_file({"weights": weights_V.detach().cpu().contiguous()}, folder / IDF_FILE, {"format": "pt"})


def pooling_of(backbone: nn.Module) -> Pooling:
    """Pooling of a backbone, by its config: at the last token where that says nothing."""
    pooling = getattr(backbone.config, POOLING_FIELD, "last")
    if pooling not in OWN_POOLINGS:
        raise UserError(f"config.json: {POOLING_FIELD} is {pooling!r}, expected one of {', '.join(OWN_POOLINGS)}")
    return cast(Pooling, pooling)


def set_pooling(backbone: PreTrainedModel, pooling: Pooling) -> None:
    """Write the pooling into a backbone's config."""
    if pooling != pooling_of(backbone):  # the default is not written: an ordinary folder stays one
        setattr(backbone.config, POOLING_FIELD, pooling)


def prefix(vectors_ND: Tensor, dim: int) -> Tensor:
    """The first `dim` dimensions, of length 1 again."""
    return F.normalize(vectors_ND if dim == vectors_ND.shape[1] else vectors_ND[:, :dim], dim=-1)


def truncated_to(backbone: nn.Module, width: int) -> int:
    """Dimensions of a model's vectors, by its config.json: all that its weights give where that says nothing.

    Raises:
        UserError: it says what cannot be.
    """
    dim = getattr(backbone.config, DIM_FIELD, None)
    if dim is None:
        return width
    if type(dim) is not int or not 1 <= dim <= width:
        raise UserError(f"config.json: {DIM_FIELD} is {dim!r}, expected 1 to {width}")
    return dim


def write_json(path: Path, value: Any) -> None:
    """Write a file of an exported model, the same bytes for the same value."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False, sort_keys=True) + "\n", encoding="utf-8")
