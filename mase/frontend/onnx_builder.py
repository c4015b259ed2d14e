"""What the import of an ONNX file builds on: values, nodes with records, and one example that travels along."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, fx

from mase.errors import GraphError, UnsupportedOp
from mase.formats import Format, QuantParams
from mase.frontend.onnx_rules import check_size, made, one_line, together
from mase.graph import META, Record, TensorType, typed
from mase.ops.base import OPS

WHOLE = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")  # constants may have 2 or 4 bits too
TYPES = ("float32", "float64", "float16", "bfloat16", "bool", *WHOLE)  # of values that are computed


@dataclass(frozen=True, eq=False)
class Constant:
    """A tensor that the file holds, or that follows from what it holds.

    Args:
        tensor: real values; of a quantised tensor those before rounding, where the file has them.
        name: of the initializer, where the tensor is one; empty where it was computed.
        format, params: where the file quantises it.
        varied: the tensor on the second example, where it follows from the size of the batch; else None.
    """

    tensor: Tensor
    name: str = ""
    format: Format | None = None
    params: QuantParams = field(default_factory=QuantParams)
    varied: Tensor | None = None

    def real(self) -> Tensor:
        """Return the values that the file computes with."""
        return self.tensor if self.format is None else self.format.quantize(self.tensor, self.params)

    def transposed(self) -> Constant:
        """Return the matrix with its axes swapped, sharing memory."""
        axis = self.params.axis
        params = replace(self.params, axis=-1 - axis % 2)
        name = self.name.removesuffix("_t") if self.name.endswith("_t") else self.name and f"{self.name}_t"
        return Constant(self.tensor.t(), name, self.format, params)

    def both(self) -> tuple[Tensor, Tensor]:
        """Return the values on both examples."""
        return self.real(), self.real() if self.varied is None else self.varied


Value = fx.Node | Constant


class Attributes(dict[str, Any]):
    """Attributes by name, which note what is read."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        super().__init__(values)
        self.read: set[str] = set()

    def __contains__(self, name: object) -> bool:
        self.read.add(str(name))
        return super().__contains__(name)

    def __getitem__(self, name: str) -> Any:
        self.read.add(name)
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        self.read.add(name)
        return super().get(name, default)


@dataclass(frozen=True)
class Step:
    """One node of the file.

    Args:
        type: operator, such as ``Gemm``. name: unique, for errors and paths. inputs: names, empty for one left out.
        attrs: by name, as Python values. proto: the node as the file has it. opset: of the file.
    """

    type: str
    domain: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attrs: Attributes
    proto: Any = None
    opset: int = 0

    def refuse(self, reason: str) -> UnsupportedOp:
        """Return the error that says why this node cannot be taken."""
        return UnsupportedOp(f"{self.where()}: {reason}")

    def axis(self, axis: int, rank: int) -> int:
        """Return an axis counted from the front.

        Raises:
            UnsupportedOp: there is no such axis among ``rank``.
        """
        if not -rank <= axis < rank:
            raise self.refuse(f"axis {axis} of {rank} axes; allowed are {-rank} to {rank - 1}")
        return axis % rank

    def where(self) -> str:
        """Return the node's name and operator, with its domain where that is not ONNX's own."""
        kind = self.type if self.domain in ("", "ai.onnx") else f"{self.domain}.{self.type}"
        return f"node {self.name!r} ({kind})"


