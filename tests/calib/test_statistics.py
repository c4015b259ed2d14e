"""What calibration keeps of the inputs of a layer."""

from __future__ import annotations

import pytest
import torch

from mase.calib.statistics import MOST_INPUTS, Statistics


@pytest.mark.parametrize("size", [1, 7, 512, 5000])
def test_tokens_are_thinned_evenly_whatever_the_samples(size: int) -> None:
    count = 3 * MOST_INPUTS + 100
    x, seen = torch.arange(count, dtype=torch.float32)[:, None], Statistics()
    for sample in x.split(size) if size > 1 else (x[:5000], x[5000:5001], x[5001:]):
        seen.add(sample, ("inputs",))
    assert seen.inputs is not None
    assert torch.equal(seen.inputs, x[::4]) and seen.stride == 4 and seen.tokens == count


def test_few_tokens_are_kept_as_they_are() -> None:
    x, seen = torch.randn(MOST_INPUTS, 3), Statistics()
    for sample in x.split(100):
        seen.add(sample, ("inputs",))
    assert torch.equal(seen.inputs, x)  # type: ignore[arg-type]
