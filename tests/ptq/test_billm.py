"""BiLLM: planes by hand, an independent binarization, the two searches, and the bits that are really stored."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from mase.calib.statistics import Statistics
from mase.errors import ConfigError
from passes.ptq.base import METHODS
from passes.ptq.billm import BiLlm, salient_share
from passes.ptq.planes import plane, values
from passes.ptq.rtn import Rtn
from tests.ptq.fake import check_laws, layer, relative_error


def binarized(x: Tensor, mask: Tensor) -> Tensor:
    """Return mean and mean deviation of what a mask has of each row, in plain loops."""
    out = torch.zeros_like(x)
    for row, kept, result in zip(x, mask, out, strict=True):
        some = row[kept]
        mean = some.mean()
        deviation = (some - mean).abs().mean()
        result[kept] = torch.where(some >= mean, mean + deviation, mean - deviation)
    return out


def test_planes_are_means_and_deviations() -> None:
    x = torch.randn(5, 32, generator=torch.Generator().manual_seed(0))
    mask = x.abs() < 0.8
    columns = torch.arange(32)
    whole = plane(x, columns, means=True)
    small, large = plane(x, columns, True, mask), plane(x, columns, True, ~mask, derived=True)
    everything = torch.ones_like(mask)
    assert torch.allclose(values(whole), binarized(x, everything), atol=2e-3)  # scales are fp16
    assert torch.allclose(values(small, large), binarized(x, mask) + binarized(x, ~mask), atol=2e-3)
    signs = plane(x, columns, means=False)
    assert torch.allclose(values(signs), x.sign() * x.abs().mean(1, keepdim=True), atol=2e-3)
    assert (whole.stored_bits(), signs.stored_bits()) == (5 * (32 + 32), 5 * (32 + 16))
    assert small.stored_bits() + large.stored_bits() == 5 * (32 + 32 + 64)


def test_a_row_without_elements_is_zero() -> None:
    x, mask = torch.ones(2, 4), torch.tensor([[True] * 4, [False] * 4])
    assert values(plane(x, torch.arange(4), True, mask)).tolist() == [[1.0] * 4, [0.0] * 4]


def test_laws_and_bits() -> None:
    one = layer(64, 256)
    found = check_laws(BiLlm(), one)
    share = salient_share(found)
    assert 0 < share < 0.2
    assert found.paper_bits() / found.elements == pytest.approx(1 + share)
    assert found.stored_bits() / found.elements == pytest.approx(3.0, abs=0.1)  # with a map of the columns
    paper = check_laws(BiLlm(compat="paper"), one)
    assert paper.stored_bits() / paper.elements == pytest.approx(2.5, abs=0.1)
    assert salient_share(paper) > share


def test_less_error_than_signs_alone() -> None:
    one = layer(64, 256)
    assert relative_error(one, BiLlm().layer(one).dense()) < 0.5 * relative_error(
        one, Rtn("binaryc").layer(one).dense()
    )


def test_later_blocks_make_good_for_earlier_ones() -> None:
    errors = []
    for seed in range(3):
        one = layer(64, 256, seed=seed)
        alone = replace(one, seen=Statistics(one.seen.tokens, torch.diag(one.seen.gram.diagonal())))  # type: ignore[union-attr]
        found = [relative_error(one, BiLlm(damp=0.1).layer(seen).dense()) for seen in (one, alone)]
        errors.append(found[0] / found[1])
    assert max(errors) < 0.9


@pytest.mark.parametrize(("outputs", "inputs", "block"), [(8, 20, 16), (8, 3, 2), (1, 128, 128), (16, 130, 128)])
def test_short_blocks(outputs: int, inputs: int, block: int) -> None:
    check_laws(BiLlm(block), layer(outputs, inputs))


def test_bad_input_is_one_line() -> None:
    with pytest.raises(ConfigError, match=r"billm\.block: found 1; allowed is a whole number from 2"):
        BiLlm(1)
    with pytest.raises(ConfigError, match=r"billm\.compat: found 'papers'; did you mean paper"):
        BiLlm(compat="papers")  # type: ignore[arg-type]
    broken = layer()
    broken.weight[0, 0] = torch.nan
    with pytest.raises(ConfigError, match=r"billm: mlp\.up: weights hold NaN or infinity"):
        BiLlm().layer(broken)
    assert METHODS["billm"] is BiLlm
