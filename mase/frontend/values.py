"""Trace a module with sample values at hand: static sizes are plain numbers, and data never decides in silence.

Every traced value is computed on two samples of different batch size (where the model takes them). A size that is the
same in both is a plain Python number for the model's code; one that differs stays symbolic in the graph.
"""

from __future__ import annotations

import copy
import dis
import inspect
import operator
import sys
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_aggregate
from torch.fx.proxy import TraceError
from torch.utils._pytree import tree_map

from mase.frontend.calls import SPEC
from mase.frontend.check import Example, Output, fields, owned_tensors
from mase.frontend.mha import attend, can_attend
from mase.frontend.modules import Lift
from mase.frontend.mutation import functional, in_place
from mase.graph import TensorType

SCOPE = "mase_scope"  # in a traced node's meta: path of the module whose code made it
OUTLINE = "mase_outline"  # the method by which a module says what kind it is as a whole; returns a Lift
REGION = "mase_region"  # likewise: number of the outlined call that it belongs to
SHAPELY = frozenset(
    (
        *("size", "dim", "ndimension", "numel", "nelement", "stride", "is_floating_point", "is_complex"),
        *("is_contiguous", "element_size", "get_device"),
    )
)  # they ask for the shape or the type, never for the data
ROOMS = ("_buffers", "_parameters", "_modules")  # of a module, which are looked through by themselves
DROPOUTS = frozenset(
    (
        *("dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout"),
        *("feature_dropout", "feature_alpha_dropout"),
    )
)
SAME = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)
THROUGH = (
    nn.Sequential,
    nn.ModuleList,
    nn.ModuleDict,
    nn.TransformerEncoder,
    nn.TransformerEncoderLayer,
    nn.TransformerDecoder,
    nn.TransformerDecoderLayer,
    nn.Transformer,
)  # PyTorch's modules that are traced through
FACTORIES = ("zeros", "ones", "full", "empty", "arange", "linspace", "eye", "zeros_like", "ones_like")  # take sizes
SIFTERS = frozenset(("nonzero", "argwhere", "masked_select", "unique", "unique_consecutive"))  # their size is data
COPIES = ("clone", "detach")  # methods that change no number
COMPARISONS = (operator.eq, operator.ne, operator.lt, operator.le, operator.gt, operator.ge)
TORCH = str(Path(torch.__file__).parent)
Pair = tuple[Any, Any]  # what a value is on the two samples


class FreeSize(TraceError):
    """The model's code must know a size that is free."""


class Value(fx.Proxy):
    """Stand for a traced value, together with what it is on both samples.

    Args:
        pair: the values. moves: the value depends on the data of an input, not on its shape alone.
    """

    def __init__(self, node: fx.Node, tracer: ValueTracer, pair: Pair, moves: bool) -> None:
        super().__init__(node, tracer)
        self.pair, self.moves = pair, moves
        self.aliases: list[weakref.ref[Value]] = [weakref.ref(self)]  # that share memory with it, itself included

    @property  # type: ignore[misc]  # object's can be written as well
    def __class__(self) -> type:
        """Pass for a tensor where the model's code asks; PyTorch's own code may hand one on to C without a look."""
        asked = not sys._getframe(1).f_code.co_filename.startswith(TORCH)
        return Tensor if asked and isinstance(self.pair[0], Tensor) else type(self)

    def __getattr__(self, name: str) -> Any:  # attributes of any object
        if name == "shape":
            return self.tracer.create_proxy("call_method", "size", (self,), {})
        if name == "data":
            return self.tracer.create_proxy("call_method", "detach", (self,), {})
        found = [getattr(value, name) for value in self.pair]
        if callable(found[0]):
            return super().__getattr__(name)
        if isinstance(found[0], Tensor):
            return self.tracer.create_proxy("call_function", getattr, (self, name), {})
        return found[0]

    def __len__(self) -> int:
        sizes = [len(value) for value in self.pair]
        if sizes[0] != sizes[1]:
            raise FreeSize("len() is a size that is free; use it through shape, or leave the axis static")
        return sizes[0]

    def __iter__(self) -> Iterator[Any]:
        return (self[i] for i in range(len(self)))  # type: ignore[index]  # fx adds the operators to the class

    def __bool__(self) -> bool:
        sides = self.node.args
        if self.node.target in COMPARISONS and not self.moves and not isinstance(self.pair[0], Tensor):
            same = bool(self.pair[0]) == bool(self.pair[1])
            both = all(isinstance(side, fx.Node) for side in sides)  # two free sizes that belong together
            if same and (both or (self.pair[0] and _in_assert(sys._getframe(1)))):
                return bool(self.pair[0])
            raise FreeSize("control flow depends on a size that is free")
        return bool(self._plain("bool()"))

    def __int__(self) -> int:
        return int(self._plain("int()"))

    def __index__(self) -> int:
        return operator.index(self._plain("an index"))

    def __float__(self) -> float:
        return float(self._plain("float()"))

    def __setitem__(self, index: object, value: object) -> None:
        raise TraceError(
            "unsupported mutation: elements are assigned; build the tensor with torch.where, cat or index_put"
        )

    def _plain(self, what: str) -> Any:
        """Return the one number that this is, for Python code that must know it."""
        if self.moves:
            raise TraceError(f"data-dependent control flow: {what} of a tensor that depends on the inputs")
        a, b = (value.item() if isinstance(value, Tensor) else value for value in self.pair)
        if a != b:
            raise FreeSize(f"control flow depends on a size that is free ({a} here, {b} in the second sample)")
        return a


