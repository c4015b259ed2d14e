"""The examples that travel along while an ONNX file is read: two batches of sizes that the file does not name."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

SMALL = 16  # elements: shapes, pads and the like; greater tensors are weights
HIGHEST = 64  # greatest size that is tried


def batch_sizes(model: Any) -> tuple[int, int]:
    """Return two primes that occur nowhere in the file as a size or as a number, where there are such."""
    taken = set(_numbers(model.graph))
    primes = [n for n in range(3, HIGHEST) if all(n % k for k in range(2, n))]
    found = [n for n in primes if n not in taken] or primes
    return (found[0], found[1]) if len(found) > 1 else (primes[-2], primes[-1])


def _numbers(graph: Any) -> Iterator[int]:
    """Give the sizes and the small numbers that stand in a graph."""
    for value in (*graph.input, *graph.output, *graph.value_info):
        yield from (dim.dim_value for dim in value.type.tensor_type.shape.dim)
    for tensor in graph.initializer:
        yield from _of_tensor(tensor)
    for node in graph.node:
        for attribute in node.attribute:
            yield from (attribute.i, *attribute.ints)
            yield from (int(f) for f in (attribute.f, *attribute.floats) if f == f and abs(f) < HIGHEST)
            if attribute.HasField("t"):
                yield from _of_tensor(attribute.t)
            if attribute.HasField("g"):
                yield from _numbers(attribute.g)


def _of_tensor(tensor: Any) -> Iterator[int]:
    from onnx import numpy_helper

    yield from tensor.dims
    if math.prod(tensor.dims) > SMALL:
        return
    try:
        array = numpy_helper.to_array(tensor)
    except Exception:  # noqa: BLE001  # the helper raises errors of every kind; where the tensor is read, it is refused
        return
    if array.dtype.kind in "iuf":
        yield from (int(v) for v in array.ravel().tolist() if v == v and abs(v) < HIGHEST)


def examples(dtype: torch.dtype, shapes: Sequence[Sequence[int]], generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return an example input on both batches: normal numbers, small whole ones, or true; see :func:`rows`."""
    first, second = shapes
    if dtype.is_floating_point:
        x = torch.randn(first, generator=generator).to(dtype)
    else:
        x = torch.randint(0 if dtype != torch.bool else 1, 2, first, generator=generator).to(dtype)
    return x, x if first == second else x[rows(first[0], second[0])]


def rows(first: int, second: int) -> Tensor:
    """Return which sample of the first example each sample of the second one is: in another order, some twice."""
    return (3 * torch.arange(second) + 1) % first
