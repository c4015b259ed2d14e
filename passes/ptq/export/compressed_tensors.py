"""compressed-tensors: what vLLM and llm-compressor load; integers, MXFP4, MXFP8 and NVFP4."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from mase.errors import GraphError, said
from mase.formats.base import pow2
from mase.formats.mxfp import MXFP
from mase.formats.nvfp4 import NVFP4
from mase.formats.packed import PackedWeight, Piece
from passes.ptq.export.affine import affine, from_words, only_piece, words
from passes.ptq.export.base import EXPORTS, Export, Json, Model, UnheldError, Writer
from passes.ptq.export.shards import Module, Shards, beside, by_module, read
from passes.ptq.folder import Layer

WIDEST = 8  # bits of an integer
TYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "e8m0": torch.bfloat16, "e4m3": torch.bfloat16}  # else float32
OCP = 127  # bias of E8M0
FP4, FP8 = "e2m1", "e4m3"
ULPS = 8  # floats around 1 / g that may stand for it


@dataclass(frozen=True)
class Scheme:
    """What the configuration says of a group of layers: the format of the file, and of the weights."""

    format: str
    bits: int
    type: str
    strategy: str
    group: int | None = None
    symmetric: bool = True
    scale: str | None = None

    @property
    def weights(self) -> Json:
        """The fields of ``weights``."""
        told: dict[str, Json] = {"num_bits": self.bits, "type": self.type, "symmetric": self.symmetric}
        told |= {"strategy": self.strategy, "group_size": self.group, "dynamic": False}
        return told | ({"scale_dtype": self.scale} if self.scale else {})

    def __str__(self) -> str:
        per = f" group {self.group}" if self.group else f" {self.strategy}"
        zero = "" if self.symmetric else ", zero points"
        return f"{self.format}, {self.type}{self.bits}{per}{zero}"


Tensors = dict[str, Tensor]


@dataclass(eq=False)
class _Shards(Shards):
    schemes: dict[Scheme, list[str]] = field(default_factory=dict)

    def module(self, module: Module, layer: Layer) -> tuple[Tensors, Tensor]:
        scheme, tensors = _encoded(layer.weight)
        if module.stop - module.start != layer.weight.shape[0]:
            tensors = {name: x[module.start : module.stop] if _by_row(name) else x for name, x in tensors.items()}
            if "weight_zero_point" in tensors:
                tensors["weight_zero_point"] = _zeros(layer.weight, module.rows)
            if "weight_shape" in tensors:
                tensors["weight_shape"] = torch.tensor([module.stop - module.start, layer.weight.shape[1]])
        self.schemes.setdefault(scheme, []).append(module.name)
        return tensors, decoded(scheme, tensors)

    def quantization(self) -> Json:
        ordered = list(self.schemes.items())
        alone = len(ordered) == 1
        groups = {
            f"group_{i}": {
                "targets": ["Linear"] if alone else names,
                "weights": scheme.weights,
                "input_activations": None,
                "output_activations": None,
                "format": scheme.format,
            }
            for i, (scheme, names) in enumerate(ordered)
        }
        formats = {scheme.format for scheme in self.schemes}
        return {
            "quant_method": "compressed-tensors",
            "format": formats.pop() if len(formats) == 1 else "mixed-precision",
            "quantization_status": "compressed",
            "config_groups": groups,
            "ignore": sorted(self.spare),
            "kv_cache_scheme": None,
            "global_compression_ratio": None,
        }


def _by_row(name: str) -> bool:
    return name in ("weight", "weight_packed", "weight_scale")


@EXPORTS.add("compressed_tensors")
class CompressedTensors(Export):
    """Layouts ``pack-quantized``, ``mxfp4-pack-quantized``, ``mxfp8-quantized`` and ``nvfp4-pack-quantized``."""

    tool: ClassVar[str] = "compressed-tensors"

    def writer(self, model: Model, folder: Path) -> Writer:
        return _Shards(model, folder)

    def held(self, weight: PackedWeight) -> str:
        return str(_encoded(weight)[0])

    def loader(self) -> str:
        return "compressed-tensors" if _package() else "our reading of compressed-tensors"

    def tensors(self, folder: Path) -> Iterator[tuple[str, Tensor]]:
        told, files = read(folder)
        named = _schemes(told, str(folder))
        default = named.get("Linear")
        for tensors in files:
            modules = by_module(tensors, "weight_scale")
            yield from beside(tensors, modules)
            for name, own in modules.items():
                scheme = named.get(name, default)
                if scheme is not None:
                    yield name, _loaded(scheme, own, f"{folder}: {name}")


def _schemes(told: Json, where: str) -> dict[str, Scheme]:
    """Return the scheme of each target of a configuration."""
    found: dict[str, Scheme] = {}
    try:
        for group in told["config_groups"].values():
            w = group["weights"]
            per, scale = (w["strategy"], w["group_size"], w["symmetric"]), w.get("scale_dtype")
            scheme = Scheme(group["format"], w["num_bits"], w["type"], *per, scale)
            found |= dict.fromkeys(group["targets"], scheme)
    except (KeyError, TypeError, AttributeError) as fault:
        raise GraphError(f"{where}: corrupt: quantization_config is not ours: {said(fault)}") from None
    return found


# -- layouts -----------------------------------------------------------------------------------------------------------


def _encoded(weight: PackedWeight) -> tuple[Scheme, Tensors]:
    """Return what holds a weight.

    Raises:
        UnheldError: nothing does.
    """
    piece = only_piece(weight)
    if isinstance(piece.format, MXFP):
        return _mxfp(piece, piece.format)
    if isinstance(piece.format, NVFP4):
        return _nvfp4(piece, piece.format)
    return _packed_integers(weight)


def _packed_integers(weight: PackedWeight) -> tuple[Scheme, Tensors]:
    found, columns = affine(weight), weight.shape[1]
    if found.offset is not None:
        raise UnheldError("real offsets; integer zero points are held (int4g128a)")
    if found.order is not None:
        raise UnheldError("columns out of order; their own order is held (gptq with static_groups, or --to gptq)")
    if found.width > WIDEST:
        raise UnheldError(f"integers of {found.width} bits; up to {WIDEST} bits are held")
    if not found.per_row and columns % found.group:
        raise UnheldError(f"groups of {found.group} in {columns} inputs, the last one short; whole groups are held")
    per, group = ("channel", None) if found.per_row else ("group", found.group)
    scheme = Scheme("pack-quantized", found.width, "int", per, group, found.symmetric)
    tensors = {
        "weight_packed": words(found.code, found.width),
        "weight_scale": _cast(found.scale, found.kind),
        "weight_shape": torch.tensor(weight.shape),
    }
    if not found.symmetric:
        tensors["weight_zero_point"] = _zeros(weight, torch.arange(weight.shape[0]))
    return scheme, tensors


def _zeros(weight: PackedWeight, rows: Tensor) -> Tensor:
    """Return the zero points of some rows, packed along the rows."""
    found = affine(weight)
    return words(found.zero[rows].t(), found.width).t().contiguous()


def _cast(scale: Tensor, kind: str) -> Tensor:
    """Return scales in a type that has them; products are computed in it."""
    dtype = TYPES.get(kind, torch.float32)
    stored = scale.to(dtype)
    return stored if torch.equal(stored.double(), scale.double()) else scale.to(torch.float32)


def _mxfp(piece: Piece, fmt: MXFP) -> tuple[Scheme, Tensors]:
    element = f"e{fmt.exp}m{fmt.man}"
    _check_blocks(piece, fmt.block, 32, fmt.outer, str(fmt))
    assert piece.code.exponent is not None
    scale = (piece.code.exponent + OCP).to(torch.uint8)
    if element == FP4:
        scheme = Scheme("mxfp4-pack-quantized", 4, "float", "group", 32, scale="torch.uint8")
        return scheme, {"weight_packed": _nibbles(piece.code.mantissa), "weight_scale": scale}
    if element == FP8:
        scheme = Scheme("mxfp8-quantized", 8, "float", "group", 32, scale="torch.uint8")
        weight = piece.code.mantissa.to(torch.uint8).view(torch.float8_e4m3fn)
        return scheme, {"weight": weight, "weight_scale": scale}
    raise UnheldError(f"format {fmt}; of MXFP, mxfp4 and mxfp8e4m3 are held")


def _nvfp4(piece: Piece, fmt: NVFP4) -> tuple[Scheme, Tensors]:
    _check_blocks(piece, fmt.block, 16, (), str(fmt))
    assert piece.code.scale is not None
    scheme = Scheme("nvfp4-pack-quantized", 4, "float", "tensor_group", 16, scale="torch.float8_e4m3fn")
    scale = piece.code.scale.to(torch.uint8).view(torch.float8_e4m3fn)
    packed = {"weight_packed": _nibbles(piece.code.mantissa), "weight_scale": scale}
    return scheme, {**packed, "weight_global_scale": _divisor(piece, fmt)}


def _divisor(piece: Piece, fmt: NVFP4) -> Tensor:
    """Return what scales are divided by: the float next to 1 / g under which all products round as ours do."""
    assert piece.params.scale is not None
    assert piece.code.scale is not None
    scale = piece.code.scale.unique().to(torch.uint8).view(torch.float8_e4m3fn).float()
    element = torch.tensor([0.5, 1, 1.5, 2, 3, 4, 6]).unsqueeze(1)
    wanted = (element * (scale * piece.params.scale.float())).bfloat16()
    best = (1 / piece.params.scale).float().reshape(1)
    for step in sorted(range(-ULPS, ULPS + 1), key=abs):
        near = (best.view(torch.int32) + step).view(torch.float32)
        if bool(torch.isfinite(near)) and torch.equal((element * (scale / near)).bfloat16(), wanted):
            return near
    return best  # the comparison of all values decides


def _check_blocks(piece: Piece, block: int, wanted: int, outer: tuple[int, ...], text: str) -> None:
    columns = piece.code.mantissa.shape[1]
    if piece.columns is not None and not torch.equal(piece.columns, torch.arange(columns)):
        raise UnheldError(f"format {text} on columns out of order; their own order is held")
    if block != wanted or outer or piece.params.axis not in (-1, 1):
        raise UnheldError(f"format {text}; blocks of {wanted} along the inputs are held")
    if columns % wanted:
        raise UnheldError(f"blocks of {wanted} in {columns} inputs, the last one short; whole blocks are held")


def _nibbles(codes: Tensor) -> Tensor:
    """Return codes of four bits two a byte, the first in the low half."""
    pairs = codes.view(codes.shape[0], -1, 2)
    return (pairs[..., 0] | pairs[..., 1] << 4).to(torch.uint8)


# -- reading -----------------------------------------------------------------------------------------------------------


def _package() -> Any:  # a module, or None
    """Return the compressors of the other tool's package, or None where it is not installed."""
    try:
        return importlib.import_module("compressed_tensors")
    except ImportError:
        return None


