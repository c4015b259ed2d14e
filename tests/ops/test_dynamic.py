"""Rounding by scales of the data: each token, or group of it, alone; the gradient passes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from mase.errors import GraphError
from mase.formats import parse
from mase.graph import Record, TensorType
from mase.ops.dynamic import Dynamic
from passes.ptq.activations import Activations
from tests.ptq.models import graph, tokens


def rounded(x: Tensor, text: str, axis: int = -1) -> Tensor:
    return Dynamic.float(Record("dynamic", "x", TensorType(tuple(x.shape)), {"format": text, "axis": axis}), {}, x)


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_a_token_by_hand() -> None:  # the greatest magnitude is code 7 of int4: steps are 2 and 0.25
    x = torch.tensor([[14.0, 3.0, -5.0, 1.0], [1.75, 0.3, -0.9, 0.0]])
    assert rounded(x, "int4c").tolist() == [[14, 4, -4, 0], [1.75, 0.25, -1, 0]]


@pytest.mark.parametrize("text", ["int8c", "int4c", "int8ca", "int8g4", "int4g5a_fp16", "int3cf"])
def test_each_row_is_rounded_as_a_tensor_of_its_own(text: str) -> None:
    x = drawn(2, 3, 8) * torch.logspace(-3, 3, 6).view(2, 3, 1)
    fmt = parse(text)
    for row, found in zip(x.view(6, 8), rounded(x, text).view(6, 8), strict=True):
        axis = -1 if fmt.group else 0  # type: ignore[attr-defined]
        one = row.unsqueeze(0)
        assert torch.equal(found, fmt.quantize(one, fmt.calibrate(one, axis))[0])


def test_along_the_tokens_of_a_channel() -> None:
    x = drawn(2, 2, 6, 4)
    turned = rounded(x.transpose(-1, -2).contiguous(), "int4g3")
    assert torch.equal(rounded(x, "int4g3", axis=-2), turned.transpose(-1, -2))


def test_the_gradient_passes() -> None:
    x = drawn(3, 8).requires_grad_()
    rounded(x, "int4c").sum().backward()
    assert x.grad is not None
    top = x.detach().abs() == x.detach().abs().amax(1, keepdim=True)  # it may clip by the rounding of the scale
    assert bool((x.grad[~top] == 1).all())


@pytest.mark.parametrize(
    ("attrs", "says"),
    [
        ({"format": "int8c", "axis": 0}, "axis is 0; allowed are -1 and -2"),
        ({"format": "int8", "axis": -1}, "format int8 has no scale a row; allowed are such as int8c and int8g128"),
        ({"format": "nothing", "axis": -1}, "nothing"),
    ],
)
def test_a_record_that_makes_no_sense(attrs: dict[str, object], says: str) -> None:
    import mase

    built = mase.ptq(graph(layers=1), [{"activations": {}}, "rtn"])[0]
    node = next(node for node in built.operators() if node.kind == "dynamic")
    with pytest.raises(GraphError, match=says):
        built.replace({node.name: replace(node.record, attrs=attrs)}).verify()
    assert Activations().inputs == "int8c" and torch.isfinite(built(tokens(1))).all()
