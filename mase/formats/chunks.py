"""Cache-sized work: views of a few tensors side by side, and buffers that are used again for each."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

CHUNK = 1 << 19  # elements: long, so that calls cost little beside their work; a few float32 buffers still fit a cache


def chunks(tensors: tuple[Tensor, ...], limit: int, whole: int = 0) -> Iterator[tuple[Tensor, ...]]:
    """Yield matching views of at most ``limit`` elements that together cover the tensors.

    Args:
        tensors: of any strides; the others broadcast against the first, with as many dimensions.
        limit: most elements of a view, unless its unsplit dimensions alone have more.
        whole: trailing dimensions that are never split.
    """
    first = tensors[0]
    if first.numel() <= limit or first.ndim == whole:
        if first.numel():
            yield tensors
        return
    inner = math.prod(first.shape[1:])
    if inner > limit and first.ndim - 1 > whole:
        for i in range(first.shape[0]):
            yield from chunks(tuple(t[i % t.shape[0]] for t in tensors), limit, whole)
        return
    step = max(1, limit // max(1, inner))
    for start in range(0, first.shape[0], step):
        yield tuple(t[start : start + step] if t.shape[0] > 1 else t for t in tensors)


class Scratch:
    """A few float32 buffers, allocated on first use and used again for every chunk."""

    def __init__(self) -> None:
        self._buffers: dict[int, Tensor] = {}

    def take(self, index: int, shape: Sequence[int]) -> Tensor:
        """Return buffer ``index`` as a contiguous float32 tensor; its content is whatever was left there."""
        size = math.prod(shape)
        buffer = self._buffers.get(index)
        if buffer is None or buffer.numel() < size:
            buffer = self._buffers[index] = torch.empty(max(size, 1))
        return buffer[:size].view(tuple(shape))
