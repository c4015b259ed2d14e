"""What an ONNX file means, by ONNX's reference evaluator; its quantisers by their definitions.

A sum in another order may round to the next code. So each quantiser of the file is judged by itself: it must give what
its definition gives of the evaluator's value, or of one that is as near as sums in another order are; what follows is
computed from the code that the graph has.

Source: QONNX general operators IntQuant, BipolarQuant and Trunc; ONNX QuantizeLinear and BatchNormalization.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mase.errors import GraphError
from mase.frontend.onnx_rules import LAST

Array = Any  # of numpy, of any type
ROUNDINGS: Mapping[str, Callable[[Array], Array]] = {
    "ROUND": np.round,
    "HALF_EVEN": np.round,
    "CEIL": np.ceil,
    "FLOOR": np.floor,
    "UP": lambda v: np.sign(v) * np.ceil(np.abs(v)),
    "DOWN": lambda v: np.sign(v) * np.floor(np.abs(v)),
    "HALF_UP": lambda v: np.sign(v) * np.floor(np.abs(v) + 0.5),
    "HALF_DOWN": lambda v: np.sign(v) * np.ceil(np.abs(v) - 0.5),
}  # QONNX's words; UP and HALF_UP are away from zero
TURNED = {"Conv": 2, "MaxPool": 1, "AveragePool": 1, "BatchNormalization": 1}  # of LAST: inputs with channels last
DOMAINS = ("qonnx.custom_op.general", "onnx.brevitas", "finn.custom_op.general")


def int_quant(x: Array, scale: Array, zero: Array, bits: Array, attrs: Mapping[str, Any]) -> Array:
    """Return Quant: x / scale + zero point, clipped to the codes and rounded, and back."""
    low, high = _codes(bits, attrs)
    code = ROUNDINGS[_word(attrs, "ROUND")](np.clip(x / scale + zero, low.astype(x.dtype), high.astype(x.dtype)))
    return (code - zero) * scale


def bipolar_quant(x: Array, scale: Array) -> Array:
    """Return the scale with the sign of x; zero is positive."""
    return np.where(x >= 0, scale, -scale).astype(x.dtype)


def trunc(x: Array, scale: Array, zero: Array, before: Array, *rest: Array, attrs: Mapping[str, Any]) -> Array:
    """Return Trunc: codes without their low bits; version 2 clips them and says their scale."""
    code = np.round(x / scale + zero)
    if len(rest) == 1:  # the scale stays
        return (ROUNDINGS[_word(attrs, "FLOOR")](code / 2.0 ** (before - rest[0])) - zero) * scale
    out_scale, bits = rest
    step = 2.0 ** np.round(np.log2(out_scale / scale))
    low, high = _codes(bits, attrs)
    return (ROUNDINGS[_word(attrs, "FLOOR")](np.clip(code / step, low, high)) - zero / step) * out_scale


def _codes(bits: Array, attrs: Mapping[str, Any]) -> tuple[Array, Array]:
    """Return the least and the greatest code."""
    narrow, span = int(attrs.get("narrow", 0)), 2.0 ** np.asarray(bits, np.float64)
    if int(attrs.get("signed", 1)):
        return -span / 2 + narrow, span / 2 - 1
    return np.zeros_like(span), span - 1 - narrow


def _word(attrs: Mapping[str, Any], default: str) -> str:
    word = attrs.get("rounding_mode", default)
    return str(word.decode() if isinstance(word, bytes) else word).upper()


@dataclass
class Judge:
    """Run a file, and judge its quantisers.

    Args:
        model: the file. bound: how far sums in another order may be, of the greatest value of a tensor.
        near: by value of the file, what the graph has for it. exact: values that have no sums before them.
    """

    model: Any
    bound: float
    near: Mapping[str, Array] = field(default_factory=dict)
    exact: frozenset[str] = frozenset()

    def run(self, feeds: Mapping[str, Array]) -> Sequence[Array]:
        """Return the outputs.

        Raises:
            GraphError: a quantiser of the graph gives something else than that of the file.
        """
        from onnx.reference import ReferenceEvaluator

        with np.errstate(all="ignore"):
            return list(ReferenceEvaluator(self.model, new_ops=self.operators()).run(None, dict(feeds)))

    def operators(self) -> list[type[Any]]:
        """Return the operators that the evaluator lacks, or has wrong."""
        from onnx.reference.op_run import OpRun

        judge = self

        class BatchNormalization(OpRun):
            op_domain = ""

            def _run(self, x: Array, weight: Array, bias: Array, mean: Array, variance: Array, **_: Any) -> Any:
                if _attrs(self).get("training_mode", 0):
                    raise NotImplementedError("BatchNormalization is in training mode")
                ones = [-1 if axis == 1 else 1 for axis in range(x.ndim)]
                w, b, m, v = (part.reshape(ones) for part in (weight, bias, mean, variance))
                y = (x - m) / np.sqrt(v + np.float32(_attrs(self).get("epsilon", 1e-5))) * w + b
                return (y.astype(x.dtype),)

        class Quantiser(OpRun):
            function: Callable[..., Array]

            def _run(self, x: Array, *rest: Array, **_: Any) -> Any:
                attrs = _attrs(self)
                return (judge.judged(self.onnx_node, x, lambda v, kind: type(self).function(v, kind, rest, attrs)),)

        class MaxPool(OpRun):
            op_domain = ""

            def _run(self, x: Array, **_: Any) -> Any:
                return _evaluated(*_padded(self.onnx_node, x), judge.model.opset_import)

        class ChannelsLast(OpRun):
            op_domain = LAST

            def _run(self, *inputs: Array, **_: Any) -> Any:
                return (channels_last(self.onnx_node, inputs, judge.model.opset_import, [BatchNormalization, MaxPool]),)

        found: list[type[Any]] = [BatchNormalization, MaxPool, *(type(name, (ChannelsLast,), {}) for name in TURNED)]
        for domain in DOMAINS:
            for name, function in FUNCTIONS.items():
                found.append(type(name, (Quantiser,), {"op_domain": domain, "function": staticmethod(function)}))
        linear = {"op_domain": "", "function": staticmethod(_linear)}
        return [*found, type("QuantizeLinear", (Quantiser,), linear)]

    def judged(self, node: Any, x: Array, define: Callable[[Array, Any], Array]) -> Array:
        """Return what the graph has for a quantiser's result, judged by the definition."""
        name, whole = node.output[0], define(x, np.float32)
        given = self.near.get(name)
        if given is None:
            return whole
        if given.shape != whole.shape:
            raise GraphError(f"node {node.name or name!r} ({node.op_type}): gives {given.shape} for {whole.shape}")
        slack = 0.0 if node.input[0] in self.exact else self.bound * float(np.abs(x[np.isfinite(x)]).max(initial=0.0))
        wide = x.astype(np.float64)
        allowed = [whole.astype(np.float64), *(define(wide + shift, np.float64) for shift in (-slack, slack))]
        low, high, got = np.minimum.reduce(allowed), np.maximum.reduce(allowed), given.astype(np.float64)
        room = 1e-6 * np.maximum(np.abs(low), np.abs(high))  # values of float32
        wrong = ~((got >= low - room) & (got <= high + room))
        if wrong.any():
            place = tuple(int(i) for i in np.argwhere(wrong)[0])
            raise GraphError(
                f"node {node.name or name!r} ({node.op_type}): the graph rounds {x[place]!s} to {got[place]!s}; "
                f"the file's quantiser gives {whole[place]!s}"
            )
        return given.astype(whole.dtype)


