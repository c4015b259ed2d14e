"""Blocks joined by wires: the inside of a node, and a whole design."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, Self

from mase.dataflow.block import Block
from mase.dataflow.stream import StreamType
from mase.formats import Code


class Pin(NamedTuple):
    """A port of a block, by name."""

    block: str
    port: str


class Wire(NamedTuple):
    """Lead the stream of an output to the input that takes it; a stream that several take goes through a fork."""

    source: Pin
    sink: Pin


@dataclass(frozen=True, eq=False)
class Circuit:
    """Blocks, the wires between them, and the pins that lead outside.

    Args:
        blocks: by name, every block after those that it takes from. wires: between blocks.
        inputs: pins that the circuit is fed by, in order. outputs: pins that it gives by, in order.
    """

    blocks: Mapping[str, Block]
    wires: tuple[Wire, ...]
    inputs: tuple[Pin, ...]
    outputs: tuple[Pin, ...]

    @classmethod
    def chain(cls, blocks: Mapping[str, Block]) -> Self:
        """Join blocks with one input and one output in a row."""
        ins = [Pin(name, port) for name, block in blocks.items() for port in block.inputs]
        outs = [Pin(name, port) for name, block in blocks.items() for port in block.outputs]
        wires = tuple(Wire(source, sink) for source, sink in zip(outs, ins[1:], strict=False))
        return cls(dict(blocks), wires, tuple(ins[:1]), tuple(outs[-1:]))

    @property
    def takes(self) -> tuple[StreamType, ...]:
        """Streams that enter, in order of ``inputs``."""
        return tuple(self.blocks[pin.block].inputs[pin.port] for pin in self.inputs)

    @property
    def gives(self) -> tuple[StreamType, ...]:
        """Streams that leave, in order of ``outputs``."""
        return tuple(self.blocks[pin.block].outputs[pin.port] for pin in self.outputs)

    def run(self, *inputs: Code) -> dict[Pin, Code]:
        """Return the codes of every output of every block, from those of each input ``[samples, rows, cols]``."""
        fed = dict(zip(self.inputs, inputs, strict=True))
        sources = {wire.sink: wire.source for wire in self.wires}
        found: dict[Pin, Code] = {}
        for name, block in self.blocks.items():
            pins = [Pin(name, port) for port in block.inputs]
            given = block.compute(*(fed[pin] if pin in fed else found[sources[pin]] for pin in pins))
            found |= {Pin(name, port): code for port, code in zip(block.outputs, given, strict=True)}
        return found
