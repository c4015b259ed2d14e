"""Fields of methods: what is wrong is said in one line."""

from __future__ import annotations

import math

import pytest

from mase.errors import ConfigError
from passes.ptq.fields import choice, number, whole


def test_what_is_allowed_passes() -> None:
    whole("rtn.bits", 3, 1)
    whole("rtn.bits", 3, 1, 3)
    number("gptq.damp", 0.01, 0, 1)
    number("gptq.damp", 1, 0)
    choice("qera.variant", "exact", ("exact", "approx"))


@pytest.mark.parametrize("value", [0, 9, 2.5, True, "3", None])
def test_whole_numbers(value: object) -> None:
    with pytest.raises(ConfigError, match=r"^rtn\.bits: found .*; allowed is a whole number from 1 to 8$"):
        whole("rtn.bits", value, 1, 8)


@pytest.mark.parametrize("value", [-0.1, math.nan, math.inf, True, "0.1", None])
def test_numbers(value: object) -> None:
    with pytest.raises(ConfigError, match=r"^gptq\.damp: found .*; allowed is a number from 0$"):
        number("gptq.damp", value, 0)


def test_choices_name_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"^qera\.variant: found 'exakt'; did you mean exact\?$"):
        choice("qera.variant", "exakt", ("exact", "approx"))
    with pytest.raises(ConfigError, match=r"allowed: approx, exact$"):
        choice("qera.variant", 3, ("exact", "approx"))
