"""Scalar oracle == vectorised reference == RTL on every named edge, and every sample leaves in its predicted cycle.

Random networks go through every combination of classes; directed ones meet the corners that random data misses.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from random import Random

import pytest
import torch
from torch import Tensor, nn

from mase.formats import Code
from mase.netlist import build
from mase.ops.decoded import Decoded
from mase.ops.linear import Linear
from passes.map import Folding
from passes.quantize import NodeFormats
from tests.emit.designs import Network
from tests.emit.draws import CLASSES, chains, combinations, degenerate, drawn, other_chains
from tests.emit.proof import RESTARTED, STALLED, Case, check_backlog, difference, joined, prove, rows

ROUNDS = 2  # through all combinations
GROUPS = 4  # bundles
BLOCKED = 3  # one network in so many also runs with a sink that never reads
EVERYTHING = (*STALLED, *RESTARTED)


# -- random networks --------------------------------------------------------------------------------------------------


def walks() -> list[Case]:
    """Return networks that go through all combinations of classes, each as many times as there are rounds."""
    out, rng = list[Case](), Random(1)
    for _ in range(ROUNDS):
        out += [drawn(f"net{len(out) + i}", 100 + len(out) + i, chain) for i, chain in enumerate(chains(rng))]
    return out


@pytest.fixture(scope="module", name="networks")
def _networks() -> list[Case]:
    return walks()


def test_the_networks_have_all_combinations_of_classes(networks: list[Case]) -> None:
    found = set().union(*map(combinations, networks))
    assert found == {(x, w, y) for x in CLASSES for w in CLASSES for y in CLASSES}


def test_the_networks_have_what_the_road_knows(networks: list[Case]) -> None:
    nodes = [node for case in networks for node in case.graph.operators()]
    kinds = {node.kind for node in nodes}
    assert kinds == {"linear", "activation", "layout", "requantize"}
    attrs = [node.record.attrs for node in nodes]
    assert {a.get("rounding") for a in attrs} >= {"even", "half_up", "trunc"}
    accumulations = {str(a.get("accumulation")).partition("(")[0] for a in attrs}
    assert accumulations >= {"exact", "aligned"}
    assert any("bias" not in node.record.operands for node in nodes if node.kind == "linear")
    assert any(len(node.record.output.shape) > 2 for node in nodes)


@pytest.mark.sim
@pytest.mark.parametrize("group", range(GROUPS))
def test_random_networks(networks: list[Case], group: int, tmp_path: Path) -> None:
    cases = networks[group::GROUPS]
    designs = prove(cases, tmp_path, (STALLED[2], RESTARTED[2]))
    for index in range(0, len(cases), BLOCKED):
        check_backlog(cases, designs, index)


# -- the other classes ------------------------------------------------------------------------------------------------

OTHERS = 3  # bundles


def others() -> list[Case]:
    """Return networks that have all pairs of the other classes, of weights and of decoded and encoded codes."""
    return [drawn(f"other{i}", 500 + i, chain) for i, chain in enumerate(other_chains(Random(2)))]


@pytest.fixture(scope="module", name="other_networks")
def _other_networks() -> list[Case]:
    return others()


def test_the_other_networks_decode_and_encode(other_networks: list[Case]) -> None:
    netlists = [build(case.graph) for case in other_networks]
    modules = [instance.block.sv_module for netlist in netlists for instance in netlist.instances]
    assert {"mase_decode", "mase_encode", "mase_block_normalise", "mase_linear"} <= set(modules)
    names = {
        str(t.format) for case in other_networks for n in case.graph.operators() for t in n.record.operands.values()
    }
    assert len({re.split(r"[0-9_]", name)[0] for name in names}) >= 9  # families of weights
    ops = [op for netlist in netlists for op in netlist.ops.values()]
    cores = [op.core if isinstance(op, Decoded) else op for op in ops]
    assert {op.settled().get("accumulation") for op in cores} >= {"exact", "aligned(8)"}


@pytest.mark.sim
@pytest.mark.parametrize("group", range(OTHERS))
def test_other_classes(other_networks: list[Case], group: int, tmp_path: Path) -> None:
    prove(other_networks[group::OTHERS], tmp_path, (STALLED[2], RESTARTED[2]))


# -- degenerate ranges ------------------------------------------------------------------------------------------------

# each seed draws something that the others lack: aligned sums of zeros, accumulators of one bit, results in blocks, ...
DEGENERATE = (9, 12, 26, 34, 48, 63, 71, 79, 95, 99, 110, 117)


def zero_input(name: str, weight: str, accumulation: str) -> Case:
    """Return a layer that can get nothing but zeros, one bit wide and not negative: its result is its bias."""
    torch.manual_seed(0)
    layers, x = [nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)], torch.randn(6, 4)
    second = NodeFormats(weight, output="fixed8.4", accumulation=accumulation)
    formats = {"0": NodeFormats("int8", output="fixed1.0"), "2": second}
    return network(name, layers, "fixed8.4", formats, {"0": (2, 3), "2": (2, 1)}, x).case()


def narrow() -> list[Case]:
    """Return networks whose ranges are of one value, or of one bit."""
    return [
        zero_input("zeros_exact", "mxint4b1e2", "exact"),
        zero_input("zeros_aligned", "mxint4b1e2", "aligned(0)"),
        zero_input("zeros_aligned_guard", "mxint8b2", "aligned(4)"),
        zero_input("zeros_fixed", "fixed8.6", "auto"),
        nothing("nothing_wide", "mxint8b4", "mxint8b4", "mxint8b4"),  # exponents of 8 bits on both sides, weights of 0
        *(degenerate(f"narrow{seed}", seed) for seed in DEGENERATE),
    ]


@pytest.fixture(scope="module", name="degenerates")
def _degenerates() -> list[Case]:
    return narrow()


def test_the_degenerate_networks_have_what_is_rare(degenerates: list[Case]) -> None:
    netlists = [build(case.graph) for case in degenerates]
    linears = [op for netlist in netlists for op in netlist.ops.values() if isinstance(op, Linear)]
    dark = [op for op in linears if op.low == op.x.high == 0]
    assert {op.guard is None for op in dark} == {True, False}
    assert any(op.guard is None and op.x.block == op.w.block == 0 for op in dark)
    assert any(bool((op.weight == 0).all()) for op in linears)
    assert any(op.acc_width == 1 for op in linears)
    assert any(op.x.width == 1 and op.x.signed for op in linears)
    modules = {
        instance.block.sv_module
        for netlist in netlists
        for instance in netlist.instances
        if not type(netlist.ops[instance.node]).__module__.startswith(
            "mase.alternatives"
        )  # what stands in is elsewhere
    }
    others = {"mase_requantize", "mase_block_normalise", "mase_stream_converter"}
    assert modules == {"mase_linear", *others}


@pytest.mark.parametrize(
    ("accumulation", "first"),  # without guard bits 61 / 8 is cut to 7 under the exponents of regions that are 0
    [("exact", 8), ("aligned(0)", 7), ("aligned(4)", 8), ("aligned(32)", 8)],
)
def test_of_an_input_of_zeros_the_bias_is_left(accumulation: str, first: int) -> None:
    case = zero_input("zeros", "mxint4b1e2", accumulation)
    netlist = build(case.graph)
    name = netlist.nodes[-1]
    codes, bias = netlist.codes(case.code)[name].mantissa, case.graph.node(name).tensor("bias")
    assert torch.equal(codes, torch.tensor([first, -2]).expand_as(codes))
    assert (bias * 16).tolist() == pytest.approx([7.67, -1.90], abs=0.01)  # in codes of fixed8.4


@pytest.mark.sim
def test_degenerate_networks(degenerates: list[Case], tmp_path: Path) -> None:
    prove(degenerates, tmp_path, (STALLED[2], RESTARTED[2]))


# -- directed networks ------------------------------------------------------------------------------------------------


def layer(weight: Sequence[Sequence[float]] | Tensor, bias: Sequence[float] | None = None) -> nn.Linear:
    """Return a linear layer with these weights ``[outputs, inputs]``."""
    values = torch.as_tensor(weight, dtype=torch.float32)
    linear = nn.Linear(values.shape[1], values.shape[0], bias=bias is not None)
    with torch.no_grad():
        linear.weight.copy_(values)
        if bias is not None:
            linear.bias.copy_(torch.tensor(bias))
    return linear


def network(
    name: str,
    layers: Sequence[nn.Module],
    inputs: str,
    formats: Mapping[str, NodeFormats],
    folding: Mapping[str, tuple[int, int]],
    x: Tensor | None = None,
) -> Network:
    """Return a network with lanes given as pairs (inputs, outputs)."""
    first = next(m for m in layers if isinstance(m, nn.Linear))
    x = torch.linspace(-2, 2, 6 * first.in_features).reshape(6, -1) if x is None else x
    return Network(name, layers, x, inputs, formats, {path: Folding(*lanes) for path, lanes in folding.items()})


def every_tie(rounding: str) -> Case:
    """Return y = x / 16 of every ten-bit x: all ties, and saturation on both sides."""
    formats = {"0": NodeFormats("fixed2.0", output="fixed5.-4", rounding=rounding)}
    case = network(f"ties_{rounding}", [layer([[1.0]])], "fixed10.0", formats, {"0": (1, 1)}).case()
    return Case(case.name, case.graph, Code(torch.arange(-512, 512).unsqueeze(1)))


def extremes(op: Linear) -> Code:
    """Return for each output the input codes that drive its accumulator to its greatest and to its least value."""
    high = torch.where(op.weight >= 0, op.x.high, op.low)
    low = torch.where(op.weight >= 0, op.low, op.x.high)
    mantissa = torch.cat([high, low])
    exponent = None
    if op.x.block:
        exponent = torch.full((len(mantissa), -(-op.inputs // op.x.block)), op.x.base + op.x.span)
    return Code(mantissa, exponent)


def full_accumulator(name: str, inputs: str, formats: NodeFormats, lanes: tuple[int, int]) -> Case:
    """Return a layer that is fed what fills its accumulator to the last code on both sides."""
    torch.manual_seed(3)
    weight = torch.randn(5, 11)
    weight[0], weight[1] = weight.abs().max(), -weight.abs().max()  # most positive and most negative codes
    x = torch.linspace(-1, 1, 22).reshape(2, 11)
    case = network(name, [layer(weight, [0.5, -0.5, 0.0, 3.0, -3.0])], inputs, {"0": formats}, {"0": lanes}, x).case()
    op = build(case.graph).ops["_0"]
    assert isinstance(op, Linear)
    return Case(case.name, case.graph, joined([extremes(op), case.code]))


def blocks(name: str, inputs: int, outputs: int, lanes: tuple[int, int], accumulation: str, relu: bool = False) -> Case:
    """Return a layer with blocks everywhere, fed zero blocks, single elements, and exponents a window apart."""
    torch.manual_seed(4)
    weight = torch.randn(outputs, inputs)
    weight[:, :2] *= 2.0**-12  # exponents far apart within a row
    weight[0] = 0.0
    weights = "mxint5b4e3" if accumulation == "exact" else "mxint5b4e5"
    formats = {"0": NodeFormats(weights, output="mxint4b4e3", accumulation=accumulation)}
    layers = [layer(weight, [2.0**-6] * outputs), *([nn.ReLU()] * relu)]
    case = network(name, layers, "mxint6b8e4", formats, {"0": lanes}).case()
    grid = build(case.graph).stream_in.grid
    count = -(-inputs // 8)
    mantissa = torch.zeros(2 + inputs, inputs, dtype=torch.int64)
    mantissa[2:] = torch.eye(inputs, dtype=torch.int64) * grid.low
    mantissa[1] = grid.high
    exponent = grid.base + (torch.arange(2 + inputs).unsqueeze(1) * 7 + torch.arange(count) * 11) % (grid.span + 1)
    return Case(case.name, case.graph, joined([Code(mantissa, exponent), case.code]))


def whole_exponents() -> Case:
    """Return a layer between OCP's 8-bit exponents, whose code 255 is not a number: it must never come out."""
    formats = {"0": NodeFormats("int4p", output="mxint4b2e8", accumulation="aligned(2)")}
    case = network("whole_exponents", [layer([[3.0, 1.0], [7.0, -7.0]])], "mxint4b2e8", formats, {"0": (2, 1)}).case()
    grid = build(case.graph).stream_in.grid
    top = Code(torch.tensor([[7, 7], [-7, 7], [7, 0], [1, 1]]), torch.full((4, 1), grid.base + grid.span))
    return Case(case.name, case.graph, joined([top, case.code]))


