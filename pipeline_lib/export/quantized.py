"""int8 export: model.onnx with 8-bit weights, for queries on small machines, and what that loses.

Products of matrices take onnxruntime's dynamic quantization: signed weights, a scale an output channel; activations are
quantized as they come. Weights use 7 of their 8 bits: on a processor without VNNI sums of pairs of full ones saturate, and give
other vectors. Unsigned ones do not saturate, and come 0.001 to 0.003 of a cosine nearer, but a query of a MiniLM takes 6.1 ms
with them, 3.9 ms with these, and 8.0 ms in float32. Tables of embeddings, most of a small model's bytes, get a scale a row: one
outlier coarsens every row of a shared one (demo model: cosine 0.992 where it is 0.996).

N texts, L tokens, D width, V rows of a table.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from pipeline_lib.errors import UserError
from pipeline_lib.export.onnx import run_onnx

FILE = "model.int8.onnx"
LEAST_TABLE_VALUES = 2**16  # smaller tables stay float32
LARGEST = 127
MOST_LOSS = 0.5  # a smallest cosine below this means that the graph is broken, not coarse


def write_int8(source: Path, target: Path) -> None:
    """Write the graph with 8-bit weights.

    Args:
        source: model.onnx.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model = onnx.load(str(source))
    _quantize_tables(model.graph)
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)  # it recommends a pre-processing that is for convolutions
    try:
        quantize_dynamic(
            model,
            str(target),
            per_channel=True,
            reduce_range=True,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=["MatMul", "Gemm"],
        )
    finally:
        logger.setLevel(level)
    quantized = onnx.load(str(target))
    quantized.producer_name, quantized.producer_version = "cpt-factory", ""
    target.write_bytes(quantized.SerializeToString(deterministic=True))


def _quantize_tables(graph: onnx.GraphProto) -> None:
    """Large tables that are only looked up: rows of int8 times a scale each, in place."""
    tables = {table.name: table for table in graph.initializer if _is_large(table)}
    used: dict[str, int] = {}
    for node in graph.node:
        for name in node.input:
            used[name] = used.get(name, 0) + 1
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        table = tables.get(node.input[0]) if node.op_type == "Gather" else None
        if table is None or used[table.name] > 1 or any(a.name == "axis" and a.i for a in node.attribute):
            nodes.append(node)
        else:
            nodes += _looked_up(graph, node, table)
    del graph.node[:]
    graph.node.extend(nodes)


def _is_large(table: onnx.TensorProto) -> bool:
    return table.data_type == TensorProto.FLOAT and len(table.dims) == 2 and int(np.prod(table.dims)) >= LEAST_TABLE_VALUES


def _looked_up(graph: onnx.GraphProto, node: onnx.NodeProto, table: onnx.TensorProto) -> list[onnx.NodeProto]:
    values_VD = numpy_helper.to_array(table)
    scale_V1 = np.abs(values_VD).max(axis=1, keepdims=True) / LARGEST
    scale_V1[scale_V1 == 0] = 1
    int8, scale = f"{table.name}_int8", f"{table.name}_scale"
    graph.initializer.remove(table)
    graph.initializer.append(numpy_helper.from_array(np.rint(values_VD / scale_V1).astype(np.int8), int8))
    graph.initializer.append(numpy_helper.from_array(scale_V1.astype(np.float32), scale))
    ids, out = node.input[1], node.output[0]
    return [
        helper.make_node("Gather", [int8, ids], [f"{out}_int8"]),
        helper.make_node("Cast", [f"{out}_int8"], [f"{out}_float"], to=TensorProto.FLOAT),
        helper.make_node("Gather", [scale, ids], [f"{out}_scale"]),
        helper.make_node("Mul", [f"{out}_float", f"{out}_scale"], [out]),
    ]


def measure_int8(path: Path, ids: Mapping[str, list[list[int]]], vectors: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Bytes, and how near its vectors of the self-test are to the float model's.

    Args:
        path: of the written graph, model.onnx beside it.
        ids: side to the token ids of each text.
        vectors: side to the float model's vectors (N, D).

    Raises:
        UserError: they are not of one kind: the graph lost something.
    """
    cosines = {
        name: np.array([float(run_onnx(path, [row])[0] @ vector_D) for row, vector_D in zip(ids[name], expected, strict=True)])
        for name, expected in vectors.items()
    }
    least = min(float(found_N.min()) for found_N in cosines.values())
    if not least >= MOST_LOSS:
        raise UserError(f"the int8 graph's vectors are as far as a cosine of {least:.3f} from the float model's")
    return {
        "bytes": path.stat().st_size,
        "float_bytes": path.with_name("model.onnx").stat().st_size,
        "least_cosine": {name: round(float(found_N.min()), 4) for name, found_N in cosines.items()},
    }
