"""What must hold of a graph that comes from a file, before it runs: tensors as records say, calls that fit."""

from __future__ import annotations

import contextlib
import logging
import operator
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, fx

from mase import aten
from mase.errors import GraphError
from mase.formats.base import SHARED
from mase.graph import Graph, OpNode
from mase.ops.base import OPS

REALS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
UNKNOWN = object()  # a value that depends on data


def check_dtype(dtype: torch.dtype, where: str) -> None:
    """Refuse complex and quantized numbers.

    Raises:
        GraphError: the dtype is one of those.
    """
    if dtype not in aten.DTYPES:
        raise GraphError(f"{where}: is {_name(dtype)}; allowed are {', '.join(map(_name, aten.DTYPES))}")


def check_tables(graph: Graph) -> None:
    """Compare the dtype of every tensor with its record, and refuse tensors that nothing reads.

    Raises:
        GraphError: names node or tensor.
    """
    read = {
        key for part in _parts(graph) for node in part.nodes() for key in map(node.record.key, node.record.operands)
    }
    for key, tensor in graph.tensors.items():
        check_dtype(tensor.dtype, f"tensor {key[:80]!r}")
        if key not in read:
            raise GraphError(f"tensor {key[:80]!r}: no node reads it")
    for part in _parts(graph):
        for node in part.nodes():
            _check_operands(node)
        for key, params in part.quant.items():
            for role in SHARED:
                _check_shared(getattr(params, role), role, key)


def _check_operands(node: OpNode) -> None:
    real = OPS[node.kind].weights if node.kind in OPS else ()
    for role, kind in node.record.operands.items():
        dtype = node.tensor(role).dtype
        if _name(dtype) != kind.dtype:
            raise GraphError(f"{node.where()}: {role} is {_name(dtype)}; its record says {kind.dtype}")
        if role in real and dtype not in REALS:
            raise GraphError(f"{node.where()}: {role} is {_name(dtype)}; allowed are {', '.join(map(_name, REALS))}")


def _check_shared(tensor: Tensor | None, role: str, key: str) -> None:
    """Refuse parameters of a format that are not the finite numbers which calibration leaves."""
    if tensor is None:
        return
    wanted = (torch.int64,) if role in ("zero_point", "base") else REALS
    if tensor.dtype not in wanted:
        raise GraphError(
            f"{role} of {key[:80]!r}: is {_name(tensor.dtype)}; allowed is {' or '.join(map(_name, wanted))}"
        )
    if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
        raise GraphError(f"{role} of {key[:80]!r}: holds a number that is not finite")


def check_calls(graph: Graph) -> None:
    """Run every opaque call on tensors that have a shape and no memory: none may fail, or give more than it recorded.

    Raises:
        GraphError: a call does not fit what it is given, its result has another shape than its record says, or is too
            large; names the node.
    """
    opaque = [part for part in _parts(graph) if any(node.kind == "opaque" for node in part.nodes())]
    if not opaque:
        return
    from torch._subclasses.fake_tensor import FakeTensorMode

    with _without_log(), FakeTensorMode(), torch.no_grad():
        for part in opaque:
            _check_part(part)


@contextlib.contextmanager
def _without_log() -> Iterator[None]:
    """Keep PyTorch from printing its own traceback of a call that does not fit: the error names it."""
    log = logging.getLogger("torch._subclasses.fake_tensor")
    before, log.disabled = log.disabled, True
    try:
        yield
    finally:
        log.disabled = before


def _check_part(graph: Graph) -> None:
    known: dict[str, Any] = {}
    for node in graph.nodes():
        if node.kind == "output":
            continue
        known[node.name] = _outlined(node, known) if node.kind == "opaque" else UNKNOWN
        if known[node.name] is UNKNOWN:
            known[node.name] = _recorded(node)


def _outlined(node: OpNode, known: dict[str, Any]) -> Any:
    """Return what an opaque node gives: tensors without memory, or numbers."""
    fx_node = node.node
    args, kwargs = fx.node.map_arg((fx_node.args, fx_node.kwargs), lambda n: known[n.name])
    if any(known[source.name] is UNKNOWN for source in node.inputs):
        return UNKNOWN
    try:
        if not isinstance(fx_node.target, torch._ops.OpOverload):
            _check_plain(fx_node.target, args)
        else:
            aten.check(fx_node.target, args, kwargs)
        aten.guard(fx_node.target, args)
        found = fx_node.target(*args, **kwargs)  # type: ignore[operator]  # loading made it a function
    except NotImplementedError:
        return UNKNOWN
    except (RuntimeError, ValueError, TypeError, IndexError, ArithmeticError) as error:
        if type(error).__name__ in ("DynamicOutputShapeException", "DataDependentOutputException"):
            return UNKNOWN
        text = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise GraphError(f"{node.where()}: does not fit its inputs: {text[:200]}") from None
    _check_result(node, found)
    return found


def _check_plain(function: Any, args: tuple[Any, ...]) -> None:
    """Refuse texts and lists, which Python's operators would repeat or fill."""
    rest = args[1:] if function is operator.getitem else args
    for value in rest if function is not operator.getitem else ():
        if not isinstance(value, bool | int | float | Tensor):
            raise TypeError(f"found {type(value).__name__}; a number or a tensor is needed")
    if function is operator.getitem and not isinstance(args[0], Tensor | list | tuple):
        raise TypeError(f"found {type(args[0]).__name__}; a tensor or several results are needed")


def _check_result(node: OpNode, found: Any) -> None:
    for value in found if isinstance(found, list | tuple) else [found]:
        if isinstance(value, Tensor) and value.numel() > aten.LARGEST:
            raise GraphError(f"{node.where()}: gives {value.numel()} elements; at most {aten.LARGEST}")
        if isinstance(value, int) and abs(value) >= 1 << 63:
            raise GraphError(f"{node.where()}: gives a number of more than 64 bits")
    shape = node.record.output.shape
    if isinstance(found, Tensor) and hasattr(torch, node.record.output.dtype) and tuple(found.shape) != shape:
        raise GraphError(f"{node.where()}: gives shape {tuple(found.shape)}; its record says {shape}")


def _recorded(node: OpNode) -> Any:
    """Return a tensor without memory of the shape that a record says."""
    kind = node.record.output
    dtype = getattr(torch, kind.dtype, None)
    return UNKNOWN if dtype is None else torch.empty(kind.shape, dtype=dtype)


def _parts(graph: Graph) -> Iterator[Graph]:
    """Yield a graph and all bodies in it."""
    yield graph
    for body in graph.bodies.values():
        yield from _parts(body)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
