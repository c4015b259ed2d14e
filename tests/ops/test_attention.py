"""Attention in its three forms: one formula, three roundings; shared key heads, masks."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mase.ops.attention import FORMS
from tests.ops.single import compute, draw, refused

ATTRS = {"heads": 4, "kv_heads": 4, "head_size": 8}


def qkv(heads: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    return draw(2, 4, 5, 8), draw(2, heads, 6, 8, seed=1), draw(2, heads, 6, 8, seed=2)


def by_definition(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    q, k, v = (
        q.double(),
        k.double().repeat_interleave(4 // k.shape[1], 1),
        v.double().repeat_interleave(4 // v.shape[1], 1),
    )
    scores = torch.einsum("bhid,bhjd->bhij", q, k) * scale
    shares = (scores if mask is None else scores + mask).exp()
    return torch.einsum("bhij,bhjd->bhid", shares / shares.sum(-1, keepdim=True), v)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("scale", [None, 0.5])
@pytest.mark.parametrize("masked", [False, True])
def test_every_form_is_the_formula(form: str, scale: float | None, masked: bool) -> None:
    mask = draw(5, 6, seed=3) if masked else None
    inputs = (*qkv(), mask) if mask is not None else qkv()
    y = compute("attention", inputs, {**ATTRS, "form": form, "scale": scale})
    expected = by_definition(*qkv(), mask, 8**-0.5 if scale is None else scale)
    torch.testing.assert_close(y.double(), expected, rtol=1e-5, atol=1e-6)  # float32 against float64


def test_the_usual_form_is_torchs_function() -> None:
    q, k, v = qkv(2)
    expected = F.scaled_dot_product_attention(q, k, v, enable_gqa=True)
    assert torch.equal(compute("attention", (q, k, v), {**ATTRS, "kv_heads": 2}), expected)
    causal = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    assert torch.equal(compute("attention", (q, k, v), {**ATTRS, "kv_heads": 2, "causal": True}), causal)


@pytest.mark.parametrize("form", FORMS[:2])
def test_causal_attention_sees_no_later_key(form: str) -> None:
    q, k, v = draw(1, 2, 4, 8), draw(1, 2, 4, 8, seed=1), draw(1, 2, 4, 8, seed=2)
    attrs = {"heads": 2, "kv_heads": 2, "head_size": 8, "causal": True, "form": form}
    changed = v.clone()
    changed[:, :, 3] += 1
    a, b = compute("attention", (q, k, v), attrs), compute("attention", (q, k, changed), attrs)
    assert torch.equal(a[:, :, :3], b[:, :, :3])
    assert not torch.equal(a[:, :, 3], b[:, :, 3])


def test_shared_key_heads_in_written_out_form() -> None:
    y = compute("attention", qkv(2), {**ATTRS, "kv_heads": 2, "form": "scores"})
    torch.testing.assert_close(y.double(), by_definition(*qkv(2), None, 8**-0.5), rtol=1e-5, atol=1e-6)  # as above


def test_wrong_records_are_refused() -> None:
    q, k, v = qkv()
    refused("has 2 inputs; allowed is 3 to 4", "attention", (q, k), ATTRS)
    refused("form 'flash'; allowed: fused, scaled_query, scores", "attention", (q, k, v), {**ATTRS, "form": "flash"})
    refused(".*these do not fit", "attention", (q, k[..., :4], v), ATTRS)
    refused("4 query heads cannot share 3 key heads", "attention", (q, k[:, :3], v[:, :3]), ATTRS)
