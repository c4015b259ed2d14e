"""Scaled dot-product attention: the core between the projections, with one or several query heads a key head."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from mase.errors import GraphError
from mase.graph import OpNode, Record
from mase.ops.base import OPS, Family, Op, Passage, one_of
from mase.ops.operations import SOFTMAX, SOFTMAX_MASKED, Operations

FORMS = ("fused", "scores", "scaled_query", "stepwise")

PORTS = ("query", "key", "value")


@OPS.add("attention")
class Attention(Op):
    """y = softmax(query key^T * scale + mask) value; tensors are ``[batch, heads, length, head_size]``.

    Inputs: query, key, value, and a mask where there is one. Attributes: heads, kv_heads, head_size, causal, scale
    (None is 1 / sqrt(head_size)). How the model writes it decides where it rounds, so form is ``fused`` (PyTorch's one
    function), or ``scores`` (softmax in float32 of scaled scores), ``scaled_query`` (the query is scaled, as
    ``nn.MultiheadAttention``), or ``stepwise`` (the scale's root on query and key, and every step rounds, as ONNX).
    Key heads that several query heads share are spread as PyTorch's function does, or by broadcasting where broadcast
    is set.
    """

    kind: ClassVar[str] = "attention"
    family: ClassVar[Family] = "compute"
    arity: ClassVar[tuple[int, int]] = (3, 4)

    @staticmethod
    def float(record: Record, operands: Mapping[str, Tensor], *inputs: Tensor) -> Tensor:
        query, key, value, mask = (*inputs, None)[:4]
        assert query is not None and key is not None and value is not None
        attrs = record.attrs
        causal, scale, form = attrs.get("causal", False), attrs.get("scale"), attrs.get("form", "fused")
        if form == "fused":
            grouped = query.ndim > 2 and query.shape[-3] != key.shape[-3] and not attrs.get("broadcast")
            return F.scaled_dot_product_attention(query, key, value, mask, 0.0, causal, scale=scale, enable_gqa=grouped)
        if causal:
            allowed = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool, device=query.device).tril()
            hidden = torch.zeros(allowed.shape, dtype=query.dtype, device=query.device)
            hidden = hidden.masked_fill(~allowed, float_min(query))
            mask = hidden if mask is None else mask + hidden
        if form == "scaled_query":
            return scaled_query(query, key, value, mask, scale)
        scale = query.shape[-1] ** -0.5 if scale is None else scale
        if form == "stepwise":
            root = torch.tensor(math.sqrt(scale), dtype=query.dtype, device=query.device)
            query, key, scale = query * root, key * root, 1.0
        repeats = query.shape[-3] // key.shape[-3]
        if repeats > 1:
            key, value = key.repeat_interleave(repeats, -3), value.repeat_interleave(repeats, -3)
        scores = query @ key.transpose(-2, -1) * scale
        scores = scores if mask is None else scores + mask
        if form == "stepwise":
            powers = (scores - scores.amax(-1, keepdim=True)).exp()
            return (powers / powers.sum(-1, keepdim=True)) @ value
        return torch.matmul(F.softmax(scores, -1, dtype=torch.float32).to(query.dtype), value)

    @classmethod
    def passes(cls, node: OpNode) -> Passage | None:
        attrs = node.record.attrs
        heads, kv, size = attrs["heads"], attrs.get("kv_heads", attrs["heads"]), attrs["head_size"]
        feature = torch.arange(heads * size)
        return Passage((2,), False, feature // size // (heads // kv) * size + feature % size, size)

    @classmethod
    def looks(cls, record: Record, index: int) -> bool | None:
        return index < PORTS.index("value")

    @classmethod
    def cached(cls, record: Record) -> tuple[int, int]:
        ports = record.ports or PORTS
        return ports.index("key"), ports.index("value")

    @classmethod
    def operations(cls, node: OpNode) -> Operations | None:
        places = dict(zip(node.record.ports or PORTS, node.inputs, strict=False))
        if not all(port in places for port in PORTS):
            return None
        query, key, value = (places[port].record.output.shape for port in PORTS)
        scores = math.prod(query[:-1]) * key[-2]
        return Operations(scores * (query[-1] + value[-1]), scores * (SOFTMAX + SOFTMAX_MASKED))

    @classmethod
    def check(cls, node: OpNode) -> None:
        super().check(node)
        one_of(node, "form", FORMS, "fused")
        query, key, value = (source.record.output.shape for source in node.inputs[:3])
        if len({len(query), len(key), len(value)}) > 1 or query[-1] != key[-1] or key[:-1] != value[:-1]:
            raise GraphError(f"{node.where()}: query is {query}, key {key}, value {value}; these do not fit")
        if len(query) > 2 and query[-3] % key[-3]:
            raise GraphError(f"{node.where()}: {query[-3]} query heads cannot share {key[-3]} key heads")


def scaled_query(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None, scale: float | None = None
) -> Tensor:
    """Attend with the scale on the query, as ``nn.MultiheadAttention`` does where it gives its shares."""
    flat = [x.flatten(0, 1) for x in (query, key, value)]
    scaled = flat[0] * (math.sqrt(1.0 / query.shape[-1]) if scale is None else scale)
    if mask is None:
        scores = torch.bmm(scaled, flat[1].transpose(-2, -1))
    else:
        scores = torch.baddbmm(mask, scaled, flat[1].transpose(-2, -1))
    mixed: Tensor = torch.bmm(scores.softmax(-1), flat[2]).unflatten(0, query.shape[:2])
    return mixed


def float_min(x: Tensor) -> float:
    """Return what hides a score: the least finite number of the dtype."""
    return torch.finfo(x.dtype).min