def channels_last(node: Any, inputs: Sequence[Array], opsets: Any, operators: Sequence[Any]) -> Array:
    """Return what ONNX's operator of the same name gives on channels first, with the channels last again."""
    inner = _copy(node)
    inner.domain = ""
    first = [np.moveaxis(a, -1, 1) if i < TURNED[node.op_type] else a for i, a in enumerate(inputs)]
    return np.moveaxis(_evaluated(inner, first, opsets, operators)[0], 1, -1)


def _evaluated(node: Any, inputs: Sequence[Array], opsets: Any, operators: Sequence[Any] = ()) -> tuple[Array, ...]:
    """Return what the evaluator gives for one node."""
    import onnx
    from onnx.reference import ReferenceEvaluator

    feeds = dict(zip(node.input, inputs, strict=True))
    given = [onnx.helper.make_empty_tensor_value_info(name) for name in feeds]
    wanted = [onnx.helper.make_empty_tensor_value_info(name) for name in node.output]
    model = onnx.helper.make_model(onnx.helper.make_graph([node], "one", given, wanted), opset_imports=opsets)
    return tuple(np.asarray(y) for y in ReferenceEvaluator(model, new_ops=list(operators)).run(None, feeds))


def _padded(node: Any, x: Array) -> tuple[Any, list[Array]]:
    """Return a MaxPool whose pads differ between the sides as one without pads; the evaluator mixes up such sides."""
    from onnx import helper

    attrs = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    pads = list(attrs.get("pads", []))
    axes = len(pads) // 2
    if pads[:axes] == pads[axes:] or x.dtype.kind != "f" or attrs.get("ceil_mode") or len(node.output) > 1:
        return node, [x]
    inner = _copy(node)
    kept = [a for a in node.attribute if a.name != "pads"]
    del inner.attribute[:]
    inner.attribute.extend(kept)
    sides = [(0, 0), (0, 0), *zip(pads[:axes], pads[axes:], strict=True)]
    return inner, [np.pad(x, sides, constant_values=np.finfo(x.dtype).min)]


