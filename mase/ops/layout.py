"""Where elements stand: reshape, permute, slice, concat, pad and their kin; mase/ops/moves.py finds their blocks."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from mase.dataflow.block import LEAST_FIFO
from mase.dataflow.circuit import Circuit
from mase.dataflow.grid import stream_grid
from mase.dataflow.stream import StreamType, Travel
from mase.dataflow.width_converter import ConverterFoldings, WidthConverter
from mase.dataflow.work import Foldings
from mase.errors import GraphError, UnsupportedOp
from mase.formats import Code, Format, QuantParams
from mase.formats.grid import Grid
from mase.graph import OpNode, Record
from mase.ops.base import MANY, OPS, HardwareOp, Passage, not_negative, one_of, travel
from mase.ops.moves import Move, planned, sources
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


def _patches(x: Tensor, patch: Sequence[int]) -> Tensor:
    """Return channels (place in a patch, channel) as pixels of a patch each."""
    size, n = x.shape[2:], len(patch)
    split = x.reshape(x.shape[0], *patch, -1, *size)
    order = [0, 1 + n, *(axis for i in range(n) for axis in (2 + n + i, 1 + i))]
    return split.permute(order).reshape(
        x.shape[0], split.shape[1 + n], *(a * b for a, b in zip(size, patch, strict=True))
    )


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
    "patches": lambda x, a: _patches(x[0], a["patch"]),
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
    "patches": ("patch",),  # sizes of a patch, whose pixels the channels hold one after the other
    "nearest": ("factors",),
    "cast": ("dtype",),
}  # attributes of each function
VIEWS = frozenset(
    {"reshape", "view", "flatten", "unflatten", "squeeze", "unsqueeze", "permute", "slice", "select", "expand"}
)  # functions that look at the memory of their input in another way
RENAMES = frozenset({"reshape", "view", "flatten", "unflatten", "squeeze", "unsqueeze", "contiguous"})
SAME_AXES = frozenset({"concat", "slice", "gather", "pad", "flip", "roll", "nearest", "repeat", "contiguous"})
NOT_BUILT = frozenset({"cast"})  # functions without hardware
JOINS = frozenset({"concat", "stack"})  # functions that put tensors beside each other
SEVERAL = ("concat", "stack", "slice", "view", "expand")  # the last three take sizes from further inputs


@OPS.add("layout")
@dataclass(frozen=True, eq=False)
class Layout(HardwareOp):
    """y = x with its elements in other places; all sides share format and parameters.

    Attributes: function, ``reshape`` where it is missing; for reshape the ``shape`` of one sample, axis 0 stays (-1:
    what is left); for the others see ``NEEDS``. Axes count from the batch. A size
    of slice, view and expand may be ``[input, axis]``, that of a further input.

    Args:
        name: of the node. shape: of one sample. grid: of all sides. comes: orders of the inputs. order: of the result.
        move: blocks; None where elements stay in their order, and only rows may be others. places: for each element of
            the result its number among those of the inputs. filling: code of a padding.
    """

    kind: ClassVar[str] = "layout"

    name: str
    shape: tuple[int, ...]
    grid: Grid
    comes: tuple[Travel, ...]
    order: Travel
    move: Move | None
    places: Tensor
    filling: Code | None

    arity: ClassVar[tuple[int, int]] = (1, MANY)

    @staticmethod
    def float(record: Record, operands: Mapping[str, Tensor], *inputs: Tensor) -> Tensor:
        return FUNCTIONS[_function(record)](inputs, record.attrs)

    @classmethod
    def moves(cls, record: Record) -> bool:
        return True

    @classmethod
    def passes(cls, node: OpNode) -> Passage | None:
        return Passage(plain=False) if len(node.inputs) == 1 else None

    @classmethod
    def looks(cls, record: Record, index: int) -> bool | None:
        return None

    @classmethod
    def view(cls, record: Record) -> bool:
        return _function(record) in VIEWS

    @classmethod
    def in_order(cls, record: Record) -> bool:
        return _function(record) in RENAMES

    @classmethod
    def keeps_axes(cls, record: Record) -> bool:
        return _function(record) in SAME_AXES

    @classmethod
    def carried(cls, record: Record, shape: Sequence[int], axis: int) -> int | None:
        if _function(record) in SAME_AXES:
            return axis
        return None if _function(record) in RENAMES else _carried(_function(record), _text(record), tuple(shape), axis)

    @classmethod
    def adapts(cls, record: Record) -> bool:
        return _function(record) in JOINS

    @classmethod
    def adapted(cls, node: OpNode, fmt: Format, params: QuantParams) -> str | None:
        return None  # what is joined has the codes of the result

    @classmethod
    def not_negative(cls, node: OpNode) -> bool:
        alike = all(source.record.output.format == node.record.output.format for source in node.inputs)
        filled = node.record.attrs.get("value") or 0
        return cls.builds(node.record) and alike and filled >= 0 and all(not_negative(one) for one in node.inputs)

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
        moved = _function(record) == "view" and len(record.attrs.get("shape", (-1, -1))) < 2  # no axis for the batch
        return _function(record) not in NOT_BUILT and not moved

    @classmethod
    def check_formats(cls, node: OpNode) -> None:
        _one_format(node)
        _planned(node)

    @classmethod
    def from_node(cls, node: OpNode) -> Self:
        grid, move = _one_format(node), _planned(node)
        shapes, function = [source.record.output.shape for source in node.inputs], FUNCTIONS[_function(node.record)]
        found = sources(function, node.record.attrs, shapes)
        assert found is not None
        comes, places = tuple(travel(source) for source in node.inputs), torch.from_numpy(found.ravel())
        return cls(node.name, node.record.output.shape[1:], grid, comes, travel(node), move, places, _filling(node))

    def reference(self, *inputs: Code) -> Code:
        rows = [come.travelling(code, self.grid.block) for come, code in zip(self.comes, inputs, strict=True)]
        if self.move is None:
            return self._held(rows[0])
        circuit = self.circuit(1, 1, {})
        fed = [_shaped(code, (take.rows, take.cols)) for code, take in zip(rows, circuit.takes, strict=True)]
        return self._held(circuit.run(*fed)[circuit.outputs[0]])

    def _held(self, code: Code) -> Code:
        rows = _shaped(code, (self.order.rows, self.order.cols))
        return self.order.held(rows, self.shape, self.grid.block)

    def oracle(self, *inputs: Code) -> Code:
        mantissas = torch.cat([code.mantissa.flatten(1) for code in inputs], 1)
        moved = Code(self._placed(mantissas, None if self.filling is None else self.filling.mantissa))
        if not self.grid.block:
            return moved
        each = [self._exponents(come, code) for come, code in zip(self.comes, inputs, strict=True)]
        filled = None if self.filling is None else self.filling.exponent
        exponents = self.order.travelling(Code(self._placed(torch.cat(each, 1), filled))).mantissa
        rows = Code(self.order.travelling(moved).mantissa, exponents[..., :: self.grid.block])
        return self.order.held(rows, self.shape, self.grid.block)

    def _placed(self, x: Tensor, filling: Tensor | None) -> Tensor:
        """Return the elements of the result, with the batch, from those of all inputs ``[samples, elements]``."""
        value = 0 if filling is None else int(filling.flatten()[0])
        found = torch.nn.functional.pad(x, (0, 1), value=value)[:, self.places]  # NONE is the last one
        return found.reshape(len(x), *self.shape)

    def _exponents(self, come: Travel, code: Code) -> Tensor:
        """Return the exponent of each element of an input ``[samples, elements]``, as its tensor holds them."""
        rows = come.travelling(code, self.grid.block)
        assert rows.exponent is not None
        each = rows.exponent.repeat_interleave(self.grid.block, -1)[..., : come.cols]
        return come.held(Code(each), come.axes).mantissa.flatten(1)

    @cached_property
    def takes(self) -> tuple[StreamType, ...]:
        return self.circuit(1, 1, {}).takes if self.move else (self.comes[0].stream(1, self.grid),)

    @cached_property
    def gives(self) -> tuple[StreamType, ...]:
        return self.circuit(1, 1, {}).gives if self.move else (self.order.stream(1, self.grid),)

    @property
    def foldings(self) -> Foldings:
        come = self.comes[0].stream(1, self.grid)
        return self.move or ConverterFoldings.of(come, (self.order.rows, self.order.cols))

    def circuit(self, simd: int, pe: int, fifos: Mapping[str, int]) -> Circuit:
        if self.move is not None:
            return self.move.circuit(pe, fifos)
        source, target = self.comes[0].stream(simd, self.grid), self.order.stream(pe, self.grid)
        if source == target:
            return Circuit.chain({})
        return Circuit.chain({"": WidthConverter(source, target, fifo=fifos.get("", LEAST_FIFO))})


def _function(record: Record) -> str:
    return str(record.attrs.get("function", "reshape"))


def _text(record: Record) -> str:
    return json.dumps(record.attrs, sort_keys=True)


def _shaped(code: Code, rows: tuple[int, int]) -> Code:
    """Return codes with other rows and columns; exponents are those of equal columns."""
    n = len(code.mantissa)
    blocks = None if code.exponent is None else code.exponent.reshape(n, rows[0], -1)
    return Code(code.mantissa.reshape(n, *rows), blocks)


def _one_format(node: OpNode) -> Grid:
    """Return the grid of all sides; refuse a node whose inputs are not of it."""
    fmt, where, params = node.record.output.format, node.where(), node.params()
    assert fmt is not None
    grid = stream_grid(fmt, params, where)
    for source in node.inputs:
        other = source.record.output.format
        assert other is not None
        same = other == fmt and stream_grid(other, source.params(), where) == grid
        if not same or (grid.scaled and not torch.equal(_scale(source), _scale(node))):
            with_it = "with other parameters" if other == fmt else f"and the result {fmt}"
            raise UnsupportedOp(
                f"{where}: input {source.name!r} has {other} {with_it}; a requantize node makes them one"
            )
    return grid


def _scale(node: OpNode) -> Tensor:
    scale = node.params().scale
    assert scale is not None
    return scale.double()


def _planned(node: OpNode) -> Move | None:
    """Return the blocks of a node, None where elements stay in their order.

    Raises:
        UnsupportedOp: no block moves elements so; says why.
    """
    record, where = node.record, node.where()
    function, grid = _function(record), _one_format(node)
    comes, order = tuple(travel(source) for source in node.inputs), travel(node)
    if len(comes) > 1 and function not in JOINS:
        raise UnsupportedOp(f"{where}: {function} takes sizes from other tensors; allowed on chip are numbers")
    batch = {source.record.output.shape[0] for source in node.inputs[:1]}
    if function in RENAMES and batch != {record.output.shape[0] if record.output.shape else 0}:
        raise UnsupportedOp(f"{where}: {function} moves elements between samples; on chip each sample keeps its own")
    if function in RENAMES:
        same = comes[0].cols == order.cols or not any(cols % max(1, grid.block) for cols in (comes[0].cols, order.cols))
        if not same:
            raise UnsupportedOp(
                f"{where}: blocks of {grid.block} do not tile rows of {comes[0].cols} and of {order.cols}; "
                "allowed are multiples of the block, or a format without blocks"
            )
        return None
    filling = _filling(node)
    code = None
    if filling is not None:
        above = 0 if filling.exponent is None else int(filling.exponent.flatten()[0]) - grid.base
        code = int(filling.mantissa.flatten()[0]), above
    shapes = tuple(source.record.output.shape for source in node.inputs)
    found = planned(FUNCTIONS[function], _text(record), shapes, comes, order, grid, code)
    if isinstance(found, str):
        raise UnsupportedOp(f"{where}: {function} {found}")
    return found


def _filling(node: OpNode) -> Code | None:
    """Return the code of the constant that a padding brings; None where the format has none that is exact."""
    fmt, value = node.record.output.format, torch.tensor([float(node.record.attrs.get("value") or 0)]).double()
    assert fmt is not None
    params = replace(node.params(), axis=-1)
    code = fmt.encode(value, params).on_stream()
    return code if torch.equal(fmt.decode(code, params), value) else None


@lru_cache(maxsize=512)
def _carried(function: str, attrs: str, shape: tuple[int, ...], axis: int) -> int | None:
    """Return the axis of the result along which one of the input runs; None if there is none."""
    stride = math.prod(shape[axis + 1 :])
    x = torch.arange(math.prod(shape)).reshape(shape).double()
    try:
        y = FUNCTIONS[function]([x], json.loads(attrs))
    except (RuntimeError, IndexError):
        return None
    for k in range(1, y.ndim):
        if y.shape[k] < 2:
            continue
        step = abs(int((y.select(k, 1) - y.select(k, 0)).flatten()[0]))
        if step and step % stride == 0 and step < stride * shape[axis]:
            return k
    return None
