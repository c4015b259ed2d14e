"""One stream for two consumers, each behind a FIFO of its own (hw/fork)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from mase.dataflow.block import Block
from mase.dataflow.schedule import IN, Actor, Loop, Schedule, Step
from mase.dataflow.stream import StreamType
from mase.dataflow.work import Work
from mase.formats import Code

A, B = "a", "b"
LATENCY = 1  # a beat lies in both FIFOs one cycle after it was taken, so FIFOs of depth 2 keep a beat a cycle


@dataclass(frozen=True, eq=False)
class Fork(Block):
    """Give each beat twice.

    A beat is taken once both FIFOs have a slot for it, and leaves each when its reader takes it.

    Args:
        stream: of the input and of both outputs. depths: of the FIFO behind ``a`` and of that behind ``b``, in beats;
            by default both are ``fifo``.
    """

    stream: StreamType
    depths: Mapping[str, int] = field(default_factory=dict)
    sv_module: ClassVar[str] = "mase_fork"

    @property
    def inputs(self) -> Mapping[str, StreamType]:
        return {IN: self.stream}

    @property
    def outputs(self) -> Mapping[str, StreamType]:
        return {A: self.stream, B: self.stream}

    def depth(self, port: str) -> int:
        return self.depths.get(port, self.fifo)

    def compute(self, *inputs: Code) -> tuple[Code, ...]:
        return inputs[0], inputs[0]

    def schedule(self) -> Schedule:
        step = Step((IN,), (IN,), (A, B), (A, B))
        actor = Actor("", (Loop(self.stream.beats, (step,)),), {A: LATENCY, B: LATENCY})
        return Schedule((actor,), ports={port: ("", port) for port in (IN, A, B)})

    def sv_params(self) -> Mapping[str, int]:
        depths = {"DepthA": self.depth(A), "DepthB": self.depth(B)}
        return {"Width": self.stream.bits, "Beats": self.stream.beats, **depths}

    def work(self) -> Work:
        fifos = tuple((self.stream.bits + 1, self.depth(port)) for port in (A, B))
        return Work(fifos=fifos, counters=(self.stream.beats,))
