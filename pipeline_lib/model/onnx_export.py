"""The encoder as model.onnx: token ids and lengths in, normalised embeddings out.

Legend: B texts, L tokens, D width.
"""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from pipeline_lib.errors import UserError
from pipeline_lib.model.encoder import pool, pooling_of
from pipeline_lib.model.onnx_graph import OPSET, gpt2_graph

INPUTS = ("input_ids", "lengths")
OUTPUT = "sentence_embedding"
MAX_BYTES = 2**31 - 1  # a protobuf message cannot be larger
TANH_GELUS = ("gelu_new", "gelu_pytorch_tanh", "gelu_fast")


def write_onnx(backbone: nn.Module, path: Path) -> None:
    """Write the backbone, its pooling and normalisation as one ONNX file of dynamic batch and length.

    A GPT-2 is written node by node (see onnx_graph); any other causal model goes through torch.onnx.export.

    Raises:
        UserError: the model is too large for one file, or torch's exporter cannot write its architecture.
    """
    size = sum(tensor.numel() * 4 for tensor in backbone.parameters())
    if size > MAX_BYTES:
        raise UserError(f"model.onnx would hold {size:,} bytes, at most {MAX_BYTES:,} fit one file")
    model = _gpt2(backbone) if _is_plain_gpt2(backbone) else _traced(backbone)
    path.write_bytes(model.SerializeToString(deterministic=True))


def _is_plain_gpt2(backbone: nn.Module) -> bool:
    config: Any = backbone.config
    return (
        config.model_type == "gpt2"
        and config.n_layer > 0
        and config.activation_function in TANH_GELUS
        and config.scale_attn_weights
        and not (config.scale_attn_by_inverse_layer_idx or config.add_cross_attention)
    )


def _gpt2(backbone: nn.Module) -> onnx.ModelProto:
    weights = {name: tensor.detach().float().cpu().numpy() for name, tensor in backbone.state_dict().items()}
    config: Any = backbone.config
    return gpt2_graph(weights, config.n_layer, config.n_head, config.layer_norm_epsilon, pooling_of(backbone))


class _Pooled(nn.Module):
    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.pooling = pooling_of(backbone)

    def forward(self, input_ids: Tensor, lengths: Tensor) -> Tensor:
        mask_BL = (torch.arange(input_ids.shape[1])[None, :] < lengths[:, None]).long()
        hidden_BLD = self.backbone(input_ids=input_ids, attention_mask=mask_BL, use_cache=False).last_hidden_state
        return nn.functional.normalize(pool(hidden_BLD, lengths, self.pooling).float(), dim=-1)


def _traced(backbone: nn.Module) -> onnx.ModelProto:
    batch, length = torch.export.Dim("B"), torch.export.Dim("L")
    example = (torch.ones(3, 7, dtype=torch.long), torch.tensor([7, 3, 5]))
    # the exporter tells of each torchvision operator that it does not find
    logging.getLogger("torch.onnx._internal.exporter._registration").setLevel(logging.ERROR)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        try:
            program = torch.onnx.export(
                _Pooled(backbone).eval(),
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
            kind: Any = backbone.config
            raise UserError(f"torch.onnx.export cannot write a {kind.model_type}: {type(error).__name__}") from error
    assert program is not None, "torch.onnx.export(dynamo=True) returned no program"
    return program.model_proto


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
