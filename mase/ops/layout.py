"""Where elements stand: reshape (hw/common/mase_stream_converter), permute, slice, concat and their kin."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from mase.dataflow.block import Block
from mase.dataflow.stream import StreamType
from mase.dataflow.width_converter import ConverterFoldings, WidthConverter
from mase.errors import GraphError, UnsupportedOp
from mase.formats import Code
from mase.formats.grid import Grid
from mase.graph import OpNode, Record
from mase.ops.base import MANY, OPS, HardwareOp, not_negative, one_of, travel
from mase.ops.operations import Operations

Function = Callable[[Sequence[Tensor], Mapping[str, Any]], Tensor]


def _sizes(x: Sequence[Tensor], values: Sequence[Any]) -> list[Any]:
    """Return numbers, where ``[input, axis]`` is the size of that axis."""
    return [x[value[0]].shape[value[1]] if isinstance(value, list | tuple) else value for value in values]


def _slice(x: Sequence[Tensor], a: Mapping[str, Any]) -> Tensor:
    cuts = [slice(None)] * x[0].ndim
    cuts[a["axis"]] = slice(*_sizes(x, [a.get("start"), a.get("end"), a.get("step")]))
    return x[0][tuple(cuts)]


def _index(x: Tensor, index: Sequence[Any]) -> Tensor:
    words = {"new": None, "...": Ellipsis}
    items = [slice(*item) if isinstance(item, list | tuple) else words.get(item, item) for item in index]
    return x[tuple(items)]


FUNCTIONS: Mapping[str, Function] = {
    "reshape": lambda x, a: x[0].reshape(x[0].shape[0], *a["shape"]),
    "view": lambda x, a: x[0].reshape(_sizes(x, a["shape"])),
    "flatten": lambda x, a: x[0].flatten(a["start"], a["end"]),
    "unflatten": lambda x, a: x[0].unflatten(a["axis"], a["shape"]),
    "squeeze": lambda x, a: x[0].squeeze(a["axis"]),
    "unsqueeze": lambda x, a: x[0].unsqueeze(a["axis"]),
    "permute": lambda x, a: x[0].permute(a["axes"]),
    "slice": _slice,
    "select": lambda x, a: x[0].select(a["axis"], a["index"]),
    "index": lambda x, a: _index(x[0], a["index"]),
    "gather": lambda x, a: x[0].index_select(a["axis"], torch.tensor(a["indices"], device=x[0].device)),
    "concat": lambda x, a: torch.cat(list(x), a["axis"]),
    "stack": lambda x, a: torch.stack(list(x), a["axis"]),
    "expand": lambda x, a: x[0].expand(_sizes(x, a["shape"])),
    "repeat": lambda x, a: x[0].repeat(a["repeats"]),
    "repeat_each": lambda x, a: x[0].repeat_interleave(a["repeats"], a["axis"]),
    "pad": lambda x, a: F.pad(x[0], a["padding"], a.get("mode", "constant"), a.get("value")),
    "flip": lambda x, a: x[0].flip(a["axes"]),
    "roll": lambda x, a: x[0].roll(a["shifts"], a["axes"]),
    "pixel_shuffle": lambda x, a: F.pixel_shuffle(x[0], a["factor"]),
    "pixel_unshuffle": lambda x, a: F.pixel_unshuffle(x[0], a["factor"]),
    "nearest": lambda x, a: F.interpolate(x[0], scale_factor=a["factors"], mode="nearest"),
    "contiguous": lambda x, a: x[0].contiguous(),
    "cast": lambda x, a: x[0].to(getattr(torch, a["dtype"])),
}  # by name, on the inputs and the attributes
NEEDS: Mapping[str, tuple[str, ...]] = {
    "reshape": ("shape",),
    "view": ("shape",),  # of the whole tensor, one -1 allowed
    "flatten": ("start", "end"),
    "unflatten": ("axis", "shape"),
    "squeeze": ("axis",),
    "unsqueeze": ("axis",),
    "permute": ("axes",),
    "slice": ("axis",),  # and start, end, step
    "select": ("axis", "index"),
    "index": ("index",),  # an item an axis: a number, [start, end, step], "new" or "..."
    "gather": ("axis", "indices"),
    "concat": ("axis",),
    "stack": ("axis",),
    "expand": ("shape",),  # of the whole tensor, -1 keeps an axis
    "repeat": ("repeats",),
    "repeat_each": ("repeats", "axis"),
    "pad": ("padding",),  # last axis first, and mode, value
    "flip": ("axes",),
    "roll": ("shifts", "axes"),
    "pixel_shuffle": ("factor",),
    "pixel_unshuffle": ("factor",),
    "nearest": ("factors",),
    "cast": ("dtype",),
}  # attributes of each function
VIEWS = frozenset(
    {"reshape", "view", "flatten", "unflatten", "squeeze", "unsqueeze", "permute", "slice", "select", "expand"}
)  # functions that look at the memory of their input in another way
RENAMES = frozenset({"reshape", "view", "flatten", "unflatten", "squeeze", "unsqueeze", "contiguous"})
SAME_AXES = frozenset({"concat", "slice", "gather", "pad", "flip", "roll", "nearest", "repeat", "contiguous"})
SEVERAL = ("concat", "stack", "slice", "view", "expand")  # the last three take sizes from further inputs


@OPS.add("layout")
@dataclass(frozen=True, eq=False)
class Layout(HardwareOp):
    """y = x with its elements in other places; hardware for reshape alone: both sides share format and parameters.

    Attributes: function, ``reshape`` where it is missing; for reshape the ``shape`` of one sample, axis 0 stays (-1:
    what is left); for the others see ``NEEDS``. Axes count from the batch. A size
    of slice, view and expand may be ``[input, axis]``, that of a further input.

    Args:
        name: of the node. before, after: (rows, cols) of one sample as it travels. shape: of one sample.
        grid: of both sides.
    """

    kind: ClassVar[str] = "layout"

    name: str
    before: tuple[int, int]
    after: tuple[int, int]
    shape: tuple[int, ...]
    grid: Grid

    arity: ClassVar[tuple[int, int]] = (1, MANY)

    @staticmethod
    def float(record: Record, operands: Mapping[str, Tensor], *inputs: Tensor) -> Tensor:
        return FUNCTIONS[record.attrs.get("function", "reshape")](inputs, record.attrs)

    @classmethod
    def moves(cls, record: Record) -> bool:
        return True

    @classmethod
    def view(cls, record: Record) -> bool:
        return record.attrs.get("function", "reshape") in VIEWS

    @classmethod
    def in_order(cls, record: Record) -> bool:
        return record.attrs.get("function", "reshape") in RENAMES

    @classmethod
    def keeps_axes(cls, record: Record) -> bool:
        return record.attrs.get("function", "reshape") in SAME_AXES

    @classmethod
    def not_negative(cls, node: OpNode) -> bool:
        source, reshape = node.inputs[0], cls.builds(node.record)
        return reshape and source.record.output.format == node.record.output.format and not_negative(source)

    @classmethod
    def operations(cls, node: OpNode) -> Operations:
        return Operations()

    @classmethod
    def check(cls, node: OpNode) -> None:
        super().check(node)
        function = one_of(node, "function", FUNCTIONS, "reshape")
        if len(node.inputs) > 1 and function not in SEVERAL:
            raise GraphError(f"{node.where()}: {function} has {len(node.inputs)} inputs; allowed is 1")
        if function == "reshape":
            shape, found = node.record.attrs.get("shape", ()), node.inputs[0].record.output.shape
            if -1 not in shape and math.prod(shape) != math.prod(found[1:]):
                raise GraphError(f"{node.where()}: {found[1:]} cannot become {tuple(shape)}")
        missing = [name for name in NEEDS.get(function, ()) if name not in node.record.attrs]
        if missing:
            raise GraphError(f"{node.where()}: {function} has no {missing[0]}")

    @classmethod
    def builds(cls, record: Record) -> bool:
        return bool(record.attrs.get("function", "reshape") == "reshape")

    @classmethod
    def check_formats(cls, node: OpNode) -> None:
        fmt = node.record.output.format
        assert fmt is not None
        if fmt.grid(node.params(), node.where()).block and not travel(node.inputs[0]).plain:
            raise UnsupportedOp(
                f"{node.where()}: takes apart an image whose blocks ({fmt}) lie along its channels; "
                "allowed are formats without blocks, or images of one pixel"
            )

    @classmethod
    def from_node(cls, node: OpNode) -> Self:
        source, record = node.inputs[0], node.record
        x_type, y_type = source.record.output, record.output
        if x_type.format != y_type.format:
            raise UnsupportedOp(
                f"{node.where()}: {x_type.format} cannot become {y_type.format} here; a requantize node does that"
            )
        assert y_type.format is not None
        grid = y_type.format.grid(node.params(), node.where())
        come, go = travel(source), travel(node)
        before, after = (come.rows, come.cols), (go.rows, go.cols)
        if grid.block and before[1] != after[1] and (before[1] % grid.block or after[1] % grid.block):
            raise UnsupportedOp(
                f"{node.where()}: blocks of {grid.block} do not tile rows of {before[1]} and of {after[1]}; "
                "allowed are multiples of the block, or a format without blocks"
            )
        return cls(node.name, before, after, y_type.shape[1:], grid)

    def reference(self, *inputs: Code) -> Code:
        code, n = inputs[0], inputs[0].mantissa.shape[0]
        if code.exponent is None:
            return Code(code.mantissa.reshape(n, *self.shape))
        blocks = -(-self.shape[-1] // self.grid.block)
        return Code(code.mantissa.reshape(n, *self.shape), code.exponent.reshape(n, *self.shape[:-1], blocks))

    def oracle(self, *inputs: Code) -> Code:
        return self.reference(*inputs)

    @property
    def foldings(self) -> ConverterFoldings:
        return ConverterFoldings.of(StreamType(*self.before, 1, self.grid), self.after)

    def blocks(self, simd: int, pe: int, fifos: Mapping[str, int]) -> dict[str, Block]:
        source, target = StreamType(*self.before, simd, self.grid), StreamType(*self.after, pe, self.grid)
        if source == target:
            return {}
        return {"": WidthConverter(source, target, fifo=fifos.get("", 2))}
