"""The encoder as model.onnx: token ids and lengths in, normalised embeddings out.

Legend: B texts, L tokens, D width.

A GPT-2 encoder as an ONNX graph, node by node.

Written by hand, because it is then the same bytes each time, takes milliseconds, and the last block computes queries,
feed-forward and norm at the pooled position alone: with 2 blocks, over a third of the multiplications fall away.

Legend: B texts, L tokens, D width, H heads, K width of one head, V vocabulary, P positions.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from pipeline_lib.errors import UserError
from pipeline_lib.model.encoder import pool, pooling_of

OPSET = 20  # the first with Gelu
IR_VERSION = 10
MASKED = -1e9  # finite: a softmax over a row of -inf is not a number


class _Graph:
    """Nodes and weights in the order in which they were added."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: dict[str, onnx.TensorProto] = {}

    def weight(self, name: str, value: np.ndarray) -> str:
        if name not in self.weights:
            self.weights[name] = numpy_helper.from_array(np.ascontiguousarray(value), name)
        return name

    def ints(self, *values: int) -> str:
        return self.weight("i_" + "_".join(map(str, values)), np.array(values, np.int64))

    def scalar(self, value: int) -> str:
        return self.weight(f"s_{value}", np.array(value, np.int64))

    def add(self, operator: str, *inputs: str, name: str = "", **attributes: Any) -> str:
        """Append a node and return its output's name."""
        name = name or f"{operator.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [name], name=name, **attributes))
        return name


def gpt2_graph(
    weights: Mapping[str, np.ndarray], layers: int, heads: int, epsilon: float, pooling: str = "last"
) -> onnx.ModelProto:
    """The encoder as a model: input_ids (B, L) int64 and lengths (B,) int64 to sentence_embedding (B, D) float32 of length 1.

    Args:
        weights: tensors under the names of `transformers`' GPT2Model, e.g. h.0.attn.c_attn.weight (D, 3D).
        layers: transformer blocks, at least 1.
        heads: attention heads; they divide D.
        epsilon: of the layer norms.
        pooling: "last", or "mean" over all tokens.
    """
    graph = _Graph()
    width = weights["wte.weight"].shape[1]
    length = graph.add("Gather", graph.add("Shape", "input_ids"), graph.scalar(1), axis=0)
    positions_L = graph.add("Range", graph.scalar(0), length, graph.scalar(1))
    hidden_BLD = graph.add(
        "Add",
        graph.add("Gather", graph.weight("wte.weight", weights["wte.weight"]), "input_ids", axis=0),
        graph.add("Gather", graph.weight("wpe.weight", weights["wpe.weight"]), positions_L, axis=0),
    )
    block = _Block(graph, weights, width, heads, epsilon)
    for layer in range(layers - 1 if pooling == "last" else layers):
        queries_1L = graph.add("Unsqueeze", positions_L, graph.ints(0))
        hidden_BLD = block.apply(layer, hidden_BLD, hidden_BLD, queries_1L, positions_L)
    if pooling == "last":
        pooled_BD = _last_block(graph, block, layers - 1, hidden_BLD, positions_L)
    else:
        pooled_BD = _masked_sum(graph, block.norm("ln_f", hidden_BLD), positions_L)
    norm_B1 = graph.add("ReduceL2", pooled_BD, graph.ints(1), keepdims=1)
    floor = graph.weight("floor", np.array(1e-12, np.float32))
    graph.add("Div", pooled_BD, graph.add("Max", norm_B1, floor), name="sentence_embedding")
    return _model(graph, width)


def _last_block(graph: _Graph, block: _Block, layer: int, hidden_BLD: str, positions_L: str) -> str:
    """The last block and the final norm at the pooled position: (B, D)."""
    last_B1 = graph.add("Unsqueeze", graph.add("Sub", "lengths", graph.scalar(1)), graph.ints(1))
    index_B1D = graph.add(
        "Expand",
        graph.add("Unsqueeze", last_B1, graph.ints(2)),
        graph.weight("row", np.array([1, 1, block.width], np.int64)),
    )
    pooled_B1D = graph.add("GatherElements", hidden_BLD, index_B1D, axis=1)
    pooled_B1D = block.apply(layer, pooled_B1D, hidden_BLD, last_B1, positions_L)
    return graph.add("Squeeze", block.norm("ln_f", pooled_B1D), graph.ints(1))


def _masked_sum(graph: _Graph, states_BLD: str, positions_L: str) -> str:
    """The sum over the positions before `lengths`: (B, D); the mean but for a factor, which normalisation takes out."""
    inside_BL = graph.add("Less", positions_L, graph.add("Unsqueeze", "lengths", graph.ints(1)))
    inside_BL1 = graph.add("Cast", graph.add("Unsqueeze", inside_BL, graph.ints(2)), to=TensorProto.FLOAT)
    return graph.add("ReduceSum", graph.add("Mul", states_BLD, inside_BL1), graph.ints(1), keepdims=0)


