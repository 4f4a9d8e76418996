"""The hand-written gradient of the pooled attention. B rows, L tokens, D width."""

from __future__ import annotations

import pytest
import torch
from transformers import GPT2Config
from transformers.models.gpt2.modeling_gpt2 import GPT2Block

from pipeline_lib.model import pooled_attention
from pipeline_lib.model.pooled_attention import attend_pooled


def make_block(dtype: torch.dtype = torch.float64) -> GPT2Block:
    torch.manual_seed(4)
    block = GPT2Block(GPT2Config(n_embd=8, n_head=2, attn_pdrop=0.0, attn_implementation="sdpa"), layer_idx=0)
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape))
    return block.to(dtype)


def inputs(dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    hidden_BLD = torch.randn(4, 5, 8, dtype=dtype, generator=torch.Generator().manual_seed(1))
    return hidden_BLD.requires_grad_(), torch.tensor([1, 2, 5, 4])


# one row a tile, two, and all of them: a row holds 5 x 8 float64
@pytest.mark.parametrize("tile_bytes", [1, 2 * 5 * 8 * 8, 1 << 22])
def test_gradcheck_of_states_and_weights(tile_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pooled_attention, "CPU_TILE_BYTES", tile_bytes)
    block, (hidden_BLD, lengths_B) = make_block(), inputs()
    weights = (block.ln_1.weight, block.ln_1.bias, block.attn.c_attn.weight, block.attn.c_attn.bias)
    shape = pooled_attention.Shape(2, block.attn.scaling, block.ln_1.eps)
    function = pooled_attention._PooledAttention.apply
    assert torch.autograd.gradcheck(lambda *leaves: function(*leaves, lengths_B, shape), (hidden_BLD, *weights))


def test_states_past_the_pooled_position_get_no_gradient() -> None:
    hidden_BLD, lengths_B = inputs()
    sum(out.sum() for out in attend_pooled(make_block(), hidden_BLD, lengths_B)).backward()
    beyond_BL = torch.arange(5) >= lengths_B[:, None]
    assert not hidden_BLD.grad[beyond_BL].any()
    assert hidden_BLD.grad[~beyond_BL].any(dim=1).all()


def test_runs_in_the_weights_precision_under_autocast() -> None:
    block, (hidden_BLD, lengths_B) = make_block(torch.float32), inputs(torch.float32)
    plain = attend_pooled(block, hidden_BLD, lengths_B)
    with torch.autocast("cpu", torch.bfloat16):
        cast = attend_pooled(block, hidden_BLD, lengths_B)
    for one, other in zip(plain, cast, strict=True):
        assert torch.equal(one, other)
