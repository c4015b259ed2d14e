"""Normalisation: batch, layer, group and root mean square, with fixed statistics where the model holds them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from mase.blocks.affine import AffineFoldings
from mase.dataflow.block import Block
from mase.errors import GraphError
from mase.formats import Code
from mase.graph import OpNode, Record
from mase.ops.base import OPS, Absorb, Affine, Arithmetic, Family, HardwareOp, InRow, need, one_of
from mase.ops.operations import Operations, each
from mase.ops.row_norm import RowNormalise
from mase.ops.scaled import Scaled

Norm = Callable[[Tensor, Mapping[str, Any], Mapping[str, Tensor]], Tensor]
FORMS = ("torch", "llama")  # of rms: how the model writes it, which decides where it rounds

# Operations an element: batch subtracts and scales; layer and group sum, square and sum before; rms only squares, sums.
COSTS = {"batch": 2, "layer": 5, "group": 5, "rms": 3}


@OPS.add("norm")
@dataclass(frozen=True, eq=False)
class Normalise(InRow, HardwareOp):
    """y = (x - mean) / sqrt(variance + eps) * weight + bias; rms subtracts nothing and divides by the root mean square.

    Attributes: function (batch, layer, group, rms), eps; shape of the normalised axes (layer, rms); groups (group). Of
    rms: offset that is added to the weight, 1.0 in models that store it about 0; form, ``torch`` for ``rms_norm`` and
    ``llama`` for x in float32 times its reciprocal root, cast back before the weight, or after it where there is an
    offset. Activation: relu, where it was fused. Hardware for batch: y = round(m x + b), m and b a channel; for layer
    and rms along the last axis: mase/ops/row_norm.py.

    Args:
        core: what computes.
    """

    kind: ClassVar[str] = "norm"
    family: ClassVar[Family] = "function"
    implicit: ClassVar[frozenset[str]] = frozenset({"mean", "variance", "weight", "bias"})  # part of m and b

    core: Scaled

    @staticmethod
    def float(record: Record, operands: Mapping[str, Tensor], *inputs: Tensor) -> Tensor:
        y = FUNCTIONS[record.attrs["function"]](inputs[0], record.attrs, operands)
        return y.relu() if record.attrs.get("activation") == "relu" else y

    @classmethod
    def absorbs(cls, record: Record) -> Absorb | None:
        attrs = record.attrs
        last = (
            attrs["function"] in ("layer", "rms") and len(attrs.get("shape", ())) == 1 and "weight" in record.operands
        )
        return Absorb(False, float(attrs.get("offset", 0.0)), attrs.get("activation") or "") if last else None

    @classmethod
    def turns(cls, record: Record) -> bool:
        alone = set(record.operands) == {"weight"} and "activation" not in record.attrs
        return alone and record.attrs["function"] == "rms" and len(record.attrs.get("shape", ())) == 1

    @classmethod
    def affine(cls, node: OpNode) -> Affine | None:
        if node.record.attrs["function"] != "batch" or "activation" in node.record.attrs:
            return None
        return cls._affine(node)

    @classmethod
    def _affine(cls, node: OpNode) -> Affine:
        p = {role: node.tensor(role).double() for role in node.record.operands}
        spread = torch.sqrt(p["variance"] + node.record.attrs["eps"])
        scale, shift = p.get("weight", torch.ones_like(spread)) / spread, p.get("bias", torch.zeros_like(spread))
        return Affine(1, p["mean"], scale, shift)

    @classmethod
    def in_order(cls, record: Record) -> bool:
        return cls.builds(record)

    @classmethod
    def contracts(cls, record: Record, index: int, rank: int) -> int | None:
        if not cls.builds(record):
            return None
        return 1 if record.attrs["function"] == "batch" else rank - 1

    @classmethod
    def epilogues(cls, record: Record) -> frozenset[str]:
        return frozenset({"relu"}) if cls.builds(record) and "activation" not in record.attrs else frozenset()

    @classmethod
    def builds(cls, record: Record) -> bool:
        function = record.attrs["function"]
        return function == "batch" or (function in ("layer", "rms") and len(record.attrs["shape"]) == 1)

    @classmethod
    def from_node(cls, node: OpNode) -> Arithmetic:
        if node.record.attrs["function"] != "batch":
            return RowNormalise.of(node)
        constants, rank = cls._affine(node), len(node.record.output.shape) - 1
        scale, shift = (
            t.reshape(-1, *[1] * (rank - 1))  # the channels are axis 0 of a sample
            for t in (constants.scale, constants.shift - constants.centre * constants.scale)
        )
        return cls(Scaled.of(node, scale, shift))

    def reference(self, *inputs: Code) -> Code:
        return self.core.reference(*inputs)

    def oracle(self, *inputs: Code) -> Code:
        return self.core.oracle(*inputs)

    @property
    def foldings(self) -> AffineFoldings:
        return self.core.foldings

    def blocks(self, simd: int, pe: int, fifos: Mapping[str, int]) -> dict[str, Block]:
        return self.core.blocks(simd, pe, fifos)

    def warnings(self) -> tuple[str, ...]:
        return self.core.warnings()

    @classmethod
    def operations(cls, node: OpNode) -> Operations:
        function, roles = node.record.attrs["function"], node.record.operands
        return each(node.record.output.shape, COSTS[function] + ("weight" in roles) + ("bias" in roles))

    @classmethod
    def check(cls, node: OpNode) -> None:
        super().check(node)
        function, attrs = one_of(node, "function", FUNCTIONS), node.record.attrs
        if function == "batch":
            need(node, "mean", "variance")
        if function == "rms":
            one_of(node, "form", FORMS, "torch")
        found = node.inputs[0].record.output.shape
        shape = attrs.get("shape", ())
        if function in ("layer", "rms") and tuple(found[len(found) - len(shape) :]) != tuple(shape):
            raise GraphError(
                f"{node.where()}: input is {found}; the last axes, which are normalised, are {tuple(shape)}"
            )
        parameters = [kind.shape for role, kind in node.record.operands.items()]
        size = math.prod(shape) if function in ("layer", "rms") else found[min(1, len(found) - 1)]
        if any(math.prod(p) not in (size, 1) for p in parameters):
            raise GraphError(f"{node.where()}: parameters have shapes {parameters}; input is {found}")


def _batch(x: Tensor, a: Mapping[str, Any], p: Mapping[str, Tensor]) -> Tensor:
    return F.batch_norm(x, p["mean"], p["variance"], p.get("weight"), p.get("bias"), False, 0.0, a["eps"])


def _layer(x: Tensor, a: Mapping[str, Any], p: Mapping[str, Tensor]) -> Tensor:
    return F.layer_norm(x, a["shape"], p.get("weight"), p.get("bias"), a["eps"])


def _group(x: Tensor, a: Mapping[str, Any], p: Mapping[str, Tensor]) -> Tensor:
    return F.group_norm(x, a["groups"], p.get("weight"), p.get("bias"), a["eps"])


def _rms(x: Tensor, a: Mapping[str, Any], p: Mapping[str, Tensor]) -> Tensor:
    weight, offset = p.get("weight"), a.get("offset", 0.0)
    if a.get("form", "torch") == "torch":
        return F.rms_norm(x, a["shape"], weight if weight is None or not offset else weight + offset, a["eps"])
    wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    axes = tuple(range(-len(a["shape"]), 0))
    y = wide * torch.rsqrt(wide.pow(2).mean(axes, keepdim=True) + a["eps"])
    if weight is None:
        return y.to(x.dtype)
    if offset:
        return torch.mul(y, offset + weight.to(wide.dtype)).to(x.dtype)
    return torch.mul(weight, y.to(x.dtype))


FUNCTIONS: Mapping[str, Norm] = {"batch": _batch, "layer": _layer, "group": _group, "rms": _rms}
