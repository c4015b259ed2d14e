"""What every front door checks: the model, the example inputs, and that the graph computes what the model computes."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, is_dataclass, replace
from dataclasses import fields as dataclass_fields
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from mase.errors import ConfigError, GraphError, suggest
from mase.graph import Graph

AXES = ("batch", "seq")  # what may be dynamic: the first axis, and the second
SEED = 0  # of the second input
CONSTANTS = bool | int | float | str | None
PREFERRED = ("logits", "last_hidden_state")  # of a model that returns several things
Output = str | int | Sequence[str | int] | None
Found = dict[str, Any]  # outputs by name: tensors, or what stands for them while a model is traced


@dataclass(frozen=True)
class Example:
    """Hold the arguments of one call, by name.

    Args:
        values: tensors, and plain constants that the trace keeps as they are. places: how many are given by place.
    """

    values: Mapping[str, Any]  # a model's arguments
    places: int = 0

    @classmethod
    def of(cls, model: nn.Module, given: object) -> Example:
        """Read a tensor, a sequence of arguments, or a mapping from names to arguments.

        Raises:
            GraphError: there is no tensor, an argument is missing or unknown, or is neither a tensor nor a constant.
        """
        given = (given,) if isinstance(given, Tensor) else given
        if not isinstance(given, Sequence | Mapping) or isinstance(given, str):
            raise GraphError(f"example inputs: found {type(given).__name__}; allowed are tensors in a tuple or a dict")
        named = {str(k): v for k, v in given.items()} if isinstance(given, Mapping) else {}
        placed = () if isinstance(given, Mapping) else tuple(given)
        tensors = [v for v in (*placed, *named.values()) if isinstance(v, Tensor)]
        if not any(x.ndim for x in tensors):
            raise GraphError("example inputs: a tuple of tensors with a batch axis is needed")
        values = {**dict(zip(_names(model, placed, named), placed, strict=True)), **named}
        values = {name: x.detach() if isinstance(x, Tensor) else x for name, x in values.items()}
        for name, value in values.items():
            if not isinstance(value, Tensor | CONSTANTS):
                allowed = "allowed are tensors and plain constants"
                raise GraphError(f"example input {name!r}: found {type(value).__name__}; {allowed}")
            if isinstance(value, Tensor) and value.layout is not torch.strided:
                raise GraphError(f"example input {name!r}: is {value.layout}; allowed are dense tensors")
        return cls(values, len(placed))

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The tensors by name, in order: these become the inputs of the graph."""
        return {name: value for name, value in self.values.items() if isinstance(value, Tensor)}

    def having(self, tensors: Mapping[str, Tensor]) -> Example:
        """Return the same call on other tensors."""
        return replace(self, values={**self.values, **tensors})

    def call(self, function: Any) -> Any:
        """Call a model, or what stands for it."""
        names = list(self.values)
        placed = [self.values[name] for name in names[: self.places]]
        return function(*placed, **{name: self.values[name] for name in names[self.places :]})


def _names(model: nn.Module, placed: Sequence[object], named: Mapping[str, object]) -> list[str]:
    """Return the names of the arguments that are given by place, as the model's signature has them."""
    signature = inspect.signature(type(model).forward)
    try:
        bound = signature.bind(model, *placed, **named).arguments
    except TypeError as error:
        takes = [p.name for p in signature.parameters.values()][1:]
        given = len(placed) + len(named)
        missing = [p for p in takes if f"'{p}'" in str(error)]
        if "missing" in str(error) and missing:
            found = f"found {given}; the model takes {len(takes)} ({missing[0]!r} is missing)"
        elif "unexpected keyword" in str(error):
            unknown = next(name for name in named if name not in takes)
            found = f"found {unknown!r}, which the model does not take{suggest(unknown, takes)}"
        else:
            found = f"found {given}; the model takes {len(takes)}: {', '.join(takes)}"
        raise GraphError(f"example inputs: {found}") from None
    names: list[str] = []
    for name, value in list(bound.items())[1:]:
        kind = signature.parameters[name].kind
        many = kind is inspect.Parameter.VAR_POSITIONAL
        names += [f"{name}_{i}" for i in range(len(value))] if many else [name]
    return names[: len(placed)]


# -- the model --------------------------------------------------------------------------------------------------------


def check_model(model: nn.Module) -> None:
    """Refuse training mode, and parameters that are NaN or infinite.

    Raises:
        GraphError: names the module or the parameter.
    """
    if not isinstance(model, nn.Module):
        raise GraphError(f"model: found {type(model).__name__}; allowed is an nn.Module, or the path of an ONNX file")
    for name, m in model.named_modules():
        if isinstance(m, torch.jit.ScriptModule):
            why = "is TorchScript, whose code cannot be followed; trace the module that it was made from"
            raise GraphError(f"module {name or type(model).__name__!r}: {why}")
    training = [name or type(model).__name__ for name, m in model.named_modules() if m.training]
    if training:
        raise GraphError(f"module {training[0]!r}: is in training mode; call model.eval() before tracing")
    for name, tensor in model.named_parameters():
        if nn.parameter.is_lazy(tensor):
            raise GraphError(f"parameter {name!r}: has no shape yet; call the lazy module once before tracing")
        if tensor.is_meta:
            raise GraphError(f"parameter {name!r}: is on the device meta, which holds no numbers; load the weights")
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise GraphError(f"parameter {name!r}: holds NaN or infinity; finite weights are needed")


