"""Golden vectors: what other implementations computed, bit for bit; their defects only under ``compat``.

Each producer returns our counterpart of every array that we answer for. An array without counterpart must be named in
``NOT_OURS`` with a reason. Zeros compare equal whatever their sign: references differ there in formats of integers.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mase.formats.base import Code, Format, QuantParams, parse
from mase.formats.bfp import BFP
from mase.formats.binary import Binary
from mase.formats.bl import BlockLog
from mase.formats.blocks import Tiling
from mase.formats.bm import BlockMinifloat
from mase.formats.fixed import Fixed
from mase.formats.int import Int
from mase.formats.log import Log
from mase.formats.minifloat import Minifloat
from mase.formats.mxfp import MXFP
from mase.formats.mxint import MXInt
from mase.formats.nf import NormalFloat
from mase.formats.nvfp4 import NVFP4
from mase.formats.ternary import Ternary

Array = np.ndarray[Any, Any]  # Any: of any shape and type
Arrays = dict[str, Array]
GOLDEN = Path(__file__).resolve().parent.parent / "golden" / "formats"
ELEMENTS = {"fp8_e4m3": (4, 3), "fp8_e5m2": (5, 2), "fp6_e3m2": (3, 2), "fp6_e2m3": (2, 3), "fp4_e2m1": (2, 1)}
TYPES = {
    "float8_e4m3fn": Minifloat(4, 3),
    "float8_e5m2": Minifloat(5, 2),
    "float8_e4m3": Minifloat(4, 3, special="ieee"),
    "float8_e3m4": Minifloat(3, 4, special="ieee"),
    "float8_e4m3fnuz": Minifloat(4, 3, special="fnuz"),
    "float8_e5m2fnuz": Minifloat(5, 2, special="fnuz"),
    "float8_e4m3b11fnuz": Minifloat(4, 3, bias=11, special="fnuz"),
    "float6_e2m3fn": Minifloat(2, 3),
    "float6_e3m2fn": Minifloat(3, 2),
    "float4_e2m1fn": Minifloat(2, 1),
    "bfloat16": Minifloat(8, 7, special="ieee"),
    "float16": Minifloat(5, 10, special="ieee"),
}
NOT_OURS = {
    "row_class": "an input",
    "x": "an input",
    "x1": "an input",
    "x3": "an input",
    "x_int": "an input",
    "nf_x": "an input",
    "hw_x": "an input",
    "special_x": "an input",
    "ml__float8_e8m0fnu__*": "a scale type, not a format of elements",
    "decode__float8_e8m0fnu": "likewise; its decode table is tested with the codes",
    "torch__float8_e8m0fnu__*": "likewise",
    "y__*__scalebits*": "microxcaling's NaN for scales of few bits",
    "y__*__flushsub__*": "microxcaling's option to flush subnormals",
    "elem__*__even__sat?": "see test_elementwise_casts_of_microxcaling",
    "scaleint__*": "one float32 scale a row with 1e-9 added, values only",
    "minifloat_denorm__*": "a format without hidden bit, which we do not have",
    "mase_mxfp__*": "a carry lost; no result was published with it",
    "hw_mxint__*": "a scale that depends on the exponent's width",
    "binary__*": "see test_binary_and_ternary_of_mase",
    "ternary__*": "likewise",
    "brevitas__shiftedmxuint8__*": "unsigned elements with a shift, a format that we do not have",
}


def load(name: str) -> Arrays:
    with np.load(GOLDEN / f"{name}.npz") as archive:
        return {key: archive[key] for key in archive.files}


def tensor(array: Array) -> Tensor:
    return torch.from_numpy(array)


def values(fmt: Format, x: Tensor, params: QuantParams | None = None) -> Array:
    """Return what ``quantize`` gives, after checking it against the codes where the format has any."""
    params = params if params is not None else fmt.calibrate(x)
    y = fmt.quantize(x, params)
    if getattr(fmt, "compat", "") != "mase":
        decoded = fmt.decode(fmt.encode(x, params), params).to(x.dtype)
        assert torch.equal(y.nan_to_num(nan=123.0), decoded.nan_to_num(nan=123.0)), fmt
    return np.asarray(y.numpy())


def nibbles(codes: Tensor) -> Array:
    """Pack two codes a byte, the even index in the low nibble."""
    return np.asarray((codes[..., ::2] | codes[..., 1::2] << 4).numpy())


def microxcaling(data: Arrays) -> Arrays:
    x, ours = tensor(data["x"]), Arrays()
    for key in data:
        kind, _, name = key.partition("__")
        name, *rest = name.split("__")
        if kind not in ("y", "exact", "exact_scale_exp") or "scalebits" in key or "flushsub" in key:
            continue
        rounding = {"even": "even", "nearest": "half_away", "floor": "zero"}.get(rest[-1], "even")
        fields: dict[str, Any] = {"block": int(rest[0][1:]), "rounding": rounding}  # Any: fields of many types
        fields["compat"] = "microxcaling" if kind == "y" else ""
        fmt = MXInt(int(name[3:]), **fields) if name.startswith("int") else MXFP(*ELEMENTS[name], **fields)
        params = fmt.calibrate(x, 0 if "axis0" in key else -1)
        ours[key] = scale_exponents(fmt, x) if kind == "exact_scale_exp" else values(fmt, x, params)
    return ours


def scale_exponents(fmt: Format, x: Tensor) -> Array:
    """Return exponents with the references' choice for zero blocks of integers, -126; ours take the least, -127."""
    exponent = fmt.encode(x).exponent
    assert exponent is not None
    zero = x.unflatten(-1, (-1, 32)).abs().amax(-1) == 0
    return np.asarray(torch.where(zero & isinstance(fmt, MXInt), -126, exponent).numpy())


