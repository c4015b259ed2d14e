"""Export a model as a graph of ATen calls, and say where in the model's code an error comes from."""

from __future__ import annotations

import linecache
import traceback
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType, TracebackType

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from mase.errors import GraphError
from mase.frontend.check import Example, Output, eager, fields, first_line, plain_attention
from mase.frontend.lift.nodes import OWN


class Call(nn.Module):
    """Call a model with the tensors of an example by place, and return the wanted tensors alone.

    Args:
        model: any module. example: names of the tensors, and constants. output: see :func:`mase.frontend.check.fields`.
    """

    def __init__(self, model: nn.Module, example: Example, output: Output) -> None:
        super().__init__()
        self.model, self.example, self.output = model, example, output

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        example = self.example.having(dict(zip(self.example.tensors, tensors, strict=True)))
        return tuple(fields(example.call(self.model), self.output).values())


def run_eagerly(model: nn.Module, example: Example, output: Output) -> dict[str, Tensor]:
    """Return what the model computes.

    Raises:
        GraphError: it fails on the example, or gives something else than tensors; names module and source line.
    """
    try:
        return eager(model, example, output)
    except GraphError:
        raise
    except Exception as error:  # the model's own code runs here and may raise anything
        raise GraphError(f"{place(error, model)}: fails on the example inputs: {first_line(error)}") from error


def capture(model: nn.Module, example: Example, output: Output, axes: Mapping[str, Sequence[str]]) -> ExportedProgram:
    """Export a model without gradients.

    Args:
        example: tensors that become inputs; free axes are at least 2 long. axes: names of the free ones by input.

    Raises:
        GraphError: control flow depends on data, an axis cannot be free, or an operation cannot be exported; names
            module and source line.
    """
    specs = tuple({i: Dim.AUTO for i, name in enumerate(axes[key]) if name} for key in example.tensors)
    call = Call(model, example, output).eval()
    try:
        with torch.no_grad(), plain_attention(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch about its own parts; ours come as errors
            return torch.export.export(
                call, tuple(example.tensors.values()), dynamic_shapes=(specs,) if any(specs) else None, strict=False
            )
    except Exception as error:  # torch wraps whatever the model's code raises
        text = "".join(traceback.format_exception_only(error))
        if "data-dependent" in text.lower() or "DataDependent" in type(error).__name__:
            why = "control flow or a shape depends on the values of tensors; it may depend on shapes and settings only"
        else:
            why = f"cannot be exported: {first_line(error)}"
        raise GraphError(f"{place(error, model)}: {why}") from error


def place(error: BaseException, model: nn.Module) -> str:
    """Return module path and source line of the model's innermost frame in an error's history."""
    names = {id(module): path for path, module in model.named_modules()}
    best = max((_frames(one.__traceback__) for one in _history(error)), key=len)
    callers = [id(frame.f_locals.get("self")) for frame, _ in reversed(best)]
    path = next((names[caller] for caller in callers if caller in names), "")
    where = f"module {path!r}" if path else type(model).__name__
    if not best:
        return where
    frame, line = best[-1]
    file = frame.f_code.co_filename
    code = linecache.getline(file, line).strip()
    return f"{where} ({Path(file).name}:{line}{f': {code}' if code else ''})"


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
