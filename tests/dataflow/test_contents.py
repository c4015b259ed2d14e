"""What known words take as logic: shared pieces count once, smooth words are far less than random ones."""

from __future__ import annotations

import numpy as np
import pytest

from mase.dataflow.contents import LUTS, Contents


def test_by_hand() -> None:
    words = np.arange(8)
    parity = (words ^ words >> 1 ^ words >> 2) & 1
    assert Contents.of(parity, 1) == Contents(1, 1.0, 0)
    both = parity | (1 - parity) << 1 | 1 << 2  # its complement costs no LUT more, and a constant column nothing
    assert Contents.of(both, 3) == Contents(2, 1.0, 0)
    assert Contents.of(np.zeros(16, np.int64), 4) == Contents(0, 0.0, 0)
    assert Contents.of(words >> 2, 1) == Contents(1, 0.0, 0)  # an address bit is a wire


def test_halves_that_are_alike_count_once() -> None:
    half = np.random.default_rng(1).integers(0, 2, 64)
    once, twice = Contents.of(half, 1), Contents.of(np.concatenate((half, half)), 1)
    assert once.pieces == twice.pieces
    assert twice.choices == 0
    other = Contents.of(np.concatenate((half, half[::-1])), 1)
    assert other.choices == 1
    assert other.pieces == 2 * once.pieces


@pytest.mark.parametrize("address", [6, 8, 10])
def test_random_pieces_take_as_much_as_the_fit_has_seen(address: int) -> None:
    words = np.random.default_rng(address).integers(0, 1 << 8, 1 << address)
    found = Contents.of(words, 8)
    assert found.columns == 8
    assert found.pieces == pytest.approx(LUTS * 8 * (1 << address - 6), rel=0.15)


def test_a_smooth_function_takes_a_few_luts() -> None:
    x = (np.arange(1024) - 512) / 128
    smooth = np.round(np.tanh(x) * 31).astype(np.int64) & 63
    rough = np.random.default_rng(0).permutation(smooth)
    assert Contents.of(smooth, 6).pieces < Contents.of(rough, 6).pieces / 5
