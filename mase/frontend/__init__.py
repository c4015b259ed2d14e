"""The way in: any model becomes a checked Graph of the same kinds of nodes, whatever door it comes through."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from mase.errors import UnknownName
from mase.frontend.check import check_model
from mase.frontend.report import TraceReport
from mase.graph import Graph

Front = Literal["auto", "module", "export"]
FRONTS = ("auto", "module", "export")
Inputs = Tensor | Sequence[Any] | Mapping[str, Any]  # tensors, and plain constants of the model's arguments


def trace(
    model: nn.Module | str | Path,
    example_inputs: Inputs = (),
    front: Front = "auto",
    output: str | int | Sequence[str | int] | None = None,
    dynamic: Iterable[str] = (),
) -> tuple[Graph, TraceReport]:
    """Trace a model in evaluation mode, and check the graph against it on the example and on a second random input.

    Args:
        model: a module, or the path of an ONNX file, whose inputs are its own.
        example_inputs: a tensor, one argument each in a tuple, or arguments by name; axis 0 is the batch.
        front: ``module`` for plain modules, ``export`` for models of the transformers library; ``auto`` asks
            :func:`door`.
        output: which of several results the graph gives: a name or a place; several of them for :meth:`Graph.fields`.
        dynamic: axes whose size must be free: ``batch``, ``seq`` (the second axis).

    Raises:
        GraphError: the model cannot be traced, or its graph computes something else.
        ConfigError: ``front`` or ``dynamic`` is unknown.
    """
    if front not in FRONTS:
        raise UnknownName("front", front, FRONTS)
    if isinstance(model, str | Path):
        from mase.frontend.onnx import load

        return load(model)
    from mase.frontend.onnx import OnnxModel

    if isinstance(model, OnnxModel):  # a graph already
        return model.traced()
    model = getattr(model, "_orig_mod", model)  # of torch.compile
    check_model(model)
    chosen = door(model) if front == "auto" else front
    if chosen == "export":
        from mase.frontend.export import trace_export

        return trace_export(model, example_inputs, output=output, dynamic=dynamic)
    from mase.frontend.module import trace_module

    return trace_module(model, example_inputs, output=output, dynamic=dynamic)


def door(model: nn.Module) -> Literal["module", "export"]:
    """Return the front door of a model: ``export`` where it is, or holds, a model of the transformers library."""
    foreign = any(
        cls.__name__ == "PreTrainedModel" and cls.__module__.startswith("transformers.")
        for m in model.modules()
        for cls in type(m).__mro__
    )
    return "export" if foreign else "module"
