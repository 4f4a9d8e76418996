"""The encoder as an ONNX graph: token ids and lengths in, normalised embeddings out.

B texts, L tokens, D width, H heads, E = D / H width of a head.
"""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
import torch
from torch import Tensor, nn
from transformers import GPT2Model
from transformers.models.gpt2.modeling_gpt2 import GPT2Block

from pipeline_lib.errors import UserError
from pipeline_lib.model import decoder
from pipeline_lib.model.families import FAMILIES, block_of, family_of
from pipeline_lib.model.given import EmbeddingHead
from pipeline_lib.model.pooled_attention import by_head, joint_projection
from pipeline_lib.model.pooling import pool, pooling_of, prefix, truncated_to

INPUTS = ("input_ids", "lengths")
OUTPUT = "sentence_embedding"
OPSET = 20  # the first with Gelu
NO_PROMPTS = "its pooling leaves prompts out, which the graph cannot tell"
MAX_BYTES = 2**31 - 1  # a protobuf message cannot be larger


def write_onnx(
    backbone: nn.Module, path: Path, head: EmbeddingHead | None = None, token_weights_V: Tensor | None = None
) -> None:
    """Write the backbone, its pooling, or a head of its own, and normalisation as one ONNX file of dynamic batch and length.

    Args:
        token_weights_V: of each token in a mean that weighs them.

    Raises:
        UserError: the model is too large for one file, or torch's exporter cannot write its architecture.
    """
    size = sum(tensor.numel() * 4 for tensor in backbone.parameters())
    if size > MAX_BYTES:
        raise UserError(f"model.onnx would hold {size:,} bytes, at most {MAX_BYTES:,} fit one file")
    if head and head.prompts:
        raise UserError(NO_PROMPTS)
    model = _exported(_EmbeddingGraph(backbone, head, token_weights_V).eval())
    path.write_bytes(model.SerializeToString(deterministic=True))


class _EmbeddingGraph(nn.Module):
    """What the exporter traces: the encoder's mathematics in operators that ONNX has."""

    def __init__(self, backbone: nn.Module, head: EmbeddingHead | None, token_weights_V: Tensor | None) -> None:
        super().__init__()
        self.token_weights_V: Tensor | None
        self.register_buffer("token_weights_V", token_weights_V)
        self.backbone, self.head = backbone, head
        self.pooling = pooling_of(backbone)
        config: Any = backbone.config
        self.width = truncated_to(backbone, head.width if head else int(config.hidden_size))
        is_gpt2 = isinstance(backbone, GPT2Model) and family_of(backbone) is not None
        self.fused = head is None and self.pooling == "last" and is_gpt2

    def forward(self, input_ids: Tensor, lengths: Tensor) -> Tensor:
        if self.fused:
            pooled_BD = _last_token_states(cast(GPT2Model, self.backbone), input_ids, lengths)
        else:
            mask_BL = (torch.arange(input_ids.shape[1])[None, :] < lengths[:, None]).long()
            options = {} if self.head else {"use_cache": False}
            hidden_BLD = self.backbone(input_ids=input_ids, attention_mask=mask_BL, **options).last_hidden_state
            if self.head:
                pooled_BD = self.head(hidden_BLD, input_ids, lengths)
            else:
                weights_BL = None if self.token_weights_V is None else self.token_weights_V[input_ids]
                pooled_BD = pool(hidden_BLD, lengths, self.pooling, weights_BL=weights_BL)
        return prefix(pooled_BD.float(), self.width)


def _last_token_states(backbone: GPT2Model, ids_BL: Tensor, lengths_B: Tensor) -> Tensor:
    """`decoder.pooled_states` without a gradient: the last block is computed at the pooled position alone."""
    family, modules = FAMILIES[GPT2Model], cast(list[GPT2Block], list(backbone.h))
    blocks = [block_of(module, family) for module in modules]
    hidden_BLD = backbone.wte(ids_BL) + backbone.wpe.weight[: ids_BL.shape[1]]
    for block in blocks[:-1]:
        hidden_BLD = decoder.full_block(block, hidden_BLD, None, None)
    last_BD = hidden_BLD[torch.arange(hidden_BLD.shape[0]), lengths_B - 1]
    attended_BD = _attend_last(modules[-1], hidden_BLD, last_BD, lengths_B)
    return backbone.ln_f(decoder.after(blocks[-1], last_BD, attended_BD))


