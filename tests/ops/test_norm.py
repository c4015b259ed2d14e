"""Norms equal PyTorch's, and the root mean square as transformers write it; checked by its definition."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tests.ops.single import compute, draw, refused


def trained(m: nn.Module) -> nn.Module:
    """Give parameters and buffers values that matter."""
    for i, tensor in enumerate([*m.parameters(), *m.buffers()]):
        if tensor.is_floating_point():
            tensor.data = draw(*tensor.shape, seed=i).abs() + 0.5
    return m.eval()


def test_batch_norm_uses_the_stored_statistics() -> None:
    m, x = trained(nn.BatchNorm2d(3, eps=1e-3)), draw(2, 3, 4, 4)
    operands = {"weight": m.weight, "bias": m.bias, "mean": m.running_mean, "variance": m.running_var}
    operands = {role: t.detach() for role, t in operands.items()}
    assert torch.equal(compute("norm", (x,), {"function": "batch", "eps": 1e-3}, **operands), m(x))
    plain = {role: operands[role] for role in ("mean", "variance")}
    expected = torch.batch_norm(x, None, None, m.running_mean, m.running_var, False, 0.0, 1e-3, False)
    assert torch.equal(compute("norm", (x,), {"function": "batch", "eps": 1e-3}, **plain), expected)


def test_layer_and_group_norm() -> None:
    x = draw(2, 4, 6)
    layer, group = trained(nn.LayerNorm((4, 6))), trained(nn.GroupNorm(2, 4))
    attrs = {"function": "layer", "shape": [4, 6], "eps": 1e-5}
    assert torch.equal(compute("norm", (x,), attrs, weight=layer.weight.detach(), bias=layer.bias.detach()), layer(x))
    attrs = {"function": "group", "groups": 2, "eps": 1e-5}
    assert torch.equal(compute("norm", (x,), attrs, weight=group.weight.detach(), bias=group.bias.detach()), group(x))


def llama(x: Tensor, weight: Tensor) -> Tensor:
    wide = x.to(torch.float32)
    wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6)
    return weight * wide.to(x.dtype)


def gemma(x: Tensor, weight: Tensor) -> Tensor:
    wide = x.float() * torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + 1e-6)
    return (wide * (1.0 + weight.float())).type_as(x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_root_mean_square_in_every_form(dtype: torch.dtype) -> None:
    x, weight = draw(2, 3, 8).to(dtype), draw(8, seed=1).to(dtype)
    attrs = {"function": "rms", "shape": [8], "eps": 1e-6}
    fused = torch.nn.functional.rms_norm(x, (8,), weight, 1e-6)
    assert torch.equal(compute("norm", (x,), attrs, weight=weight), fused)
    assert torch.equal(compute("norm", (x,), {**attrs, "form": "llama"}, weight=weight), llama(x, weight))
    shifted = {**attrs, "form": "llama", "offset": 1.0}
    assert torch.equal(compute("norm", (x,), shifted, weight=weight), gemma(x, weight))


def test_the_three_forms_differ_only_in_rounding() -> None:
    x, weight = draw(4, 8), draw(8, seed=1)
    attrs = {"function": "rms", "shape": [8], "eps": 1e-6}
    by_definition = x.double() / (x.double().square().mean(-1, keepdim=True) + 1e-6).sqrt() * weight.double()
    for form in ("torch", "llama"):
        torch.testing.assert_close(
            compute("norm", (x,), {**attrs, "form": form}, weight=weight).double(), by_definition, rtol=1e-5, atol=1e-6
        )  # float32 against float64


def test_wrong_records_are_refused() -> None:
    x = draw(2, 4)
    refused("function 'l2'; allowed: batch, group, layer, rms", "norm", (x,), {"function": "l2"})
    refused("has no operand 'mean'", "norm", (x,), {"function": "batch"})
    refused(
        r"input is \(2, 4\); the last axes, which are normalised, are \(3,\)",
        "norm",
        (x,),
        {"function": "layer", "shape": [3]},
    )
    refused("form 'gemma'; allowed: llama, torch", "norm", (x,), {"function": "rms", "shape": [4], "form": "gemma"})
    refused("parameters have shapes", "norm", (x,), {"function": "layer", "shape": [4]}, weight=draw(3))