def _copy(node: Any) -> Any:  # a NodeProto
    inner = type(node)()
    inner.CopyFrom(node)
    return inner


def _attrs(op: Any) -> dict[str, Any]:
    from onnx import helper

    return {a.name: helper.get_attribute_value(a) for a in op.onnx_node.attribute}


def _cast(arrays: Sequence[Array], kind: Any) -> list[Array]:
    return [np.asarray(array, kind) for array in arrays]


def _quant(x: Array, kind: Any, rest: Sequence[Array], attrs: Mapping[str, Any]) -> Array:
    scale, zero, bits = _cast(rest, kind)
    return int_quant(x.astype(kind), scale, zero, bits, attrs).astype(kind)


def _bipolar(x: Array, kind: Any, rest: Sequence[Array], attrs: Mapping[str, Any]) -> Array:
    return bipolar_quant(x.astype(kind), *_cast(rest, kind))


def _trunc(x: Array, kind: Any, rest: Sequence[Array], attrs: Mapping[str, Any]) -> Array:
    return trunc(x.astype(kind), *_cast(rest, kind), attrs=attrs).astype(kind)


def _linear(x: Array, kind: Any, rest: Sequence[Array], attrs: Mapping[str, Any]) -> Array:
    """Return the codes of QuantizeLinear: x / scale, rounded, plus the zero point, clipped."""
    import onnx

    axis = attrs.get("axis", 1)
    scale, zero = (_channels(part, x.ndim, axis) for part in (rest[0], rest[1] if len(rest) > 1 else np.zeros(())))
    named = onnx.helper.tensor_dtype_to_np_dtype(attrs.get("output_dtype", 0) or onnx.TensorProto.UINT8)
    dtype = rest[1].dtype if len(rest) > 1 else named
    width = {"int2": 2, "uint2": 2, "int4": 4, "uint4": 4}.get(dtype.name, 8 * dtype.itemsize)
    low, high = (0, 2**width - 1) if dtype.name.startswith("u") else (-(2 ** (width - 1)), 2 ** (width - 1) - 1)
    code = np.round(x.astype(kind) / scale.astype(kind)) + zero.astype(kind)
    return np.clip(code, low, high).astype(dtype if kind == np.float32 else kind)


def _channels(part: Array, rank: int, axis: int) -> Array:
    """Return scales or zero points along the axis that they belong to."""
    if part.ndim != 1 or part.size == 1:
        return part.reshape(()) if part.size == 1 else part
    return part.reshape([-1 if i == axis % rank else 1 for i in range(rank)])


FUNCTIONS: Mapping[str, Callable[..., Array]] = {
    "Quant": _quant,
    "IntQuant": _quant,
    "BipolarQuant": _bipolar,
    "Trunc": _trunc,
}
