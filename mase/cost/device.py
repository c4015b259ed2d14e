"""Devices as data: what a part holds, what a cell can do, and what each resource is worth in LUTs."""

from __future__ import annotations

from dataclasses import dataclass

from mase.errors import UnknownName


@dataclass(frozen=True)
class Device:
    """One target of synthesis, with the budget of one common part of its family.

    Args:
        name: of the target. part: whose budget this is. family: of the synthesis script.
        lut, ff, dsp, bram: budget; bram counts blocks of 18 Kbit.
        lut_inputs: of one LUT. multiplier: greatest signed operands of one DSP block, wider first.
        dsp_bits: the narrowest product that becomes a DSP block; narrower ones become LUTs.
        dsp_weight, bram_weight: worth of one DSP and one BRAM18 in LUTs, for the one figure that ranks designs.
    """

    name: str
    part: str
    family: str
    lut: int
    ff: int
    dsp: int
    bram: int
    lut_inputs: int
    multiplier: tuple[int, int]
    dsp_bits: int
    dsp_weight: float = 100.0
    bram_weight: float = 300.0


DEVICES = {
    device.name: device
    for device in (
        Device("xcup", "xczu7ev", "UltraScale+", 230_400, 460_800, 1_728, 624, 6, (27, 18), 9),
        Device("xc7", "xc7z020", "7 series", 53_200, 106_400, 220, 280, 6, (25, 18), 9),
        Device("ecp5", "LFE5U-85F", "ECP5", 83_640, 83_640, 156, 208, 4, (18, 18), 2),
    )
}


def device(name: str) -> Device:
    """Return the device of that name.

    Raises:
        UnknownName: there is none.
    """
    if name not in DEVICES:
        raise UnknownName("target", name, DEVICES)
    return DEVICES[name]
