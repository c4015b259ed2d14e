"""PB-LLM: which weights are kept, what they cost, and that later columns make good for earlier ones."""

from __future__ import annotations

import pytest
import torch

from mase.errors import ConfigError
from passes.ptq.base import METHODS
from passes.ptq.pb_llm import PbLlm
from passes.ptq.rtn import Rtn
from tests.ptq.fake import check_laws, layer, relative_error


def test_the_most_salient_keep_their_bits() -> None:
    one = layer(32, 128)
    found = check_laws(PbLlm(0.2, group=64), one)
    masks = [piece.mask for piece in found.pieces if not piece.derived]
    mask = torch.cat([m for m in masks if m is not None], 1)
    assert int(mask.sum()) == round(0.2 * 32 * 128)
    h = one.seen.hessian()
    inverse = torch.linalg.inv(h + 0.01 * h.diagonal().mean() * torch.eye(128, dtype=h.dtype))
    u = torch.linalg.cholesky(inverse, upper=True).diagonal()
    salience = (one.weight / u).square()
    assert salience[mask].min() >= salience[~mask].max() * (1 - 1e-4)


def test_bits_by_hand() -> None:
    found = PbLlm(0.25, group=64).layer(layer(16, 128))
    kept = 0.25 * 16 * 128
    shared = 2 * 16 * (16 + 8 + 16)  # scale and zero point of what is kept, scale of the signs
    assert found.stored_bits() == kept * 8 + 3 * kept + 16 * 128 + shared + 2  # signs, bitmap, and which group is which
    assert found.paper_bits() == kept * 8 + 3 * kept


def test_more_kept_is_less_error_and_all_is_eight_bits() -> None:
    one = layer(48, 128)
    errors = [relative_error(one, PbLlm(share).layer(one).dense()) for share in (0.0, 0.1, 0.3, 1.0)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 2 * relative_error(one, Rtn("int8g128a_fp16").layer(one).dense())
    assert errors[0] < relative_error(one, Rtn("binaryc").layer(one).dense())


@pytest.mark.parametrize(("inputs", "group"), [(20, 16), (5, 128), (130, 128)])
def test_short_groups(inputs: int, group: int) -> None:
    check_laws(PbLlm(group=group), layer(12, inputs))


def test_bad_input_is_one_line() -> None:
    with pytest.raises(ConfigError, match=r"pb_llm\.salient: found 1\.5; allowed is a number from 0 to 1"):
        PbLlm(1.5)
    with pytest.raises(ConfigError, match=r"pb_llm\.bits: found 1; allowed is a whole number from 2 to 8"):
        PbLlm(bits=1)
    assert METHODS["pb_llm"] is PbLlm
