"""Export a model as a graph of ATen calls, and say where in the model's code an error comes from."""

from __future__ import annotations

import inspect
import linecache
import traceback
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from mase.errors import GraphError, UnknownName
from mase.frontend.lift.nodes import OWN

RESULTS = ("logits", "last_hidden_state")  # what a model's result is taken from, unless ``output`` names another field
AXES = ("batch", "seq")


@dataclass(frozen=True, eq=False)
class Sample:
    """Example inputs by name.

    Args:
        tensors: one tensor an input. keywords: the model is called by names.
    """

    tensors: Mapping[str, Tensor]
    keywords: bool

    @classmethod
    def of(cls, model: nn.Module, example: Mapping[str, Tensor] | Sequence[Tensor] | Tensor) -> Sample:
        """Name the example inputs: as the dict does, or as the parameters of ``forward``.

        Raises:
            GraphError: something is not a tensor, or there are more tensors than parameters.
        """
        if isinstance(example, Mapping):
            named = dict(example)
        else:
            values = [example] if isinstance(example, Tensor) else list(example)
            named = dict(zip(_positions(model, len(values)), values, strict=True))
        for name, found in named.items():
            if not isinstance(found, Tensor) or found.ndim < 1:
                raise GraphError(f"example input {name!r}: found {_described(found)}; a tensor with a batch axis is needed")
        if not named:
            raise GraphError("example inputs: found none; a tuple or a dict of tensors is needed")
        return cls(named, isinstance(example, Mapping))


class Call(nn.Module):
    """Call a model with positional tensors and return the wanted tensors alone.

    Args:
        model: any module. names: of the inputs, where it is called by keyword. output: names of the wanted fields.
    """

    def __init__(self, model: nn.Module, names: Sequence[str] | None, output: Sequence[str]) -> None:
        super().__init__()
        self.model, self.names, self.output = model, names, tuple(output)
        parameters = inspect.signature(model.forward).parameters
        self.extra = {"use_cache": False} if "use_cache" in parameters and "use_cache" not in (names or ()) else {}

    def forward(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        if self.names is None:
            result = self.model(*inputs, **self.extra)
        else:
            result = self.model(**dict(zip(self.names, inputs, strict=True)), **self.extra)
        return _wanted(result, self.output)


def check_eager(call: Call, inputs: Sequence[Tensor]) -> None:
    """Run the model on the example inputs.

    Raises:
        GraphError: it fails, or gives something else than tensors; names module and source line.
    """
    try:
        with torch.no_grad():
            call(*inputs)
    except (GraphError, UnknownName):
        raise
    except Exception as error:
        raise GraphError(f"{place(error, call.model)}: fails on the example inputs: {reason(error)}") from error


def capture(call: Call, inputs: Sequence[Tensor], axes: Sequence[Sequence[str | None]]) -> ExportedProgram:
    """Export ``call`` without gradients.

    Args:
        axes: for each input, the name of each free axis, or None.

    Raises:
        GraphError: control flow depends on data, an axis cannot be free, or an operation cannot be exported; names
            module and source line.
    """
    specs = tuple({i: Dim.AUTO for i, name in enumerate(names) if name} for names in axes)
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch about its own parts; ours come as errors
            return torch.export.export(
                call, tuple(inputs), dynamic_shapes=(specs,) if any(specs) else None, strict=False
            )
    except Exception as error:
        text = "".join(traceback.format_exception_only(error))
        if "data-dependent" in text.lower() or "DataDependent" in type(error).__name__:
            why = "control flow or a shape depends on the values of tensors; allowed are shapes and settings"
        else:
            why = f"cannot be exported: {reason(error)}"
        raise GraphError(f"{place(error, call.model)}: {why}") from error


def place(error: BaseException, model: nn.Module) -> str:
    """Return module path and source line of the model's innermost frame in an error's history."""
    names = {id(module): path for path, module in model.named_modules()}
    best = max((_frames(one.__traceback__) for one in _history(error)), key=len)
    path = next((names[id(f.f_locals.get("self"))] for f, _ in reversed(best) if id(f.f_locals.get("self")) in names), "")
    where = f"module {path!r}" if path else type(model).__name__
    if not best:
        return where
    frame, line = best[-1]
    file = frame.f_code.co_filename
    code = linecache.getline(file, line).strip()
    return f"{where} ({Path(file).name}:{line}{f': {code}' if code else ''})"


def reason(error: BaseException) -> str:
    """Return the first line of an error's text, cut at 200 characters."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def _history(error: BaseException | None) -> list[BaseException]:
    found: list[BaseException] = []
    while error is not None and error not in found:
        found.append(error)
        error = error.__cause__ or error.__context__
    return found


def _frames(trace: TracebackType | None) -> list[tuple[FrameType, int]]:
    """Return the frames of a traceback that are neither torch's nor ours, outermost first."""
    ours = str(Path(__file__).parent)
    return [
        (frame, line)
        for frame, line in traceback.walk_tb(trace)
        if not frame.f_code.co_filename.startswith((OWN, ours, "<"))
    ]


def _positions(model: nn.Module, count: int) -> list[str]:
    parameters = list(inspect.signature(model.forward).parameters.values())
    plain = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    many = next((p.name for p in parameters if p.kind is p.VAR_POSITIONAL), None)
    if many is not None:
        plain += [f"{many}_{i}" for i in range(count - len(plain))]
    if count > len(plain):
        raise GraphError(f"example inputs: found {count}; the model takes {len(plain)}: {', '.join(plain)}")
    return plain[:count]


def _wanted(result: Any, output: Sequence[str]) -> Tensor | tuple[Tensor, ...]:  # whatever the model returns
    """Return the fields that ``output`` names, else the tensor, the logits or the last hidden state."""
    if isinstance(result, Tensor) and not output:
        return result
    if not isinstance(result, Mapping):
        raise GraphError(f"the model returns {_described(result)}; allowed are one tensor, or a mapping of tensors")
    names = tuple(output) or tuple(name for name in RESULTS if result.get(name) is not None)[:1]
    if not names:
        raise UnknownName("output", " or ".join(RESULTS), result)
    for name in names:
        if not isinstance(result.get(name), Tensor):
            raise UnknownName("output", name, [key for key, item in result.items() if isinstance(item, Tensor)])
    return result[names[0]] if len(names) == 1 else tuple(result[name] for name in names)


def _described(found: object) -> str:
    if isinstance(found, Tensor):
        return "a tensor without axes"
    return f"{len(found)} values" if isinstance(found, tuple | list) else type(found).__name__
