"""SignRound: gradients against autograd, travel, determinism, every grid, better than rounding to nearest."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from mase.errors import ConfigError
from mase.formats import parse
from passes.ptq.base import METHODS, Method
from passes.ptq.groups import IntGroups, groups_of
from passes.ptq.opt_rtn import OptRtn
from passes.ptq.rtn import Rtn
from passes.ptq.signround import SignRound, TunedGrid, TunedInt, tuned
from passes.ptq.signround_v2 import SignRoundV2
from tests.ptq.blocks import llama_block
from tests.ptq.layers import layer


def error(method: Method) -> float:
    block = llama_block()
    method.run(block)
    return block.error()


GRIDS = (
    "int3g16f_fp16",
    "int3g16a_fp16",
    "int3g32_fp16",
    "int4c",
    "mxfp4",
    "nvfp4",
    "mxint4b16",
    "bfp4",
    "mxfp6e3m2",
    "bm4e2",
)


@pytest.mark.parametrize("text", GRIDS)
def test_a_tuned_block_is_better_than_a_rounded_one(text: str) -> None:
    assert error(SignRound(text, iters=50)) < 0.95 * error(Rtn(text))


@pytest.mark.parametrize("text", GRIDS)
def test_no_steps_round_to_nearest(text: str) -> None:
    block = llama_block()
    SignRound(text, iters=0).run(block)
    for one in block.layers():
        groups = groups_of(parse(text), one.weight, "x")
        nearest = groups.nearest(one.weight, groups.fit(one.weight)).values().float()
        same = block.done[one.path].dense() == nearest
        assert same.float().mean() > 0.999  # a quotient in float32 may fall on the other side of a tie


def ste(x: Tensor) -> Tensor:
    return (x.round() - x).detach() + x


@pytest.mark.parametrize("size", [16, 32])  # 48 inputs: whole groups, and units of 16 with a short group behind
@pytest.mark.parametrize("text", ["int4g{}f_fp32", "int3g{}a_fp32", "int2g{}f_fp32", "int3g{}_fp32"])
def test_steps_follow_the_signs_that_autograd_finds(text: str, size: int) -> None:
    own, draw = layer(6, 48), torch.Generator().manual_seed(0)
    fmt = parse(text.format(size))
    groups = groups_of(fmt, own.weight, "x")
    part = tuned(groups, own, False, None)
    assert isinstance(part, TunedInt) and isinstance(groups, IntGroups)
    assert part.units == 3 and part.count == 48 // size + (48 % size > 0)
    part.v.copy_((torch.rand(part.v.shape, generator=draw) - 0.5) * 0.6)
    part.alpha.copy_(0.7 + 0.3 * torch.rand(part.alpha.shape, generator=draw))
    part.beta.copy_(0.7 + 0.3 * torch.rand(part.beta.shape, generator=draw))
    v, a, b = (t.clone().requires_grad_() for t in part.state())
    pieces = own.weight.split(size, 1)
    low = torch.stack([w.amin(1) for w in pieces], 1).clamp(max=0) * a.squeeze(-1)
    high = torch.stack([w.amax(1) for w in pieces], 1).clamp(min=0) * b.squeeze(-1)
    least, most = groups.low, groups.high
    if groups.fmt.zero == "int":
        step = (high - low) / (most - least)
    elif groups.fmt.full:
        step = torch.where(-low > high, -low / -least, high / least)
    else:
        step = torch.maximum(-low, high) / most
    zero = groups.spread(ste(-low / step)) if groups.fmt.zero == "int" else 0.0
    s = groups.spread(step)
    y = s * ((ste(own.weight / s + v.reshape(6, 48)) + zero).clamp(least, most) - zero)
    found = part.rounded()
    assert torch.allclose(found, y, atol=1e-6)
    g = torch.randn(6, 48, generator=draw)
    (y * g).sum().backward()  # type: ignore[no-untyped-call]
    before = [t.clone() for t in part.state()]
    part.move(g, 0.001)
    for old, new, leaf in zip(before, part.state(), (v, a, b), strict=True):
        assert leaf.grad is not None
        moved, wanted = (old - new).sign(), leaf.grad.sign()
        free = (new > 0) & (new < 1) if leaf is not v else torch.ones_like(new, dtype=torch.bool)
        agree = (moved == wanted)[free].float().mean()
        assert agree > 0.99  # of elements on the edge of clipping either is right


@pytest.mark.parametrize("text", ["mxfp4", "mxint4b16", "nvfp4", "bfp5b8"])
def test_a_grid_moves_an_element_by_at_most_one_place(text: str) -> None:
    own = layer(6, 40)
    part = tuned(groups_of(parse(text), own.weight, "x"), own, False, None)
    assert isinstance(part, TunedGrid)
    before = part.rounded().clone()
    part.v.fill_(0.5)
    up = part.rounded().clone()
    assert bool((up >= before - 1e-7).all()) and bool((up > before).any())
    units = torch.tensor(sorted({float(t) for t in parse(text).values().tolist() if t == t}))
    steps = part.groups.spread(part.exact.squeeze(-1)).float()
    where = [torch.searchsorted(units, (t / steps).contiguous()) for t in (before, up)]
    assert int((where[1] - where[0]).abs().max()) <= 2  # zero has two codes in floating point


def test_packed_weights_are_what_was_scored() -> None:
    for text in ("int3g16a_fp16", "int2g16f_fp16", "mxfp4", "nvfp4"):
        own, draw = layer(6, 40), torch.Generator().manual_seed(0)
        part = tuned(groups_of(parse(text), own.weight, "x"), own, False, None)
        part.v.copy_((torch.rand(part.v.shape, generator=draw) - 0.5) * 0.9)
        scored = part.rounded().clone()
        assert torch.equal(part.piece().dense() + 0.0, scored + 0.0)


def test_rounding_travels_by_half_a_step() -> None:
    own = layer(6, 40)
    part, steps = tuned(groups_of(parse("int4g16f_fp16"), own.weight, "x"), own, False, None), 20
    for step in range(steps):
        part.rounded()
        part.move(torch.ones(6, 40), 1 / steps * (1 - step / steps))
    assert float(part.v.abs().max()) <= 0.5 * (steps + 1) / steps + 1e-6


def test_the_same_seed_gives_the_same_bits() -> None:
    found = []
    for seed in (1, 1, 2):
        block = llama_block()
        SignRound("int3g16f_fp16", iters=6, seed=seed, batch=4, keep="last").run(block)
        found.append(block.done["feed.down"].dense())
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_recipes_and_rates() -> None:
    assert (SignRound().steps, SignRound(recipe="light").steps, SignRound(recipe="best").steps) == (200, 50, 1000)
    assert SignRound().rate(4) == SignRound().rate(2) == 1 / 200
    assert SignRound(recipe="light").rate(4) == 5e-3
    assert SignRound(recipe="best").rate(4) == 1 / 1000
    assert SignRound(recipe="best").rate(3) == 2 / 1000
    assert SignRound(lr=0.25).rate(4) == 0.25


def test_the_parameters_of_the_step_of_the_least_loss_are_kept() -> None:
    keeps = ("best", "fixed", "last")
    errors = {keep: error(SignRound("int2g16f_fp16", iters=15, keep=keep, batch=4)) for keep in keeps}  # type: ignore[arg-type]
    assert len(set(errors.values())) == 3
    assert SignRound().keep == "best"
    whole = error(SignRound("int2g16f_fp16", iters=15, keep="fixed", batch=12))  # all samples are the fixed batch
    assert whole <= min(error(SignRound("int2g16f_fp16", iters=15, keep=k, batch=12)) for k in ("best", "last"))  # type: ignore[arg-type]


@pytest.mark.parametrize(("kind", "least"), [("fp16", 1e-5), ("fp32", 1e-8)])
def test_steps_have_a_floor_that_depends_on_their_type(kind: str, least: float) -> None:
    own = replace(layer(6, 48), weight=layer(6, 48).weight * 1e-9)
    part = tuned(groups_of(parse(f"int4g16f_{kind}"), own.weight, "x"), own, False, None)
    part.rounded()
    assert float(part.s.abs().min()) == float(part.s.abs().max()) == pytest.approx(least, rel=1e-2)


@pytest.mark.parametrize("text", ["int2g16f_fp16", "int3g16f_fp16", "mxfp4"])
def test_the_second_version_starts_from_searched_scales(text: str) -> None:
    assert error(SignRoundV2(text, iters=25)) < 0.95 * error(OptRtn(text))


def test_bad_fields_and_formats_are_refused() -> None:
    for fields, text in (
        ({"recipe": "fast"}, "recipe: found 'fast'; allowed: best, default, light"),
        ({"keep": "first"}, "keep: found 'first'"),
        ({"iters": -1}, "iters: found -1; allowed is a whole number from 0 to 100000"),
        ({"lr": 0.0}, "lr: found 0.0; allowed is a number above 0, at most 1"),
        ({"batch": 0}, "batch: found 0"),
    ):
        with pytest.raises(ConfigError, match=rf"signround\.{text}"):
            SignRound(**fields)  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match=r"signround_v2\."):
            SignRoundV2(**fields)  # type: ignore[arg-type]
    for text in ("nf4", "int4g16r", "bl4"):
        with pytest.raises(ConfigError, match=r"signround\.format: format .* has no steps that rounding moves"):
            SignRound(text)
    assert METHODS["signround"] is SignRound and METHODS["signround_v2"] is SignRoundV2


def test_a_loss_that_is_no_number_stops_the_run() -> None:
    block = llama_block()
    block.wanted = [t * torch.nan for t in block.wanted]
    with pytest.raises(ConfigError, match=r"signround: block blocks\.0: the loss is nan at step 0"):
        SignRound("int4g16f_fp16", iters=2).run(block)
    assert block.done == {}
