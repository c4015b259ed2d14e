"""The least FIFO depths that keep the interval of unbounded FIFOs (docs/arithmetic.md, "FIFO depths")."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction

from mase.dataflow import compiled
from mase.dataflow.block import LEAST_FIFO
from mase.dataflow.schedule import OUT, Actor, Channel, Deadlock, Loop, Network, Step, Timing, programs, shortened
from mase.dataflow.sweeps import Port, balanced, peaks
from mase.errors import GraphError

UNBOUNDED = 1 << 40  # slots of a FIFO that is not sized yet
LEAST_TENSORS = 6  # of a run that shows a steady interval


def least_depths(actors: Sequence[Actor], channels: Sequence[Channel], fifos: Sequence[int]) -> list[int]:
    """Return the depths of those channels that ``fifos`` lists by index; the others keep theirs.

    In a chain they are least in the order of ``fifos``: each is the least while those after it are unbounded. Where
    paths meet again, each is the least while those after it have what a paced run needs.

    Each trial run lasts twice the time to the first output, and its second half decides: a FIFO that is too short stops
    its producer once for each time that a slot takes to come back, which is less. Trials run on parts of tensors, rows
    mostly (:func:`mase.dataflow.schedule.shortened`); a run four times as long confirms the depths, or the trials get
    longer.

    Raises:
        GraphError: the network stops at any depths.
    """
    network = _Network(shortened(actors)[0], channels, fifos)
    unbounded = [UNBOUNDED] * len(fifos)
    free = network.run(unbounded, LEAST_TENSORS)
    if isinstance(free, Deadlock):
        raise GraphError(f"schedule stops before it ends, at any FIFO depths: {free}")
    tensors = max(LEAST_TENSORS, 2 * math.ceil(free.first / free.interval) + 2)
    while True:
        target = network.interval(unbounded, tensors)
        needs = network.needs(math.ceil(target), tensors)
        start = unbounded if network.chain or not network.keeps(needs, tensors, target) else needs
        found = _least(network, start, needs, tensors, target)
        if network.keeps(found, 4 * tensors, target):
            return found
        tensors *= 2


def needs(actors: Sequence[Actor], channels: Sequence[Channel]) -> list[int]:
    """Return the least depth of each channel that keeps the interval while all others stay as they are.

    Raises:
        GraphError: the network stops.
    """
    network = _Network(shortened(actors)[0], channels, range(len(channels)))
    depths = [channel.depth for channel in channels]
    first = network.run(depths, LEAST_TENSORS)
    if isinstance(first, Deadlock):
        raise GraphError(f"schedule stops before it ends: {first}")
    tensors = 4 * max(LEAST_TENSORS, 2 * math.ceil(first.first / first.interval) + 2)
    target, found = network.interval(depths, tensors), list(depths)
    for at, depth in enumerate(depths):
        low, high = min(depth, LEAST_FIFO), depth
        middle = depth - 1  # mostly not enough: depths are the least already
        while low < high:
            if network.keeps([*depths[:at], middle, *depths[at + 1 :]], tensors, target):
                high = middle
            else:
                low = middle + 1
            middle = (low + high) // 2
        found[at] = high
    return found


class _Network:
    """A network, and which of its channels get their depth."""

    def __init__(self, actors: Sequence[Actor], channels: Sequence[Channel], fifos: Sequence[int]) -> None:
        self.actors, self.channels, self.fifos = tuple(actors), tuple(channels), tuple(fifos)
        self._network = Network(self.actors, self.channels)

    @property
    def chain(self) -> bool:
        """Tell whether each actor has one neighbour before it and one behind it at most."""
        sources = [channel.source[0] for channel in self.channels]
        sinks = [channel.sink[0] for channel in self.channels]
        return len(set(sources)) == len(sources) and len(set(sinks)) == len(sinks) == len(sources)

    def run(self, found: Sequence[int], tensors: int) -> Timing | Deadlock:
        """Run with FIFOs of some depths."""
        depths = [channel.depth for channel in self.channels]
        for i, depth in zip(self.fifos, found, strict=True):
            depths[i] = depth
        return self._network.attempt(depths, tensors)

    def interval(self, found: Sequence[int], tensors: int) -> Fraction:
        """Return the interval at some depths at which the network does not stop."""
        timing = self.run(found, tensors)
        assert isinstance(timing, Timing)
        return timing.interval

    def keeps(self, found: Sequence[int], tensors: int, target: Fraction) -> bool:
        """Tell whether the interval at some depths is not above another."""
        timing = self.run(found, tensors)
        return isinstance(timing, Timing) and timing.interval <= target

    def needs(self, interval: int, tensors: int) -> list[int]:
        """Return how many slots are in use at once where the sources give one tensor an interval and no FIFO is full.

        With these depths no producer waits, so the interval holds on any network. They are not the least: a producer
        may wait where it has time. Where whole arrays do not serve, each is the least of a FIFO.
        """
        channels = list(self.channels)
        for i in self.fifos:
            channels[i] = replace(channels[i], depth=UNBOUNDED)
        ends = {channel.sink for channel in channels}
        sources = list[Actor]()
        for program in programs(self.actors):
            for port, taken in program.firings.of("take").items():
                if (program.name, port) not in ends:
                    source = _paced(f"source {len(sources)}", len(taken), interval)
                    sources.append(source)
                    channels.append(Channel((source.name, OUT), (program.name, port), UNBOUNDED))
        every = programs([*sources, *self.actors])
        queues = [(c.source, c.sink, c.depth) for c in channels]
        network = compiled.Network(every, [(source, sink) for source, sink, _ in queues])
        ran = network.run([depth for _, _, depth in queues], tensors, used=True)
        found: dict[tuple[Port, Port], int] | None
        if ran is not None:
            found = {(source, sink): used for (source, sink, _), used in zip(queues, ran.used, strict=True)}
        else:
            lanes = balanced(every, queues, tensors)
            found = None if lanes is None else peaks(every, lanes, tensors)
        if found is None:
            return [LEAST_FIFO] * len(self.fifos)
        return [max(LEAST_FIFO, found[channels[i].source, channels[i].sink]) for i in self.fifos]


def _paced(name: str, tokens: int, interval: int) -> Actor:
    """Return a source that spreads the tokens of a tensor over an interval."""
    step = Step((), (), (OUT,), (OUT,), max(1, interval // tokens))
    rest = replace(step, dwell=max(1, interval - (tokens - 1) * step.dwell))
    return Actor(name, (Loop(tokens - 1, (step,)), rest), {OUT: 1})


def _least(network: _Network, start: Sequence[int], needs: Sequence[int], tensors: int, target: Fraction) -> list[int]:
    """Return depths, each the least while those before it are as found and those after it as at the start.

    A deeper FIFO delays nothing. So as many FIFOs as keep the interval together at the least depth have it, and what a
    paced run needs is where the search for the others begins.
    """
    found, at, together = list(start), 0, 1
    while at < len(found):
        trial = [*found[:at], *[LEAST_FIFO] * min(together, len(found) - at), *found[at + together :]]
        if network.keeps(trial, tensors, target):
            found, at, together = trial, at + together, 2 * together
        elif together > 1:
            together //= 2
        else:
            low, high = LEAST_FIFO + 1, max(LEAST_FIFO + 1, needs[at])
            while not network.keeps([*found[:at], high, *found[at + 1 :]], tensors, target):
                low, high = high + 1, high * 2
            while low < high:
                middle = (low + high) // 2
                if network.keeps([*found[:at], middle, *found[at + 1 :]], tensors, target):
                    high = middle
                else:
                    low = middle + 1
            found[at], at = low, at + 1
    return found