def named_tensors(model: nn.Module) -> list[tuple[str, Tensor]]:
    """Return parameters and buffers by path, detached, sharing memory; a tied tensor comes under each of its names."""
    pairs = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    return [(name, tensor.detach()) for name, tensor in pairs]


def owned_tensors(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the table of parameters and buffers, and the owner of every name: of tied tensors the first name owns."""
    pairs = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    first: dict[int, str] = {}
    owners = {name: first.setdefault(id(tensor), name) for name, tensor in pairs}
    return {name: tensor.detach() for name, tensor in pairs if owners[name] == name}, owners


# -- second inputs ----------------------------------------------------------------------------------------------------


def named_axes(tensors: Mapping[str, Tensor], names: Iterable[str]) -> dict[str, list[str]]:
    """Return for each input the name of each axis that may be free.

    The first axis of the first input is the batch, its second one the sequence; an axis of another input in the same
    place counts when it has the same size.
    """
    wanted = set(names)
    out: dict[str, list[str]] = {}
    sizes: dict[str, int] = {}
    for key, x in tensors.items():
        found = [""] * x.ndim
        for axis, name in enumerate(AXES[: x.ndim]):
            if name in wanted and sizes.setdefault(name, x.shape[axis]) == x.shape[axis]:
                found[axis] = name
        out[key] = found
    return out


def check_dynamic(dynamic: object) -> frozenset[str]:
    """Return the names of the axes that must be free.

    Raises:
        ConfigError: a name is neither ``batch`` nor ``seq``.
    """
    names: list[Any] = list(dynamic) if isinstance(dynamic, Iterable) and not isinstance(dynamic, str) else [dynamic]
    for name in names:
        if name not in AXES:
            raise ConfigError(f"dynamic {name!r}: unknown axis; allowed: {', '.join(AXES)}")
    return frozenset(names)


def second(
    tensors: Mapping[str, Tensor], axes: Mapping[str, Sequence[str]], step: Mapping[str, int]
) -> dict[str, Tensor]:
    """Return other values: random numbers, and of integers and truth values those of the example in another order.

    Args:
        axes: names of the axes. step: how much longer an axis of this name is; an example that is 1 long repeats.
    """
    generator = torch.Generator().manual_seed(SEED)
    out = {}
    for key, x in tensors.items():
        shape = [size + step.get(name, 0) for size, name in zip(x.shape, axes[key], strict=True)]
        if x.is_floating_point():
            out[key] = torch.randn(shape, generator=generator).to(x)
        else:
            count = max(1, torch.Size(shape).numel())
            pick = torch.randint(max(1, x.numel()), (count,), generator=generator).to(x.device)
            out[key] = x.reshape(-1)[pick][: torch.Size(shape).numel()].reshape(shape)
    return out


# -- outputs ----------------------------------------------------------------------------------------------------------


def fields(result: Any, output: Output = None) -> Found:
    """Return the wanted parts of what a model returned, by name; the first one is what calling the graph gives.

    Args:
        result: a tensor, or a mapping, a tuple or an object with attributes that hold tensors.
        output: name or place of one part, with dots into nested ones, or several; None: the tensor itself, else
            ``logits``, else ``last_hidden_state``, else the only part.

    Raises:
        GraphError: there is no such part, or the choice is open.
    """
    if output is not None:
        wanted: Any = [output] if isinstance(output, str | int) else output  # what a caller may give
        if not isinstance(wanted, Sequence) or not wanted or not all(isinstance(name, str | int) for name in wanted):
            raise GraphError(f"output {output!r}: this is not an output; give a name or a place, or several of them")
        return {str(name): _part(result, str(name)) for name in wanted}
    parts = _parts(result)
    if parts is None:
        return {"output": result}
    named = [name for name in PREFERRED if name in parts] or (list(parts) if len(parts) == 1 else [])
    if not named:
        such = f"choose with output=, such as output={next(iter(parts), '')!r}"
        raise GraphError(f"the model returns more than one tensor: {', '.join(parts)}; {such}")
    return {named[0]: parts[named[0]]}


def choices(result: Any) -> tuple[str, ...]:
    """Return the names of all results of a model that returned several, none of which is known to be the one."""
    parts = _parts(result) or {}
    return () if len(parts) < 2 or any(name in parts for name in PREFERRED) else tuple(parts)


def _parts(result: Any) -> dict[str, Any] | None:
    if isinstance(result, Mapping):
        return {str(name): value for name, value in result.items() if value is not None}
    if isinstance(result, tuple) and hasattr(result, "_fields"):
        return {name: getattr(result, name) for name in result._fields}
    if isinstance(result, tuple | list):
        return {str(i): value for i, value in enumerate(result)}
    if is_dataclass(result):
        return {field.name: getattr(result, field.name) for field in dataclass_fields(result)}
    return None


def _part(result: Any, path: str) -> Any:
    found = result
    for step in path.split("."):
        parts = _parts(found)
        if parts is None and hasattr(found, "__dict__"):
            parts = dict(vars(found))
        if parts is not None and isinstance(found, Mapping) and step.isdigit() and step not in parts:
            parts = {str(i): value for i, value in enumerate(parts.values())}
        if parts is None or step not in parts:
            raise GraphError(f"output {path!r}: the model does not return it{suggest(step, parts or ())}")
        found = parts[step]
    return found


# -- equality ---------------------------------------------------------------------------------------------------------


def eager(model: nn.Module, example: Example, output: Output) -> Found:
    """Return what the model computes, by its ordinary code: PyTorch's fused shortcuts for inference are switched off.

    Raises:
        GraphError: the model returns something else than tensors.
    """
    before = torch.get_rng_state()
    with torch.no_grad(), plain_attention(), frozen(model):
        found = fields(_call(model, example), output)
        for name, value in found.items():
            if not isinstance(value, Tensor):
                raise GraphError(f"output {name!r}: is {type(value).__name__}; a tensor is needed")
        drawn = not torch.equal(before, torch.get_rng_state())
        if drawn and difference(found, fields(_call(model, example), output)):
            with _NoDraws():  # type: ignore[no-untyped-call]  # PyTorch's base class has no types
                _call(model, example)
    return found


class _NoDraws(TorchDispatchMode):
    """Stop at the first operation that draws random numbers."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        before = torch.get_rng_state()
        result = func(*args, **(kwargs or {}))
        if not torch.equal(before, torch.get_rng_state()):
            raise RuntimeError(f"{func} draws random numbers; the result must follow from the inputs alone")
        return result


def _call(model: nn.Module, example: Example) -> Any:
    """Call a model on copies of the example's tensors, into which it may write."""
    return example.having({name: x.clone() for name, x in example.tensors.items()}).call(model)


class plain_attention:  # noqa: N801  # a context manager reads like a function
    """Switch off the inference shortcut of ``nn.MultiheadAttention``, which rounds in another way than its code."""

    def __enter__(self) -> None:
        self.before = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)

    def __exit__(self, *error: object) -> None:
        torch.backends.mha.set_fastpath_enabled(self.before)


