"""Convolutions equal the modules that hold them; impossible records are named."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.ops.single import compute, draw, refused

CASES = [
    (nn.Conv1d(4, 6, 3, padding=1, bias=False), (2, 4, 9)),
    (nn.Conv2d(4, 6, (3, 1), stride=(2, 1), padding=(1, 0), dilation=(1, 2)), (2, 4, 9, 5)),
    (nn.Conv2d(4, 4, 3, padding="same", groups=4), (2, 4, 7, 7)),
    (nn.Conv2d(3, 2, 3, padding=2, padding_mode="circular"), (2, 3, 6, 5)),
    (nn.Conv2d(3, 2, (3, 2), padding="same", padding_mode="reflect", dilation=(1, 2)), (2, 3, 6, 5)),
    (nn.Conv3d(2, 3, 2), (1, 2, 3, 4, 3)),
    (nn.ConvTranspose1d(4, 6, 3, stride=2, output_padding=1), (2, 4, 5)),
    (nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, groups=2, dilation=2), (2, 4, 5, 5)),
]


@pytest.mark.parametrize(("m", "shape"), CASES, ids=[str(m) for m, _ in CASES])
def test_it_computes_what_the_module_computes(m: nn.Conv2d, shape: tuple[int, ...]) -> None:
    x = draw(*shape)
    padding = m.padding if isinstance(m.padding, str) else list(m.padding)
    attrs = {"stride": list(m.stride), "padding": padding, "dilation": list(m.dilation), "groups": m.groups}
    attrs |= {"padding_mode": m.padding_mode} if m.padding_mode != "zeros" else {}
    attrs |= {"transposed": True, "output_padding": list(m.output_padding)} if m.transposed else {}
    operands = {name: p.detach() for name, p in m.named_parameters()}
    with torch.no_grad():
        assert torch.equal(compute("conv", (x,), attrs, **operands), m(x))


def test_stride_padding_and_dilation_have_usual_values() -> None:
    x, weight = draw(1, 3, 5), draw(2, 3, 3, seed=1)
    assert torch.equal(compute("conv", (x,), weight=weight), torch.conv1d(x, weight))


def test_wrong_records_are_refused() -> None:
    x, weight = draw(1, 3, 5), draw(2, 3, 3)
    refused("has no operand 'weight'", "conv", (x,))
    refused(r"weight has shape \(2, 3\); allowed are 3 to 5 axes", "conv", (x,), weight=draw(2, 3))
    refused(r"input is \(1, 3, 5\); the weight takes 6 channels", "conv", (x,), {"groups": 2}, weight=weight)
    refused("padding_mode 'mirror'; allowed: zeros, ", "conv", (x,), {"padding_mode": "mirror"}, weight=weight)