def microxcaling_special(data: Arrays) -> Arrays:
    x, ours = tensor(data["special_x"]), microxcaling(data)
    for name in [*ELEMENTS, "int8", "int4"]:
        fmt = MXInt(int(name[3:]), nan="encode") if name.startswith("int") else MXFP(*ELEMENTS[name], nan="encode")
        ours[f"special_y__{name}"] = values(fmt, x)
    return ours


def torchao_mx(data: Arrays) -> Arrays:
    x, ours = tensor(data["x"]), Arrays()
    for key in [key for key in data if key.endswith("__deq")]:
        name, rule, _ = key.split("__")
        fmt = MXFP(int(name[1]), int(name[3]), rule=rule.lower(), compat="torchao")  # type: ignore[arg-type]
        code = fmt.encode(x)
        assert code.exponent is not None
        ours[key] = values(fmt, x)
        ours[f"{name}__{rule}__scale"] = (code.exponent + 127).numpy()
        ours[f"{name}__{rule}__codes"] = nibbles(code.mantissa) if name == "e2m1" else code.mantissa.numpy()
    return ours


def torchao_nvfp4(data: Arrays) -> Arrays:
    x, ours = tensor(data["x"]), Arrays()
    for name, fmt in (("two_level", NVFP4()), ("one_level", NVFP4(two_level=False))):
        code, params = fmt.encode(x), fmt.calibrate(x)
        assert code.scale is not None
        assert params.scale is not None
        ours[f"{name}__block_scale_code"] = code.scale.numpy()
        ours[f"{name}__packed_codes"] = nibbles(code.mantissa)
        ours[f"{name}__deq"] = values(fmt, x)
        if fmt.two_level:
            ours["tensor_scale"] = params.scale.to(torch.float32).numpy()
    return ours


