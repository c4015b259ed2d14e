"""Say why a design would stop: two paths that meet again, one of which holds less than is on its way on the other."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from mase.dataflow.circuit import Pin
from mase.dataflow.schedule import Deadlock, Timing, attempt
from mase.errors import UnsupportedOp
from mase.netlist import Netlist, sized


def timed(netlist: Netlist, tensors: int) -> Timing:
    """Return the cycles of some samples, as :meth:`Netlist.timing` does.

    Raises:
        UnsupportedOp: the design stops; names the two paths, the FIFO that is too short and the depth that it needs.
    """
    found = attempt(*netlist.network(), tensors)
    if isinstance(found, Timing):
        return found
    raise UnsupportedOp(_explained(netlist, found))


def _explained(netlist: Netlist, found: Deadlock) -> str:
    full = [pin for pin in netlist.fifos() if any(netlist.place(pin) == wait.channel.source for wait in found.waits)]
    forks = [pin for pin in full if len(netlist.circuit.blocks[pin.block].outputs) > 1]
    for pin in forks:
        for port in netlist.circuit.blocks[pin.block].outputs:
            if port != pin.port and (meeting := _paths(netlist, pin, Pin(pin.block, port))):
                short, long = (" -> ".join(path) for path in meeting)
                depth = netlist.depths()[pin]
                where = netlist.graph.node(meeting[0][-1]).where()
                return (
                    f"{where}: the design would stop, since two paths meet here and one is too short: {short} has "
                    f"a FIFO of {depth} beats and needs {sized(netlist)[pin]} while {long} fills; "
                    "the map pass gives that depth"
                )
    return f"graph: the design stops before its end: {found}"


def _paths(netlist: Netlist, one: Pin, other: Pin) -> tuple[Sequence[str], Sequence[str]] | None:
    """Return the nodes on the shortest ways from two outputs of a fork to the first block where they meet."""
    first, second = _reached(netlist, one), _reached(netlist, other)
    meeting = next((block for block in first if block in second), None)
    if meeting is None:
        return None
    start = _node(netlist, one.block)
    return tuple([start, *_nodes(netlist, ways[meeting])] for ways in (first, second))  # type: ignore[return-value]


def _reached(netlist: Netlist, start: Pin) -> dict[str, list[str]]:
    """Return the blocks behind a pin, the nearest first, each with the blocks on the way to it."""
    found: dict[str, list[str]] = {}
    pending = deque([(start, list[str]())])
    while pending:
        pin, way = pending.popleft()
        for wire in netlist.circuit.wires:
            if wire.source == pin and wire.sink.block not in found:
                block = wire.sink.block
                found[block] = [*way, block]
                pending += [(Pin(block, port), found[block]) for port in netlist.circuit.blocks[block].outputs]
    return found


def _node(netlist: Netlist, block: str) -> str:
    return next(i.node for i in netlist.instances if i.name == block)


def _nodes(netlist: Netlist, blocks: Sequence[str]) -> list[str]:
    """Return the graph nodes of blocks in a row, each once."""
    return list(dict.fromkeys(_node(netlist, block) for block in blocks))
