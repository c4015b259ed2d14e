"""Text forms: every field of every format round-trips, and what is wrong is named."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mase.errors import FormatError
from mase.formats import FORMATS, Format, parse
from mase.formats.base import examples
from mase.formats.bfp import BFP
from mase.formats.binary import Binary
from mase.formats.bl import BlockLog
from mase.formats.blocks import RULES
from mase.formats.bm import BlockMinifloat
from mase.formats.codebook import Codebook
from mase.formats.fixed import Fixed
from mase.formats.int import Int
from mase.formats.log import Log
from mase.formats.minifloat import SPECIALS, Minifloat
from mase.formats.mxfp import MXFP
from mase.formats.mxint import MXInt
from mase.formats.nf import NormalFloat
from mase.formats.nfq import QuantizedNormalFloat
from mase.formats.nvfp4 import NVFP4
from mase.formats.packed import PackedFormat
from mase.formats.rounding import MODES
from mase.formats.scales import SCALE_TYPES
from mase.formats.ternary import Ternary
from mase.testing import law

FOLDER = Path(__file__).resolve().parents[2] / "mase" / "formats"

rounding = st.sampled_from(MODES)
blocks = st.integers(1, 64)
tiles = st.lists(st.integers(1, 9), max_size=2).map(tuple)
nan = st.sampled_from(["error", "encode"])
window = st.integers(1, 8)


def possible(cls: type[Format], **choices: st.SearchStrategy[object]) -> st.SearchStrategy[Format]:
    """Return a strategy of formats; what the class refuses is left out."""

    def build(given_fields: dict[str, object]) -> Format | None:
        try:
            return cls(**given_fields)
        except FormatError:
            return None

    built = st.fixed_dictionaries({}, optional=choices).map(build)
    return built.filter(lambda fmt: fmt is not None).map(lambda fmt: fmt)  # type: ignore[return-value]


CHOICES: dict[type[Format], dict[str, st.SearchStrategy[object]]] = {
    Fixed: {
        "width": st.integers(1, 32),
        "frac": st.integers(-64, 64),
        "signed": st.booleans(),
        "rounding": rounding,
        "overflow": st.sampled_from(["saturate", "wrap"]),
    },
    Int: {
        "width": st.integers(1, 16),
        "channel": st.booleans(),
        "power": st.booleans(),
        "group": st.sampled_from([0, 1, 32, 128]),
        "zero": st.sampled_from(["none", "int", "real"]),
        "full": st.booleans(),
        "scale_type": st.sampled_from(SCALE_TYPES),
        "rounding": rounding,
        "compat": st.sampled_from(["", "torchao", "qera", "brevitas"]),
    },
    Minifloat: {
        "exp": st.integers(1, 8),
        "man": st.integers(0, 23),
        "bias": st.integers(-64, 192),
        "special": st.sampled_from(SPECIALS),
        "rounding": rounding,
        "overflow": st.sampled_from(["saturate", "special"]),
        "nan": nan,
        "per": st.sampled_from(["none", "tensor", "channel"]),
        "compat": st.sampled_from(["", "mase"]),
    },
    MXInt: {
        "width": st.integers(2, 16),
        "block": blocks,
        "exp_bits": window,
        "outer": tiles,
        "rounding": rounding,
        "nan": nan,
        "compat": st.sampled_from(["", "microxcaling", "brevitas", "qera", "mase"]),
    },
    MXFP: {
        "exp": st.integers(1, 8),
        "man": st.integers(0, 12),
        "block": blocks,
        "outer": tiles,
        "rule": st.sampled_from(RULES),
        "rounding": rounding,
        "nan": nan,
        "compat": st.sampled_from(["", "microxcaling", "torchao", "brevitas"]),
    },
    NVFP4: {"block": blocks, "two_level": st.booleans()},
    BFP: {
        "width": st.integers(2, 16),
        "block": blocks,
        "exp_bits": window,
        "outer": tiles,
        "rule": st.sampled_from(["ceil", "floor"]),
        "code": st.sampled_from(["sm", "tc"]),
        "rounding": rounding,
        "compat": st.sampled_from(["", "mase"]),
    },
    BlockMinifloat: {
        "width": st.integers(2, 16),
        "exp": st.integers(1, 8),
        "block": blocks,
        "exp_bits": window,
        "outer": tiles,
        "rounding": rounding,
        "compat": st.sampled_from(["", "mase"]),
    },
    Log: {"width": st.integers(2, 9), "bias": st.integers(-64, 255), "compat": st.sampled_from(["", "mase"])},
    BlockLog: {
        "width": st.integers(2, 9),
        "block": blocks,
        "exp_bits": window,
        "outer": tiles,
        "compat": st.sampled_from(["", "mase"]),
    },
    Binary: {
        "per": st.sampled_from(["none", "tensor", "channel"]),
        "scale_type": st.sampled_from(["fp32", "fp16", "bf16"]),
    },
    Ternary: {"per": st.sampled_from(["none", "tensor", "channel"])},
    NormalFloat: {
        "width": st.integers(2, 8),
        "block": blocks,
        "scale_type": st.sampled_from([kind for kind in SCALE_TYPES if kind != "short"]),
    },
    QuantizedNormalFloat: {"width": st.integers(2, 8), "block": blocks, "shift": st.booleans()},
    PackedFormat: {"total": st.integers(0, 1 << 40)},
    Codebook: {
        "entries": st.lists(st.floats(-4, 4, width=32), min_size=2, max_size=9, unique=True).map(sorted).map(tuple),
        "block": blocks,
        "scale_type": st.sampled_from([kind for kind in SCALE_TYPES if kind != "short"]),
    },
}


def test_every_registered_format_is_drawn_with_all_its_fields() -> None:
    assert set(CHOICES) == {FORMATS[name] for name in FORMATS}
    for cls, choices in CHOICES.items():
        assert set(choices) == {field.name for field in fields(cls)}  # type: ignore[arg-type]  # formats are dataclasses


@pytest.mark.parametrize("cls", CHOICES, ids=lambda cls: cls.__name__)
def test_every_field_round_trips(cls: type[Format]) -> None:
    @law
    @given(possible(cls, **CHOICES[cls]))
    def round_trips(fmt: Format) -> None:
        assert parse(str(fmt)) == fmt
        assert str(parse(str(fmt))) == str(fmt)

    round_trips()


def test_names_are_those_of_the_files() -> None:
    assert all((FOLDER / f"{name}.py").is_file() for name in FORMATS)
    assert all(FORMATS[name].__module__ == f"mase.formats.{name}" for name in FORMATS)


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("fixed8.4", "fixed8.4"),
        ("ufixed8.4", "ufixed8.4"),
        ("fixed4.-1_floor_wrap", "fixed4.-1_floor_wrap"),
        ("int8", "int8"),
        ("int8c", "int8c"),
        ("int8p", "int8p"),
        ("int8cp", "int8cp"),
        ("int4g128", "int4g128"),
        ("int4g32a", "int4g32a"),
        ("int4g32r_fp16", "int4g32r_fp16"),
        ("mxint8", "mxint8"),
        ("mxint8b32e8", "mxint8"),
        ("mxint8b16e4", "mxint8b16e4"),
        ("mxint4b4x4", "mxint4b4x4"),
        ("mxfp8e4m3", "mxfp8e4m3"),
        ("mxfp6e2m3", "mxfp6e2m3"),
        ("mxfp4", "mxfp4"),
        ("mxfp4e2m1_xrceil", "mxfp4_xrceil"),
        ("nvfp4", "nvfp4"),
        ("nvfp4l1", "nvfp4l1"),
        ("e4m3", "e4m3"),
        ("e4m3b7fn", "e4m3"),
        ("e5m2", "e5m2"),
        ("e4m3b11fnuz", "e4m3b11fnuz"),
        ("e4m3t", "e4m3t"),
        ("bfp6b16", "bfp6"),
        ("bfp8b32e5_xfloor_tc", "bfp8b32e5_xfloor_tc"),
        ("bm8e4b16", "bm8e4"),
        ("bm6e2b8s4", "bm6e2b8s4"),
        ("log4", "log4"),
        ("log4b-2", "log4b-2"),
        ("bl4b16", "bl4"),
        ("binary", "binary"),
        ("binaryc", "binaryc"),
        ("ternary", "ternary"),
        ("nf4", "nf4"),
        ("nf4b32_fp16", "nf4b32_fp16"),
        ("nfq4b64s", "nfq4s"),
        ("binaryc_fp16", "binaryc_fp16"),
        ("codebook[-1,0,0.5]b8", "codebook[-1.0,0.0,0.5]b8"),
    ],
)
def test_text_forms_of_the_documentation(text: str, canonical: str) -> None:
    assert str(parse(text)) == canonical


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", "format '': not a text form; allowed are forms such as"),
        ("fixed8.4x", "format 'fixed8.4x': 'x' follows 'fixed8.4'"),
        ("fixed8.4 ", "format 'fixed8.4 ': ' ' follows 'fixed8.4'"),
        ("fixed8.4\n", "follows 'fixed8.4'"),
        ("mxint8b16e4e4", "'e4' follows 'mxint8b16e4'"),
        ("mxnt8", "not a text form; did you mean mxint8?"),
        ("int8_flor", "unknown word _flor; allowed after the head: _up, _away, _floor"),
        ("binary_floor", "unknown word _floor; allowed after the head: _fp16, _bf16"),
        ("int8_floor_up", "rounding is given twice, the second time by _up"),
        ("int4g0", "int: group is 0; allowed is 1..65536"),
        ("mxint8b0", "mxint: block is 0; allowed is 1..65536"),
        ("mxint99", "mxint: width is 99; allowed is 2..16"),
        ("fixed8", "format 'fixed8': not a text form; did you mean fixed8.4?"),
        ("x" * 3000, "format: 3000 characters is not a text form"),
    ],
)
def test_errors_name_what_is_wrong_and_what_is_allowed(text: str, error: str) -> None:
    with pytest.raises(FormatError) as caught:
        parse(text)
    assert error in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_no_text_is_refused() -> None:
    with pytest.raises(FormatError, match="format: 8 is not a text form"):
        parse(8)  # type: ignore[arg-type]  # as a configuration may have it


def test_examples_parse_to_the_defaults() -> None:
    assert [parse(text) for text in examples()] == [FORMATS[name]() for name in FORMATS]
