"""Write down what a design promises of its cycles, and all facts that this rests on (``certificate.json``).

:mod:`emit.certificate` checks it without anything else of this project.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from itertools import count
from typing import Any

from emit import certificate
from mase.dataflow.schedule import Actor, Channel, Loop, Network, Step
from mase.dataflow.sizing import needs
from mase.netlist import Netlist

Facts = dict[str, Any]  # JSON
SAMPLES = 24  # of the run that shows the interval of a design whose FIFOs are not deep enough for the blocks' own
LAGS = 6  # samples after which the distance between two of them may repeat


def certify(netlist: Netlist, top: str, instances: Mapping[str, str]) -> Facts:
    """Return the certificate of a design.

    Args:
        instances: name in the RTL by name in the netlist.

    Raises:
        GraphError: the design stops; says who waits for whom.
    """
    actors, channels = netlist.network()
    facts: Facts = {
        "schema": certificate.SCHEMA,
        "top": top,
        "instances": {instances[i.name]: dict(i.block.sv_params()) for i in netlist.instances},
        "actors": [_actor(actor) for actor in actors],
        "wires": _wires(netlist, actors, channels, instances),
    }
    kept = Fraction(netlist.interval())
    steady = Network(tuple(actors), tuple(channels)).steady(SAMPLES)
    if steady is None or steady > kept:  # what repeats for ever is proof enough: the checker need not run here
        kept = next(i for i in _intervals(netlist) if not certificate.prove(facts, i.denominator, i.numerator))
    return {**facts, "interval": {"samples": kept.denominator, "cycles": kept.numerator}}


def _intervals(netlist: Netlist) -> Iterator[Fraction]:
    """Yield what the interval may be, the likeliest first; from some number on the proof holds."""
    yield Fraction(netlist.interval())
    ends = netlist.timing(SAMPLES).completions
    for lag in range(1, LAGS + 1):  # where FIFOs are not deep enough for that
        yield Fraction(ends[-1] - ends[-1 - lag], lag)
    for more in count():
        yield Fraction(ends[-1] - ends[-2] + (1 << more))


def _actor(actor: Actor) -> Facts:
    return {"name": actor.name, "latency": dict(actor.latency), "body": [_item(item) for item in actor.body]}


def _item(item: Step | Loop) -> Facts:
    if isinstance(item, Loop):
        return {"times": item.count, "body": [_item(inner) for inner in item.body]}
    actions: Facts = {name: list(ports) for name in certificate.ACTIONS if (ports := getattr(item, name))}
    return actions if item.dwell == 1 else {**actions, "dwell": item.dwell}


def _wires(
    netlist: Netlist, actors: Sequence[Actor], channels: Sequence[Channel], instances: Mapping[str, str]
) -> list[Facts]:
    """Return each channel with the parameter that sets its capacity and the pins that the RTL joins there."""
    outputs = {netlist.place(pin): pin for pin in netlist.fifos()}
    sinks = {wire.source: wire.sink for wire in netlist.circuit.wires}
    out = []
    for channel, need in zip(channels, needs(actors, channels), strict=True):
        pin, instance = outputs.get(channel.source), channel.source[0].partition("/")[0]
        key = channel.parameter if pin is None else netlist.circuit.blocks[pin.block].fifo_parameter(pin.port)
        ends = [pin, sinks[pin]] if pin is not None and pin in sinks else []
        facts: Facts = {
            "from": list(channel.source),
            "to": list(channel.sink),
            "capacity": channel.depth,
            "need": need,
            "parameter": [instances[instance], key] if key else None,
            "pins": [[instances[end.block], end.port] for end in ends] or None,
        }
        out.append(facts)
    return out
