"""Nodes of an ONNX file whose inputs are all known: computed while the file is read, on both examples of a batch.

What follows from the size of the batch is kept apart by its two values. It may be moved, added and multiplied; whatever
could turn out in another way on a third size, such as a comparison, is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from mase.errors import UnsupportedOp
from mase.frontend.onnx_builder import Builder, Constant, Step, as_tensor
from mase.frontend.onnx_judge import Judge
from mase.frontend.onnx_rules import LOOPS, check_size, folded_size, one_line

FOLLOWS: Mapping[str, Sequence[int]] = {
    "Shape": (0,),
    "Size": (0,),
    "Gather": (0,),
    "Slice": (0,),
    "Squeeze": (0,),
    "Unsqueeze": (0,),
    "Flatten": (0,),
    "Transpose": (0,),
    "Identity": (0,),
    "Neg": (0,),
    "Cast": (0,),
    "ReduceProd": (0,),
    "ReduceSum": (0,),
    "ConstantOfShape": (0,),
    "Reshape": (0, 1),
    "Expand": (0, 1),
    "Tile": (0, 1),
    "Add": (0, 1),
    "Sub": (0, 1),
    "Mul": (0, 1),
    "Div": (0, 1),
    "Equal": (0, 1),
    "Where": (1, 2),
}  # operator -> inputs that may follow from the batch: two sizes say what it gives for a third
EVERY = ("Concat", "Sum")  # operators of which each input may


def enter(builder: Builder, name: str, arrays: tuple[Any, Any], own: str = "") -> None:
    """Enter a constant by its values on both examples."""
    first, second = arrays
    same = first is second or (first.shape == second.shape and bool((first == second).all()))
    varied = None if same or first.size + second.size == 0 else as_tensor(second)
    builder.values[name], builder.dtypes[name] = Constant(as_tensor(first), own, varied=varied), first.dtype.name


def fold(builder: Builder, step: Step, model: Any) -> None:
    """Compute a node whose inputs are all known.

    Raises:
        UnsupportedOp: the evaluator cannot, or the result could turn out in another way on a batch of another size.
    """
    names = [name for name in step.inputs if name]
    constants = [builder.values[name] for name in names]
    varied = any(isinstance(value, Constant) and value.varied is not None for value in constants)
    feeds = [{name: _array(builder, name, which) for name in names} for which in ((0, 1) if varied else (0,))]
    check_size(f"{step.where()}: result", folded_size(step.type, feeds[-1], step.inputs))
    if step.type in LOOPS:
        raise step.refuse("is a loop; allowed are operators without a body")
    if varied:
        _check_follows(builder, step, feeds)
    found = [_run(step, model, feed) for feed in feeds]
    for name, first, second in zip((name for name in step.outputs if name), found[0], found[-1], strict=True):
        if not isinstance(first, np.ndarray | np.generic):
            raise step.refuse(f"gives {name!r}, which is not a tensor; allowed are tensors, not sequences or optionals")
        check_size(f"{step.where()}: {name!r}", second.shape)
        try:
            enter(builder, name, (first, second))
        except UnsupportedOp as error:
            raise step.refuse(f"gives {name!r}, a {error}") from error


def _run(step: Step, model: Any, feeds: Mapping[str, Any]) -> list[Any]:
    """Compute a node with ONNX's reference evaluator."""
    import onnx

    inputs = [onnx.helper.make_empty_tensor_value_info(name) for name in feeds]
    outputs = [onnx.helper.make_empty_tensor_value_info(name) for name in step.outputs if name]
    graph = onnx.helper.make_graph([step.proto], "fold", inputs, outputs)
    try:
        alone = onnx.helper.make_model(graph, opset_imports=model.opset_import)
        return list(Judge(alone, 0.0).run(feeds))
    except Exception as error:  # the evaluator raises errors of every kind
        raise step.refuse(f"cannot be computed from constants: {one_line(error)}") from error


def _array(builder: Builder, name: str, which: int) -> Any:
    """Return a constant, on one of the examples, as the file's own type of array."""
    value = builder.values[name]
    assert isinstance(value, Constant)
    tensor = value.both()[which]
    array = tensor.numpy() if tensor.dtype != torch.bfloat16 else tensor.float().numpy()
    wanted = builder.dtypes.get(name, array.dtype.name)
    if wanted == array.dtype.name or value.format is not None:
        return array
    import ml_dtypes

    return array.astype(np.dtype(getattr(ml_dtypes, wanted, wanted)))


def _check_follows(builder: Builder, step: Step, feeds: Sequence[Mapping[str, Any]]) -> None:
    """Refuse an operator whose result on a batch of a third size does not follow from those on two."""
    for index, name in enumerate(step.inputs):
        value = builder.values.get(name)
        if not isinstance(value, Constant) or value.varied is None or builder.one_row(value) is not None:
            continue  # the same, or the same row for each sample
        if step.type not in EVERY and index not in FOLLOWS.get(step.type, ()):
            raise step.refuse(f"input {index} ({name!r}) follows from the size of the batch, which is free")
    pairs = [(feeds[0][name], feeds[1][name]) for name in step.inputs if name]
    if any(a.shape != b.shape for pair in pairs for a, b in [pair]):
        return  # rows for each sample
    checks = {"Cast": _cast, "Div": _divided, "Equal": _equal}
    if step.type in checks and (reason := checks[step.type](builder, step, pairs)):
        raise step.refuse(f"{reason} that follows from the size of the batch, which is free")


Pairs = Sequence[tuple[Any, Any]]


def _cast(builder: Builder, step: Step, pairs: Pairs) -> str:
    """Numbers stay what they are: whole ones as integers."""
    import onnx

    kind = onnx.helper.tensor_dtype_to_np_dtype(step.attrs["to"]).kind
    whole = all(bool((array == np.trunc(array)).all()) for array in pairs[0])
    return "" if kind == "f" or (kind in "iu" and whole) else "cuts off a number"


def _divided(builder: Builder, step: Step, pairs: Pairs) -> str:
    """Whole numbers divide without a rest."""
    (a, c), (b, d) = pairs
    if a.dtype.kind == "f":
        return ""
    exact = all(bool((y != 0).all()) and bool((x % y == 0).all()) for x, y in ((a, b), (c, d)))
    return "" if exact else "rounds a quotient"


def _equal(builder: Builder, step: Step, pairs: Pairs) -> str:
    """Sizes, which are 1 or more for a batch of one, are never 0 or less."""
    (a, c), (b, d) = (tuple(x.astype(float) for x in pair) for pair in pairs)
    gap, slope = a - b, (c - d - (a - b)) / (builder.batches[1] - builder.batches[0])
    least = gap - slope * (builder.batches[0] - 1)  # on a batch of one
    never = ((slope > 0) & (least > 0)) | ((slope < 0) & (least < 0))
    return "" if bool(((slope == 0) | never).all()) else "compares a number"
