"""Linear: accumulators that hold every sum and no bit more, one rounding, biases, refusals."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from functools import cache

import pytest
import torch
from torch import Tensor, nn

from mase.blocks.sums import Accumulation
from mase.errors import GraphError, UnsupportedOp
from mase.formats import Axes, Code, QuantParams, parse
from mase.frontend.module import trace_module
from mase.netlist import build
from mase.ops.linear import Linear
from mase.testing import Mapped, OpLaws, same_codes
from passes.map import Folding
from passes.quantize import NodeFormats, QuantizeConfig, quantize
from tests.emit.designs import Network
from tests.ops.single import compute, draw

CLASSES = ("fixed6.4", "int5", "mxint5b4e3")


def mapped(formats: tuple[str, str, str], sizes: tuple[int, int], lanes: tuple[int, int], **options: str) -> Mapped:
    """Return one layer with formats of (input, weight, output) and sizes (inputs, outputs), two rows a sample."""
    torch.manual_seed(sum(sizes))
    x, (inputs, weight, output) = torch.randn(6, 2, sizes[0]), formats
    layers = [nn.Linear(*sizes), *([nn.ReLU()] * ("relu" in options))]
    node = NodeFormats(weight, output=output, **{k: v for k, v in options.items() if k != "relu"})
    case = Network("linear", layers, x, inputs, {"0": node}, {"0": Folding(*lanes)}).case()
    return Mapped(case.graph, case.code)


@cache
def every_combination() -> Mapping[str, Mapped]:
    """Return all 27 combinations of classes at odd sizes and lanes."""
    shapes = itertools.cycle([((5, 6), (2, 4)), ((4, 3), (8, 2)), ((9, 5), (4, 1)), ((1, 7), (1, 8))])
    triples = itertools.product(CLASSES, CLASSES, CLASSES)
    return {
        f"linear{i}": mapped(triple, *shape) for i, (triple, shape) in enumerate(zip(triples, shapes, strict=False))
    }


class TestLaws(OpLaws):
    kind = "linear"

    def graphs(self) -> Mapping[str, Mapped]:
        return every_combination()


def op_of(formats: tuple[str, str, str], layer: nn.Linear, x: Tensor, **options: str) -> Linear:
    """Return the operator of one layer on real inputs."""
    inputs, weight, output = formats
    node = NodeFormats(weight, output=output, **options)
    op = build(Network("op", [layer], x, inputs, {"0": node}).quantized()).ops["_0"]
    assert isinstance(op, Linear)
    return op


def layer(weight: list[list[float]], bias: list[float] | None = None) -> nn.Linear:
    linear = nn.Linear(len(weight[0]), len(weight), bias=bias is not None)
    with torch.no_grad():
        linear.weight.copy_(torch.tensor(weight))
        if bias is not None:
            linear.bias.copy_(torch.tensor(bias))
    return linear


X = torch.linspace(-1, 1, 8).reshape(4, 2)


def test_a_sum_by_hand() -> None:  # units 2**-4 and 2**-2; (3*2 + -4*1) + bias 0.5 = 32 units, less 6 bits of 2**-6
    op = op_of(("fixed8.4", "fixed4.2", "fixed8.2"), layer([[0.5, 0.25]], [0.5]), X)
    assert (op.bias.tolist(), op.x.unit + op.w.unit, op.out.shift) == ([32], -6, 4)
    code = Code(torch.tensor([[3, -4], [127, 127], [-128, -128]]))
    assert op.reference(code).mantissa.tolist() == [[2], [26], [-22]]  # 34/16 = 2.1, 413/16 = 25.8, -352/16 = -22


def test_relu_is_a_bound_of_the_rounding() -> None:
    network = Network(
        "relu", [layer([[1.0, 1.0]]), nn.ReLU()], X, "fixed6.2", {"0": NodeFormats("fixed3.0", output="fixed6.2")}
    )
    op = build(network.quantized()).ops["_0"]
    assert op.reference(Code(torch.tensor([[-8, 3], [2, 3]]))).mantissa.tolist() == [[0], [5]]


@pytest.mark.parametrize("formats", [("fixed4.2", "fixed3.1", "fixed6.0"), ("mxint3b2e2", "mxint3b2e1", "fixed6.0")])
def test_accumulator_is_the_least_that_holds_every_sum(formats: tuple[str, str, str]) -> None:
    op = op_of(formats, layer([[0.5, -0.5], [0.25, 0.75]], [1.0, -2.0]), X, accumulation="exact")
    top = 1 if not op.x.block else 1 << op.x.span
    codes = torch.tensor(list(itertools.product(range(op.low, op.x.high + 1), repeat=2)))
    weight = op.w.integers(Code(op.weight, op.weight_exp)).long()
    sums = top * codes @ weight.T + op.bias
    partial = torch.stack([sums, op.bias.expand_as(sums), op.bias + top * codes[:, :1] * weight[:, 0]])
    half = 1 << op.acc_width - 1
    assert -half <= int(partial.min()) <= int(partial.max()) < half
    assert int(partial.min()) < -half // 2 or int(partial.max()) >= half // 2  # one bit less would overflow
    assert int(partial.abs().max()) <= op.bound


def test_a_proven_range_saves_accumulator_bits() -> None:
    layers = [nn.Linear(4, 4), nn.ReLU(), layer([[1.0, -1.0, 1.0, -1.0]])]
    formats = {"0": NodeFormats("int4", output="fixed8.4"), "2": NodeFormats("fixed4.2", output="fixed8.4")}
    after_relu = Network("relu", layers, torch.randn(4, 4), "fixed8.4", formats).quantized()
    plain = Network(
        "plain", [layers[0], layers[2]], torch.randn(4, 4), "fixed8.4", {"0": formats["0"], "1": formats["2"]}
    )
    ops = build(after_relu).ops["_2"], build(plain.quantized()).ops["_1"]
    assert isinstance(ops[0], Linear)
    assert isinstance(ops[1], Linear)
    assert (ops[0].low, ops[1].low) == (0, -128)
    assert ops[0].acc_width < ops[1].acc_width


def test_the_bias_is_rounded_to_even_on_the_accumulator_grid() -> None:
    op = op_of(("fixed4.0", "fixed4.0", "fixed8.0"), layer([[1.0, 1.0]] * 4, [0.5, 1.5, -0.5, 2.6]), X)
    assert op.bias.tolist() == [0, 2, 0, 3]


def test_a_bias_format_rounds_first() -> None:
    linear = layer([[1.0, 1.0]] * 3, [0.6, 7.0, -0.3])
    op = op_of(("fixed4.2", "fixed4.0", "fixed8.2"), linear, X, bias="fixed3.0")
    assert op.bias.tolist() == [4, 12, 0]  # 1, 3 (saturated) and 0, in units of 2**-2


def test_float_and_integers_agree_where_nothing_is_rounded() -> None:
    linear, x = layer([[0.5, -1.75], [1.0, 0.25]], [0.25, -0.5]), torch.tensor([[1.5, -2.0], [0.25, 3.0]])
    network = Network("exact", [linear], x, "fixed8.2", {"0": NodeFormats("fixed8.2", output="fixed16.8")})
    assert torch.equal(network.quantized()(x), linear(x).double())


@pytest.mark.parametrize("width", [12, 16])
def test_int64_takes_over_beyond_53_bits(width: int) -> None:
    formats = (f"mxint{width}b2e4", f"mxint{width}b2e3", "fixed8.0")
    op = op_of(formats, layer([[1.0, -0.9], [0.3, 2.0**-7]]), X, accumulation="exact")
    codes = Code(torch.tensor([[op.x.high, op.x.low]]), torch.tensor([[op.x.base + op.x.span]]))
    assert op.carrier == (torch.float64 if op.bound < 1 << 53 else torch.int64)
    assert torch.equal(op.reference(codes).mantissa, op.oracle(codes).mantissa)


@pytest.mark.parametrize("weight", ["fixed5.3", "int4c", "mxint4b1e3", "ternaryc", "e2m1", "int4g1"])
def test_a_zero_point_is_part_of_the_bias(weight: str) -> None:
    torch.manual_seed(2)
    linear, x = nn.Linear(2, 3), torch.randn(40, 2) + 0.5
    op = op_of(("int5a", weight, "fixed9.4"), linear, x, accumulation="exact")
    found = {name: parse(text) for name, text in (("x", "int5a"), ("w", weight), ("y", "fixed9.4"))}
    real, bias = linear.weight.detach(), linear.bias.detach()
    params = {"x": found["x"].calibrate(x), "w": found["w"].calibrate(real, found["w"].along(Axes()))}
    operands = [(found[k], params.get(k, QuantParams())) for k in "xwy"]
    apart = Linear.build("op", "op", 1, *operands, real, bias, attrs={}, order=None)
    assert (op.zero > 0, apart.zero) == (True, 0)
    codes = Code(torch.cartesian_prod(torch.arange(32), torch.arange(32)))
    integers = found["x"].grid(params["x"], "x").decoded(codes)
    assert torch.equal(op.reference(codes).mantissa, apart.reference(integers).mantissa)
    assert same_codes(op.reference(codes), op.oracle(codes))


# -- aligned accumulation ---------------------------------------------------------------------------------------------


def aligned(guard: int) -> Linear:
    """Return two regions whose exponents differ: weights 1 and 2**-4."""
    formats = ("fixed6.0", "mxint4b1e3", "fixed12.4")
    return op_of(formats, layer([[1.0, 2.0**-4]], [0.0]), X, accumulation=f"aligned({guard})")


def test_aligned_sums_by_hand() -> None:
    # w = (4, 4) with exponents 4 and 0 over the base: terms (4a << G) >> 0 and floor((4b << G) / 16), both << 4.
    op = aligned(0)
    assert (op.weight.tolist(), (op.weight_exp - op.w.base).tolist()) == ([[4, 4]], [[4, 0]])  # type: ignore[operator]
    codes = Code(torch.tensor([[1, 3], [1, 4], [1, -1], [0, 3]]))
    assert op._aligned(codes).flatten().tolist() == [(4 + 0) << 4, (4 + 1) << 4, (4 - 1) << 4, 0]
    op = aligned(2)
    assert op._aligned(codes).flatten().tolist() == [(16 + 3) << 4, (16 + 4) << 4, (16 - 1) << 4, 3 << 4]


def test_enough_guard_bits_are_exact() -> None:
    exact = op_of(("fixed6.0", "mxint4b1e3", "fixed12.4"), layer([[1.0, 2.0**-4]], [0.0]), X, accumulation="exact")
    codes = Code(torch.tensor(list(itertools.product((-32, -3, 1, 31), repeat=2))))
    assert torch.equal(aligned(4).reference(codes).mantissa, exact.reference(codes).mantissa)


def test_aligned_truncates_whole_regions_so_that_beats_do_not_matter() -> None:
    op = op_of(("mxint4b4e4", "int4p", "fixed12.0"), layer([[1.0] * 6]), torch.ones(2, 6), accumulation="aligned(0)")
    exponents = torch.tensor([[op.x.base, op.x.base + 3]])
    code = Code(torch.tensor([[1, 1, 1, 1, 1, 0]]), exponents)
    seven = int(op.weight[0, 0])
    assert op._aligned(code).item() == ((4 * seven >> 3) + seven) << 3  # not 4 * (7 >> 3)


# -- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("formats", "options", "why"),
    [
        (
            ("mxint8b4e8", "mxint8b4e8", "int8"),
            {"accumulation": "exact"},
            r"accumulator takes \d+ bits; allowed are 48; use",
        ),
        (("fixed8.4", "fixed8.4", "int8"), {"accumulation": "aligned(4)"}, r"aligned\(G\) is for block formats"),
        (("mxint8b4e4", "int4", "int8"), {"accumulation": "aligned(33)"}, r"G in 0\.\.32"),
        (("mxint8b4e4", "int4", "int8"), {"accumulation": "kulisch"}, "accumulation 'kulisch'; allowed: exact"),
        (
            ("fixed8.4", "int4", "mxint8b4e4"),
            {"rounding": "trunc"},
            "rounding 'trunc' into a block format; allowed: even",
        ),
        (("fixed8.4", "int4", "int8"), {"rounding": "up"}, "rounding 'up'; allowed: even, half_up, trunc"),
        (("fixed8.4", "fixed8.4", "fixed8.4_floor"), {}, "rounding"),
        (("fixed8.4", "fixed8.4", "int8c"), {}, "scale a channel"),
    ],
)
def test_refused_with_reason(formats: tuple[str, str, str], options: dict[str, str], why: str) -> None:
    with pytest.raises(UnsupportedOp, match=rf"node '0' .*{why}"):
        op_of(formats, layer([[1.0, 2.0], [3.0, 4.0]]), X, **options)


def test_accumulation_reads_what_it_writes() -> None:
    for text in ("exact", "aligned(0)", "aligned(32)"):
        guard = Accumulation.parse(text, "here").guard
        assert text == ("exact" if guard is None else f"aligned({guard})")


def test_wrong_lanes_are_refused() -> None:
    op = op_of(("mxint8b4e4", "int4", "int8"), layer([[1.0] * 6]), torch.ones(2, 6))
    with pytest.raises(UnsupportedOp, match="3 lanes do not fit blocks of 4"):
        op.blocks(3, 1, {})
    with pytest.raises(UnsupportedOp, match="pe is 0; allowed is 1"):
        op.blocks(1, 0, {})


@pytest.mark.parametrize("output", ["fixed8.4", "mxint5b4e3"])
@pytest.mark.parametrize("shape", [(5, 3), (3, 3)])
def test_a_result_that_is_to_travel_along_another_axis_is_refused(shape: tuple[int, int], output: str) -> None:
    """A convolution over the rows wants all rows of an output together; the layer gives all outputs of a row."""
    layers = [nn.Linear(shape[1], 3), nn.Conv1d(shape[0], 2, 1)]
    formats = {"0": NodeFormats("int4", output=output), "1": NodeFormats("int4", output="fixed8.4")}
    graph = Network("across", layers, torch.randn(4, *shape), "fixed8.4", formats).quantized()
    with pytest.raises(UnsupportedOp, match=r"node '0' .*travel with axis 1 fastest, .*; allowed is the last axis"):
        build(graph)


def test_a_weight_of_another_shape_is_refused() -> None:
    graph, _ = trace_module(nn.Sequential(nn.Linear(3, 2)).eval(), (torch.randn(2, 3),))
    graph.tensors["0.weight"] = torch.zeros(2, 4)
    with pytest.raises(GraphError, match=r"weight has shape \(2, 4\); its record says \(2, 3\)"):
        graph.verify()


def test_nan_weights_never_reach_codes() -> None:
    graph, _ = trace_module(nn.Sequential(nn.Linear(3, 2)).eval(), (torch.randn(2, 3),))
    graph.tensors["0.weight"] = torch.full((2, 3), torch.nan)
    with pytest.raises(Exception, match="NaN"):
        quantize.run(graph, QuantizeConfig(NodeFormats("int4", "fixed8.4")), [torch.randn(2, 3)])


# -- memories ---------------------------------------------------------------------------------------------------------


def test_memories_hold_what_their_layout_says() -> None:
    source = mapped(("mxint5b4e3", "mxint5b4e3", "int5"), (9, 5), (4, 2), accumulation="aligned(3)")
    netlist = build(source.graph)
    op, block = netlist.ops["_0"], netlist.instances[0].block
    assert isinstance(op, Linear)
    assert op.weight_exp is not None
    images, simd, pe, tiles = block.memories(), 4, 2, 3
    assert set(images) == {"WeightFile", "WeightExpFile", "BiasFile", "BiasExpFile"} | {"MultFile"}

    def field(key: str, word: int, index: int, width: int, signed: bool) -> int:
        value = images[key].words[word] >> index * width & (1 << width) - 1
        return value - (1 << width) if signed and value >> width - 1 else value

    for o, k in itertools.product(range(6), range(12)):
        inside = o < 5 and k < 9
        found = field("WeightFile", o // pe * tiles + k // simd, o % pe * simd + k % simd, 5, signed=True)
        assert found == (int(op.weight[o, k]) if inside else 0)
    for o, block_index in itertools.product(range(5), range(3)):
        found = field("WeightExpFile", o // pe * tiles + block_index, o % pe, op.weight_exp_bits, signed=False)
        assert found == int(op.weight_exp[o, block_index]) - op.w.base
    for o in range(5):
        assert field("BiasFile", o // pe, o % pe, op.bias_width, signed=True) == int(op.bias[o])
        assert op.out.multiplier is not None
        assert field("MultFile", o // pe, o % pe, 16, signed=False) == int(op.out.multiplier.expand(5)[o])


def test_widths_of_formats_are_those_of_the_ports() -> None:
    stream = build(mapped(("ufixed5.3", "int3", "int7"), (3, 2), (2, 1)).graph).stream_in
    assert (stream.bits, parse("ufixed5.3").sv_params()["Width"]) == (10, 5)


def test_a_weight_that_is_stored_transposed_computes_as_its_module_does() -> None:
    x, stored, bias = draw(2, 3, 4), draw(4, 5, seed=1), draw(5, seed=2)
    expected = torch.addmm(bias, x.view(-1, 4), stored).view(2, 3, 5)  # transformers' Conv1D
    y = compute("linear", (x,), {"transposed": True}, weight=stored.t(), bias=bias)
    assert torch.equal(y, expected)
    assert torch.equal(
        compute("linear", (x,), {"transposed": True}, weight=stored.t()), (x.view(-1, 4) @ stored).view(2, 3, 5)
    )
