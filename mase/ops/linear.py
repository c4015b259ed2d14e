"""Linear layer on integers (hw/linear): y = act(x W^T + b), on the rows of its input as they travel."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import torch
from torch import Tensor
from torch.nn import functional

from mase.blocks.linear import LinearFoldings
from mase.blocks.sums import one_part
from mase.dataflow.block import Block
from mase.dataflow.stream import Travel
from mase.errors import GraphError, UnsupportedOp
from mase.formats import Code
from mase.graph import OpNode, Record
from mase.ops.base import OPS, Absorb, not_negative, travel
from mase.ops.mac import Mac
from mase.ops.operations import Operations


@OPS.add("linear")
@dataclass(frozen=True, eq=False)
class Linear(Mac):
    """y[row, o] = round(m[o] * (b[o] + sum over k of x[row, k] * w[o, k])), with an optional ReLU before the rounding.

    Attributes: activation (relu, where it was fused), transposed (the model stores the weight as [inputs, outputs]; the
    table holds the transposed view), columns (y = W x on the last two axes, features before positions; no hardware).

    Args:
        order: in which the elements of the input travel where that is not as the tensor holds them: an image that was
            flattened comes pixel by pixel, so a row has a part for each pixel, and the weights have their columns so.
    """

    kind: ClassVar[str] = "linear"

    order: Travel | None = None

    # -- float -----------------------------------------------------------------------------------------------------

    @staticmethod
    def float(record: Record, operands: Mapping[str, Tensor], *inputs: Tensor) -> Tensor:
        if record.attrs.get("columns"):
            return operands["weight"] @ inputs[0]
        if record.attrs.get("transposed"):
            y = _transposed(inputs[0], operands["weight"], operands.get("bias"))
        else:
            y = functional.linear(inputs[0], operands["weight"], operands.get("bias"))
        return y.relu() if record.attrs.get("activation") == "relu" else y

    @classmethod
    def operations(cls, node: OpNode) -> Operations:
        record = node.record
        products = math.prod(record.output.shape) * record.operands["weight"].shape[1]
        return Operations(products, math.prod(record.output.shape) if "activation" in record.attrs else 0)

    @classmethod
    def matrices(cls, record: Record) -> tuple[str, ...]:
        return ("weight",)

    @classmethod
    def feeds(cls, node: OpNode, x: Tensor, routed: bool = True) -> Iterator[tuple[str, int | None, Tensor]]:
        yield "weight", None, x.transpose(-1, -2) if node.record.attrs.get("columns") else x

    @classmethod
    def multiplies(cls, node: OpNode) -> tuple[str, ...]:
        return () if node.record.attrs.get("columns") else ("weight",)

    @classmethod
    def writes(cls, node: OpNode) -> Mapping[str, int]:
        plain = not {"columns", "activation"} & node.record.attrs.keys()
        return dict.fromkeys(node.record.operands, 0) if plain else {}

    @classmethod
    def absorbs(cls, record: Record) -> Absorb | None:
        behind = record.attrs.get("activation") or ""
        return Absorb(True, activation=behind) if not record.attrs.get("columns") and behind in ("", "relu") else None

    @classmethod
    def check(cls, node: OpNode) -> None:
        super().check(node)
        weight = node.record.operands.get("weight")
        if weight is None or len(weight.shape) != 2:
            raise GraphError(f"{node.where()}: needs a weight of shape (outputs, inputs)")
        found = node.inputs[0].record.output.shape
        features = found[-2] if node.record.attrs.get("columns") else found[-1]
        if features != weight.shape[1]:
            raise GraphError(f"{node.where()}: input has {features} features; the weight takes {weight.shape[1]}")

    @classmethod
    def epilogues(cls, record: Record) -> frozenset[str]:
        return frozenset() if {"activation", "columns"} & record.attrs.keys() else frozenset({"relu"})

    @classmethod
    def contracts(cls, record: Record, index: int, rank: int) -> int | None:
        return rank - 2 if record.attrs.get("columns") else rank - 1

    @classmethod
    def over_image(cls, node: OpNode, shape: Sequence[int]) -> tuple[Record, dict[str, Tensor]] | None:
        record, weight = node.record, node.tensor("weight")
        whole = len(record.output.shape) == 2 and math.prod(shape[1:]) == weight.shape[1] and len(shape) in (3, 4)
        if not whole or {"transposed", "columns"} & record.attrs.keys() or record.output.format is not None:
            return None
        image = weight.reshape(len(weight), *shape[1:])
        kinds = {**record.operands, "weight": replace(record.operands["weight"], shape=tuple(image.shape))}
        output = replace(record.output, shape=(*record.output.shape, *[1] * (len(shape) - 2)))
        return replace(record, kind="conv", operands=kinds, output=output), {record.key("weight"): image}

    @classmethod
    def channels(cls, record: Record) -> int | None:
        odd = {"activation", "transposed", "columns"} & record.attrs.keys()
        return None if odd else len(record.output.shape) - 1

    @classmethod
    def builds(cls, record: Record) -> bool:
        return not record.attrs.get("columns")

    # -- from a node ------------------------------------------------------------------------------------------------

    @classmethod
    def check_formats(cls, node: OpNode) -> None:
        super().check_formats(node)
        _parts(node, travel(node.inputs[0]))
        found, given, fmt = travel(node), Travel.of(node.record.output.shape[1:], -1), node.record.output.format
        assert fmt is not None
        alike = found.plain and given.plain
        if fmt.grid(node.params(), node.where()).block:
            alike = alike and found.cols == given.cols
        if found != given and not alike:
            raise UnsupportedOp(
                f"{node.where()}: its result is to travel with axis {1 + found.order[-1]} fastest, along which a "
                "consumer works; allowed is the last axis: a linear layer gives the outputs of a row together"
            )

    @classmethod
    def from_node(cls, node: OpNode) -> Self:
        formats, weight, bias = cls.operands(node)
        source, rows = node.inputs[0], math.prod(node.record.output.shape[1:-1])
        order, parts = _parts(node, travel(source))
        return cls.build(
            node.name,
            node.where(),
            rows,
            *formats,
            weight,
            bias,
            attrs=node.record.attrs,
            positive=not_negative(source),
            parts=parts,
            scattered=order is not None,
            whole_rows=True,
            order=order,
        )

    # -- arithmetic -------------------------------------------------------------------------------------------------

    def reference(self, *inputs: Code) -> Code:
        return self._shaped(self.out.apply(self.sums(self._rows(inputs[0]))), inputs[0])

    def oracle(self, *inputs: Code) -> Code:
        return self._shaped(self.oracle_rows(self._rows(inputs[0])), inputs[0])

    def _rows(self, x: Code) -> Code:
        """Return the codes as they travel."""
        if self.order is not None:
            return self.order.travelling(x, self.x.block)
        exponent = None if x.exponent is None else x.exponent.reshape(1, -1, x.exponent.shape[-1])
        return Code(x.mantissa.reshape(1, -1, self.cols), exponent)

    def _shaped(self, y: Code, x: Code) -> Code:
        """Return the codes of the result as the tensor holds them."""
        lead = x.mantissa.shape[:-1]
        exponent = None if y.exponent is None else y.exponent.reshape(*lead, y.exponent.shape[-1])
        return Code(y.mantissa.reshape(*lead, self.outputs), exponent)

    # -- hardware ---------------------------------------------------------------------------------------------------

    @property
    def foldings(self) -> LinearFoldings:
        return self.core

    def blocks(self, simd: int, pe: int, fifos: Mapping[str, int]) -> dict[str, Block]:
        return self.unit(simd, pe, fifos)


def _parts(node: OpNode, found: Travel) -> tuple[Travel | None, Callable[[Tensor], Tensor]]:
    """Return the order of an input where it matters, and what puts the columns of the weight into that order.

    Raises:
        UnsupportedOp: the features of a row do not travel together.
    """
    if found.plain:
        return None, one_part
    features, rows = node.record.operands["weight"].shape[1], [i for i in found.order if found.axes[i] > 1]
    inner = [i for i in range(len(found.axes)) if math.prod(found.axes[i:]) <= features]
    lead = [i for i in rows if i not in inner]
    if math.prod(found.axes[i] for i in inner) != features or rows[: len(lead)] != sorted(lead):
        raise UnsupportedOp(
            f"{node.where()}: its input travels with axis {1 + found.order[-1]} fastest, so the {features} features of "
            "a row do not come together; allowed is the last axis, or a flatten of all axes behind the batch"
        )
    order = [1 + inner.index(i) for i in found.order if i in inner]

    def parts(x: Tensor) -> Tensor:
        split = x.reshape(len(x), *(found.axes[i] for i in inner))
        return split.permute(0, *order).flatten(1, -2)

    return found, parts


def _transposed(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Compute as a module that stores its weight as [inputs, outputs]; ``weight`` is the transpose of that."""
    flat = x.reshape(-1, x.shape[-1])
    y = flat @ weight.t() if bias is None else torch.addmm(bias, flat, weight.t())
    return y.reshape(*x.shape[:-1], weight.shape[0])
