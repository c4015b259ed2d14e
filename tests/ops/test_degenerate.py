"""Degenerate ranges through every operator: words of one bit, ranges of one value, constants, wide windows of zeros.

What has an operator is equal in oracle and reference; the rest is refused by name. The RTL of some of them is simulated
in tests/emit/test_bit_exact.py.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from mase.blocks.block_normalise import normalise, normalise_scalar
from mase.blocks.output import Output
from mase.dataflow.grid import activation_grid
from mase.dataflow.stream import StreamType, Travel
from mase.errors import UnsupportedOp
from mase.formats import Code, Format, QuantParams, parse
from mase.formats.grid import Grid
from mase.netlist import build
from mase.ops.linear import Linear
from mase.ops.requantize import Requantize
from mase.testing import same_codes
from tests.emit.designs import corners
from tests.emit.draws import degenerate
from tests.emit.proof import check_software

FORMATS = (
    *("fixed1.0", "ufixed1.0", "fixed1.64", "fixed2.1", "fixed32.-64", "int2", "int2p"),
    *("mxint2b1e1", "mxint2b2e8", "mxint8b4", "mxint8b2e1"),
)
ZERO, ONE, MIXED = [[0.0] * 3] * 2, [[1.0] * 3] * 2, [[0.0, -1.0, 2.0**-9], [3.0, 0.0, 0.0]]
Formatted = tuple[Format, QuantParams]


def calibrated(text: str, x: Tensor) -> Formatted:
    fmt = parse(text)
    return fmt, fmt.calibrate(x)


def codes(grid: Grid, count: int = 7, cols: int = 3) -> Code:
    """Return codes of a grid: all least, all greatest, all zero, then random ones; exponents at both ends."""
    code = corners(StreamType(1, cols, 1, grid), count, torch.Generator().manual_seed(2))
    return Code(code.mantissa.flatten(1), None if code.exponent is None else code.exponent.flatten(1))


def layers(x: str, positive: bool) -> Iterator[Linear]:
    """Yield every linear operator on inputs of a format that there is."""
    data = torch.tensor([[1.0, -0.5, 0.25]])
    biases = itertools.cycle((None, torch.tensor([0.0, -37.0]), torch.tensor([2.0**-12, 1e30]), torch.ones(2)))
    accumulations, relus = ("exact", "aligned(0)", "aligned(9)"), ({}, {"activation": "relu"})
    weights = [(w, torch.tensor(values)) for w in FORMATS for values in (ZERO, ONE, MIXED)]
    outs = itertools.cycle(calibrated(text, data) for text in FORMATS)
    for (w, values), accumulation, relu in itertools.product(weights, accumulations, relus):
        attrs, formats = (
            {**relu, "accumulation": accumulation},
            (calibrated(x, data), calibrated(w, values), next(outs)),
        )
        try:
            yield Linear.build("l", "l", 1, *formats, values, next(biases), attrs=attrs, positive=positive)
        except UnsupportedOp as error:
            assert str(error).startswith("l: ")  # noqa: PT017  # the others are built


@pytest.mark.parametrize("positive", [False, True])
@pytest.mark.parametrize("x", FORMATS)
def test_linear_layers_equal_their_oracle(x: str, positive: bool) -> None:
    built = 0
    for op in layers(x, positive):
        code = codes(op.x)
        code = Code(code.mantissa.clamp(min=op.low), code.exponent)  # what the producer can give
        assert same_codes(op.reference(code), op.oracle(code)), op
        assert op.acc_width >= 1 + (op.guard or 0)
        built += 1
    assert built > 20


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("x", FORMATS)
def test_requantize_and_relu_equal_their_oracle(x: str, relu: bool) -> None:
    data = torch.tensor([[1.0, -0.5, 0.25]])
    (fmt, params), built = calibrated(x, data), 0
    grid = activation_grid(fmt, params, "x")
    for text, mode in itertools.product(FORMATS, ("even", "half_up", "trunc")):
        target, found = calibrated(text, data)
        y = activation_grid(target, found, "y")
        scales = (params.scale if grid.scaled else None, found.scale if y.scaled else None)
        try:
            out = Output.of(y, *scales, grid.unit, grid.reach, relu, mode, "y")
        except UnsupportedOp as error:
            assert "y: rounding" in str(error) or "bits" in str(error)  # noqa: PT017  # the others are built
            continue
        op = Requantize("r", 1, 3, grid, out, 0, Travel.of((3,)))
        assert same_codes(op.reference(codes(grid)), op.oracle(codes(grid))), text
        built += 1
    assert built or grid.span == 254  # a window of 8 bits is wider than any exact result


@pytest.mark.parametrize("span", [0, 1, 254])
@pytest.mark.parametrize("width", [2, 16])
@pytest.mark.parametrize("unit", [-300, -127, 0, 120])
def test_blocks_of_few_values_equal_their_oracle(width: int, span: int, unit: int) -> None:
    high = (1 << width - 1) - 1
    grid = Grid(width, True, -high, high, -127 - (width - 2), block=2, exp_bits=8, base=-127, span=span)
    rows = [[0, 0, 0], [1, -1, 1], [0, 0, -1], [2**52 - 1, 1, 0], [3, -(2**52) + 1, 2**51]]
    found = normalise(torch.tensor(rows, dtype=torch.float64), unit, grid)
    expected = [normalise_scalar(row, unit, grid) for row in rows]
    assert (found.mantissa.tolist(), found.exponent.tolist()) == tuple(map(list, zip(*expected, strict=True)))  # type: ignore[union-attr]


@pytest.mark.parametrize("group", range(4))
def test_networks_of_degenerate_ranges_equal_their_oracle(group: int) -> None:
    """Layouts and width converters too: all edges of random networks."""
    for seed in range(1000 + group, 1032, 4):
        case = degenerate(f"net{seed}", seed)
        check_software(case, build(case.graph))


@pytest.mark.parametrize(
    ("weight", "inputs"),
    [("mxint8b4", "mxint8b4"), ("fixed8.4", "mxint8b4"), ("int8", "mxint8b4"), ("int8c", "mxint8")],
)
def test_weights_of_zeros_behind_any_exponent_give_zeros(weight: str, inputs: str) -> None:
    """The sums are 0 in any carrier, but an operand of 2**262 is infinite in float32, and infinity times 0 is NaN."""
    x, values = calibrated(inputs, torch.ones(1, 4)), torch.zeros(4, 4)
    op = Linear.build("l", "l", 1, x, calibrated(weight, values), x, values, None, attrs={"accumulation": "exact"})
    assert (op.bound, op.x.reach > 2**260, op.carrier) == (0, True, torch.float64)
    code = op.reference(codes(op.x, 9, 4))
    assert not bool(code.mantissa.any())
    assert same_codes(code, op.oracle(codes(op.x, 9, 4)))


def test_inputs_of_zeros_before_any_weight_give_zeros() -> None:
    """The same, with the sides changed: x can only be 0, and weights span all exponents."""
    values = torch.tensor([[2.0**-120, 2.0**-127, 1.0, 2.0**120]]).T.expand(4, 4)
    formats = (calibrated(text, values) for text in ("fixed1.0", "mxint8b1", "fixed8.4"))
    op = Linear.build("l", "l", 1, *formats, values, None, attrs={"accumulation": "exact"}, positive=True)
    assert (op.bound, op.w.reach > 2**240, op.carrier) == (0, True, torch.float64)
    zero = Code(torch.zeros(2, 4, dtype=torch.int64))
    assert not bool(op.reference(zero).mantissa.any())


@pytest.mark.parametrize("what", ["weight", "bias"])
@pytest.mark.parametrize("value", [torch.inf, -torch.inf, torch.nan])
def test_a_parameter_that_is_no_number_is_refused(what: str, value: float) -> None:
    tensors = {"weight": torch.ones(2, 3), "bias": torch.ones(2)}
    tensors[what].view(-1)[1] = value
    formats = [calibrated("fixed8.4", torch.ones(1, 3))] * 3
    with pytest.raises(UnsupportedOp, match=f"l: the {what} holds infinity or NaN; allowed are finite numbers"):
        Linear.build("l", "l", 1, *formats, tensors["weight"], tensors["bias"], attrs={})
