"""Scale and shift: constants in integers, their stated error, what is refused."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mase.blocks.affine import AffineUnit, Scaling
from mase.errors import UnsupportedOp
from mase.formats import Code, parse
from mase.formats.grid import Grid

X, Y = Grid(8, True, -128, 127, unit=-4), Grid(8, True, -128, 127, unit=-3)


def scaling(scale: Tensor, shift: Tensor, relu: bool = False, mode: str = "even", y: Grid = Y) -> Scaling:
    return Scaling.of(X, y, (None, None), scale.double(), shift.double(), relu, mode, "here")


def test_constants_by_hand() -> None:  # 1.5 is the greatest: 16 bits, k = 15; the sum's unit is 2**-19
    op = scaling(torch.tensor([[1.5, -0.25]]), torch.tensor([[0.5, 0.0]]))
    assert op.multiplier.tolist() == [[49152, -8192]]
    assert op.addend.tolist() == [[1 << 18, 0]]
    assert op.out.rounding.shift == 16
    assert op.integers(Code(torch.tensor([[[2, 4]]]))).tolist() == [[[2 * 49152 + (1 << 18), -4 * 8192]]]


@pytest.mark.parametrize(("mode", "y"), [("even", [2, 4]), ("half_up", [3, 4]), ("trunc", [2, 3])])
def test_ties_follow_the_node(mode: str, y: list[int]) -> None:  # 5/16 and 7/16 in steps of 1/8 are 2.5 and 3.5
    op = scaling(torch.ones(1, 2), torch.zeros(1, 2), mode=mode)
    assert op.out.apply(op.integers(Code(torch.tensor([[[5, 7]]])))).mantissa.tolist() == [[y]]


def test_results_are_within_the_stated_error() -> None:
    """Half a step; a multiplier is off by 2**-17 of the greatest scale at most, an addend by half of the sums' unit."""
    torch.manual_seed(0)
    scale, shift = torch.randn(1, 40).double(), torch.randn(1, 40).double()
    op = scaling(scale, shift)
    x = torch.arange(-128, 128).reshape(-1, 1, 1).expand(-1, 1, 40)
    y = op.out.apply(op.integers(Code(x))).mantissa * 2.0**Y.unit
    real = (x * 2.0**X.unit * scale + shift).clamp(Y.low * 2.0**Y.unit, Y.high * 2.0**Y.unit)
    bound = 2.0 ** (Y.unit - 1) + 8 * float(scale.abs().max()) * 2.0**-16 + 2.0 ** (op.out.unit - 1)
    assert float((y - real).abs().max()) <= bound


def test_rows_that_are_alike_share_their_words() -> None:
    row = torch.tensor([1.0, -2.0, 3.0])
    for scale, rows in ((row.repeat(4, 1), 1), (torch.arange(12.0).reshape(4, 3), 4)):
        op = scaling(scale, torch.zeros(4, 3))
        unit = AffineUnit(op, 2)
        assert op.multiplier.shape == (rows, 3)
        assert unit.sv_params()["Words"] == 2 * rows
        assert all(image.depth == 2 * rows for image in unit.memories().values())


def test_channels_of_scale_zero_give_their_shift() -> None:
    op = scaling(torch.zeros(1, 2), torch.tensor([[1.0, -1.0]]))
    assert op.out.apply(op.integers(Code(torch.tensor([[[99, -99]]])))).mantissa.tolist() == [[[8, -8]]]


def test_a_relu_comes_before_the_exponent_is_chosen() -> None:
    fmt = parse("mxint4b2e3")
    x = torch.tensor([[[-128, 5]]])
    y = fmt.grid(fmt.calibrate(torch.tensor([[4.0, 1.0]])), "here")
    op = scaling(torch.ones(1, 2), torch.zeros(1, 2), relu=True, y=y)
    code = op.out.apply(op.integers(Code(x)))
    assert code.exponent is not None
    assert (code.mantissa.tolist(), code.exponent.tolist()) == ([[[0, 5]]], [[[-2]]])


def test_coarse_multipliers_are_said() -> None:
    assert scaling(torch.tensor([[1.0, 0.5]]), torch.zeros(1, 2)).out.warnings == ()
    (note,) = scaling(torch.tensor([[1.0, 2.0**-10]]), torch.zeros(1, 2)).out.warnings
    assert note == "here: 1 channel multipliers are below 2**8, so coarser than 0.2 %"


@pytest.mark.parametrize(
    ("scale", "shift", "text"),
    [
        (float("inf"), 0.0, "the scale of a channel is infinite or NaN"),
        (1.0, float("nan"), "the shift of a channel is infinite or NaN"),
        (1.0, 1e30, r"shifts are over 2\*\*62 steps of the scales"),
        (1.0, 2.0**43, "takes 64 bits; allowed are 62"),
    ],
)
def test_constants_that_no_integers_hold_are_refused(scale: float, shift: float, text: str) -> None:
    with pytest.raises(UnsupportedOp, match=f"^here: .*{text}"):
        scaling(torch.tensor([[scale]]), torch.tensor([[shift]]))
