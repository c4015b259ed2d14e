"""Steps of groups: the format's own, searched ones, and codes under them."""

from __future__ import annotations

import pytest
import torch

from mase.errors import ConfigError
from mase.formats import parse
from mase.formats.packed import PackedWeight
from passes.ptq.groups import CHUNK, chunked, groups_of, searched
from tests.ptq.layers import FORMATS, layer


@pytest.mark.parametrize("text", FORMATS)
def test_the_formats_own_steps_give_its_own_values(text: str) -> None:
    weight, fmt = layer().weight, parse(text)
    groups = groups_of(fmt, weight, "x")
    found = PackedWeight((24, 80), (groups.nearest(weight, groups.fit(weight)),))
    expected = PackedWeight.of(weight, fmt)
    if text == "nvfp4":  # the format multiplies by a reciprocal, which may move a tie
        assert (found.dense() != expected.dense()).float().mean() < 0.01
        return
    assert torch.equal(found.dense(), expected.dense())
    assert found.stored_bits() == expected.stored_bits()


@pytest.mark.parametrize("text", [*FORMATS, "int2g16f_fp16", "int4g128f_fp16"])
def test_searched_steps_are_no_worse_under_their_weights(text: str) -> None:
    own, fmt = layer(), parse(text)
    groups, importance = groups_of(fmt, own.weight, "x"), own.seen.squares
    assert importance is not None
    plain = groups.nearest(own.weight, groups.fit(own.weight)).values()
    best = groups.nearest(own.weight, searched(groups, own.weight, importance)).values()
    errors = [float(((y - own.weight).square() * importance).sum()) for y in (plain, best)]
    assert errors[1] <= errors[0]
    if text in ("int3g32f_fp16", "int2g16f_fp16", "int4g128f_fp16", "int4g16a"):
        assert errors[1] < 0.95 * errors[0]


def test_the_search_finds_what_trying_every_candidate_finds() -> None:
    weight = layer(8, 32).weight
    fmt = parse("int3g16f_fp16")
    groups = groups_of(fmt, weight, "x")
    best = groups.nearest(weight, searched(groups, weight, None)).values() - weight
    least = torch.full((8, 2), torch.inf, dtype=torch.float64)
    for row in range(8):
        for g in range(2):
            w = weight[row, 16 * g : 16 * g + 16].double()
            top = w[w.abs().argmax()]
            for k in range(-100, 101):
                step = top / -(4 - 0.0075 * 4 * k)
                error = (((w / step).round().clamp(-4, 3) * step - w) ** 2).sum()
                least[row, g] = torch.minimum(least[row, g], error)
    found = best.square().reshape(8, 2, 16).sum(-1)
    assert 1 - 1e-3 < float((found / least).mean()) < 1.02  # scales are fp16, and every second candidate is left out


def test_rows_come_in_pieces_that_fit_a_cache() -> None:
    x = torch.arange(5 * 20.0).reshape(5, 20)
    ((rows, part),) = chunked(x, 8)
    assert part.shape == (5, 3, 8) and rows.start == 0
    assert part[:, 2, 4:].abs().sum() == 0 and torch.equal(part.reshape(5, -1)[:, :20], x)
    many = torch.zeros(CHUNK // 64 + 3, 64)
    assert [len(part) for _, part in chunked(many, 16)] == [CHUNK // 64, 3]


@pytest.mark.parametrize("text", ["int4", "fixed8.4", "e4m3", "mxint4b4x4", "ternaryc"])
def test_formats_without_groups_along_the_inputs_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^gptq: a: format .* has no groups along the inputs; allowed are"):
        groups_of(parse(text), layer().weight, "gptq: a")


def test_weights_that_are_no_numbers_are_refused() -> None:
    weight = layer().weight.clone()
    weight[0, 0] = torch.nan
    with pytest.raises(ConfigError, match="x: weights hold NaN or infinity"):
        groups_of(parse("int4g16a"), weight, "x")
