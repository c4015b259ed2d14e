"""``mase_round``: every input of up to nine bits, in each way of rounding and saturating, beside the software."""

from __future__ import annotations

from pathlib import Path

import cocotb
import pytest
from cocotb.handle import HierarchyObject
from cocotb.triggers import Timer

from tests.hw.common.grid import OPERATOR_SIMULATORS
from tests.hw.operators import ROUNDS, run_operators
from tests.hw.stream import start


@cocotb.test(timeout_time=20, timeout_unit="us")
async def every_input_rounds_as_in_software(dut: HierarchyObject) -> None:
    await start(dut)
    blocks = [(case, getattr(dut, case.scope)) for case in ROUNDS]
    for value in range(-256, 256):
        for case, block in blocks:
            block.in_i.value = value & (1 << case.in_width) - 1
        await Timer(1, "ns")
        for case, block in blocks:
            half = 1 << case.in_width - 1
            t = ((value + half) & (2 * half - 1)) - half  # as many bits as the block sees
            found = int(block.out_o.value)
            assert found == case.rounded(t) & (1 << case.out_width) - 1, f"{case} at {t}"


@pytest.mark.sim
@pytest.mark.parametrize("simulator", OPERATOR_SIMULATORS)
def test_round(simulator: str, tmp_path: Path) -> None:
    run_operators("mase_round", __name__, tmp_path, simulator)
