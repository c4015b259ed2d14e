"""Blocks that the fit has not seen: their structure alone brings the prediction near what Yosys gave."""

from __future__ import annotations

from functools import cache
from statistics import median

import pytest

from bench.calibration.kinds import CASES, compared, recorded
from mase.cost.resources import Resources

NAMES = ("layer norm", "sigmoid", "tanh of blocks", "argmax", "slice")


@cache
def pairs() -> dict[str, list[tuple[Resources, Resources]]]:
    return compared(recorded("xcup"), "xcup", [case for case in CASES if case.name in NAMES])


@pytest.mark.parametrize(
    "module",
    ["mase_table", "mase_argmax", "mase_slice", "mase_fork", "mase_row_stats", "mase_row_scale"],
)
def test_luts_are_near_in_the_median(module: str) -> None:
    errors = [abs(predicted.lut / found.lut - 1) for predicted, found in pairs()[module]]
    assert median(errors) <= 0.17


@pytest.mark.parametrize("module", ["mase_row_stats", "mase_row_scale"])
def test_a_product_with_a_power_of_two_takes_no_dsp_block(module: str) -> None:
    assert all(predicted.dsp == found.dsp for predicted, found in pairs()[module])


def test_registers_of_known_words_are_exact() -> None:
    assert all(abs(predicted.ff - found.ff) <= 1 for predicted, found in pairs()["mase_table"])
