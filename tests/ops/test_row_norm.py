"""Norms of rows on chip: exact integers, within the stated bound of the real norm, equal for every number of lanes."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import pytest
import torch
from torch import nn

from mase.blocks.root import Root
from mase.errors import UnsupportedOp
from mase.formats import Code
from mase.netlist import build
from mase.ops.row_norm import RowNormalise
from mase.testing import Mapped, OpLaws
from passes.map import Folding
from passes.quantize import NodeFormats
from tests.emit.designs import Network
from tests.ops.single import draw

SHAPES = ((7,), (1,), (3, 8), (2, 2, 6))


def layer(cols: int, rms: bool = False) -> nn.Module:
    """Return a norm of rows with weights of both signs, one of them 0."""
    torch.manual_seed(cols)
    norm: nn.Module = nn.RMSNorm(cols, eps=1e-6) if rms else nn.LayerNorm(cols)
    with torch.no_grad():
        for parameter in norm.parameters():
            parameter.copy_(torch.randn(cols))
        norm.weight[cols // 2] *= cols == 1
    return norm.eval()


def network(
    source: str,
    target: str,
    shape: tuple[int, ...],
    lanes: int,
    rms: bool = False,
    mode: str = "even",
    *more: nn.Module,
) -> Network:
    formats, folding = {"0": NodeFormats(output=target, rounding=mode)}, {"0": Folding(lanes, lanes)}
    return Network("norm", [layer(shape[-1], rms), *more], draw(6, *shape), source, formats, folding)


def mapped(*args: object) -> Mapped:
    case = network(*args).case()  # type: ignore[arg-type]  # as above
    return Mapped(case.graph, case.code)


@cache
def cases() -> Mapping[str, Mapped]:
    return {
        "layer_prime": mapped("fixed6.3", "fixed6.3", (7,), 3),
        "layer_one": mapped("ufixed4.2", "fixed9.5", (1,), 1, False, "half_up"),
        "layer_rows": mapped("int6", "int5", (3, 8), 2, False, "trunc"),
        "layer_relu": mapped("fixed6.3", "ufixed5.3", (2, 2, 6), 6, False, "even", nn.ReLU()),
        "layer_blocks": mapped("mxint4b2e2", "mxint5b4e3", (2, 6), 2),
        "layer_zero_point": mapped("int5a", "int6", (5,), 2),
        "rms_prime": mapped("fixed6.3", "fixed6.3", (7,), 4, True),
        "rms_one": mapped("int5", "int7", (1,), 1, True),
        "rms_rows": mapped("int8", "fixed9.4", (4, 9), 1, True),
        "rms_blocks": mapped("mxint5b4e3", "mxint4b2e4", (3, 8), 4, True),
    }


class TestLaws(OpLaws):
    kind = "norm"

    def graphs(self) -> Mapping[str, Mapped]:
        return cases()


def core(graph: Mapped) -> RowNormalise:
    (op,) = build(graph.graph).ops.values()
    found = getattr(op, "core", op)
    assert isinstance(found, RowNormalise)
    return found


@pytest.mark.parametrize("rms", [False, True])
@pytest.mark.parametrize("cols", [2, 5, 48])
@pytest.mark.parametrize("source", ["int8", "fixed12.8", "mxint6b4e3"])
def test_it_is_as_near_to_the_real_norm_as_is_stated(source: str, cols: int, rms: bool) -> None:
    """The bound of docs/arithmetic.md, in steps of the result, on rows of all sizes."""
    case = network(source, "fixed14.9", (cols,), 1, rms)
    graph = case.case().graph
    norm = core(Mapped(graph, Code(torch.zeros(1, cols)))).norm
    sizes = torch.tensor([4.0, 1.0, 0.2, 0.05]).repeat_interleave(50).unsqueeze(1)
    x = draw(200, cols, seed=5) * sizes
    source_node = graph.inputs[0]
    fmt = source_node.record.output.format
    assert fmt is not None
    real = fmt.quantize(x, source_node.params()).double()
    exact = layer(cols, rms).double()(real)
    found = graph(x).double()
    spread = (
        norm.stats.apply(norm.stats.x.integers(fmt.encode(x, source_node.params()), torch.int64))[0] - norm.stats.eps
    )
    weight = next(iter(layer(cols, rms).parameters())).double()
    shift = 0 if rms else layer(cols).state_dict()["bias"].double()
    normal = torch.where(weight == 0, 0, (exact - shift) / weight).abs()
    relative = 2.0**-norm.precision + 0.5 / spread.double().clamp_min(1)
    bound = normal * (weight.abs() * relative + weight.abs().max() * 2.0**-12) + 0.5001 * 2.0**-9
    assert bool(((found - exact.clamp(-16, 16 - 2.0**-9)).abs() <= bound).all())


@pytest.mark.parametrize("rms", [False, True])
def test_lanes_change_no_code(rms: bool) -> None:
    """Also where so few beats make a row that a root finds several bits a cycle."""
    case = network("fixed8.4", "fixed8.5", (2, 12), 1, rms)
    expected = None
    for lanes in (1, 2, 4, 12):
        found = case.case({"0": Folding(lanes, lanes)})
        netlist = build(found.graph)
        streams = [netlist.stream(name) for name in netlist.entries]
        fed = [stream.unpack(stream.pack(found.code)) for stream in streams]
        code = netlist.circuit.run(*fed)[netlist.circuit.outputs[0]]
        assert expected is None or torch.equal(code.mantissa, expected)
        expected = code.mantissa
        unrolls = [block.unroll for block in netlist.circuit.blocks.values() if isinstance(block, Root)]
        assert unrolls == [{1: 2, 2: 4, 4: 4, 12: 4}[lanes]]


def test_a_norm_without_an_eps_has_that_of_its_dtype() -> None:
    graphs = [
        Network("eps", [nn.RMSNorm(5, eps=eps)], draw(6, 5), "int5", {"0": NodeFormats(output="int6")}).quantized()
        for eps in (None, torch.finfo(torch.float32).eps)
    ]
    x = 0.01 * draw(40, 5, seed=2)
    assert torch.equal(graphs[0](x), graphs[1](x))
    assert len({float(core(Mapped(graph, Code(torch.zeros(1, 5)))).norm.stats.eps) for graph in graphs}) == 1


def test_a_row_of_equal_elements_gives_the_bias() -> None:
    """Its spread is 0, so its root is the greatest; nothing is divided by it."""
    case = cases()["layer_rows"]
    op = core(case)
    code = Code(torch.full((1, 3, 8), 5))
    shifted = op.norm.out.apply(op.norm.addend.expand(1, 3, 8)).mantissa
    assert torch.equal(op.reference(code).mantissa.reshape(1, 3, 8), shifted)
    a, _ = op.norm.stats.apply(torch.full((1, 8), 5))
    assert int(op.norm.roots.apply(a)) == (1 << op.norm.roots.bits) - 1


def test_too_wide_rows_are_refused() -> None:
    with pytest.raises(UnsupportedOp, match=r"sums of a row take \d+ bits; allowed are 62"):
        network("mxint8b4e5", "fixed8.4", (8,), 1).case()
    with pytest.raises(UnsupportedOp, match=r"exact integers before rounding take \d+ bits; allowed are 62"):
        network("fixed16.12", "fixed8.4", (1000,), 1).case()


def test_precision_falls_before_a_norm_is_refused() -> None:
    assert core(mapped("fixed8.4", "fixed8.5", (64,), 8)).norm.precision == 12
    assert 6 <= core(mapped("fixed16.12", "fixed16.12", (96,), 8)).norm.precision < 12
