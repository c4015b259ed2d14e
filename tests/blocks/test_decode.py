"""A decoder gives the integers of every code, and zeros beyond the end of a row."""

from __future__ import annotations

import pytest
import torch

from mase.blocks.decode import Decode
from mase.formats import Code, parse
from mase.formats.grid import Grid
from mase.testing import count_port, module_parameters


def grid(text: str) -> Grid:
    fmt = parse(text)
    return fmt.grid(fmt.calibrate(torch.linspace(-1.0, 3.0, 16)), "here")


def test_integers_less_their_zero_point() -> None:
    block = Decode(1, 4, 2, grid("int4a"))
    assert block.grid.zero == 4
    (found,) = block.compute(Code(torch.tensor([[[0, 4, 9, 15]]])))
    assert found.mantissa.tolist() == [[[-4, 0, 5, 11]]]
    assert (block.stream_out.grid.low, block.stream_out.grid.high, block.stream_out.grid.width) == (-4, 11, 5)


def test_numbers_of_a_narrow_minifloat_are_integers_of_its_least_one() -> None:
    block = Decode(1, 16, 4, grid("e2m1"))
    (found,) = block.compute(Code(torch.arange(16).reshape(1, 1, 16)))
    assert found.mantissa.flatten().tolist() == [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12]
    assert found.exponent is None
    assert block.stream_out.grid.width == 5


def test_digits_of_a_wide_minifloat_keep_exponents_of_their_own() -> None:
    block = Decode(1, 4, 2, grid("e4m3"))
    (found,) = block.compute(Code(torch.tensor([[[0x01, 0x08, 0xFE, 0x17]]])))
    assert found.exponent is not None
    assert found.mantissa.tolist() == [[[1, 8, -14, 15]]]
    assert found.exponent.tolist() == [[[0, 0, 14, 1]]]
    assert block.stream_out.exponents == 2


def test_exponents_of_blocks_pass_or_add_up() -> None:
    exponent = torch.tensor([[[-3, 2]]])
    (narrow,) = Decode(1, 4, 2, grid("mxfp4b2")).compute(Code(torch.tensor([[[7, 1, 9, 0]]]), exponent))
    assert narrow.exponent is exponent
    (wide,) = Decode(1, 4, 2, grid("mxfp8e5m2b2")).compute(Code(torch.tensor([[[4, 8, 12, 0]]]), exponent))
    assert wide.exponent is not None
    assert wide.exponent.tolist() == [[[-3, -2, 4, 2]]]


@pytest.mark.parametrize("text", ["int4a", "e2m1", "e5m2", "mxfp4b4", "bl4b2"])
def test_parameters_and_beats(text: str) -> None:
    block = Decode(3, 7, 2, grid(text))
    assert set(block.sv_params()) == set(module_parameters("mase_decode"))
    (actor,) = block.schedule().actors
    assert [count_port(actor.body, port) for port in ("in", "out")] == [12, 12]
    assert block.sv_params()["Tail"] == 1
    assert block.work().fifos == ((block.stream_out.bits + 1, 2),)
