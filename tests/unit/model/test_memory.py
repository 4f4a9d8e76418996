"""A step frees what it took, by reference counting alone: a cycle would pile up step after step until a collection."""

from __future__ import annotations

import gc
import weakref

import torch
from transformers import GPT2Config, GPT2Model

from pipeline_lib.model.encoder import Encoder


def test_the_pooled_attention_leaves_no_cycle() -> None:
    backbone = GPT2Model(GPT2Config(vocab_size=50, n_positions=16, n_embd=16, n_layer=1, n_head=2, n_inner=16))
    encoder = Encoder(backbone).train()
    gc.collect()
    gc.disable()
    try:
        emb_BD = encoder(torch.randint(0, 50, (4, 8)), torch.tensor([8, 3, 5, 2]))
        graph = weakref.ref(emb_BD.grad_fn)
        emb_BD.sum().backward()
        del emb_BD
        assert graph() is None
        assert not [thing for thing in gc.get_objects() if type(thing).__name__ == "_PooledAttentionBackward"]
    finally:
        gc.enable()
