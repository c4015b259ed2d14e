"""What a node says and nobody reads: an attribute without effect here, or a random operator, is refused by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from torch import fx

from mase.frontend.onnx_builder import Builder, Step, Value, dtype_of

HARMLESS: Mapping[str, tuple[str, ...]] = {
    "BatchNormalization": ("momentum",),  # of training
    "Dropout": ("ratio", "seed"),  # of training
    "MaxPool": ("storage_order",),  # of indices, which are refused
    "Attention": ("qk_matmul_output_mode",),  # of a fourth output, which is refused
}  # by operator: attributes that say nothing about what is taken
DEFAULTS: Mapping[str, Any] = {"signed": 1, "narrow": 0}  # of QONNX's quantisers
CODES = ("QuantizeLinear", "DequantizeLinear")  # what is a code in the file is its value here
RANDOM = ("Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike")


def check_read(step: Step) -> None:
    """Refuse a node with an attribute that was not read and is not what it would be if it were left out.

    Raises:
        UnsupportedOp: names the attribute and its value.
    """
    unread = set(step.attrs) - step.attrs.read - set(HARMLESS.get(step.type, ()))
    for name in sorted(unread):
        default = _default(step, name)
        if step.attrs[name] != default:
            allowed = "is without it" if default is None else f"is {default}"
            raise step.refuse(f"attribute {name} is {step.attrs[name]}, which is not supported; allowed {allowed}")


def _default(step: Step, name: str) -> Any:
    """Return what an attribute is where it is left out, None for no value."""
    if step.domain not in ("", "ai.onnx"):
        return DEFAULTS.get(name)
    import onnx

    attribute = _schema(step.type, step.opset).attributes.get(name)
    if attribute is None or not attribute.default_value.name:
        return None
    value = onnx.helper.get_attribute_value(attribute.default_value)
    return value.decode() if isinstance(value, bytes) else value


@cache
def _schema(kind: str, opset: int) -> Any:  # of onnx, which ships no types
    import onnx

    return onnx.defs.get_schema(kind, opset, "")


def check_drawn(step: Step) -> None:
    """Refuse an operator that draws random numbers, also one in the body of a branch.

    Raises:
        UnsupportedOp: names it.
    """
    for node in _nodes(step.proto):
        if node.domain in ("", "ai.onnx") and (node.op_type in RANDOM or _drops(node, step)):
            raise step.refuse(f"{node.op_type} draws random numbers; the result must follow from the inputs alone")


def _drops(node: Any, step: Step) -> bool:
    """Tell whether a node in the body of another one may be a Dropout in training."""
    return bool(node.op_type == "Dropout" and node is not step.proto and len(node.input) > 2)


def _nodes(proto: Any) -> Iterator[Any]:
    yield proto
    for attribute in proto.attribute:
        for graph in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else ())):
            for node in graph.node:
                yield from _nodes(node)


def check_types(builder: Builder, step: Step, result: Value) -> None:
    """Refuse a result whose numbers are of another type than ONNX says, such as whole ones that became float.

    Raises:
        UnsupportedOp: names both types.
    """
    if step.domain not in ("", "ai.onnx") or step.type in CODES or not isinstance(result, fx.Node):
        return
    schema = _schema(step.type, step.opset)
    kind = schema.outputs[0].type_str
    for index, name in enumerate(step.inputs):
        if not name or schema.inputs[min(index, len(schema.inputs) - 1)].type_str != kind:
            continue
        wanted = dtype_of(builder.sample(builder.value(step, index, varied=True)))
        found = dtype_of(builder.sample(result))
        if found != wanted:
            raise step.refuse(f"would give {found} of {wanted}; ONNX keeps the type")
        return