class frozen:  # noqa: N801  # likewise
    """Take a model's parameters out of training: PyTorch multiplies matrices in another way where one may learn."""

    def __init__(self, model: nn.Module) -> None:
        self.learning = [p for p in model.parameters() if p.requires_grad]

    def __enter__(self) -> None:
        for parameter in self.learning:
            parameter.requires_grad_(False)

    def __exit__(self, *error: object) -> None:
        for parameter in self.learning:
            parameter.requires_grad_(True)


def difference(want: Mapping[str, Tensor], got: Mapping[str, Tensor]) -> float:
    """Return the greatest difference relative to the greatest wanted number; 0 where all are equal bit for bit."""
    worst = 0.0
    for name, a in want.items():
        b = got[name]
        if a.shape != b.shape or a.dtype != b.dtype:
            return float("inf")
        if torch.equal(a, b) or bool(((a == b) | (a.isnan() & b.isnan())).all()):
            continue
        top = float(a[a.isfinite()].abs().max()) if bool(a.isfinite().any()) else 0.0
        gap = float((a.double() - b.double()).abs().max())
        worst = max(worst, gap / (top or 1.0) if gap == gap else float("inf"))
    return worst


def check_equal(
    name: str, graph: Graph, samples: Mapping[str, tuple[Example, Mapping[str, Tensor]]], bound: float = 0.0
) -> float:
    """Compare a graph with what the model gave, and return the greatest difference.

    Args:
        name: of the model, for errors. samples: by description, the call and its outputs. bound: see TraceReport.

    Raises:
        GraphError: they differ by more than the bound.
    """
    worst = 0.0
    for which, (example, want) in samples.items():
        try:
            with torch.no_grad():
                got = graph.fields(*example.tensors.values())
        except Exception as error:  # what the model's code left in the graph may raise anything
            raise GraphError(f"{name}: the traced graph fails on {which}: {first_line(error)}") from error
        found = difference(want, dict(zip(want, got.values(), strict=True)))
        if found > bound:
            shapes = [(tuple(want[k].shape), tuple(v.shape)) for k, v in zip(want, got.values(), strict=True)]
            shapes = [pair for pair in shapes if pair[0] != pair[1]]
            what = f"its shape, {shapes[0][1]} for {shapes[0][0]}" if shapes else f"{found:.3g} of the greatest output"
            raise GraphError(
                f"{name}: the traced graph differs from the model on {which} by {what}; "
                f"allowed is {bound:g} (does forward change a value that it reads, or branch on the data?)"
            )
        worst = max(worst, found)
    return worst


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text, cut at 200 characters."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
