"""Norms equal PyTorch's, and the root mean square as transformers write it; checked by its definition."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import pytest
import torch
from torch import Tensor, nn

from mase.formats import Code
from mase.interpreter import is_exact
from mase.netlist import build
from mase.testing import Mapped, OpLaws
from passes.map import Folding
from passes.quantize import NodeFormats
from tests.emit.designs import Network
from tests.ops.single import compute, draw, refused


def alone(channels: int, images: bool = False) -> nn.Module:
    """Return a batch norm with scales of both signs, one of them 0."""
    torch.manual_seed(channels)
    norm = nn.BatchNorm2d(channels) if images else nn.BatchNorm1d(channels)
    with torch.no_grad():
        norm.weight.copy_(torch.randn(channels))
        norm.weight[0] = 0
        norm.bias.copy_(torch.randn(channels))
        norm.running_mean.copy_(torch.randn(channels))  # type: ignore[union-attr]  # it has statistics
        norm.running_var.copy_(torch.rand(channels) + 0.2)  # type: ignore[union-attr]  # likewise
    return norm.eval()


def mapped(
    source: str, target: str, shape: tuple[int, ...], lanes: int, *more: nn.Module, mode: str = "even"
) -> Mapped:
    layers = [alone(shape[0], len(shape) == 3), *more]
    formats, folding = {"0": NodeFormats(output=target, rounding=mode)}, {"0": Folding(lanes, lanes)}
    case = Network("norm", layers, draw(6, *shape), source, formats, folding).case()
    return Mapped(case.graph, case.code)


@cache
def cases() -> Mapping[str, Mapped]:
    return {
        "norm_features": mapped("fixed6.3", "fixed6.2", (7,), 3),
        "norm_one": mapped("ufixed4.2", "fixed9.5", (1,), 1, mode="half_up"),
        "norm_int": mapped("int6", "int5", (5, 1), 2, mode="trunc"),
        "norm_into_blocks": mapped("fixed6.3", "mxint5b4e3", (6,), 2, nn.ReLU()),
        "norm_of_blocks": mapped("mxint5b2e3", "int6", (5,), 4),
        "norm_positions": mapped("int6", "int5", (5, 3), 2, mode="trunc"),
        "norm_images": mapped("fixed6.3", "ufixed5.3", (5, 2, 3), 2, nn.ReLU()),
        "norm_images_into_blocks": mapped("fixed6.3", "mxint5b4e3", (6, 2, 2), 2, nn.ReLU()),
        "norm_images_of_blocks": mapped("mxint5b2e3", "int6", (5, 1, 2), 4),
    }


class TestLaws(OpLaws):
    kind = "norm"

    def graphs(self) -> Mapping[str, Mapped]:
        return cases()


def test_channels_travel_fastest_and_share_their_words() -> None:
    for graph, channels in ((cases()["norm_positions"].graph, 5), (cases()["norm_images"].graph, 5)):
        (instance,) = build(graph).instances
        assert instance.block.stream_in.cols == channels  # type: ignore[attr-defined]  # a pipe
        assert instance.block.sv_params()["Words"] == 3  # of 2 lanes


@pytest.mark.parametrize("name", ["norm_features", "norm_images", "norm_of_blocks", "norm_images_of_blocks"])
def test_codes_are_those_of_the_real_norm(name: str) -> None:
    """Within a step of what float gives on the same values: half of one, and the error of the multipliers."""
    graph, code = cases()[name].graph, cases()[name].code
    node = graph.operators()[0]
    source, fmt = node.inputs[0], node.record.output.format
    assert fmt is not None and source.record.output.format is not None
    x = source.record.output.format.decode(code, source.params())
    real = alone(node.record.output.shape[1], x.ndim == 4).double()(x).detach()
    real = real.relu() if "activation" in node.record.attrs else real
    step = float(fmt.decode(Code(torch.tensor([1])), node.params()))
    low, high = (end * step for end in fmt.code_range())
    y = fmt.decode(build(graph).codes(code)[node.name], node.params())
    assert float((y - real.clamp(low, high)).abs().max()) <= step * 0.51


def test_norms_over_batch_and_last_axis_have_hardware() -> None:
    formats = {"0": NodeFormats(output="fixed6.3")}
    norms = (
        (nn.BatchNorm1d(4), True),
        (nn.LayerNorm(3), True),
        (nn.LayerNorm((4, 3)), False),
        (nn.GroupNorm(2, 4), False),
    )
    for layer, exact in norms:
        graph = Network("norm", [layer.eval()], draw(6, 4, 3), "fixed6.3", formats).quantized()
        assert is_exact(graph.operators()[0]) is exact


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