class _Block:
    """One pre-norm transformer block; the queries may be fewer than the keys."""

    def __init__(self, graph: _Graph, weights: Mapping[str, np.ndarray], width: int, heads: int, epsilon: float) -> None:
        self.graph, self.weights, self.epsilon = graph, weights, epsilon
        self.width, self.heads, self.head_width = width, heads, width // heads

    def norm(self, name: str, x: str) -> str:
        scale, bias = self._named(f"{name}.weight"), self._named(f"{name}.bias")
        return self.graph.add("LayerNormalization", x, scale, bias, axis=-1, epsilon=self.epsilon)

    def apply(self, layer: int, x_BQD: str, keys_BLD: str, at_BQ: str, positions_L: str) -> str:
        """The block's output at the positions `at_BQ`, whose hidden states are x_BQD, attending to keys_BLD."""
        graph, prefix = self.graph, f"h.{layer}"
        normed_BQD = self.norm(f"{prefix}.ln_1", x_BQD)
        normed_BLD = normed_BQD if x_BQD == keys_BLD else self.norm(f"{prefix}.ln_1", keys_BLD)
        mixed_BQD = self._attention(prefix, normed_BQD, normed_BLD, self._causal_bias(at_BQ, positions_L))
        x_BQD = graph.add("Add", x_BQD, self._linear(f"{prefix}.attn.c_proj", mixed_BQD))
        inner = self._linear(f"{prefix}.mlp.c_fc", self.norm(f"{prefix}.ln_2", x_BQD))
        inner = graph.add("Gelu", inner, approximate="tanh")
        return graph.add("Add", x_BQD, self._linear(f"{prefix}.mlp.c_proj", inner))

    def _attention(self, prefix: str, queries_BQD: str, keys_BLD: str, bias_B1QL: str) -> str:
        graph, scale = self.graph, np.array(self.head_width**-0.5, np.float32)
        query_BHQK = self._heads(f"{prefix}.attn.c_attn", 0, queries_BQD, (0, 2, 1, 3))
        key_BHKL = self._heads(f"{prefix}.attn.c_attn", 1, keys_BLD, (0, 2, 3, 1))
        value_BHLK = self._heads(f"{prefix}.attn.c_attn", 2, keys_BLD, (0, 2, 1, 3))
        scores_BHQL = graph.add("MatMul", query_BHQK, key_BHKL)
        scores_BHQL = graph.add("Mul", scores_BHQL, graph.weight("attention_scale", scale))
        shares_BHQL = graph.add("Softmax", graph.add("Add", scores_BHQL, bias_B1QL), axis=-1)
        mixed_BQHK = graph.add("Transpose", graph.add("MatMul", shares_BHQL, value_BHLK), perm=[0, 2, 1, 3])
        return graph.add("Reshape", mixed_BQHK, graph.ints(0, 0, self.width))

    def _heads(self, name: str, third: int, x_BLD: str, order: tuple[int, ...]) -> str:
        """One third of the fused projection, its heads apart, in the given order of axes."""
        cut = slice(third * self.width, (third + 1) * self.width)
        weight, bias = self.weights[f"{name}.weight"][:, cut], self.weights[f"{name}.bias"][cut]
        y_BLD = self.graph.add("MatMul", x_BLD, self.graph.weight(f"{name}.weight.{third}", weight))
        y_BLD = self.graph.add("Add", y_BLD, self.graph.weight(f"{name}.bias.{third}", bias))
        y_BLHK = self.graph.add("Reshape", y_BLD, self.graph.ints(0, 0, self.heads, self.head_width))
        return self.graph.add("Transpose", y_BLHK, perm=list(order))

    def _causal_bias(self, at_BQ: str, positions_L: str) -> str:
        """0 where a key is at or before its query, MASKED after it: it also hides the padding, which comes last."""
        graph = self.graph
        at_B1Q1 = graph.add("Unsqueeze", at_BQ, graph.ints(1, 3))
        zero, masked = (graph.weight(name, np.array(value, np.float32)) for name, value in (("zero", 0), ("masked", MASKED)))
        return graph.add("Where", graph.add("LessOrEqual", positions_L, at_B1Q1), zero, masked)

    def _linear(self, name: str, x: str) -> str:
        """`transformers`' Conv1D: x W + b, W of shape (in, out)."""
        product = self.graph.add("MatMul", x, self._named(f"{name}.weight"))
        return self.graph.add("Add", product, self._named(f"{name}.bias"))

    def _named(self, name: str) -> str:
        return self.graph.weight(name, self.weights[name])


def _model(graph: _Graph, width: int) -> onnx.ModelProto:
    inputs = [
        helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["B", "L"]),
        helper.make_tensor_value_info("lengths", TensorProto.INT64, ["B"]),
    ]
    outputs = [helper.make_tensor_value_info("sentence_embedding", TensorProto.FLOAT, ["B", width])]
    body = helper.make_graph(graph.nodes, "encoder", inputs, outputs, initializer=list(graph.weights.values()))
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="cpt-factory")
    model.ir_version = IR_VERSION
    onnx.checker.check_model(model, full_check=True)
    return model


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
