"""Products with weights: what is stored for them, and that powers of two need no multiplier."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from mase.blocks.linear import LinearBlock
from mase.blocks.product import Product
from mase.blocks.sums import Sums
from mase.formats import Axes, parse

# format of weights, lanes, whether they divide the layer of 6 inputs and 4 outputs, bits of a weight in memory
STORED = (
    ("binary", (3, 2), 1),
    ("binaryc", (4, 2), 2),  # some words hold zeros
    ("ternary", (3, 2), 2),
    ("log4", (3, 2), 4),
    ("log4", (3, 3), 5),
    ("log8", (3, 2), 1),  # the exponent has a memory of its own
    ("int4", (3, 2), 4),
    ("int4g3", (3, 2), 4),
    ("nvfp4b3", (3, 2), 4),
    ("mxfp4b3", (3, 2), 4),
    ("mxfp6e3m2b2", (2, 2), 6),
    ("e2m3", (3, 2), 6),
    ("fixed5.3", (4, 3), 5),
)


def unit(weight: str, lanes: tuple[int, int]) -> LinearBlock:
    """Return a layer of 6 inputs and 4 outputs."""
    torch.manual_seed(3)
    real, x, y = torch.randn(4, 6), parse("fixed6.3"), parse("fixed6.1")
    fmt = parse(weight)
    own = fmt.calibrate(real, fmt.along(Axes()))
    formats = (x, x.calibrate(real)), (fmt, own), (y, y.calibrate(real))
    op = Sums.build("layer", "layer", 1, *formats, real, None, attrs={"accumulation": "auto"})
    return LinearBlock(op, *lanes)


def read(words: Sequence[int], params: dict[str, int]) -> list[int]:
    """Return the weights that stored words stand for, as mase_product reads them."""
    found = []
    for word in words:
        sign = params["WWidth"] - 1 - params["WZero"]
        size = 1 << (word & (1 << sign) - 1)
        size = -size if word >> sign & 1 else size
        found.append(size if not params["WZero"] or word >> params["WWidth"] - 1 else 0)
    return found


@pytest.mark.parametrize(("weight", "lanes", "bits"), STORED)
def test_a_memory_holds_the_bits_of_the_format(weight: str, lanes: tuple[int, int], bits: int) -> None:
    block = unit(weight, lanes)
    image, simd, pe = block.memories()["WeightFile"], *lanes
    assert block.sv_params()["WWidth"] == bits
    assert image.width == simd * pe * bits
    assert image.width == block.foldings.rom_shapes(*lanes)[0][0]


@pytest.mark.parametrize(
    "weight", ["binary", "ternaryc", "log4", "int4", "int4g3", "nvfp4b3", "mxfp4b3", "fixed5.3", "e2m3"]
)
def test_stored_bits_are_those_that_a_report_counts(weight: str) -> None:
    block, fmt = unit(weight, (3, 2)), parse(weight)
    elements = sum(bits for _, bits in fmt.layout().element)
    image = block.memories()["WeightFile"]
    assert image.width * len(image.words) == 4 * 6 * elements
    assert fmt.bits((4, 6)) >= elements  # and what blocks, channels and the tensor share


@pytest.mark.parametrize(
    ("weight", "padded"),
    [([1, -1, -1, 1], False), ([1, -1, 0, 1], False), ([1, -1, 1, 0], True), ([4, -1, 16, -8], False), ([0, -2], True)],
)
def test_words_stand_for_the_weights(weight: Sequence[int], padded: bool) -> None:
    kept = torch.tensor([w for w in weight if w or not padded])
    product = Product.least(kept, powers=True)
    words = product.words(np.array(weight), padded)
    assert read(words.tolist(), dict(product.sv_params(padded))) == list(weight)


@pytest.mark.parametrize("weight", ["binary", "ternaryc", "log3", "log4", "log8", "int2"])
def test_powers_of_two_need_no_multiplier(weight: str) -> None:
    work = unit(weight, (3, 2)).work()
    assert not [a for _, a, b in work.multipliers if b < 16]  # that of the scale alone
    assert unit("int3", (3, 2)).work().multipliers[0] == (6, 6, 3)


@pytest.mark.parametrize(("weight", "bits"), [("int4g3", 11), ("nvfp4b3", 8), ("mxint4b3e4", None), ("fixed4.2", 0)])
def test_a_memory_holds_one_field_a_block(weight: str, bits: int | None) -> None:
    """Factors of 11 bits; a significand of 4 and an exponent of up to 4; exponents of the spread that occurs."""
    block = unit(weight, (3, 2))
    image = block.memories().get("WeightExpFile")
    if bits == 0:
        assert image is None
        return
    assert image is not None
    assert image.width == 2 * block.foldings.field_bits
    assert len(image.words) == 2 * 2  # tiles of outputs, blocks of inputs
    assert bits is None or bits - 3 <= block.foldings.field_bits <= bits


@pytest.mark.parametrize("weight", ["int4g3", "int4g2a", "int3g3f", "nvfp4b3", "nvfp4l1b2"])
def test_elements_times_factors_are_the_weights(weight: str) -> None:
    op = unit(weight, (3, 2)).sums if "3" in weight[4:] else unit(weight, (2, 2)).sums
    assert op.packed is not None
    factor = op.packed.factor.repeat_interleave(op.packed.block, 1)[:, :6]
    assert torch.equal(op.packed.elements * factor, op.weight)
    assert op.packed.grid.width < op.w.width


def test_a_log_beyond_sixteen_bits_keeps_its_exponent() -> None:
    assert unit("log4", (3, 2)).sums.w.block == 0
    assert unit("log5", (3, 2)).sums.w.block == 1