def nothing(name: str, inputs: str, weight: str, output: str, accumulation: str = "auto") -> Case:
    """Return a layer whose weights are all zero and that has no bias: the narrowest accumulator."""
    formats = {"0": NodeFormats(weight, output=output, accumulation=accumulation)}
    return network(name, [layer(torch.zeros(3, 5))], inputs, formats, {"0": (4, 2)}).case()


def heavy_bias(name: str, accumulation: str, output: str) -> Case:
    """Return a layer whose bias lies far above, and one far below, all products."""
    torch.manual_seed(6)
    formats = {"0": NodeFormats("mxint4b4e3", output=output, accumulation=accumulation)}
    layers = [layer(torch.randn(4, 6), [2.0**11, -(2.0**9), 2.0**-14, 0.0])]
    return network(name, layers, "mxint5b4e4", formats, {"0": (2, 4)}).case()


def one_a_cycle() -> Case:
    """Return layers that take and give a sample every cycle, fed more of them than all FIFOs hold."""
    torch.manual_seed(8)
    formats = {"0": NodeFormats("int4c", output="mxint5b4e3"), "2": NodeFormats("mxint4b4e2", output="fixed7.3")}
    layers, folding = [nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 5)], {"0": (3, 4), "2": (4, 5)}
    case = network("one_a_cycle", layers, "fixed6.3", formats, folding, torch.randn(6, 3)).case()
    return Case(case.name, case.graph, joined([case.code] * 5))


