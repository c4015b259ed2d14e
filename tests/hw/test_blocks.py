"""Every block beside its reference: codes under stalls, cycles without, resets, handshakes."""

from __future__ import annotations

import os
from pathlib import Path

import cocotb
import pytest
from cocotb.handle import HierarchyObject

from tests.hw import operators
from tests.hw.common.grid import OPERATOR_SIMULATORS
from tests.hw.operators import BLOCK, STALLS, Unit

KINDS = sorted({unit.block.sv_module for unit in operators.units()})
UNITS = operators.of(os.environ.get(BLOCK, ""))  # within a simulation: of the one block that it is of


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
@cocotb.parametrize(unit=[unit for unit in UNITS if unit.spreads])
async def reset_while_a_row_is_given_starts_over(dut: HierarchyObject, unit: Unit) -> None:
    await operators.starts_over_from_within_a_result(dut, unit)


@cocotb.test(timeout_time=20, timeout_unit="us")
@cocotb.parametrize(unit=UNITS)
async def no_path_runs_through_the_handshake(dut: HierarchyObject, unit: Unit) -> None:
    await operators.has_no_path_through_the_handshake(dut, unit)


@pytest.mark.sim
@pytest.mark.parametrize("simulator", OPERATOR_SIMULATORS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_block_does_what_its_reference_does(kind: str, simulator: str, tmp_path: Path) -> None:
    operators.run_operators(kind, __name__, tmp_path, simulator)
