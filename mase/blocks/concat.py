"""Two streams in turn: one tensor beside another along an axis (hw/concat)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from mase.dataflow.block import Block
from mase.dataflow.part import Part, credit_fifo
from mase.dataflow.schedule import OUT, Actor, Loop, Schedule, Step
from mase.dataflow.stream import StreamType
from mase.dataflow.work import Count, Work
from mase.formats import Code
from mase.formats.grid import Grid

A, B = "a", "b"


@dataclass(frozen=True, eq=False)
class Concat(Block):
    """Join each of ``outer`` parts of a with that of b.

    Args:
        a, b: streams of one grid, with equal lanes. outer: parts of a sample: the product of the axes before the one
            that grows.
        wide: a part is a row, and the columns of b follow those of a, which fill whole beats, in the same row. Else a
            part is some rows, and both have equal columns.
    """

    a: StreamType
    b: StreamType
    outer: int
    wide: bool
    sv_module: ClassVar[str] = "mase_concat"

    def __post_init__(self) -> None:
        a, b = self.a, self.b
        assert a.grid == b.grid and a.lanes == b.lanes
        if self.wide:
            assert a.rows == b.rows == self.outer and a.cols % a.lanes == 0
            assert a.cols % max(1, a.grid.block) == 0
        else:
            assert a.cols == b.cols and a.rows % self.outer == b.rows % self.outer == 0

    @property
    def inputs(self) -> Mapping[str, StreamType]:
        return {A: self.a, B: self.b}

    @property
    def outputs(self) -> Mapping[str, StreamType]:
        a, b = self.a, self.b
        if self.wide:
            return {OUT: StreamType(a.rows, a.cols + b.cols, a.lanes, a.grid)}
        return {OUT: StreamType(a.rows + b.rows, a.cols, a.lanes, a.grid)}

    def compute(self, *inputs: Code) -> tuple[Code, ...]:
        a, b = inputs
        if a.exponent is None or b.exponent is None:
            return (Code(self._joined(a.mantissa, b.mantissa)),)
        return (Code(self._joined(a.mantissa, b.mantissa), self._joined(a.exponent, b.exponent)),)

    def _joined(self, a: Tensor, b: Tensor) -> Tensor:
        if self.wide:
            return torch.cat((a, b), -1)
        parts = [x.reshape(len(x), self.outer, -1, x.shape[-1]) for x in (a, b)]
        return torch.cat(parts, 2).flatten(1, 2)

    def schedule(self) -> Schedule:
        sides = [(port, stream.beats // self.outer) for port, stream in self.inputs.items()]
        body = tuple(Loop(beats, (Step((port,), (port,), (OUT,), (OUT,)),)) for port, beats in sides)
        ports = {port: ("", port) for port in (A, B, OUT)}
        return Schedule((Actor("", (Loop(self.outer, body),), {OUT: self.latency}),), ports=ports)

    def sv_params(self) -> Mapping[str, int]:
        return {
            "Width": self.a.bits,
            "Outer": self.outer,
            "BeatsA": self.a.beats // self.outer,
            "BeatsB": self.b.beats // self.outer,
            "FifoDepth": self.fifo,
        }

    def part(self) -> Part:
        a, b = (stream.beats // self.outer for stream in (self.a, self.b))
        return concat_part(self.a.grid, self.a.lanes, self.outer, a, b, self.fifo)


def beat_bits(grid: Grid, lanes: Count) -> Count:
    """Return the bits of a beat at any number of lanes."""
    if not grid.block:
        return lanes * grid.width
    return lanes * grid.width + (lanes // grid.block + (lanes < grid.block)) * grid.exp_bits


def concat_part(grid: Grid, lanes: Count, outer: int, a: Count, b: Count, fifo: Count) -> Part:
    """Return what a concat is made of at any number of lanes, for beats of each part of a and b."""
    bits = beat_bits(grid, lanes)
    most = a * (a >= b) + b * (a < b)
    return Part(Work(muxes=((bits, 2),), registers=1, counters=(most, outer))) >> credit_fifo(bits + 1, fifo)