def directed() -> list[Case]:
    """Return the corners: ties, both saturations, most negative codes, zero blocks, odd sizes, lanes beyond the row."""
    fixed, scaled = NodeFormats("fixed8.7", output="fixed8.4"), NodeFormats("int4c", output="int6", rounding="half_up")
    return [
        *(every_tie(rounding) for rounding in ("even", "half_up", "trunc")),
        full_accumulator("full_fixed", "fixed8.6", fixed, (4, 2)),
        full_accumulator("full_int", "int8", scaled, (13, 7)),  # more lanes than inputs, and than outputs
        full_accumulator(
            "full_wide", "fixed32.30", NodeFormats("fixed24.20", output="fixed32.8", rounding="trunc"), (3, 1)
        ),
        full_accumulator("full_blocks", "mxint4b4e3", NodeFormats("mxint4b8e2", output="fixed8.-2"), (8, 3)),
        blocks("one_input", 1, 6, (1, 2), "exact"),
        blocks("less_than_a_block", 3, 9, (8, 4), "exact", relu=True),
        blocks("a_block_and_one", 9, 5, (2, 1), "exact"),
        blocks("aligned_no_guard", 9, 5, (4, 8), "aligned(0)", relu=True),
        blocks("aligned_wide_beats", 17, 4, (16, 1), "aligned(5)"),
        blocks("aligned_one_lane", 13, 6, (1, 4), "aligned(12)"),
        whole_exponents(),
        nothing("nothing_fixed", "fixed4.2", "fixed4.2", "fixed4.2"),
        nothing("nothing_int", "int4", "int4c", "int4"),
        nothing("nothing_blocks", "mxint4b2e2", "mxint4b2e2", "mxint4b2e2", "exact"),
        nothing("nothing_aligned", "mxint4b2e2", "mxint4b2e2", "int5", "aligned(3)"),
        heavy_bias("heavy_exact", "exact", "mxint6b2e4"),
        heavy_bias("heavy_aligned", "aligned(4)", "mxint6b2e4"),
        heavy_bias("heavy_aligned_fixed", "aligned(0)", "fixed12.0"),
        one_a_cycle(),
    ]


