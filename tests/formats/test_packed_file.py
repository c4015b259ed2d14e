"""Packed weights as bytes: exact again, and as large as they say."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from mase.errors import FormatError
from mase.formats import Code, QuantParams, parse
from mase.formats.packed import PackedWeight, Piece
from mase.formats.packed_file import from_tensors, pack, to_tensors, unpack
from tests.formats.test_packed import ALL, mixed, weights

PADDING = 8 * 8  # bits: of each field less than a byte, and a scale of a tensor that is always 1


def equal(a: Tensor | None, b: Tensor | None) -> bool:
    return a is b if a is None or b is None else a.dtype == b.dtype and torch.equal(a, b)


def same(a: PackedWeight, b: PackedWeight) -> bool:
    pairs = list(zip(a.pieces, b.pieces, strict=True))
    fields = all(
        (p.format, p.params.axis, p.derived, p.paper) == (q.format, q.params.axis, q.derived, q.paper) for p, q in pairs
    )
    tensors = all(
        equal(getattr(p.params, name), getattr(q.params, name))
        for p, q in pairs
        for name in ("scale", "zero_point", "offset", "base")
    )
    codes = all(
        equal(getattr(p.code, n), getattr(q.code, n))
        for p, q in pairs
        if p.mask is None
        for n in ("mantissa", "exponent", "scale")
    )
    where = all(equal(p.columns, q.columns) and equal(p.mask, q.mask) for p, q in pairs)
    return fields and tensors and codes and where and torch.equal(a.dense(), b.dense())


def bits(weight: PackedWeight) -> int:
    return 8 * sum(tensor.numel() for tensor in to_tensors(weight)[0].values())


@pytest.mark.parametrize("width", range(1, 18))
def test_integers_of_every_width_come_back(width: int) -> None:
    draw = torch.Generator().manual_seed(width)
    for count in (0, 1, 7, 8, 9, 1001):
        x = torch.randint(0, 1 << width, (count,), generator=draw)
        raw = pack(x, width)
        assert raw.dtype == torch.uint8 and len(raw) == -(-count * width // 8)
        assert torch.equal(unpack(raw, width, count), x)


def test_the_first_integer_has_the_lowest_bits() -> None:
    assert pack(torch.tensor([1, 2, 3]), 3).tolist() == [0b11_010_001, 0]
    assert pack(torch.tensor([1, 2, 3]), 4).tolist() == [0x21, 0x03]
    assert pack(torch.tensor([0x1234]), 16).tolist() == [0x34, 0x12]


@pytest.mark.parametrize("text", ALL)
def test_every_format_comes_back_and_has_the_bits_that_are_counted(text: str) -> None:
    weight = PackedWeight.of(weights(), parse(text))
    tensors, told = to_tensors(weight)
    assert same(from_tensors(tensors, told), weight)
    assert 0 <= bits(weight) - weight.stored_bits() <= PADDING
    again = from_tensors(tensors, told).pieces[0]
    if not text.startswith("bfp"):  # see test_packed
        code = again.format.encode(weight.dense(), again.params)
        assert torch.equal(again.format.decode(code, again.params).to(torch.float32), weight.dense())


def test_pieces_masks_and_branches_come_back() -> None:
    x = weights()
    branch = PackedWeight.of(weights(2, 72, 5), parse("mxint8")), PackedWeight.of(weights(12, 2, 6), parse("e5m2"))
    order = torch.randperm(72, generator=torch.Generator().manual_seed(1))
    permuted = PackedWeight((12, 72), (Piece.of(x[:, order], parse("int4g8f_fp16"), columns=order),), branch=branch)
    half = torch.arange(0, 72, 2)
    over = PackedWeight(
        (12, 72), (Piece.of(x, parse("int4")), Piece.of(x[:, half], parse("int2"), columns=half, paper=1.5))
    )
    for weight in (mixed(), permuted, over):
        found = from_tensors(*to_tensors(weight))
        assert same(found, weight)
        assert (found.stored_bits(), found.paper_bits()) == (weight.stored_bits(), weight.paper_bits())
        assert 0 <= bits(weight) - weight.stored_bits() <= PADDING * 3
    found = from_tensors(*to_tensors(permuted))
    assert found.branch is not None and all(same(a, b) for a, b in zip(found.branch, branch, strict=True))


def test_a_chosen_zero_point_and_a_negative_power_of_two_come_back() -> None:
    x = weights(4, 16)
    params = QuantParams(torch.full((4, 2), -0.5).double(), torch.full((4, 2), 8), axis=-1)
    for text in ("int4g8a", "int4g8pf"):
        fmt = parse(text)
        own = params if text.endswith("a") else replace(params, zero_point=None)
        weight = PackedWeight((4, 16), (Piece.of(x, fmt, own),))
        assert same(from_tensors(*to_tensors(weight)), weight)
        assert bits(weight) == weight.stored_bits()


def test_what_a_format_does_not_store_is_refused() -> None:
    x, fmt = weights(4, 16), parse("int4g8_fp16")
    params = replace(fmt.calibrate(x), scale=torch.full((4, 2), 0.1, dtype=torch.float64))
    with pytest.raises(FormatError, match=r"piece 0 \(int4g8_fp16\): scales: hold a number that fp16 does not have"):
        to_tensors(PackedWeight.of(x, fmt, params))
    good = PackedWeight.of(x, fmt)
    bad = replace(good.pieces[0], params=replace(good.pieces[0].params, zero_point=torch.full((4, 2), 16)))
    with pytest.raises(FormatError, match="zero points: found 16 to 16; 4 bits"):
        to_tensors(replace(good, pieces=(bad,)))
    signless = replace(parse("int4g8p").calibrate(x), scale=torch.full((4, 2), -0.5, dtype=torch.float64))
    with pytest.raises(FormatError, match="e8m0 does not have"):
        to_tensors(PackedWeight.of(x, parse("int4g8p"), signless))
    far = Piece(
        parse("mxint4b8"),
        QuantParams(base=torch.tensor(-127)),
        Code(torch.zeros(4, 16).long(), torch.full((4, 2), 200)),
    )
    with pytest.raises(FormatError, match="exponents"):
        to_tensors(PackedWeight((4, 16), (far,)))


def test_damaged_files_are_refused_in_one_line() -> None:
    tensors, told = to_tensors(mixed())
    with pytest.raises(FormatError, match="piece 0: codes is missing; needed are"):
        from_tensors({k: t for k, t in tensors.items() if k != "0.codes"}, told)
    with pytest.raises(FormatError, match=r"piece 4: codes is torch\.uint8 of 3; needed are 24 bytes"):
        from_tensors({**tensors, "4.codes": tensors["4.codes"][:3]}, told)
    for change, text in (
        ({"shape": [12, 71]}, "unit of columns"),
        ({"shape": [13, 72]}, "its columns say otherwise"),
        ({"shape": [0, 72]}, "allowed are matrices"),
        ({"sets": [[16, True], [32, True], [25, True]]}, "not those that are told"),
        ({"unit": "x"}, "unit"),
    ):
        with pytest.raises(FormatError, match=text) as caught:
            from_tensors(tensors, {**told, **change})
        assert "\n" not in str(caught.value)
    other = copy.deepcopy(told)
    other["pieces"][3]["masked"], other["pieces"][2]["masked"] = True, False
    other["pieces"][2]["format"], other["pieces"][2]["of"] = "int4", other["pieces"][0]["of"]
    with pytest.raises(FormatError, match="its columns say otherwise"):
        from_tensors(tensors, other)
    first = copy.deepcopy(told)
    first["pieces"] = [told["pieces"][3]]
    with pytest.raises(FormatError, match="has the complement of a mask"):
        from_tensors(tensors, first)
    other = copy.deepcopy(told)
    other["pieces"][0]["of"] = 7
    with pytest.raises(FormatError, match="has columns 7"):
        from_tensors(tensors, other)
