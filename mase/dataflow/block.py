"""What an RTL block is: streams, arithmetic, firing program, parameters, memories, and what it is made of."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar

import numpy as np
import numpy.typing as npt
from torch import Tensor

from mase.dataflow.part import Part
from mase.dataflow.schedule import IN, OUT, Schedule
from mase.dataflow.stream import StreamType
from mase.dataflow.work import Work
from mase.formats import Code

LEAST_FIFO = 2  # a FIFO of depth 1 halves the rate


@dataclass(frozen=True, eq=False)
class MemoryImage:
    """Hold the words of a ROM: ``words`` as Python integers, word 0 first, each of ``width`` bits."""

    width: int
    words: Sequence[int]
    layout: str

    @property
    def depth(self) -> int:
        """Number of words."""
        return len(self.words)

    def text(self) -> str:
        """Return the ``$readmemh`` file: one hexadecimal word a line."""
        digits = -(-self.width // 4)
        return "".join(f"{word:0{digits}x}\n" for word in self.words)


@dataclass(frozen=True, eq=False)
class Block(ABC):
    """One RTL instance: streams in, streams out, exact arithmetic, exact cycles.

    Its ports are those of the module: port ``a`` has the signals ``a_valid_i``, ``a_ready_o`` and ``a_data_i`` where
    it is an input, and ``a_valid_o``, ``a_ready_i``, ``a_data_o`` and ``a_last_o`` where it is an output.
    ``Schedule.ports`` says which actor stands behind each. Every output ends in a FIFO.

    Args:
        fifo: depth of the output FIFO, in beats.
    """

    fifo: int = field(default=LEAST_FIFO, kw_only=True)
    sv_module: ClassVar[str]

    @property
    @abstractmethod
    def inputs(self) -> Mapping[str, StreamType]:
        """Streams that the block takes, by port."""

    @property
    @abstractmethod
    def outputs(self) -> Mapping[str, StreamType]:
        """Streams that the block gives, by port."""

    def depth(self, port: str) -> int:  # of a block with several outputs each has its own
        """Return the depth of the FIFO behind an output, in beats."""
        return self.fifo

    def fifo_parameter(self, port: str) -> str:
        """Return the name of the RTL parameter that holds :meth:`depth`."""
        return "FifoDepth" if len(self.outputs) == 1 else f"Depth{port.upper()}"

    @abstractmethod
    def compute(self, *inputs: Code) -> tuple[Code, ...]:
        """Return the codes that leave by each output, exactly as the RTL computes them.

        Args:
            inputs: codes ``[samples, rows, cols]`` of each input, in order of ``inputs``.
        """

    def inside(self, *inputs: Code) -> tuple[Tensor, Callable[[int], str]] | None:
        """Return the exact integers ``[samples, rows, cols]`` that are rounded, and what says how a column's are.

        None of a block that computes without an accumulator.
        """
        return None

    @abstractmethod
    def schedule(self) -> Schedule:
        """Return the firing program."""

    @abstractmethod
    def sv_params(self) -> Mapping[str, int]:
        """Return the module's parameters but those that name memories."""

    def memories(self) -> Mapping[str, MemoryImage]:
        """Return ROM images by the parameter that names their file."""
        return {}

    @abstractmethod
    def part(self) -> Part:
        """Return what the block is made of, and its cycles from a firing to its output beat."""

    @cached_property
    def _part(self) -> Part:
        return self.part()

    def work(self) -> Work:
        """Return what the block is made of."""
        return self._part.work

    @property
    def latency(self) -> int:
        """Cycles from the firing of an output beat to its being offered."""
        return int(self._part.latency)


@dataclass(frozen=True, eq=False)
class Pipe(Block):
    """A block with one input, ``in``, and one output, ``out``."""

    @property
    @abstractmethod
    def stream_in(self) -> StreamType:
        """Stream that the block takes."""

    @property
    @abstractmethod
    def stream_out(self) -> StreamType:
        """Stream that the block gives."""

    @property
    def inputs(self) -> Mapping[str, StreamType]:
        return {IN: self.stream_in}

    @property
    def outputs(self) -> Mapping[str, StreamType]:
        return {OUT: self.stream_out}


def pack_words(codes: npt.NDArray[np.int64], width: int) -> list[int]:
    """Pack ``[words, lanes]`` integers into words of ``lanes * width`` bits, lane 0 lowest."""
    mask = (1 << width) - 1
    return [sum((int(code) & mask) << i * width for i, code in enumerate(word)) for word in codes]