@pytest.fixture(scope="module", name="corners")
def _corners() -> list[Case]:
    return directed()


def test_extremes_reach_both_ends_of_the_accumulator() -> None:
    case = full_accumulator("full", "fixed8.6", NodeFormats("fixed8.7", output="fixed8.4"), (1, 1))
    op = build(case.graph).ops["_0"]
    assert isinstance(op, Linear)
    sums = extremes(op).mantissa.double() @ op.weight.T.double() + op.bias
    assert max(float(sums.max()), -float(sums.min()) - 1) >= 1 << op.acc_width - 2  # one bit less would not hold it


def test_one_a_cycle_is_one_a_cycle() -> None:
    completions = build(one_a_cycle().graph).timing(90).completions
    assert [b - a for a, b in pairwise(completions)] == [1] * 89


@pytest.mark.sim
@pytest.mark.parametrize("part", range(3))
def test_corners(corners: list[Case], part: int, tmp_path: Path) -> None:
    prove(corners[part::3], tmp_path, EVERYTHING)


# -- foldings ---------------------------------------------------------------------------------------------------------


def at_every_folding() -> list[Case]:
    """Return one network at four foldings: one lane, odd lanes, whole rows, more lanes than elements."""
    torch.manual_seed(5)
    formats = {"0": NodeFormats("int5c", output="mxint6b4e4"), "2": NodeFormats("mxint5b4e3", output="int7")}
    layers, x = [nn.Linear(7, 12), nn.ReLU(), nn.Linear(12, 5)], torch.randn(6, 3, 7)
    lanes = [((1, 1), (1, 1)), ((3, 2), (4, 3)), ((7, 12), (12, 5)), ((8, 4), (16, 8))]
    out = []
    for i, (first, second) in enumerate(lanes):
        out.append(network(f"fold{i}", layers, "fixed7.4", formats, {"0": first, "2": second}, x).case())
    return out


@pytest.mark.sim
def test_every_folding_gives_the_same_codes(tmp_path: Path) -> None:
    cases = at_every_folding()
    codes = [build(case.graph).codes(case.code) for case in cases]
    for other in codes[1:]:
        assert [name for name in other if difference(codes[0][name], other[name])] == []
    prove(cases, tmp_path, STALLED[:1])


def test_samples_do_not_depend_on_each_other() -> None:
    case = at_every_folding()[0]
    netlist = build(case.graph)
    together, alone = netlist.codes(case.code), netlist.codes(rows(case.code, slice(4, 5)))
    assert [name for name in alone if difference(rows(together[name], slice(4, 5)), alone[name])] == []