def ml_dtypes(data: Arrays) -> Arrays:
    x, ours = tensor(data["x"]), Arrays()
    for name, fmt in TYPES.items():
        if f"ml__{name}__code" not in data:
            continue
        if f"decode__{name}" in data:
            ours[f"decode__{name}"] = fmt.values().to(torch.float32).numpy()
        given = x
        if fmt.special == "finite":  # ml_dtypes gives NaN the code of -0 there; we refuse it
            given = torch.where(torch.isnan(x), -0.0, x)
        else:
            fmt = replace(fmt, overflow="special", nan="encode")
        ours[f"ml__{name}__value"] = values(fmt, given)
        ours[f"ml__{name}__code"] = fmt.encode(given).mantissa.numpy()
    return ours


def torch_casts(data: Arrays) -> Arrays:
    x, ours = tensor(data["x"]), Arrays()
    for key in [key for key in data if key.endswith("__value") and "e8m0" not in key]:
        name = key.split("__")[1]
        overflow: Any = "saturate" if name == "float8_e4m3fn" else "special"  # Any: a name chosen here
        fmt = replace(TYPES[name], overflow=overflow, nan="encode")
        ours[key] = values(fmt, x)
        theirs = data[f"torch__{name}__code"]
        code = fmt.encode(x).mantissa.numpy().astype(theirs.dtype)
        ours[f"torch__{name}__code"] = np.where(np.isnan(data["x"]), theirs, code)  # torch has other bits for NaN
    return ours


def gfloat(data: Arrays) -> Arrays:
    modes = {"TiesToEven": "even", "TiesToAway": "half_away", "TowardZero": "zero", "TowardPositive": "ceil"}
    x, ours = tensor(data["x"]), Arrays()
    for key in [key for key in data if key.startswith("g__")]:
        _, name, mode, saturates = key.split("__")
        rounding: Any = modes.get(mode, "floor")  # Any: one of the modes
        fmt: Fixed | Minifloat = Fixed(8, 6, rounding=rounding)
        if name != "ocp_int8":
            fmt = Minifloat(int(name[5]), int(name[7]), rounding=rounding)
            if fmt.special != "finite":
                fmt = replace(fmt, nan="encode", overflow="saturate" if saturates == "sat1" else "special")
        lost = torch.isnan(x) & (getattr(fmt, "nan", "error") == "error")
        ours[key] = values(fmt, torch.where(lost, 0.0, x))
    return ours


def mase_fixed(data: Arrays) -> Arrays:
    x, ours = tensor(data["x"]), Arrays()
    for key in [key for key in data if key.startswith("fixed__")]:
        _, size, sign, mode = key.split("__")
        width, frac = (int(field[1:]) for field in size.split("_"))
        ours[key] = values(Fixed(width, frac, sign == "s", rounding="even" if mode == "rne" else "floor"), x)
    return ours


def mase_scalar(data: Arrays) -> Arrays:
    x, ours = tensor(data["x"]), Arrays()
    for key in data:
        kind, *size = key.split("__")
        fields = {field[0]: field[1:] for field in size[0].split("_")} if size else {}
        if kind == "minifloat_ieee":
            exp, width = int(fields["e"]), int(fields["w"])
            bias = {} if fields["b"] == "None" else {"bias": int(fields["b"])}
            ours[key] = values(Minifloat(exp, width - 1 - exp, special="finite", compat="mase", **bias), x)
        elif kind == "log":
            bias = {} if fields["b"] == "None" else {"bias": int(fields["b"])}
            ours[key] = values(Log(int(fields["w"]), compat="mase", **bias), x)
    return ours


def mase_blocks(data: Arrays) -> Arrays:
    inputs, ours = {"weight": "x", "act2d": "x", "act3d": "x3", "bias1d": "x1"}, {}
    for key in [key for key in data if "__" in key]:
        kind, size, tile, role = key.split("__")
        x = tensor(data[inputs[role]])
        extents = [x.shape[0] if extent == "m1" else int(extent) for extent in tile.split("x")]
        *outer, block = extents if role != "act2d" else extents[-1:]
        fields = dict(zip(*split_size(size), strict=True))
        shared: dict[str, Any] = {"block": block, "outer": tuple(outer), "compat": "mase"}  # Any: fields of many types
        if kind == "bfp":
            fmt: Format = BFP(fields["w"], exp_bits=fields["e"], **shared)
        elif kind == "bm":
            fmt = BlockMinifloat(fields["w"], fields["e"], exp_bits=fields["bw"], **shared)
        else:
            fmt = BlockLog(fields["w"], exp_bits=fields["bw"], **shared)
        ours[key] = values(fmt, x)
    return ours