def _loaded(scheme: Scheme, tensors: Tensors, where: str) -> Tensor:
    """Return the values of a module: by the other tool's package where it is installed, by our reading otherwise."""
    package = _package()
    try:
        if package is None:
            return decoded(scheme, tensors)
        compressors = importlib.import_module("compressed_tensors.compressors")
        quantization = importlib.import_module("compressed_tensors.quantization")
        weights = quantization.QuantizationArgs(**scheme.weights)
        told = quantization.QuantizationScheme(targets=["Linear"], weights=weights, format=scheme.format)
        compressor = compressors.BaseCompressor.get_value_from_registry(scheme.format)
        found: Tensor = compressor.decompress(tensors, told)["weight"]
    except (RuntimeError, ValueError, KeyError, IndexError, TypeError, AttributeError, AssertionError) as fault:
        raise GraphError(f"{where}: corrupt: cannot be decoded: {said(fault)}") from None
    return found


def decoded(scheme: Scheme, tensors: Tensors) -> Tensor:
    """Return the values of a module by our reading of the layout."""
    scale = tensors["weight_scale"]
    if scheme.type == "int":
        return _integers_decoded(scheme, tensors)
    if scheme.strategy == "tensor_group":
        step = scale.float() / tensors["weight_global_scale"]
        return (_fp4(tensors["weight_packed"]) * step.repeat_interleave(16, 1)).bfloat16()
    step = pow2(scale.long() - OCP).bfloat16().repeat_interleave(32, 1)
    element = tensors["weight"].bfloat16() if "weight" in tensors else _fp4(tensors["weight_packed"]).bfloat16()
    return element * step


def _integers_decoded(scheme: Scheme, tensors: Tensors) -> Tensor:
    scale, half = tensors["weight_scale"], 1 << scheme.bits - 1
    rows, columns = tensors["weight_shape"].tolist()
    group = scheme.group or columns
    code = from_words(tensors["weight_packed"], scheme.bits, columns)
    zero = torch.full((rows, scale.shape[1]), half)
    if not scheme.symmetric:
        zero = from_words(tensors["weight_zero_point"].t().contiguous(), scheme.bits, rows).t()
    wide = [x.repeat_interleave(group, 1)[:, :columns] for x in (zero, scale)]
    return (code - wide[0]).to(scale.dtype) * wide[1]


def _fp4(packed: Tensor) -> Tensor:
    """Return the float32 numbers of packed E2M1."""
    table = torch.tensor([0.0, 0.5, 1, 1.5, 2, 3, 4, 6])
    codes = torch.stack([packed & 15, packed >> 4], -1).flatten(1).long()
    return torch.where(codes > 7, -table[codes & 7], table[codes & 7])
