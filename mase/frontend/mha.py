"""``nn.MultiheadAttention`` written out: projections, heads, one attention core; what its own code computes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mase.ops.attention import scaled_query

if TYPE_CHECKING:
    from mase.frontend.values import ValueTracer


def can_attend(
    m: nn.MultiheadAttention,
    query: Any,
    key: Any,
    value: Any,
    key_padding_mask: Any = None,
    need_weights: bool = True,
    attn_mask: Any = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> bool:
    """Tell whether :func:`attend` covers a call: batched, one size for all, no padding mask, no extra key."""
    plain = m.bias_k is None and not m.add_zero_attn and m._qkv_same_embed_dim
    return plain and key_padding_mask is None and query.ndim == 3 and (attn_mask is None or attn_mask.ndim == 2)


def attend(
    tracer: ValueTracer,
    path: str,
    m: nn.MultiheadAttention,
    query: Any,
    key: Any,
    value: Any,
    key_padding_mask: Any = None,
    need_weights: bool = True,
    attn_mask: Any = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> tuple[Any, None]:
    """Compute the layer on traced values; the second result, the shares, is not given.

    Source: PyTorch's ``multi_head_attention_forward``; with the shares asked for it scales the query and multiplies
    matrices, else it calls ``scaled_dot_product_attention``.
    """
    if not m.batch_first:
        same = query is key, key is value
        query = query.transpose(0, 1)
        key = query if same[0] else key.transpose(0, 1)
        value = key if same[1] else value.transpose(0, 1)
    q, k, v = (_heads(m, x) for x in _project(tracer, path, m, query, key, value))
    mask = _additive(attn_mask, q) if attn_mask is not None else None
    if need_weights:
        mixed = tracer.create_proxy("call_function", scaled_query, (q, k, v, mask), {})
    else:
        causal = is_causal and mask is None
        mixed = F.scaled_dot_product_attention(q, k, v, mask, 0.0, causal)
    y = m.out_proj(mixed.transpose(1, 2).flatten(2))
    return (y if m.batch_first else y.transpose(0, 1)), None


def _project(
    tracer: ValueTracer, path: str, m: nn.MultiheadAttention, query: Any, key: Any, value: Any
) -> tuple[Any, ...]:
    """Return queries, keys and values; different inputs take views of the packed weights."""
    if query is key and key is value:
        packed: tuple[Any, ...] = F.linear(query, m.in_proj_weight, m.in_proj_bias).chunk(3, -1)
        return packed
    weight, bias = m._parameters["in_proj_weight"], m._parameters["in_proj_bias"]
    assert weight is not None
    out = []
    for i, (name, x) in enumerate(zip(("q_proj", "k_proj", "v_proj"), (query, key, value), strict=True)):
        part = tracer.register(f"{path}.{name}.weight", weight.detach().chunk(3)[i])
        shift = None if bias is None else tracer.register(f"{path}.{name}.bias", bias.detach().chunk(3)[i])
        out.append(F.linear(x, part, shift))
    return tuple(out)


def _heads(m: nn.MultiheadAttention, x: Any) -> Any:
    """Return ``[batch, heads, length, head size]``."""
    return x.unflatten(-1, (m.num_heads, m.head_dim)).transpose(1, 2)


def _additive(mask: Any, like: Any) -> Any:
    """Return a mask as numbers that are added to the scores."""
    if mask.dtype != torch.bool:
        return mask
    zeros: Tensor = torch.zeros_like(mask, dtype=like.dtype)
    return zeros.masked_fill(mask, float("-inf"))