class ValueTracer(fx.Tracer):
    """Trace through containers and the user's own modules; keep PyTorch's modules whole; record source lines.

    Args:
        model: in evaluation mode. samples: the call on two samples. output: see :func:`mase.frontend.check.fields`.
    """

    def __init__(self, model: nn.Module, samples: tuple[Example, Example], output: Output) -> None:
        super().__init__()
        self.record_stack_traces = True
        self.samples, self.output = samples, output
        self.table, self.owners = owned_tensors(model)
        self.known = {id(t): n for n, t in [*model.named_parameters(), *model.named_buffers()]}
        self.held: list[Tensor] = []  # tensors that the model's code makes; while they live, their id is theirs alone
        self.parameters: dict[str, Value] = {}
        self.computing = False  # sample values are being computed: no tracing
        self.failed = ""  # path of the module in which an error came up
        self.rewritten: list[str] = []  # modules that are traced in another form than their own code
        self.notes: list[str] = []
        self.weights = {self.owners[name] for name, _ in model.named_parameters()}
        self.regions: list[tuple[str, Lift]] = []  # outlined calls: path, and what they are
        self.region: int | None = None  # the one that is being traced

    def run(self, model: nn.Module) -> fx.Graph:
        """Trace, with creation functions such as ``zeros`` open to sizes that are free."""
        before = {name: getattr(torch, name) for name in FACTORIES}
        versions = {name: _version(tensor) for name, tensor in self.table.items()}
        held = {name: (m, [_kept(room) for room in _rooms(m)]) for name, m in model.named_modules()}
        try:
            for name, original in before.items():
                setattr(torch, name, self._open(original))
            graph: fx.Graph = self.trace(model)
        finally:
            for name, original in before.items():
                setattr(torch, name, original)
            changed = [key for name, (m, rooms) in held.items() for key in self._restore(name, m, rooms)]
        changed += [name for name, version in versions.items() if _version(self.table[name]) != version]
        if changed:
            self.failed = changed[0].rpartition(".")[0]
            raise TraceError(f"unsupported mutation: forward changes {changed[0]!r}; return the new value instead")
        return graph

    def _restore(self, name: str, m: nn.Module, before: Sequence[Mapping[str, Any]]) -> Iterator[str]:
        """Take traced values out of a module again, and yield the buffers and parameters that they had replaced."""
        for room, old in zip(_rooms(m), before, strict=True):
            for key in [key for key, value in room.items() if key not in ROOMS and _values(value)]:
                path = f"{name}.{key}" if name else key
                if room is m.__dict__:
                    self.notes.append(f"{path}: is set by forward; the graph does not keep it")
                else:
                    yield path
                if key in old:
                    room[key] = old[key]
                else:
                    del room[key]

    def _open(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def create(*args: Any, **kwargs: Any) -> Any:
            if not self.computing and _values((args, kwargs)):
                return self.create_proxy("call_function", original, args, kwargs)
            return original(*args, **kwargs)

        return create

    # -- what fx asks for --------------------------------------------------------------------------------------------

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        ours = isinstance(m, THROUGH) or module_qualified_name in self.rewritten or _is_changed(m)
        return type(m).__module__.startswith("torch.nn") and not ours

    def create_args_for_root(
        self, root_fn: Any, is_module: bool, concrete_args: Any = None
    ) -> tuple[Callable[..., Any], list[Any]]:
        first, other = self.samples
        inputs: dict[str, Any] = {}
        for name, tensor in first.tensors.items():
            node = self.create_node("placeholder", name, (), {})
            inputs[name] = self._value(node, (tensor.clone(), other.tensors[name].clone()), True)

        def call(root: nn.Module) -> Any:
            call = first.having(inputs)
            found = fields(_unfolded(call.call(partial(nn.Module._call_impl, root))), self.output)  # with its hooks
            results = [v if isinstance(v, Value) else self._constant(n, v) for n, v in found.items()]
            return results[0] if len(results) == 1 else tuple(results)

        return call, [self.root]

    def _constant(self, name: str, value: Any) -> Value:
        if not isinstance(value, Tensor):
            raise TraceError(f"output {name!r} is {type(value).__name__}; a tensor is needed")
        return self._parameter(self._key(value), value)

    def call_module(self, m: nn.Module, forward: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self.computing:
            return forward(*args, **kwargs)
        if not _values((args, kwargs)):
            if next(m.parameters(), None) is None:
                return forward(*args, **kwargs)
            args, kwargs = self._held((args, kwargs))  # its parameters stay in the graph, on constant inputs
        path = self.path_of_module(m)
        try:
            if type(m) in SAME:
                return args[0]
            if type(m) is nn.MultiheadAttention and can_attend(m, *args, **kwargs):
                self.rewritten.append(path)
                forward = partial(attend, self, path, m)
            if self.region is None and callable(declared := getattr(type(m), OUTLINE, None)):
                self.regions.append((path, declared(m)))
                self.region = len(self.regions) - 1
                try:
                    return super().call_module(m, forward, args, kwargs)
                finally:
                    self.region = None
            return super().call_module(m, forward, args, kwargs)
        except Exception:
            self.failed = self.failed or path
            raise

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        if not self.computing and isinstance(attr_val, Tensor) and id(attr_val) in self.known:
            return self._parameter(self.known[id(attr_val)], attr_val)
        return attr_val

    def create_arg(self, a: Any) -> Any:
        if isinstance(a, Value):
            return a.node
        if isinstance(a, torch.ScriptObject):
            raise TraceError("reads a TorchScript object, which no graph can hold; allowed are tensors and numbers")
        if _is_plain(a):
            return self._parameter(self._key(a), a).node
        return super().create_arg(a)

    def _key(self, tensor: Tensor) -> str:
        """Return the table's key of a tensor that the model's code holds; one that is not registered gets its own."""
        if id(tensor) not in self.known:
            name = f"constant_{sum(key.startswith('constant_') for key in self.table)}"
            self.table[name], self.known[id(tensor)] = tensor.detach(), name
            self.held.append(tensor)
        return self.known[id(tensor)]

    def _held(self, arguments: Any) -> Any:
        """Return arguments with traced constants in place of tensors."""
        return tree_map(lambda a: self._parameter(self._key(a), a) if _is_plain(a) else a, arguments)

    def register(self, key: str, tensor: Tensor) -> Tensor:
        """Give a view of a parameter its own place in the table."""
        self.known[id(tensor)], self.table[key] = key, tensor
        return tensor

    def _parameter(self, key: str, tensor: Tensor) -> Value:
        key = self.owners.get(key, key)
        if key not in self.parameters:
            node = self.graph.create_node("get_attr", key)
            node.meta[SPEC] = (spec(tensor), spec(tensor))
            self.parameters[key] = Value(node, self, (tensor.detach(),) * 2, False)
        return self.parameters[key]

    # -- nodes and their values --------------------------------------------------------------------------------------

    def create_proxy(self, kind: str, target: Any, args: Any, kwargs: Any, *rest: Any, **more: Any) -> Any:
        changes = kind != "call_module" and in_place(target, args, kwargs)
        if changes:
            target, args, kwargs = functional(target, args, kwargs)
        elif kind == "call_module":
            changes = bool(getattr(self.root.get_submodule(target), "inplace", False))
        if changes:
            _check_change(args[0])
        if getattr(target, "__name__", "") in DROPOUTS:
            return self._dropout(target, args, kwargs)
        if _sifts(target, args):
            raise TraceError("data-dependent shape: elements are chosen by the values of a tensor; use torch.where")
        pair, data = self._compute(kind, target, args, kwargs), any(v.moves for v in _values((args, kwargs)))
        if not changes and _is_same(args, pair):
            return args[0]
        if target in COPIES:
            twin = Value(args[0].node, self, pair, data)
            _note_aliases(twin, args)
            return twin
        plain = self._plain(kind, target, args, pair, data)
        if plain is not None:
            return plain[0]
        node = self.create_node(kind, target, self.create_arg(tuple(args)), self.create_arg(dict(kwargs)))
        data = data and not (isinstance(target, str) and target in SHAPELY)
        value = self._value(node, pair, data)
        if changes:  # whoever holds the value reads the new one from here on
            args[0].node, args[0].pair = value.node, value.pair
            return args[0]
        _note_aliases(value, args)
        return value

    def _value(self, node: fx.Node, pair: Pair, data: bool) -> Value:
        node.meta[SPEC], node.meta[SCOPE] = (spec(pair[0]), spec(pair[1])), self.scope.module_path
        node.meta[REGION] = self.region
        return Value(node, self, pair, data)

    def _compute(self, kind: str, target: Any, args: Any, kwargs: Any) -> Pair:
        """Return what an operation gives on both samples."""
        if torch.is_autocast_enabled("cpu"):
            raise TraceError("autocast is on and changes dtypes; switch it off, and cast in the code")
        self.computing = True
        try:
            with torch.no_grad():
                a, b = (_call(self.root, kind, target, _at(args, i), _at(kwargs, i)) for i in (0, 1))
        finally:
            self.computing = False
        return a, b

    def _plain(self, kind: str, target: Any, args: Any, pair: Pair, data: bool) -> tuple[Any] | None:
        """Return a result that needs no node: a number that is the same in both samples."""
        if isinstance(pair[0], torch.Size):
            return (self._sizes(args[0], pair),)
        if _has_tensor(pair[0]):
            return None
        if data and not (isinstance(target, str) and target in SHAPELY) and _has_tensor(_at(args, 0)):
            name = target if isinstance(target, str) else getattr(target, "__name__", target)
            raise TraceError(f"data-dependent control flow: {name} of a tensor that depends on the inputs")
        if target in COMPARISONS:  # its outcome on other sizes is not known
            return None
        return (pair[0],) if pair[0] == pair[1] and type(pair[0]) is type(pair[1]) else None

    def _sizes(self, of: Value, pair: Pair) -> tuple[Any, ...]:
        """Return the sizes of a tensor: numbers, and nodes for those that are free."""
        a, b = pair
        if len(a) != len(b):
            raise FreeSize("the number of axes depends on a size that is free")
        return (
            torch.Size(a)
            if a == b
            else tuple(
                a[i] if a[i] == b[i] else self.create_proxy("call_method", "size", (of, i), {}) for i in range(len(a))
            )
        )

    def _dropout(self, target: Any, args: Any, kwargs: Any) -> Any:
        """Return the input where dropout does nothing."""
        bound = inspect.signature(target).bind(*args, **kwargs)
        bound.apply_defaults()
        if bound.arguments["training"] and bound.arguments["p"]:
            raise TraceError(f"{target.__name__} with training=True: is random; pass training=self.training")
        return bound.arguments["input"]


# -- values -----------------------------------------------------------------------------------------------------------


def spec(value: Any) -> Any:
    """Return a value with the type of each tensor in its place."""
    if isinstance(value, Tensor):
        return TensorType(tuple(value.shape), str(value.dtype).removeprefix("torch."))
    if isinstance(value, tuple | list):
        return tuple(spec(item) for item in value)
    return value


def _is_plain(value: Any) -> bool:
    """Tell whether a value is a tensor of the model's own, not one that is traced."""
    return isinstance(value, Tensor) and not isinstance(value, Value)


def _is_changed(m: nn.Module) -> bool:
    """Tell whether a module does more than its class says: by hooks, or by a forward of its own."""
    return bool(m._forward_hooks or m._forward_pre_hooks or "forward" in m.__dict__)


def _version(tensor: Tensor) -> int:
    """Return how often a tensor was changed in place, where PyTorch counts it."""
    return 0 if tensor.is_inference() else tensor._version


def _kept(room: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a module holds, with copies of the collections that its code may fill."""
    return {key: copy.copy(value) if isinstance(value, list | dict | set) else value for key, value in room.items()}


def _rooms(m: nn.Module) -> tuple[dict[str, Any], ...]:
    """Return where a module keeps what is assigned to it."""
    return m.__dict__, m._buffers, m._parameters


def _unfolded(result: Any) -> Any:
    """Return a result in which a traced tuple is a tuple of traced values."""
    if isinstance(result, Value):
        return tuple(_unfolded(part) for part in result) if isinstance(result.pair[0], tuple | list) else result
    if isinstance(result, tuple | list) and not hasattr(result, "_fields"):
        return tuple(_unfolded(part) for part in result)
    return result


def _values(arguments: Any) -> list[Value]:
    """Return the traced values in nested arguments."""
    found: list[Value] = []

    def visit(item: Any) -> None:
        if isinstance(item, Value):
            found.append(item)
        elif isinstance(item, Mapping):
            for inner in item.values():
                visit(inner)
        elif isinstance(item, slice):
            visit((item.start, item.stop, item.step))
        elif isinstance(item, Sequence) and not isinstance(item, str):
            for inner in item:
                visit(inner)

    visit(arguments)
    return found


def _at(arguments: Any, sample: int) -> Any:
    """Return nested arguments with every traced value replaced by what it is on one sample."""

    def pick(item: Any) -> Any:
        return item.pair[sample] if isinstance(item, Value) else item

    return map_aggregate(arguments, pick)


def _has_tensor(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(_has_tensor(item) for item in value.values())
    return isinstance(value, Tensor) or (isinstance(value, tuple | list) and any(_has_tensor(item) for item in value))


def _call(root: nn.Module, kind: str, target: Any, args: Any, kwargs: Any) -> Any:
    if kind == "call_module":
        return root.get_submodule(target)(*args, **kwargs)
    if kind == "call_method":
        return getattr(args[0], target)(*args[1:], **kwargs)
    return target(*args, **kwargs)


def _sifts(target: Any, args: Any) -> bool:
    """Tell whether an operation keeps those elements that a traced tensor says."""
    name = target if isinstance(target, str) else getattr(target, "__name__", "")
    if name in SIFTERS:
        return any(v.moves for v in _values(args))
    masks = _values(args[1:]) if target is operator.getitem else []
    return any(v.moves and isinstance(v.pair[0], Tensor) and v.pair[0].dtype == torch.bool for v in masks)


def _is_same(args: Any, pair: Pair) -> bool:
    """Tell whether an operation gave back its first argument."""
    return bool(args) and isinstance(args[0], Value) and all(a is b for a, b in zip(pair, args[0].pair, strict=True))


def _in_assert(frame: FrameType) -> bool:
    """Tell whether a frame asks for a truth value to assert it."""
    steps = list(dis.get_instructions(frame.f_code))
    here = next(i for i, step in enumerate(steps) if step.offset == frame.f_lasti)
    return "JUMP" in steps[here].opname and steps[here + 1].opname == "LOAD_ASSERTION_ERROR"


# -- changes in place -------------------------------------------------------------------------------------------------


def _check_change(value: Any) -> None:
    """Refuse a change that others would see: of a parameter, and of memory that another value shares."""
    if not isinstance(value, Value):
        raise TraceError(
            "unsupported mutation: a tensor of the model is changed in place; return the new value instead"
        )
    if value.node.op == "get_attr":
        raise TraceError(f"unsupported mutation: forward changes {value.node.target!r}; return the new value instead")
    if sum(ref() is not None for ref in value.aliases) > 1:
        raise TraceError(
            "unsupported mutation: a tensor that another one views is changed in place; change a copy instead"
        )


def _note_aliases(value: Value, args: Any) -> None:
    """Let a value and those that it views know each other."""
    mine = value.pair[0]
    if not isinstance(mine, Tensor):
        return
    for other in _values(args):
        theirs = other.pair[0]
        if isinstance(theirs, Tensor) and theirs.untyped_storage().data_ptr() == mine.untyped_storage().data_ptr():
            value.aliases = other.aliases
            value.aliases.append(weakref.ref(value))
            return
