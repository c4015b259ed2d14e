"""Numbers in text are ASCII digits."""

from __future__ import annotations

import pytest

from mase.doors.number import integer, real
from mase.errors import ConfigError, FormatError


@pytest.mark.parametrize(("text", "value"), [("0", 0), ("-12", -12), ("+7", 7), ("010", 10), ("9" * 40, 10**40 - 1)])
def test_integers(text: str, value: int) -> None:
    assert integer(text, "here") == value


@pytest.mark.parametrize(
    "text", ["", "-", "1_0", " 1", "1\n", "\u0661", "\uff11", "1.0", "1e3", "0x1", "9" * 41, "9" * 5000]
)
def test_what_is_not_an_integer(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^here: found "):
        integer(text, "here")


@pytest.mark.parametrize(("text", "value"), [("1", 1.0), ("-.5", -0.5), ("2.", 2.0), ("1e-400", 0.0), ("1E+3", 1000.0)])
def test_reals(text: str, value: float) -> None:
    assert real(text, "here") == value
    assert real("-inf", "here", special=True) == -float("inf")


@pytest.mark.parametrize(
    "text", ["", ".", "e3", "1_0.0", " 1", "1.0\n", "\u0661.5", "1e", "nan", "inf", "1e999", "0x1p3", "1" * 401]
)
def test_what_is_not_a_real_number(text: str) -> None:
    with pytest.raises(FormatError, match=r"^here: found "):
        real(text, "here", FormatError)