def split_size(text: str) -> tuple[list[str], list[int]]:
    """Split ``w8_e4_bw8`` into names and numbers."""
    parts = text.split("_")
    return [part.rstrip("0123456789") for part in parts], [
        int(part.lstrip("abcdefghijklmnopqrstuvwxyz")) for part in parts
    ]


def mase_mx(data: Arrays) -> Arrays:
    x, ours = tensor(data["x"]), Arrays()
    for key in [key for key in data if key.startswith("mase_mxint__")]:
        _, width, block = key.split("__")
        ours[key] = values(MXInt(int(width[1:]), int(block[1:]), compat="mase"), x)
    return ours


def qera(data: Arrays) -> Arrays:
    x, ours = tensor(data["x"]), Arrays()
    for key in data:
        kind, *fields = key.split("__")
        if kind == "qera_mxint":
            fmt: Format = MXInt(int(fields[0][1:]), int(fields[1][1:]), compat="qera")
            ours[key] = values(fmt, x, fmt.calibrate(x, 0 if "axis0" in key else -1))
        elif kind == "qera_int":
            low, high = (float(end) for end in fields[2].split("_"))
            top = max(abs(low), abs(high))
            ends = torch.tensor([-top, top] if fields[1] == "sym" else [low, high])
            fmt = Int(int(fields[0][1:]), zero="int", compat="qera")
            ours[key] = values(fmt, tensor(data["x_int"]), fmt.calibrate(ends))
    return ours | normal_floats(data)


