"""Transposed convolutions whose windows lie side by side are convolutions with kernel 1 and their pixels elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import nn

import mase
from mase.errors import UnsupportedOp
from mase.frontend.module import trace_module
from mase.graph import Graph
from mase.interpreter import is_exact
from mase.netlist import build
from mase.testing import Mapped, OpLaws
from passes.fuse import fuse
from passes.quantize import NodeFormats
from tests.ops.branches import draw, mapped, quantized
from tests.ops.conftest import prove

__all__ = ("prove",)  # a fixture of the operators' tests


def layer(inputs: int, outputs: int, size: int, seed: int = 0, **more: int | bool) -> nn.Module:
    torch.manual_seed(seed)
    return nn.ConvTranspose2d(inputs, outputs, size, size, **more)  # type: ignore[arg-type]  # mixed


def upsampled(module: nn.Module, source: str, target: str, shape: tuple[int, ...], lanes: tuple[int, int]) -> Mapped:
    x = draw(6, *shape)
    given = {"0": NodeFormats("int5c", output=target)}
    graph = quantized(nn.Sequential(module, nn.ReLU()), x, source, given, target)
    return mapped(graph, x, {"0": lanes})


@cache
def cases() -> Mapping[str, Mapped]:
    return {
        "transposed": upsampled(layer(3, 2, 2), "fixed6.3", "fixed6.3", (3, 2, 3), (3, 2)),
        "transposed_wide": upsampled(nn.ConvTranspose2d(2, 4, (1, 3), (1, 3)), "int6", "int6", (2, 2, 2), (2, 2)),
        "transposed_line": upsampled(nn.ConvTranspose1d(2, 2, 2, 2), "mxint4b2e3", "mxint4b2e3", (2, 5), (2, 2)),
        "transposed_one": upsampled(layer(3, 5, 1), "fixed5.3", "fixed7.3", (3, 2, 2), (1, 5)),
    }


class TestLaws(OpLaws):
    kind = "conv"

    def graphs(self) -> Mapping[str, Mapped]:
        return cases()


@pytest.mark.parametrize(
    "module",
    [
        layer(3, 2, 2),
        layer(2, 3, 3),
        nn.ConvTranspose2d(2, 4, (1, 3), (1, 3)),
        layer(4, 2, 2, bias=False),
        nn.ConvTranspose1d(3, 4, 3, 3),
    ],
)
def test_the_rewritten_layer_computes_the_same(module: nn.Module) -> None:
    inputs = int(module.in_channels)  # type: ignore[arg-type]  # a number
    x = draw(4, inputs, 5) if isinstance(module, nn.ConvTranspose1d) else draw(4, inputs, 3, 4)
    graph = trace_module(nn.Sequential(module).eval(), (x,))[0]
    done = fuse(graph)[0]
    assert [node.kind for node in done.operators()] == ["conv", "layout"]
    torch.testing.assert_close(done(x), graph(x), rtol=0, atol=1e-5)  # sums of float32 in another order
    assert [node.kind for node in graph.operators()] == ["conv"]  # the graph that was given is untouched


def test_it_is_exact_saved_and_built(tmp_path: Path) -> None:
    graph = cases()["transposed"].graph
    assert all(map(is_exact, graph.operators()))
    graph.save(tmp_path / "graph")
    x = draw(4, 3, 2, 3, seed=9)
    assert torch.equal(Graph.load(tmp_path / "graph")(x), graph(x))


def test_a_decoder_runs_from_the_model_to_rtl(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 3, 2, 2), nn.ReLU(), nn.ConvTranspose2d(3, 1, 2, 2), nn.Sigmoid())
    x = draw(4, 1, 4, 4)
    graph = mase.quantize(mase.trace(model.eval(), x), {"default": {"weight": "int6", "activation": "fixed8.5"}}, x)
    design = mase.emit(graph, tmp_path / "rtl")
    assert design.outputs[0].shape == (1, 4, 4)


@pytest.mark.parametrize(
    "module",
    [
        nn.ConvTranspose2d(2, 3, 3, 2),
        nn.ConvTranspose2d(2, 3, 2, 2, padding=1),
        nn.ConvTranspose2d(2, 3, 1, 2),
        nn.ConvTranspose2d(2, 3, 2, 2, dilation=2),
        nn.ConvTranspose2d(2, 4, 2, 2, groups=2),
    ],
)
def test_windows_that_overlap_or_leave_gaps_stay_refused_by_name(module: nn.Module) -> None:
    x = draw(4, 2, 4, 4)
    graph = quantized(nn.Sequential(module), x, "fixed6.3", {"0": NodeFormats("int5", output="fixed6.3")})
    with pytest.raises(UnsupportedOp, match=r"node '0' \(conv.*\): is transposed"):
        build(graph)
