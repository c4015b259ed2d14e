"""The one way from floats to integers, and that everything goes through it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from mase.errors import FormatError, InternalError
from mase.formats import QuantParams, parse
from mase.formats.whole import whole

ROOT = Path(__file__).resolve().parents[2]
BARE = re.compile(r"\.to\(torch\.int64\)|\.long\(\)")
# operations that are not float there: exponents and comparisons, and the way itself
INTEGERS = {
    "mase/formats/whole.py": ["return x.to(torch.int64)"],
    "mase/formats/base.py": ["return ((exponent.to(torch.int64) + 1023) << 52).view(torch.float64)"],
    "mase/formats/ternary.py": ["return (x > threshold).to(torch.int64) - (x < -threshold).to(torch.int64)"],
    "mase/formats/log.py": ["return exponent + self.bias + ((x < 0).to(torch.int64) << self.width - 1)"],
    "mase/formats/minifloat.py": [
        "digits = (number & (1 << self.man) - 1) + ((exponent > 0).to(torch.int64) << self.man)"
    ],
    "mase/formats/fixed.py": [
        "shift = exponent.to(torch.int64) + (self.frac - DIGITS)  # x * 2**frac = digits * 2**shift"
    ],
    "mase/formats/grid.py": [  # truth values
        "hidden = (field > 0).to(torch.int64) if self.subnormal else torch.ones_like(field)",
        "return number + ((v < 0) & (number > 0)).to(torch.int64) * (1 << self.width - 1)",
        "return number + ((v < 0).to(torch.int64) << self.width - 1)",
        "return (t > edge).to(torch.int64) - (t < -edge).to(torch.int64)",
    ],
    "mase/formats/packed_file.py": [  # truth values and bit patterns
        "yield _Field(MASK, piece.mask.to(torch.int64), 1)",
        "return (codes < 0).to(torch.int64)",
        "found = stored.view(bits).to(torch.int64) & (1 << SCALE_BITS[kind]) - 1",
        "found = found | (values < 0).to(torch.int64) << 8",
        "return raw.contiguous().clone().view(kind).to(torch.int64)[:count] & (1 << width) - 1",
        "return (raw.unsqueeze(1) >> shifts & (1 << width) - 1).reshape(-1)[:count].to(torch.int64)",
    ],
    "mase/formats/int.py": ["factor = torch.sign(scale).to(torch.int64)"] * 2,  # of finite scales
    "mase/ops/depthwise.py": ["exponent = torch.frexp(bias.abs() / part)[1].clamp(min=0).to(torch.int64)"],
    "mase/blocks/sums.py": ["exponent = torch.frexp(real.abs() / part)[1].clamp(min=0).to(torch.int64)"],
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("odd", [torch.nan, torch.inf, -torch.inf, 2.0**63, -(2.0**64)])
def test_what_is_no_integer_is_an_error(odd: float, dtype: torch.dtype) -> None:
    x = torch.zeros(3, 5, dtype=dtype)
    x[1, 2] = odd
    with pytest.raises(InternalError, match="a whole number is needed; found values from"):
        whole(x)


def test_whole_numbers_pass() -> None:
    ends = torch.tensor([-(2.0**63), 2.0**62, 0.0, -0.0], dtype=torch.float64)
    assert whole(ends).tolist() == [-(2**63), 2**62, 0, 0]
    assert whole(torch.empty(0, 3)).dtype == torch.int64
    codes = torch.tensor([2**63 - 1])
    assert whole(codes) is codes


def test_formats_and_operators_convert_in_no_other_way() -> None:
    for folder in ("mase/formats", "mase/blocks", "mase/ops"):
        for path in sorted((ROOT / folder).glob("*.py")):
            lines = [line.strip() for line in path.read_text().splitlines() if BARE.search(line)]
            assert lines == INTEGERS.get(str(path.relative_to(ROOT)), []), path


@pytest.mark.parametrize("text", ["int8", "int8c", "int4g2a", "e4m3t"])
@pytest.mark.parametrize("scale", [0.0, torch.inf, torch.nan])
def test_a_scale_that_is_no_number_is_refused(text: str, scale: float) -> None:
    fmt, x = parse(text), torch.ones(2, 2)
    found = fmt.calibrate(x).scale
    assert found is not None
    params = QuantParams(scale=torch.full_like(found, scale), zero_point=fmt.calibrate(x).zero_point)
    for call in (fmt.encode, fmt.quantize):
        with pytest.raises(
            FormatError, match=f"the parameters hold the scale {scale}; allowed are finite numbers but 0"
        ):
            call(x, params)


@pytest.mark.parametrize(("text", "x"), [("int8a_qera", [4.0, 4.0]), ("int8a_torchao", [-3e38, 3e38])])
def test_a_tool_without_a_scale_for_the_data_says_so(text: str, x: list[float]) -> None:
    with pytest.raises(FormatError, match="in float32, in which the tool computes; allowed is a finite scale above 0"):
        parse(text).calibrate(torch.tensor(x))
