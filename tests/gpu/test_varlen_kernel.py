"""PyTorch's kernel of variable length against attention computed length by length: needs a GPU with bfloat16."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "unit" / "model"))

from test_attention import LONGEST, VOCABULARY, texts

from pipeline_lib.config.model import ModelConfig
from pipeline_lib.model.attention import kernel_agreement, kernel_obstacle
from pipeline_lib.model.encoder import Encoder, fast_bfloat16
from pipeline_lib.model.micro_batches import MicroBatch, cut_micro_batches

pytestmark = pytest.mark.skipif(not fast_bfloat16("cuda"), reason="needs a GPU with bfloat16 (Ampere or later), there is none")


@pytest.mark.parametrize("head_width", [8, 64, 128])
def test_the_kernels_output_and_gradients_keep_their_direction(head_width: int) -> None:
    device = torch.device("cuda", 0)
    assert kernel_agreement(device, head_width) >= 0.999
    assert kernel_obstacle(device, head_width) == ""


@pytest.mark.parametrize("compiled", [False, True])
def test_an_encoders_gradients_by_the_kernel_are_those_of_float32(compiled: bool) -> None:
    config = ModelConfig(layers=3, width=64, heads=4, inner=128, positions=LONGEST)

    def gradients(precision: str, batch: MicroBatch) -> torch.Tensor:
        encoder = Encoder.build(config, VOCABULARY, seed=2).to("cuda").train()
        encoder.precision = precision
        if compiled and precision == "bfloat16":
            encoder.compile_layers()
        emb_BD = encoder(batch.ids_BL, batch.lengths_B)
        (emb_BD * torch.randn(emb_BD.shape, generator=torch.Generator().manual_seed(1)).to("cuda")).sum().backward()
        return torch.cat([weight.grad.flatten() for weight in encoder.backbone.parameters()])

    sequences = texts([*range(1, LONGEST + 1), 7, 7, 3])
    (packed,) = cut_micro_batches(sequences, 10**6, packed=True)
    (padded,) = cut_micro_batches(sequences, 10**6)
    found = gradients("bfloat16", packed.to(torch.device("cuda")))
    expected = gradients("float32", MicroBatch.to(padded, torch.device("cuda")))
    assert float(torch.nn.functional.cosine_similarity(found, expected, dim=0)) >= 0.999
