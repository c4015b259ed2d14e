"""opt_rtn: less error than rounding to nearest at the same bits."""

from __future__ import annotations

import pytest
import torch

from passes.ptq.base import METHODS, Layer
from passes.ptq.opt_rtn import OptRtn
from passes.ptq.rtn import Rtn
from tests.ptq.layers import layer


@pytest.mark.parametrize("text", ["int4g16f_fp16", "int3g16f_fp16", "int2g16f_fp16", "int4g16a", "nvfp4"])
def test_output_error_is_below_that_of_rtn(text: str) -> None:
    own = layer()
    found, plain = OptRtn(text).layer(own), Rtn(text).layer(own)
    assert own.output_error(found.dense()) < own.output_error(plain.dense())
    assert found.stored_bits() == plain.stored_bits()


def test_without_data_all_inputs_weigh_the_same() -> None:
    own = layer()
    blind = OptRtn("int3g16f_fp16", data=False)
    assert (OptRtn().calibrates, blind.calibrates) == (True, False)
    found, plain = blind.layer(Layer(own.path, own.weight)).dense(), Rtn("int3g16f_fp16").layer(own).dense()
    assert (found - own.weight).square().sum() < (plain - own.weight).square().sum()
    assert torch.equal(found, blind.layer(own).dense())


def test_a_row_of_zeros_stays_zero() -> None:
    own = layer()
    own.weight[3] = 0
    assert OptRtn("int4g16f_fp16").layer(own).dense()[3].abs().sum() == 0


def test_it_is_registered() -> None:
    assert METHODS["opt_rtn"] is OptRtn
