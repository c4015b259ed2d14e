"""The least FIFO depths that keep the interval of unbounded FIFOs (docs/arithmetic.md, "FIFO depths")."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
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

    def sizes(self, at: int) -> tuple[int, ...]:
        """Return the firings of the two actors at the ends of a FIFO: equal for those of like parts of a network."""
        channel = self.channels[self.fifos[at]]
        return tuple(self._network.firings[name] for name, _ in (channel.source, channel.sink))

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

    A deeper FIFO delays nothing. So as many FIFOs as keep the interval together at the least depth have it. The search
    for the depth of another begins at the depths of its like, or at what a paced run needs.
    """
    found, at, together = list(start), 0, 1
    kinds = [(need, *network.sizes(i)) for i, need in enumerate(needs)]
    alike: dict[tuple[int, ...], set[int]] = {kind: set() for kind in kinds}
    while at < len(found):
        before = found[:at]
        if not alike[kinds[at]] or LEAST_FIFO in alike[kinds[at]]:
            small = (i for i in range(at, len(found)) if alike[kinds[i]] and LEAST_FIFO not in alike[kinds[i]])
            count = min(together, next(small, len(found)) - at)
            trial = [*before, *[LEAST_FIFO] * count, *found[at + count :]]
            if network.keeps(trial, tensors, target):
                for kind in kinds[at : at + count]:
                    alike[kind].add(LEAST_FIFO)
                found, at, together = trial, at + count, 2 * count
                continue
            if count > 1:
                together = count // 2
                continue

        def keeps(depth: int, before: list[int] = before, behind: list[int] = found[at + 1 :]) -> bool:
            return network.keeps([*before, depth, *behind], tensors, target)

        guesses = sorted(alike[kinds[at]] - {LEAST_FIFO})
        found[at] = _first(keeps, LEAST_FIFO + 1, max(LEAST_FIFO + 1, needs[at]), guesses)
        alike[kinds[at]].add(found[at])
        at, together = at + 1, 1
    return found


def _first(keeps: Callable[[int], bool], low: int, high: int, guesses: Sequence[int]) -> int:
    """Return the first depth from ``low`` on that is enough; more is enough too.

    Args:
        high: where the search begins without guesses. guesses: in order.
    """
    for guess in guesses:
        if keeps(guess):
            if guess == low or not keeps(guess - 1):
                return guess
            high = guess - 1
            break
        low = guess + 1
    else:
        high = max(low, high)
        while not keeps(high):
            low, high = high + 1, high * 2
    while low < high:
        middle = (low + high) // 2
        if keeps(middle):
            high = middle
        else:
            low = middle + 1
    return high
