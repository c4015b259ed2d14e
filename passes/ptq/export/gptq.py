"""GPTQ checkpoints: what GPTQModel, AutoRound, vLLM and transformers load; integers with float16 scales."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from mase.doors import json_text
from mase.errors import GraphError, said
from mase.formats.packed import PackedWeight
from passes.ptq.export.affine import WORD, Affine, affine, from_words, words
from passes.ptq.export.base import EXPORTS, Export, Json, Model, UnheldError, Writer
from passes.ptq.export.shards import Module, Shards, beside, by_module, read
from passes.ptq.folder import Layer

WIDTHS = 2, 3, 4, 8  # bits that all loaders have
Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Scheme:
    """What the configuration says of a layer; ``group`` -1 is a scale an output."""

    bits: int
    group: int
    symmetric: bool
    ordered: bool  # columns in an order of their own: desc_act

    @property
    def fields(self) -> Json:
        """The fields of the configuration."""
        return {"bits": self.bits, "group_size": self.group, "sym": self.symmetric, "desc_act": self.ordered}

    def __str__(self) -> str:
        per = "an output" if self.group < 0 else f"group {self.group}"
        return f"{self.bits} bits, {per}{'' if self.symmetric else ', zero points'}{', g_idx' * self.ordered}"


@dataclass(eq=False)
class _Shards(Shards):
    schemes: dict[Scheme, list[str]] = field(default_factory=dict)

    def module(self, module: Module, layer: Layer) -> tuple[Tensors, Tensor]:
        found = affine(layer.weight).rows(module.rows)
        scheme, tensors = _encoded(found)
        self.schemes.setdefault(scheme, []).append(module.name)
        return tensors, decoded(tensors, scheme.bits)

    def quantization(self) -> Json:
        most = max(self.schemes, key=lambda scheme: len(self.schemes[scheme]))
        dynamic: dict[str, Json] = {}
        for scheme, names in self.schemes.items():
            if scheme != most:
                dynamic |= {_named(name): scheme.fields for name in names}
        inside = [path for path in self.spare if re.search(r"\.\d+\.", path)]
        dynamic |= {f"-:^{re.escape(path)}$": {} for path in inside}
        told = {"quant_method": "gptq", **most.fields, "checkpoint_format": "gptq", "true_sequential": False}
        told |= {"lm_head": any(name == "lm_head" for names in self.schemes.values() for name in names)}
        return told | ({"dynamic": dynamic} if dynamic else {})


@EXPORTS.add("gptq")
class Gptq(Export):
    """Version 1 of the layout: zero points are stored less one."""

    tool: ClassVar[str] = "GPTQ"

    def writer(self, model: Model, folder: Path) -> Writer:
        return _Shards(model, folder)

    def held(self, weight: PackedWeight) -> str:
        return str(_encoded(affine(weight))[0])

    def loader(self) -> str:
        return "our reading of GPTQ"

    def tensors(self, folder: Path) -> Iterator[tuple[str, Tensor]]:
        told, files = read(folder)
        for tensors in files:
            modules = by_module(tensors, "qweight")
            yield from beside(tensors, modules)
            for name, own in modules.items():
                try:
                    yield name, decoded(own, _bits(told, name))
                except (KeyError, IndexError, RuntimeError, ValueError, TypeError) as fault:
                    raise GraphError(f"{folder}: {name}: corrupt: cannot be decoded: {said(fault)}") from None


def _named(name: str) -> str:
    """Return the key under ``dynamic`` of a module with fields of its own."""
    return f"+:^{re.escape(name)}$"


def _bits(told: Json, name: str) -> int:
    """Return the bits of a module; keys are compared as text, since a foreign file may hold any pattern."""
    dynamic = told.get("dynamic", {})
    if not isinstance(dynamic, dict):
        raise TypeError("dynamic is not an object")
    fields = dynamic.get(_named(name), told)
    bits = fields.get("bits") if isinstance(fields, dict) else None
    if type(bits) is not int or bits not in WIDTHS:
        raise ValueError(f"bits are {json_text.repr_of(bits)}; allowed are {', '.join(map(str, WIDTHS))}")
    return bits


def _encoded(found: Affine) -> tuple[Scheme, Tensors]:
    """Return what holds integers.

    Raises:
        UnheldError: nothing does.
    """
    rows, columns = found.code.shape
    if found.offset is not None:
        raise UnheldError("real offsets; integer zero points are held (int4g128a_fp16)")
    if found.width not in WIDTHS:
        raise UnheldError(f"integers of {found.width} bits; {', '.join(map(str, WIDTHS))} bits are held")
    if rows % WORD or columns % WORD:
        raise UnheldError(f"{rows} x {columns} weights; outputs and inputs that {WORD} divides are held")
    scale = found.scale.to(torch.float16)
    if not torch.equal(scale.double(), found.scale):
        raise UnheldError(f"scales in {found.kind}; scales in fp16 are held (a format that ends in _fp16)")
    code, zero = _with_zeros(found)
    group = torch.arange(columns) // found.group
    index = group.clone() if found.order is None else torch.empty_like(group).index_copy_(0, found.order, group)
    plain = code if found.order is None else torch.empty_like(code).index_copy_(1, found.order, code)
    scheme = Scheme(found.width, -1 if found.per_row else found.group, found.symmetric, found.order is not None)
    return scheme, {
        "qweight": words(plain, found.width).t().contiguous(),
        "qzeros": words(zero.t() - 1, found.width),
        "scales": scale.t().contiguous(),
        "g_idx": index.to(torch.int32),
    }


def _with_zeros(found: Affine) -> tuple[Tensor, Tensor]:
    """Return codes and zero points of at least 1: where one is 0, all codes of the group are one more, if these fit."""
    low = found.zero == 0
    if not bool(low.any()):
        return found.code, found.zero
    code = found.code + found.spread(low.long())
    if int(code.max()) >= 1 << found.width:
        raise UnheldError("a zero point of 0, which is stored less one; 1 and more are held (--to compressed-tensors)")
    return code, found.zero + low.long()


def decoded(tensors: Tensors, bits: int) -> Tensor:
    """Return the values of a module by our reading of the layout, float16 ``[outputs, inputs]``."""
    scales, index = tensors["scales"], tensors["g_idx"].long()
    code = from_words(tensors["qweight"].t().contiguous(), bits, len(index))
    zero = from_words(tensors["qzeros"], bits, scales.shape[1]) + 1
    return ((code.t() - zero[index]).to(torch.float16) * scales[index]).t().contiguous()
