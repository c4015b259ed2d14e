"""DB-LLM: the start is the two-bit grid, fits never get worse, and two planes cost what they store."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from mase.errors import ConfigError
from passes.ptq.base import METHODS
from passes.ptq.columns import Factor, Rounder, propagate
from passes.ptq.db_llm import DbLlm, fitted, levels
from passes.ptq.gptq import Gptq
from tests.ptq.fake import check_laws, layer, relative_error


def error(w: torch.Tensor, importance: torch.Tensor, scales: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    near = (levels(*scales)[:, None] - w[:, :, None]).abs().amin(2)
    return (near.square() * importance).sum(1)


def test_levels_are_sums_of_planes() -> None:
    assert levels(torch.tensor([4.0]), torch.tensor([-2.0])).tolist() == [[0.0, 4.0, -2.0, 2.0]]


def test_without_rounds_it_is_the_best_grid_of_two_bits() -> None:
    w = torch.tensor([[4.0, -2.0, 2.0, 0.0], [-1.0, 0.5, 0.0, -0.5]])
    first, second = fitted(w, torch.ones(4), 0)
    assert (first.tolist(), second.tolist()) == ([4.0, -1.0], [-2.0, 0.5])


def test_planes_of_any_scales_are_found_again() -> None:
    g = torch.Generator().manual_seed(0)
    codes = torch.randint(0, 4, (3, 64), generator=g)
    table = levels(torch.tensor([1.0, 0.5, -2.0]), torch.tensor([-0.625, 0.375, 0.75]))
    w = table.gather(1, codes)
    assert float(error(w, torch.ones(64), fitted(w, torch.ones(64), 10)).max()) < 1e-5


def test_more_rounds_are_never_worse_and_importance_counts() -> None:
    g = torch.Generator().manual_seed(1)
    w, importance = torch.randn(16, 128, generator=g), torch.rand(128, generator=g) ** 4
    errors = [error(w, importance, fitted(w, importance, rounds)) for rounds in (0, 1, 4, 8)]
    assert all(bool((b <= a * (1 + 1e-5)).all()) for a, b in pairwise(errors))
    assert float(errors[-1].sum()) < 0.95 * float(errors[0].sum())
    alike = error(w, importance, fitted(w, torch.ones(128), 8))
    assert float(errors[-1].sum()) < float(alike.sum())


def test_laws_bits_and_error() -> None:
    one = layer(64, 256)
    found = check_laws(DbLlm(64), one)
    assert [str(piece.format) for piece in found.pieces] == ["int1g64f_fp16", "int1g64f_fp16"]
    assert found.stored_bits() == found.elements * (2 + 32 / 64)
    assert found.paper_bits() == 2 * found.elements
    other = Gptq("int2g64f_fp16", act_order=False, static_groups=False).layer(one)
    assert relative_error(one, found.dense()) < 0.7 * relative_error(one, other.dense())


def test_dense_is_what_the_loop_rounded_to() -> None:
    one = layer(16, 96)
    factor = Factor.of(one.seen.hessian())
    table: list[torch.Tensor] = []

    def begin(rest: torch.Tensor, columns: torch.Tensor) -> Rounder:
        table.append(levels(*fitted(rest[:, :32], factor.diagonal[columns[:32]] ** -2, 6)))
        now = table[-1]
        return lambda w, c: now.gather(1, (now - w[:, None]).abs().argmin(1, keepdim=True)).squeeze(1)

    assert torch.equal(propagate(one.weight, factor, begin, 32), DbLlm(32).layer(one).dense())


@pytest.mark.parametrize(("features", "group"), [(20, 16), (5, 128)])
def test_short_groups_and_zeros(features: int, group: int) -> None:
    one = layer(12, features)
    one.weight[3] = 0
    assert not check_laws(DbLlm(group), one).dense()[3].abs().max() > 1e-6


def test_bad_input_is_one_line() -> None:
    with pytest.raises(ConfigError, match=r"db_llm\.group: found 0; allowed is a whole number from 1"):
        DbLlm(0)
    assert METHODS["db_llm"] is DbLlm
