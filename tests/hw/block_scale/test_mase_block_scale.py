"""``mase_block_scale`` beside its reference: codes under stalls, cycles without, resets, handshakes."""

from __future__ import annotations

from pathlib import Path

import cocotb
import pytest
from cocotb.handle import HierarchyObject

from tests.hw import operators
from tests.hw.common.grid import OPERATOR_SIMULATORS
from tests.hw.operators import STALLS, Unit

UNITS = operators.of("mase_block_scale")


@cocotb.test(timeout_time=20, timeout_unit="us")
@cocotb.parametrize(unit=UNITS, stalls=STALLS)
async def codes_are_those_of_the_reference(dut: HierarchyObject, unit: Unit, stalls: tuple[float, float]) -> None:
    await operators.gives_what_the_reference_gives(dut, unit, stalls)


@cocotb.test(timeout_time=20, timeout_unit="us")
@cocotb.parametrize(unit=UNITS)
async def every_sample_leaves_in_its_cycle(dut: HierarchyObject, unit: Unit) -> None:
    await operators.takes_the_cycles_of_its_schedule(dut, unit)


@cocotb.test(timeout_time=20, timeout_unit="us")
@cocotb.parametrize(unit=UNITS)
async def reset_in_mid_stream_starts_over(dut: HierarchyObject, unit: Unit) -> None:
    await operators.starts_over_after_a_reset(dut, unit)


@cocotb.test(timeout_time=20, timeout_unit="us")
@cocotb.parametrize(unit=UNITS)
async def no_path_runs_through_the_handshake(dut: HierarchyObject, unit: Unit) -> None:
    await operators.has_no_path_through_the_handshake(dut, unit)


@pytest.mark.sim
@pytest.mark.parametrize("simulator", OPERATOR_SIMULATORS)
def test_block_scale(simulator: str, tmp_path: Path) -> None:
    assert UNITS
    operators.run_operators(__name__, tmp_path, simulator)