def _attend_last(block: GPT2Block, hidden_BLD: Tensor, last_BD: Tensor, lengths_B: Tensor) -> Tensor:
    """Attention of the pooled position over its row (B, D); keys and values are never formed, see pooled_attention.py."""
    attention, z_BLD = block.attn, block.ln_1(hidden_BLD)
    n_heads, width = attention.num_heads, hidden_BLD.shape[2]
    weights, biases = joint_projection(attention)
    query_DD, key_DHE, value_DHE = by_head(weights, n_heads)
    query_BHE = (block.ln_1(last_BD) @ query_DD + biases[:width]).view(-1, n_heads, attention.head_dim)
    query_BHD = torch.einsum("bhe,dhe->bhd", query_BHE * attention.scaling, key_DHE)
    beyond_BL = torch.arange(hidden_BLD.shape[1]) >= lengths_B[:, None]
    scores_BHL = (query_BHD @ z_BLD.transpose(1, 2)).masked_fill(beyond_BL[:, None], -torch.inf)
    mixed_BHD = scores_BHL.softmax(dim=-1) @ z_BLD
    return torch.einsum("bhd,dhe->bhe", mixed_BHD, value_DHE).reshape(-1, width) + biases[2 * width :]


def _exported(graph: _EmbeddingGraph) -> onnx.ModelProto:
    """The graph by torch.onnx.export, without what tells of the place and the versions that it was made with."""
    batch, length = torch.export.Dim("B"), torch.export.Dim("L")
    example = (torch.ones(3, 7, dtype=torch.long), torch.tensor([7, 3, 5]))
    # the exporter tells of each torchvision operator that it does not find
    logging.getLogger("torch.onnx._internal.exporter._registration").setLevel(logging.ERROR)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        try:
            program = torch.onnx.export(
                graph,
                example,
                dynamo=True,
                dynamic_shapes=({0: batch, 1: length}, {0: batch}),
                input_names=list(INPUTS),
                output_names=[OUTPUT],
                opset_version=OPSET,
                external_data=False,
                verbose=False,
            )
        except Exception as error:  # whatever an architecture meets in it: the exporter promises no kind
            kind: Any = graph.backbone.config
            raise UserError(f"torch.onnx.export cannot write a {kind.model_type}: {type(error).__name__}") from error
    assert program is not None, "torch.onnx.export(dynamo=True) returned no program"
    return _without_traces(program.model_proto)


def _without_traces(model: onnx.ModelProto) -> onnx.ModelProto:
    """Source lines and object names of the exporter taken out of every record: equal weights give equal bytes."""
    graph = model.graph
    for record in (model, graph, *graph.node, *graph.initializer, *graph.value_info, *graph.input, *graph.output):
        record.ClearField("metadata_props")
        record.ClearField("doc_string")
    model.producer_name, model.producer_version = "cpt-factory", ""
    onnx.checker.check_model(model)
    return model


def run_onnx(path: Path, ids: list[list[int]]) -> np.ndarray:
    """Embeddings (B, D) of token ids by the ONNX file, in one right-padded batch: what export checks itself against."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    ids_BL, lengths_B = pad(ids)
    return session.run(None, dict(zip(INPUTS, (ids_BL, lengths_B), strict=True)))[0]


def pad(ids: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Right-padded ids_BL and lengths_B, int64; the id of the padding is never read."""
    lengths_B = np.array([len(row) for row in ids], np.int64)
    ids_BL = np.zeros((len(ids), int(lengths_B.max())), np.int64)
    for row, values in zip(ids_BL, ids, strict=True):
        row[: len(values)] = values
    return ids_BL, lengths_B
