"""Merge what hardware does at once: batch norm into the weights before it, ReLU into the rounding.

See docs/arithmetic.md, "The one rounding".
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mase.errors import UnsupportedOp
from mase.graph import META, Graph, OpNode, Record, TensorType
from mase.ops.base import OPS, fastest_axes, view
from mase.rewrites import REWRITES
from passes.base import graph_pass


@dataclass(frozen=True)
class FuseConfig:
    """Nothing to choose: every legal pair is fused. Leave the pass out to keep roundings apart."""


@dataclass(frozen=True)
class FuseReport:
    """Pairs that became one node: (linear, activation) paths, and (linear or convolution, batch norm) paths."""

    fused: tuple[tuple[str, str], ...]
    folded: tuple[tuple[str, str], ...] = ()


@graph_pass("fuse", FuseConfig, provides=("fused",))
def fuse(graph: Graph, config: FuseConfig) -> tuple[Graph, FuseReport]:
    """Fold each batch norm into the layer before it, then fuse linear + ReLU, where nobody else reads between them.

    Kinds that are another way to write others become those first (``mase/rewrites``).

    A linear layer behind a flattened image becomes a convolution whose kernel is the whole image, which is the same.

    Folding scales the weights of each channel and shifts its bias; the float results differ in their last bits.

    Raises:
        UnsupportedOp: a folded weight or bias is beyond its dtype.
    """
    out, editable = graph.edited()
    for node in list(out.operators()):
        for name in REWRITES:
            REWRITES[name](out, node)
    fused, folded = [], []
    uses = Counter(node.record.key(role) for node in out.nodes() for role in node.record.operands)
    for node in list(out.operators()):
        layer = _layer(node, uses)
        if layer is not None:
            record, tensors = _scaled(layer, node)
            out.tensors.update(tensors)
            layer.node.meta[META] = record
            folded.append((layer.path, node.path))
        partner = layer or _partner(node)
        if partner is None:
            continue
        if layer is None:
            attrs = {**partner.record.attrs, "activation": OPS[node.kind].epilogue(node.record)}
            partner.node.meta[META] = replace(partner.record, attrs=attrs, output=node.record.output)
            if node.name in out.quant:
                out.quant[partner.name] = out.quant.pop(node.name)
            fused.append((partner.path, node.path))
        node.node.replace_all_uses_with(partner.node)
        editable.erase_node(node.node)
    images = {name for name, axis in fastest_axes(out).items() if axis == 1}  # travel pixel by pixel
    for node in list(out.operators()):
        _unflatten(out, node, uses, images)
    return out.verify(), FuseReport(tuple(fused), tuple(folded))


def _unflatten(out: Graph, node: OpNode, uses: Counter[str], images: set[str]) -> None:
    """Let a layer that reads a flattened image read the image itself, and flatten its result instead.

    Formats in blocks then lie along the channels of the image, for the weights as for the image.
    """
    flat = node.inputs[0] if node.kind in OPS and len(node.inputs) == 1 else None
    if flat is None or flat.kind not in OPS or not OPS[flat.kind].in_order(flat.record) or not view(flat):
        return
    image = flat.inputs[0]
    own = all(uses[node.record.key(role)] == 1 for role in node.record.operands)
    if (
        image.kind == "input"
        or image.name not in images
        or not own
        or not _alone(flat)
        or math.prod(image.record.output.shape[2:]) == 1
    ):
        return
    found = OPS[node.kind].over_image(node, image.record.output.shape)
    if found is None:
        return
    shape = node.record.output.shape
    record, tensors = found
    out.tensors.update(tensors)
    node.node.meta[META] = record
    output = replace(record.output, shape=shape)
    flat.node.meta[META] = replace(flat.record, attrs={"shape": list(shape[1:])}, output=output)
    node.node.replace_input_with(flat.node, image.node)
    node.node.replace_all_uses_with(flat.node)
    node.node.append(flat.node)
    flat.node.replace_input_with(image.node, node.node)


def _alone(node: OpNode) -> bool:
    """Tell whether one other node alone reads a node, and in float."""
    return len(node.users) == 1 and node.record.output.format is None


def _partner(node: OpNode) -> OpNode | None:
    """Return the node whose epilogue this one may become: a node that does not round before it."""
    function = OPS[node.kind].epilogue(node.record) if node.kind in OPS else ""
    producer = node.inputs[0] if function else None
    if producer is None or producer.kind not in OPS or not _alone(producer):
        return None
    return producer if function in OPS[producer.kind].epilogues(producer.record) else None


def _layer(node: OpNode, uses: Counter[str]) -> OpNode | None:
    """Return the layer whose weights this node, which scales and shifts channels, may join: weights of its own."""
    affine = OPS[node.kind].affine(node) if node.kind in OPS else None
    if affine is None or node.record.output.format is not None or (layer := node.inputs[0]).kind not in OPS:
        return None
    own = all(uses[layer.record.key(role)] == 1 for role in layer.record.operands)
    formats = [kind.format for kind in layer.record.operands.values()]
    plain = _alone(layer) and own and not any(formats)
    return layer if plain and OPS[layer.kind].channels(layer.record) == affine.axis else None


def _scaled(layer: OpNode, norm: OpNode) -> tuple[Record, dict[str, Tensor]]:
    """Return the record of a layer that has taken a batch norm, and its new tensors by key; sums are in float64."""
    affine = OPS[norm.kind].affine(norm)
    assert affine is not None
    weight, record = layer.tensor("weight"), layer.record
    bias = layer.tensor("bias").double() if "bias" in record.operands else 0.0
    shifted = (bias - affine.centre) * affine.scale + affine.shift
    scaled = weight.double() * affine.scale.reshape(-1, *[1] * (weight.ndim - 1))
    kind = TensorType(tuple(shifted.shape), record.operands["weight"].dtype)
    tensors = {record.key("weight"): scaled.to(weight.dtype), record.key("bias"): shifted.to(weight.dtype)}
    for key, tensor in tensors.items():
        if not bool(torch.isfinite(tensor).all()):
            raise UnsupportedOp(
                f"{norm.where()}: folded into {layer.path!r} it makes {key} infinite or NaN in {kind.dtype}; "
                "allowed are finite numbers"
            )
    return replace(record, operands={**record.operands, "bias": kind}, output=norm.record.output), tensors
