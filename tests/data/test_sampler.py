"""Calibration samples: the same seed chooses the same, strata keep their shares."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mase.data.base import Split
from mase.data.sampler import SAMPLERS, sample
from mase.errors import ConfigError, UnknownName


def split(sizes: list[int]) -> Split:
    """Return samples that carry their own number, sorted by class."""
    y = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    return Split(torch.arange(float(len(y))).unsqueeze(1), y)


@pytest.mark.parametrize("how", SAMPLERS)
def test_samples_are_apart_and_follow_from_the_seed(how: str) -> None:
    whole = split([50, 30, 20])
    found = sample(whole, 40, how, seed=3)
    assert len(found) == len(set(found.x.flatten().tolist())) == 40
    assert torch.equal(whole.y[found.x.flatten().long()], found.y)
    assert torch.equal(found.x, sample(whole, 40, how, seed=3).x)
    assert torch.equal(found.x, sample(whole, 40, how, seed=4).x) == (how == "first")


@given(st.lists(st.integers(1, 40), min_size=1, max_size=6), st.integers(1, 120))
def test_strata_keep_their_shares_to_within_one_sample(sizes: list[int], count: int) -> None:
    whole = split(sizes)
    found = torch.bincount(sample(whole, count, "stratified").y, minlength=len(sizes))
    kept = min(count, len(whole))
    assert int(found.sum()) == kept
    assert all(abs(n - kept * size / len(whole)) < 1 for n, size in zip(found.tolist(), sizes, strict=True))


def test_all_samples_where_there_are_no_more() -> None:
    whole = split([3, 4])
    for how in SAMPLERS:
        assert sorted(sample(whole, 99, how).x.flatten().tolist()) == whole.x.flatten().tolist()


def test_what_cannot_be_sampled_is_told() -> None:
    with pytest.raises(UnknownName, match=r"sampler: unknown name 'randm'; did you mean random\?"):
        sample(split([3]), 2, "randm")
    with pytest.raises(ConfigError, match="sampler random: 0 samples; allowed is 1 or more"):
        sample(split([3]), 0)
    values = Split(torch.zeros(4, 2), torch.zeros(4, 1))
    with pytest.raises(ConfigError, match=r"sampler stratified: labels are \[4, 1\] torch.float32; classes are needed"):
        sample(values, 2, "stratified")


def test_odd_labels_and_seeds_are_told() -> None:
    x = torch.zeros(4, 1)
    assert len(sample(Split(x, torch.tensor([True, False, True, True])), 2, "stratified")) == 2
    assert len(sample(Split(x[:0], torch.zeros(0, dtype=torch.int64)), 2, "stratified")) == 0
    with pytest.raises(ConfigError, match="sampler stratified: label -1; allowed are 0 or more"):
        sample(Split(x, torch.tensor([0, -1, 1, 1])), 2, "stratified")
    with pytest.raises(ConfigError, match=r"seed 9223372036854775808; allowed are whole numbers of 64 bits"):
        sample(split([2, 2]), 2, seed=2**63)
