"""ONNX graphs in fewer bits: half-precision weights, or int8 arithmetic calibrated on pictures."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

from inceptcli.engine.onnx import INPUT

if TYPE_CHECKING:
    from inceptcli.data.image import Pixels

# What is computed in int8; the softmax and what comes before the network stay in float32.
_QUANTISED = ("Conv", "Gemm", "MatMul", "MaxPool", "AveragePool", "GlobalAveragePool", "Concat")
_HALF_FROM = 1024  # numbers; a smaller tensor is not worth a node


def half_weights(graph: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with its weights stored as float16 and made float32 when they are loaded.

    Arithmetic stays in float32: so the file is half as large and nothing can overflow.
    """
    smaller = onnx.ModelProto()
    smaller.CopyFrom(graph)
    casts = []
    for tensor in smaller.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype != np.float32 or values.size < _HALF_FROM:
            continue
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16), f"{name}.half"))
        casts.append(helper.make_node("Cast", [tensor.name], [name], to=onnx.TensorProto.FLOAT))
    nodes = [*casts, *smaller.graph.node]
    del smaller.graph.node[:]
    smaller.graph.node.extend(nodes)
    return smaller


def int8(graph: onnx.ModelProto, pictures: Sequence[Pixels]) -> onnx.ModelProto:
    """The graph with its convolutions and matrix products in int8.

    Weights have a scale a channel and seven bits, because processors without VNNI add two
    products of eight bits in sixteen, where they would be cut off. Unsigned weights of eight
    bits are safe there too, but no faster than float32.

    Args:
        graph: Whole, with float32 weights.
        pictures: Batches (N, S, S, 3) uint8 that show what numbers occur inside.
    """
    before = _before_the_network(graph)
    with TemporaryDirectory() as folder, _quiet():
        source, target = Path(folder, "float.onnx"), Path(folder, "int8.onnx")
        onnx.save_model(graph, source)
        quantize_static(
            source,
            target,
            _Pictures(pictures),
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=list(_QUANTISED),
            nodes_to_exclude=before,
            extra_options={"CalibMovingAverage": False},
        )
        return onnx.load_model(target)


class _Pictures(CalibrationDataReader):  # type: ignore[misc]  # it comes without types
    def __init__(self, pictures: Sequence[Pixels]) -> None:
        self._rest: Iterator[Pixels] = iter(pictures)

    def get_next(self) -> dict[str, Any] | None:
        batch = next(self._rest, None)
        return None if batch is None else {INPUT: batch}


def _before_the_network(graph: onnx.ModelProto) -> list[str]:
    """Names of the nodes up to the first convolution: resize and normalisation."""
    names: list[str] = []
    for node in graph.graph.node:  # in the order of computation
        if node.op_type == "Conv":
            return names
        names.append(node.name)
    return names


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the quantiser's advice on its own preparation from the log."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