class Builder:
    """Build an fx graph of typed nodes on two examples whose batches differ in size: so does what follows from them.

    Args:
        file: for errors. opset: version of the standard operators. uses: how many nodes and outputs read each value.
        batches: sizes of the batches of both examples. written_batch: size of the batch that the file was written
            with, None where it is open.
    """

    def __init__(
        self,
        file: str,
        opset: int,
        uses: Mapping[str, int],
        batches: tuple[int, int],
        written_batch: int | None = None,
    ) -> None:
        self.file, self.opset, self.uses, self.written_batch = file, opset, uses, written_batch
        self.batches = batches
        self.graph = fx.Graph()
        self.values: dict[str, Value] = {}
        self.tensors: dict[str, Tensor] = {}
        self.quant: dict[str, QuantParams] = {}
        self.samples: dict[str, tuple[Tensor, Tensor]] = {}  # by node name: values on both examples
        self.outputs: list[str] = []  # names of the nodes that the file's outputs are
        self.quantised: set[str] = set()  # values that a quantiser of the file gives
        self.rounded: dict[str, str] = {}  # of these, those computed -> node that has them
        self.opaque: dict[str, str] = {}  # path -> reason
        self.dtypes: dict[str, str] = {}  # of constants as the file has them
        self.codes: dict[str, tuple[Tensor, Tensor]] = {}  # values that are codes in the file: scale and zero point
        self._paths: set[str] = set()
        self._names: set[str] = set()

    # -- reading ------------------------------------------------------------------------------------------------

    def value(self, step: Step, index: int, varied: bool = False) -> Value:
        """Return an input of a node.

        Args:
            varied: whether it may be a constant that follows from the size of the batch.

        Raises:
            GraphError: nothing produces it.
            UnsupportedOp: it follows from the size of the batch.
        """
        name = step.inputs[index] if index < len(step.inputs) else ""
        if name not in self.values:
            found = f"reads {name!r}, which nothing before it produces" if name else f"has no input {index}"
            raise GraphError(f"{self.file}: {step.where()}: {found}")
        value = self.values[name]
        if isinstance(value, Constant) and value.varied is not None and not varied:
            raise step.refuse(f"input {index} ({name!r}) follows from the size of the batch, which is free")
        return value

    def given(self, step: Step, index: int) -> bool:
        """Tell whether an optional input is there."""
        return index < len(step.inputs) and bool(step.inputs[index])

    def node(self, step: Step, index: int) -> fx.Node:
        """Return an input as a node; a constant becomes one."""
        value = self.value(step, index)
        return value if isinstance(value, fx.Node) else self.holder(step, value)

    def constant(self, step: Step, index: int) -> Constant:
        """Return an input that must be a constant."""
        value = self.value(step, index)
        if isinstance(value, fx.Node):
            raise step.refuse(f"input {index} ({step.inputs[index]!r}) is computed; allowed is a constant")
        return value

    def numbers(self, step: Step, name: str, index: int) -> list[int] | None:
        """Return whole numbers that stand in an attribute or, by opset, in a constant input; None for neither."""
        if name in step.attrs:
            found = step.attrs[name]
            return [int(v) for v in found] if isinstance(found, list | tuple) else [int(found)]
        if not self.given(step, index):
            return None
        return [int(v) for v in self.constant(step, index).real().reshape(-1).tolist()]

    def number(self, step: Step, name: str, index: int) -> float | int | None:
        """Return one number that stands in an attribute or in a constant input; whole ones as they are."""
        if name in step.attrs:
            return float(step.attrs[name])
        if not self.given(step, index):
            return None
        tensor = self.constant(step, index).real()
        if tensor.numel() != 1:
            raise step.refuse(f"{name} has {tensor.numel()} elements; allowed is one")
        found: float | int = tensor.reshape(-1)[0].item()
        return found

    def sizes(self, step: Step, name: str, index: int) -> tuple[list[int], list[int]] | None:
        """Return whole numbers as :meth:`numbers` does, on both examples: they may follow from the batch."""
        if name not in step.attrs and self.given(step, index):
            value = self.value(step, index, varied=True)
            if isinstance(value, Constant):
                first, second = ([int(v) for v in part.reshape(-1).tolist()] for part in value.both())
                return first, second
        found = self.numbers(step, name, index)
        return None if found is None else (found, list(found))

    def shape(self, value: Value) -> tuple[int, ...]:
        """Return the shape that a value has on the first example."""
        return tuple(self.sample(value).shape)

    def shapes(self, value: Value) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the shapes that a value has on both examples."""
        first, second = self.samples[value.name] if isinstance(value, fx.Node) else value.both()
        return tuple(first.shape), tuple(second.shape)

    def free(self, value: Value) -> list[bool]:
        """Tell for each axis whether its size follows from that of the batch."""
        first, second = self.shapes(value)
        return [a != b for a, b in zip(first, second, strict=True)]

    def keep_batch(self, step: Step, value: Value, axis: int, what: str) -> None:
        """Refuse a node that picks elements along the batch."""
        if self.free(value)[axis]:
            raise step.refuse(f"{what} axis {axis}, whose size follows from the batch; allowed are the other axes")

    def one_row(self, constant: Constant) -> Constant | None:
        """Return ``[1, ...]`` of a constant that holds one and the same row for each sample, or None."""
        if constant.tensor.ndim == 0:
            return None
        first, second = (values[:1] for values in constant.both())
        if constant.varied is None and constant.tensor.shape[:1] == (1,):
            return constant
        rows = [values.shape[0] for values in constant.both()]
        batches = (self.batches, (self.written_batch, self.written_batch))
        if tuple(rows) not in batches or not torch.equal(first, second):
            return None
        if not all(bool((values == first).all()) for values in constant.both()):
            return None
        return Constant(first)

    def sample(self, value: Value) -> Tensor:
        """Return what a value is on the first example."""
        return self.samples[value.name][0] if isinstance(value, fx.Node) else value.real()

    def release(self, step: Step, alive: Mapping[str, int]) -> None:
        """Forget the elements, not the shapes, of what a node read and no later one reads; ``alive``: by value name."""
        kept = {n.name for k, n in self.values.items() if alive.get(k, 0) and isinstance(n, fx.Node)}
        kept |= {n.args[0].name for n in self.graph.nodes if n.name in kept and _turns(n)}  # may be read in its place
        for name in step.inputs:
            value = self.values.get(name)
            if isinstance(value, fx.Node) and value.op != "placeholder" and value.name not in kept:
                first, second = self.samples[value.name]
                self.samples[value.name] = (_hollow(first), _hollow(second))

    # -- building -----------------------------------------------------------------------------------------------

    def add_input(self, name: str, samples: tuple[Tensor, Tensor], axes: Sequence[str]) -> None:
        """Add a graph input; ``axes`` names those that are free."""
        node = self.graph.placeholder(free(identifier(name), self._names))
        attrs = {"axes": list(axes), "argument": name}
        node.meta[META] = Record("input", self.path(name), type_of(samples[0]), attrs)
        self.values[name], self.samples[node.name] = node, samples

    def emit(
        self,
        step: Step,
        kind: str,
        inputs: Sequence[fx.Node],
        attrs: Mapping[str, Any] | None = None,
        operands: Mapping[str, Constant] | None = None,
        path: str = "",
    ) -> fx.Node:
        """Add a typed node and run it on the examples.

        Raises:
            UnsupportedOp: it cannot run on them.
        """
        operands = operands or {}
        path = self.path(path or module_path(step, operands) or step.name)
        record = Record(kind, path, TensorType(()), dict(attrs or {}), source=f"{self.file}:{step.name}")
        for role, constant in operands.items():
            record = self._holding(record, role, constant)
        reals = {role: constant.real() for role, constant in operands.items()}
        given = [self.shape(node) for node in inputs]
        shape = made(kind, record.attrs, given, [tuple(tensor.shape) for tensor in reals.values()])
        check_size(f"{step.where()}: result", shape)
        samples = self._run(step, lambda *values: OPS[kind].float(record, reals, *values), inputs)
        node = self.graph.call_function(typed, tuple(inputs))
        node.name = self._free_name(step)
        node.meta[META] = replace(record, output=type_of(samples[0]))
        self.samples[node.name] = samples
        return node

    def _run(self, step: Step, function: Callable[..., Tensor], inputs: Sequence[fx.Node]) -> tuple[Tensor, Tensor]:
        """Run a function on both examples; types are named where PyTorch has no such function for them."""
        given = [self.samples[node.name] for node in inputs]
        try:
            return function(*(first for first, _ in given)), function(*(second for _, second in given))
        except NotImplementedError as error:
            types = ", ".join(sorted({dtype_of(first) for first, _ in given}))
            raise step.refuse(f"cannot run on {types}, for which PyTorch does not have it") from error
        except (RuntimeError, IndexError, ValueError, TypeError) as error:
            shapes = ", ".join(told_shape(*self.shapes(node)) for node in inputs)
            raise step.refuse(f"cannot run on {shapes}: {one_line(error)}") from error

    def requantize(self, step: Step, node: fx.Node, fmt: Format, params: QuantParams) -> fx.Node:
        """Round a value to a format; one that has it already stays."""
        if same_grid(self.quant_of(node), (fmt, params)):
            return node
        new = self.emit(step, "requantize", [node])
        record: Record = new.meta[META]
        new.meta[META] = replace(record, output=replace(record.output, format=fmt))
        first, second = self.samples[node.name]
        self.quant[new.name] = params
        self.samples[new.name] = (fmt.quantize(first, params), fmt.quantize(second, params))
        return new

    def quant_of(self, node: fx.Node) -> tuple[Format, QuantParams] | None:
        """Return the format of a value and its parameters, or None."""
        fmt = node.meta[META].output.format
        return None if fmt is None else (fmt, self.quant.get(node.name, QuantParams()))

    def add_bias(self, node: fx.Node, constant: Constant) -> None:
        """Give a node that has none the operand ``bias``."""
        node.meta[META] = self._holding(node.meta[META], "bias", plain(constant))
        first, second = self.samples[node.name]
        self.samples[node.name] = (first + constant.real(), second + constant.real())

    def _holding(self, record: Record, role: str, constant: Constant) -> Record:
        """Return the record with one more operand, which goes into the table."""
        key = re.sub(r"[^\w.]", "_", constant.name).strip(".") or f"{record.path}.{role}"
        while key in self.tensors and not shared(self.tensors[key], constant.tensor):
            key += "_"
        self.tensors[key] = constant.tensor
        if constant.format is not None:
            self.quant[key] = constant.params
        kind = TensorType(tuple(constant.tensor.shape), dtype_of(constant.tensor), constant.format)
        table = {**record.table, role: key} if key != f"{record.path}.{role}" else record.table
        return replace(record, operands={**record.operands, role: kind}, table=table)

    def call(self, step: Step, function: Any, inputs: Sequence[fx.Node], reason: str) -> fx.Node:
        """Add an opaque node that calls a function, and run it on the examples."""
        check_size(f"{step.where()}: result", together([self.shape(node) for node in inputs]))
        samples = self._run(step, function, inputs)
        node = self.graph.call_function(function, tuple(inputs))
        node.name, path = self._free_name(step), self.path(step.name)
        attrs = {"target": function.__name__}
        node.meta[META] = Record("opaque", path, type_of(samples[0]), attrs, source=f"{self.file}:{step.name}")
        self.samples[node.name], self.opaque[path] = samples, reason
        return node

    def holder(self, step: Step, constant: Constant) -> fx.Node:
        """Return a node that gives a constant."""
        return self.emit(step, "constant", [], operands={"value": plain(constant)}, path=constant.name or step.name)

    def path(self, wanted: str) -> str:
        """Return a path that no other node has, made of letters, digits, ``_`` and dots."""
        clean = re.sub(r"[^\w.]", "_", wanted.replace("/", ".")).strip(".") or "node"
        return free(clean, self._paths)

    def _free_name(self, step: Step) -> str:
        return free(identifier(step.name), self._names)


def free(wanted: str, taken: set[str]) -> str:
    """Return a name that is not taken, numbered where it must be, and take it."""
    name, count = wanted, 1
    while name in taken:
        count += 1
        name = f"{wanted}_{count}"
    taken.add(name)
    return name


def plain(constant: Constant) -> Constant:
    """Return the constant with its format forgotten and its values rounded."""
    return constant if constant.format is None else Constant(constant.real(), varied=constant.varied)


def told_shape(first: Sequence[int], second: Sequence[int]) -> str:
    """Return a shape as a reader knows it, from those on both examples: a size that follows from the batch as N."""
    sizes = [str(p) if p == q else "N" for p, q in zip(first, second, strict=True)]
    return f"({', '.join(sizes)}{',' * (len(sizes) == 1)})"


def _turns(node: fx.Node) -> bool:
    """Tell whether a node puts axes in another order: another one behind it undoes that."""
    record: Record = node.meta[META]
    return record.kind == "layout" and record.attrs.get("function") == "permute"


def _hollow(x: Tensor) -> Tensor:
    """Return zeros of the same shape and type that take no memory."""
    return x.new_zeros(()).expand(x.shape)


def identifier(name: str) -> str:
    """Return a name that Python would take."""
    clean = re.sub(r"\W+", "_", name).strip("_").lower() or "node"
    return clean if not clean[0].isdigit() else f"n{clean}"


def module_path(step: Step, operands: Mapping[str, Constant]) -> str:
    """Return the module whose weights a node has: ``fc1`` for ``fc1.weight``, or for the node ``/fc1/MatMul``."""
    if "weight" not in operands:
        return ""
    name = operands["weight"].name.removesuffix("_t")
    if name.endswith(".weight"):
        return name.removesuffix(".weight")
    return step.name.removesuffix(f"/{step.type}").strip("/")


def same_grid(a: tuple[Format, QuantParams] | None, b: tuple[Format, QuantParams] | None) -> bool:
    """Tell whether two values have the same format with the same parameters."""
    if a is None or b is None or a[0] != b[0] or a[1].axis != b[1].axis:
        return False
    parts = [(getattr(a[1], name), getattr(b[1], name)) for name in ("scale", "zero_point")]
    return all(x is y or (x is not None and y is not None and torch.equal(x, y)) for x, y in parts)


def shared(a: Tensor, b: Tensor) -> bool:
    """Tell whether two tensors are one."""
    return a.data_ptr() == b.data_ptr() and a.shape == b.shape and a.stride() == b.stride()


def type_of(tensor: Tensor) -> TensorType:
    """Return the type of a tensor of the example."""
    return TensorType(tuple(tensor.shape), dtype_of(tensor))


def dtype_of(tensor: Tensor) -> str:
    """Return the name of a tensor's dtype, without prefix."""
    return str(tensor.dtype).removeprefix("torch.")


def as_tensor(array: Any) -> Tensor:  # a numpy array of any type
    """Return an array of the file as a tensor of its own.

    Raises:
        UnsupportedOp: its type has no counterpart, such as strings.
    """
    name = array.dtype.name
    if name in ("int2", "uint2", "int4", "uint4"):
        return torch.tensor(array.astype(f"{name[:-1]}8"))
    if name == "bfloat16":
        return torch.tensor(array.astype("float32")).to(torch.bfloat16)
    try:
        return torch.tensor(array)
    except (TypeError, ValueError):
        raise UnsupportedOp(f"tensor of type {array.dtype}; allowed are numbers and truth values") from None