def normal_floats(data: Arrays) -> Arrays:
    x, ours = tensor(data["nf_x"]), Arrays()
    for width in (2, 4):
        fmt = NormalFloat(width)
        code = fmt.encode(x)
        assert code.scale is not None
        lanes = code.mantissa.reshape(-1, 8 // width)  # the first in the lowest bits
        ours[f"nf{width}__table"] = np.asarray(fmt.table, np.float32)
        ours[f"nf{width}__absmax"] = code.scale.to(torch.int32).view(torch.float32).numpy()
        ours[f"nf{width}__packed"] = (lanes << width * torch.arange(8 // width)).sum(1, keepdim=True).numpy()
        ours[f"nf{width}__deq"] = values(fmt, x)
    return ours


def torchao_groups(data: Arrays) -> Arrays:
    x, ours = tensor(data["x"]), Arrays()
    for kind, fields in (("asym", {"zero": "int"}), ("sym", {}), ("symnoclip", {"full": True})):
        for width in (8, 4, 3, 2):
            for group in (16, 32):
                fmt = Int(width, group=group, compat="torchao", **fields)  # type: ignore[arg-type]
                params, key = fmt.calibrate(x), f"{kind}__b{width}_g{group}__"
                assert params.scale is not None
                zero = params.zero_point if params.zero_point is not None else torch.zeros_like(params.scale)
                ours |= {key + "scale": params.scale.to(torch.float32).numpy(), key + "zp": zero.numpy()}
                ours |= {key + "q": fmt.encode(x, params).mantissa.numpy(), key + "deq": values(fmt, x, params)}
    return ours


def brevitas(data: Arrays) -> Arrays:
    x, ours = tensor(data["x"]), Arrays()
    texts = {"mxfp8_e4m3": "mxfp8e4m3", "mxfp8_e5m2": "mxfp8e5m2", "mxfp6_e3m2": "mxfp6e3m2", "mxfp6_e2m3": "mxfp6e2m3"}
    texts |= {"mxfp4_e2m1": "mxfp4", "mxint8": "mxint8", "mxint4": "mxint4"}
    for name, text in texts.items():
        fmt = parse(f"{text}_brevitas")
        code = fmt.encode(x)
        assert code.exponent is not None
        step = torch.ldexp(torch.ones(code.exponent.shape), code.exponent - getattr(fmt, "offset", 0))
        zero = x.unflatten(-1, (-1, 32)).abs().amax(-1) == 0  # there Brevitas has 1e-10, which no exponent can be
        ours[f"brevitas__{name}__scale"] = torch.where(zero, tensor(data[f"brevitas__{name}__scale"]), step).numpy()
        ours[f"brevitas__{name}__b32"] = values(fmt, x)
    scaled = {"fp8e4m3ocp_pertensor": "e4m3t", "fp8e5m2ocp_pertensor": "e5m2t", "fp8e4m3ocp_perchannel": "e4m3c"}
    scaled |= {
        "int8_pertensor": "int8_brevitas",
        "int4_perchannel": "int4c_brevitas",
        "int8_fixedpoint": "int8p_brevitas",
    }
    for name, text in scaled.items():
        fmt = parse(text)
        params = fmt.calibrate(x, 0)
        assert params.scale is not None
        theirs = tensor(data[f"brevitas__{name}__scale"])
        scale = params.scale.to(torch.float32).reshape(theirs.shape)
        if text == "e4m3c":  # a zero row has the scale 1e-10 / 448 there, 1 here
            scale = torch.where(x.abs().amax(1, keepdim=True) == 0, theirs, scale)
        ours[f"brevitas__{name}__scale"] = scale.numpy()
        ours[f"brevitas__{name}"] = values(fmt, x, params)
    for name, sign in (("binary_const", Binary()), ("ternary_const", Ternary())):
        constant = tensor(data[f"brevitas__{name}__scale"]).reshape(()).double()
        ours[f"brevitas__{name}"] = values(sign, x, QuantParams(scale=constant, threshold=constant / 2))
        ours[f"brevitas__{name}__scale"] = data[f"brevitas__{name}__scale"]  # given, not found
    return ours


def weights(data: Arrays) -> Arrays:
    """Return the quantized weights of the error-reconstruction files; the rest of these belongs to that."""
    x, ours = tensor(data["W"]), Arrays()
    for key in [key for key in data if key.endswith("Wq") and not key.startswith("loftq")]:
        name, block = key.split("__")[0].split("_")
        width, size = int(name[-1]), int(block.removeprefix("1x").removeprefix("b"))
        ours[key] = values(BFP(width, size, compat="mase") if name.startswith("bfp") else MXInt(width, size), x)
    return ours


PRODUCERS: Mapping[str, Callable[[Arrays], Arrays]] = {
    "mx_microxcaling": microxcaling,
    "mx_microxcaling_pad_elem": microxcaling_special,
    "mx_torchao": torchao_mx,
    "nvfp4_torchao": torchao_nvfp4,
    "cast_ml_dtypes": ml_dtypes,
    "cast_torch": torch_casts,
    "round_gfloat": gfloat,
    "mase_fixed_point": mase_fixed,
    "mase_minifloat_log": mase_scalar,
    "mase_block": mase_blocks,
    "mase_mx": mase_mx,
    "qera_quantizers": qera,
    "group_int_torchao": torchao_groups,
    "brevitas": brevitas,
}
RECONSTRUCTION = ("lqer_qera_layer0", "lqer_qera_layer1", "qpeft_init")


def differences(ours: Mapping[str, Array], theirs: Mapping[str, Array]) -> dict[str, int]:
    """Return how many elements differ, for each array with any; NaN equals NaN."""
    unequal = {}
    for key, array in ours.items():
        with np.errstate(invalid="ignore"):  # numpy warns of some NaN
            a, b = np.asarray(array, np.float64), np.asarray(theirs[key], np.float64)
        assert a.shape == b.shape, key
        unequal[key] = int(((a != b) & ~(np.isnan(a) & np.isnan(b))).sum())
    return {key: count for key, count in unequal.items() if count}


@pytest.mark.parametrize("name", PRODUCERS)
def test_arrays_are_reproduced_bit_for_bit(name: str) -> None:
    theirs = load(name)
    ours = PRODUCERS[name](theirs)
    assert len(ours) > 5
    assert differences(ours, theirs) == {}


@pytest.mark.parametrize("name", RECONSTRUCTION)
def test_quantized_weights_are_reproduced_bit_for_bit(name: str) -> None:
    theirs = load(name)
    ours = weights(theirs)
    assert len(ours) >= 2
    assert differences(ours, theirs) == {}


@pytest.mark.parametrize("name", PRODUCERS)
def test_no_array_is_passed_over_in_silence(name: str) -> None:
    theirs = load(name)
    answered = PRODUCERS[name](theirs)
    left = [key for key in theirs if key not in answered]
    assert [key for key in left if not any(fnmatch.fnmatchcase(key, pattern) for pattern in NOT_OURS)] == []


def test_all_files_are_used() -> None:
    used = {*PRODUCERS, *RECONSTRUCTION, "mase_binary_ternary"}
    assert {path.stem for path in GOLDEN.glob("*.npz")} == used


def test_defects_are_not_reproduced_by_default() -> None:
    data = load("mx_microxcaling")
    x, row_class = tensor(data["x"]), data["row_class"]
    for name, size in ELEMENTS.items():
        wrong = values(MXFP(*size), x) != data[f"y__{name}__b32__even"]
        assert wrong.any()
        assert set(row_class[np.nonzero(wrong)[0]]) <= {8, 12}  # maxima just below a power of two


def test_elementwise_casts_of_microxcaling() -> None:
    """They share the defect of the logarithm: away from predecessors of powers of two they equal ours."""
    data = load("mx_microxcaling_pad_elem")
    x, row_class = tensor(data["x"]), data["row_class"]
    keys = [key for key in data if key.startswith("elem__")]
    for key in keys:
        _, name, _, saturates = key.split("__")
        fmt = TYPES[name] if name in TYPES else Minifloat(*ELEMENTS[name])
        if saturates == "sat0" and fmt.special != "finite":
            fmt = replace(fmt, overflow="special")
        y = fmt.decode(fmt.encode(x)).to(torch.float32).numpy()
        wrong = (y != data[key]) & ~(np.isnan(y) | np.isinf(data[key]))
        assert set(row_class[np.nonzero(wrong)[0]]) <= {4, 5, 6, 8, 12, 16}, key
    assert len(keys) == 14


def test_binary_and_ternary_of_mase() -> None:
    data = load("mase_binary_ternary")
    x = tensor(data["x"])
    assert np.array_equal(values(Binary("none"), x), data["binary__bipolar"])
    ternary = Ternary("channel")
    ours = values(ternary, x, ternary.calibrate(x, 0))
    assert np.array_equal(np.sign(ours), np.sign(data["ternary__scaled"]))
    np.testing.assert_allclose(ours, data["ternary__scaled"], rtol=2**-22, atol=0)  # their mean is a float32 sum
    alpha = values(Binary("channel"), x, Binary("channel").calibrate(x, 0))
    scale = np.abs(x.numpy()).mean(axis=(1, 2, 3), keepdims=True)
    np.testing.assert_allclose(np.abs(alpha), np.broadcast_to(scale, alpha.shape), rtol=2**-22, atol=0)


def test_padding_is_by_zeros_and_never_crosses_rows() -> None:
    x = tensor(load("mx_microxcaling_pad_elem")["x"])
    code: Code = MXInt().encode(x)
    assert code.exponent is not None
    assert tuple(code.exponent.shape) == (34, 2)
    padded = torch.nn.functional.pad(x, (0, 14))
    assert torch.equal(MXInt().encode(padded).mantissa[:, :50], code.mantissa)
    assert Tiling.of(2, (32,), QuantParams(), "mxint8").count(x.shape) == 68
