"""The loop over columns: exact where theory says what comes out, never worse than rounding on correlated inputs."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from mase.errors import ConfigError
from passes.ptq.base import Quantizer
from passes.ptq.billm import BiLlm
from passes.ptq.columns import Factor, propagate
from passes.ptq.db_llm import DbLlm
from passes.ptq.gptq import Gptq
from passes.ptq.mc_moe import McMoe
from passes.ptq.pb_llm import PbLlm
from passes.ptq.quip import Quip
from passes.ptq.slim_llm import SlimLlm
from passes.ptq.slim_llm_plus import SlimLlmPlus
from tests.ptq.layers import layer, tokens


def correlated(tokens: int, features: int, seed: int = 0) -> Tensor:
    """Return inputs with a decaying spectrum."""
    g = torch.Generator().manual_seed(seed)
    mix = torch.randn(features, features, generator=g) / features**0.5
    x: Tensor = torch.randn(tokens, features, generator=g) @ mix * torch.logspace(0, -1.5, features) * 4
    return x


def whole_steps(rest: Tensor, columns: Tensor) -> Callable[[Tensor, int], Tensor]:
    return lambda weights, column: weights.round()


def hessian(x: Tensor) -> Tensor:
    return 2 / len(x) * (x.double().T @ x.double())


def textbook(weight: Tensor, h: Tensor, damp: float = 0.01) -> Tensor:
    """Optimal brain surgeon as written down: the inverse is downdated after each column, nothing is factored."""
    w, h = weight.double().clone(), h.clone()
    inverse = torch.linalg.inv(h + damp * h.diagonal().mean() * torch.eye(len(h), dtype=h.dtype))
    for j in range(w.shape[1]):
        value = w[:, j].round()
        error = (w[:, j] - value) / inverse[j, j]
        w[:, j + 1 :] -= torch.outer(error, inverse[j, j + 1 :])
        w[:, j] = value
        inverse = inverse - torch.outer(inverse[:, j], inverse[j]) / inverse[j, j]
    return w.float()


@pytest.mark.parametrize(("inputs", "group"), [(20, 8), (20, 0), (150, 0), (150, 40)])
def test_it_is_the_textbook_whatever_the_groups(inputs: int, group: int) -> None:
    x = correlated(400, inputs)
    weight = torch.randn(6, inputs, generator=torch.Generator().manual_seed(1)) * 3
    found = propagate(weight, Factor.of(hessian(x)), whole_steps, group)
    assert (found != textbook(weight, hessian(x))).float().mean() < 0.02  # a tie may fall the other way in float32


def test_upper_factor_of_the_inverse() -> None:
    h = hessian(correlated(200, 30))
    factor = Factor.of(h, damp=0.05)
    inverse = torch.linalg.inv(h + 0.05 * h.diagonal().mean() * torch.eye(30, dtype=h.dtype))
    u = factor.upper.double()
    assert torch.equal(u, u.triu())
    assert bool((u.diagonal() > 0).all())
    assert torch.allclose(u.T @ u, inverse, rtol=1e-5, atol=1e-6 * float(inverse.abs().max()))


def test_uncorrelated_inputs_are_rounded_to_nearest() -> None:
    weight = torch.randn(7, 40, generator=torch.Generator().manual_seed(2)) * 5
    assert torch.equal(propagate(weight, Factor.of(torch.eye(40)), whole_steps, 16), weight.round())


@pytest.mark.parametrize("act_order", [False, True])
def test_less_output_error_than_rounding(act_order: bool) -> None:
    x = correlated(500, 64)
    weight = torch.randn(32, 64, generator=torch.Generator().manual_seed(3)) * 2
    found = propagate(weight, Factor.of(hessian(x), act_order=act_order), whole_steps, 0)
    assert ((found - weight) @ x.T).square().sum() < 0.7 * ((weight.round() - weight) @ x.T).square().sum()


def test_act_order_is_a_permutation_of_the_problem() -> None:
    h = hessian(correlated(300, 24))
    weight = torch.randn(5, 24, generator=torch.Generator().manual_seed(4)) * 3
    order = torch.argsort(h.diagonal(), descending=True, stable=True)
    seen: list[int] = []

    def begin(rest: Tensor, columns: Tensor) -> Callable[[Tensor, int], Tensor]:
        assert rest.shape[1] == len(columns)

        def rounder(weights: Tensor, column: int) -> Tensor:
            seen.append(column)
            return weights.round()

        return rounder

    found = propagate(weight, Factor.of(h, act_order=True), begin, 10)
    assert seen == order.tolist()
    other = propagate(weight[:, order], Factor.of(h[order][:, order]), whole_steps, 10)
    assert torch.equal(found[:, order], other)
    assert torch.equal(Factor.of(h, act_order=True).diagonal[order], Factor.of(h[order][:, order]).diagonal)


def test_a_group_given_as_a_whole_is_made_good_by_least_squares() -> None:
    h = hessian(correlated(300, 24))
    weight = torch.randn(5, 24, generator=torch.Generator().manual_seed(5)) * 3
    rests: list[Tensor] = []

    def begin(rest: Tensor, columns: Tensor) -> Tensor:
        rests.append(rest.clone())
        return rest[:, :8].round()

    found = propagate(weight, Factor.of(h), begin, 8)
    assert torch.equal(found[:, :8], weight[:, :8].round())
    damped = h + 0.01 * h.diagonal().mean() * torch.eye(24, dtype=h.dtype)
    error = (weight[:, :8] - found[:, :8]).double()
    best = weight[:, 8:] + error @ torch.linalg.solve(damped[8:, 8:], damped[8:, :8]).T
    assert torch.allclose(rests[1].double(), best, rtol=1e-3, atol=1e-3)
    assert torch.equal(found[:, 8:16], rests[1][:, :8].round())


def test_dead_columns_become_zero_and_change_nothing() -> None:
    x = correlated(300, 24)
    x[:, [3, 17]] = 0
    weight = torch.randn(5, 24, generator=torch.Generator().manual_seed(6)) * 3
    factor = Factor.of(hessian(x))
    assert factor.dead.nonzero().flatten().tolist() == [3, 17]
    found = propagate(factor.cleaned(weight), factor, whole_steps, 0)
    assert not found[:, [3, 17]].any()


def test_the_weight_is_left_as_it_was() -> None:
    weight = torch.randn(5, 24)
    before = weight.clone()
    propagate(weight, Factor.of(hessian(correlated(300, 24))), whole_steps, 8)
    assert torch.equal(weight, before)


def test_fewer_tokens_than_features_are_damped() -> None:
    x = correlated(4, 40)
    found = propagate(torch.randn(5, 40) * 3, Factor.of(hessian(x), damp=0.0), whole_steps, 0)
    assert bool(torch.isfinite(found).all())


def test_broken_data_are_named() -> None:
    h = torch.eye(4)
    h[0, 0] = torch.nan
    with pytest.raises(ConfigError, match="down_proj: the Hessian of its inputs holds NaN"):
        Factor.of(h, where="down_proj")


def test_salience_is_what_zeroing_costs() -> None:
    h = hessian(correlated(300, 12))
    weight = torch.randn(3, 12, generator=torch.Generator().manual_seed(7))
    factor = Factor.of(h)
    found = factor.salience(weight)
    inverse = torch.linalg.inv(h + 0.01 * h.diagonal().mean() * torch.eye(12, dtype=h.dtype))
    assert torch.allclose(found[:, 0].double(), weight[:, 0].double() ** 2 / inverse[0, 0], rtol=1e-4)


USERS: tuple[Quantizer, ...] = (Gptq("int4g16a"), BiLlm(16), PbLlm(group=16), DbLlm(16), SlimLlm(group=16), Quip())


@pytest.mark.parametrize("method", USERS, ids=lambda m: type(m).__name__)
def test_too_few_tokens_for_the_hessian_are_said_by_all_that_use_it(method: Quantizer) -> None:
    with pytest.warns(UserWarning, match=r"block\.linear: 40 tokens for 80 inputs; pass at least 80") as found:
        method.layer(layer(x=tokens(80, 40)))
    assert len(found) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        method.layer(layer(x=tokens(80, 80)))


def test_blockwise_users_of_the_hessian_say_it_too() -> None:
    with pytest.warns(UserWarning, match=r"mc_moe: block\.linear: 40 tokens for 80 inputs"):
        McMoe(group=16).layer(layer(x=tokens(80, 40)), 2)
    with pytest.warns(UserWarning, match=r"slim_llm_plus: block\.linear: 40 tokens for 80 inputs"):
        SlimLlmPlus(group=16)._ranges(layer(x=tokens(80, 40)))


def test_columns_that_wait_longer_for_their_correction_give_the_same() -> None:
    weight, factor = (
        torch.randn(6, 96, generator=torch.Generator().manual_seed(2)),
        Factor.of(hessian(correlated(400, 96))),
    )
    eager, late = (propagate(weight * 3, factor, whole_steps, 16, block) for block in (0, 64))
    assert (eager != late).float().mean() < 0.02


def test_a_group_at_once_is_made_good_by_least_squares_or_by_the_diagonal() -> None:
    weight, factor = (
        torch.randn(4, 20, generator=torch.Generator().manual_seed(2)) * 3,
        Factor.of(hessian(correlated(300, 20))),
    )

    def begin(rest: Tensor, columns: Tensor) -> Tensor:
        return rest[:, :10].round()

    error = weight[:, :10] - weight[:, :10].round()
    u = factor.upper
    wanted = {
        False: weight[:, 10:] - (error / u.diagonal()[:10]) @ u[:10, 10:],
        True: weight[:, 10:] - error @ torch.linalg.inv(u[:10, :10]) @ u[:10, 10:],
    }
    for solve, rest in wanted.items():
        found = propagate(weight, factor, begin, 10, solve=solve)
        assert torch.equal(found[:, :10], weight[:, :10].round())
        assert (found[:, 10:] != rest.round()).float().mean() < 0.05
