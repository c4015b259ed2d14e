"""Block floating point: laws for both rules and codes, and values by hand."""

from __future__ import annotations

import pytest
import torch

from mase.errors import FormatError
from mase.formats.bfp import BFP
from mase.testing import FormatLaws


class TestCeil(FormatLaws):
    fmt = BFP(6)
    idempotent = False  # a maximum that rounds down to a power of two asks for the exponent below, where it clips
    scales = True


class TestCeilWide(FormatLaws):
    fmt = BFP(8, block=8)
    axis = 0
    idempotent = False
    scales = True


class TestFloor(FormatLaws):
    fmt = BFP(4, block=16, rule="floor")
    scales = True


class TestTwosComplement(FormatLaws):
    fmt = BFP(5, block=4, rule="floor", code="tc")
    idempotent = False  # -2**(width-1) steps are a power of two, which asks for the exponent above
    symmetric = False
    scales = True


class TestWindow(FormatLaws):
    fmt = BFP(4, block=8, exp_bits=3)
    idempotent = False
    scales = True


class TestTile(FormatLaws):
    fmt = BFP(6, block=4, outer=(4,))
    idempotent = False
    scales = True


@pytest.mark.parametrize(
    ("fmt", "exponent", "codes"),
    [
        (BFP(4, 4), 3, [5, 8 - 1, -6, 0]),  # maximum 8: K = 3, step 1; 8 clips to 7
        (BFP(4, 4, rule="floor"), 4, [2, 4, -3, 0]),  # K = 4, step 2; 5 / 2 ties to 2
        (BFP(4, 4, code="tc"), 3, [5, 7, -6, 0]),
    ],
)
def test_block_by_hand(fmt: BFP, exponent: int, codes: list[int]) -> None:
    code = fmt.encode(torch.tensor([5.0, 8.0, -6.0, 0.25]))
    assert code.exponent is not None
    assert (code.exponent.tolist(), code.mantissa.tolist()) == ([exponent], codes)


def test_twos_complement_has_one_code_more() -> None:
    x = torch.tensor([-8.0, 1.0])
    assert BFP(4, 2, code="tc").quantize(x).tolist() == [-8.0, 1.0]
    assert BFP(4, 2, code="sm").quantize(x).tolist() == [-7.0, 1.0]


def test_ceil_covers_maxima_below_a_power_of_two() -> None:
    below = torch.tensor(8.0).nextafter(torch.tensor(0.0))
    above = torch.tensor(8.0).nextafter(torch.tensor(torch.inf))
    exponent = BFP(4, 1).encode(torch.stack([below, torch.tensor(8.0), above])).exponent
    assert exponent is not None
    assert exponent.tolist() == [3, 3, 4]


def test_stored_bits_by_hand() -> None:
    assert BFP(6, 16).bits((64, 64)) == 6.5
    assert BFP(4, 16, 4).bits((64, 64)) == 4.25


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"rule": "rceil"}, "bfp: rule is 'rceil'; allowed is 'ceil', 'floor'"),
        ({"code": "ones"}, "bfp: code is 'ones'; allowed is 'sm', 'tc'"),
        ({"block": 0}, "bfp: block is 0; allowed is 1..65536"),
    ],
)
def test_impossible_fields_say_what_is_allowed(fields: dict[str, object], text: str) -> None:
    with pytest.raises(FormatError, match=text.replace(".", r"\.")):
        BFP(**fields)  # type: ignore[arg-type]
