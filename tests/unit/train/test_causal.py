"""Loss of causal language modelling: its logits chunk by chunk, on a device that is short of memory, against all at once."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from training_runs import write_inputs, write_job
from transformers import AutoModelForCausalLM, Gemma2Config, LlamaConfig

from pipeline_lib.config.training import PretrainConfig
from pipeline_lib.train.causal import CausalObjective, chunked_loss, plain_head
from pipeline_lib.train.distributed import Ranks
from pipeline_lib.train.job import PRETRAIN

SIZES = {
    "vocab_size": 211,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
}


def gradients(objective: CausalObjective) -> tuple[float, dict[str, torch.Tensor]]:
    objective.module.zero_grad()
    loss = float(objective.gradients(0).loss)
    return loss, {name: weight.grad.clone() for name, weight in objective.module.named_parameters() if weight.grad is not None}


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_step_of_chunked_logits_has_the_gradients_of_full_ones(tmp_path: Path, precision: str) -> None:
    store, inputs = write_inputs(tmp_path)
    config = PretrainConfig(steps=2, batch_tokens=512, sequence_tokens=24, threads=1, precision=precision)
    job = write_job(store, inputs, config, stage=PRETRAIN)
    objective = CausalObjective.build(job, inputs.shards, inputs.tokenizer, Ranks())
    assert objective._head is None, "a CPU holds the logits of its short passes"
    loss, expected = gradients(objective)
    objective._head = plain_head(objective.module)
    assert objective._head is objective.module.get_output_embeddings()
    chunked, found = gradients(objective)
    assert chunked == pytest.approx(loss, rel=1e-6 if precision == "float32" else 1e-3)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert float(torch.nn.functional.cosine_similarity(found[name].flatten(), gradient.flatten(), dim=0)) > 0.999, name


@pytest.mark.parametrize("chunk_tokens", [1, 7, 50, 51])
def test_chunks_of_any_size_sum_to_the_whole_loss(chunk_tokens: int) -> None:
    torch.manual_seed(3)
    head, states_TD = torch.nn.Linear(16, 211), torch.randn(50, 16, requires_grad=True)
    target_T = torch.randint(0, 211, (50,))
    whole = torch.nn.functional.cross_entropy(head(states_TD), target_T, reduction="sum")
    (expected,) = torch.autograd.grad(whole, states_TD)
    loss = chunked_loss(head, states_TD, target_T, chunk_tokens)
    (found,) = torch.autograd.grad(loss, states_TD)
    torch.testing.assert_close(loss, whole)
    torch.testing.assert_close(found, expected)


def test_a_head_whose_logits_are_capped_is_left_to_its_model() -> None:
    llama = AutoModelForCausalLM.from_config(LlamaConfig(**SIZES)).train()
    assert plain_head(llama) is llama.lm_head
    assert llama.training, "the mode that it was in"
    gemma = AutoModelForCausalLM.from_config(Gemma2Config(**SIZES, final_logit_softcapping=0.05))
    assert plain_head(gemma) is None
