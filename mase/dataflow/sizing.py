"""The least FIFO depths that keep the interval of unbounded FIFOs (docs/arithmetic.md, "FIFO depths")."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from operator import le

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from mase.dataflow import compiled
from mase.dataflow.block import LEAST_FIFO
from mase.dataflow.period import LAGS, Times
from mase.dataflow.schedule import (
    ENDLESS,
    OUT,
    Actor,
    Channel,
    Deadlock,
    Loop,
    Network,
    Step,
    Timing,
    programs,
    shortened,
)
from mase.dataflow.sweeps import Port, balanced, peaks
from mase.errors import GraphError

UNBOUNDED = 1 << 40  # slots of a FIFO that is not sized yet
MOST_LAGS, SMALL = 64, 1 << 16  # tensors after which a trial may repeat itself; of so many times in all, beyond a few
MOST_SLOTS = 1 << 14  # by which a search goes on at once
LEAST_TENSORS = 6  # of a run that shows a steady interval


def least_depths(actors: Sequence[Actor], channels: Sequence[Channel], fifos: Sequence[int]) -> list[int]:
    """Return the depths of those channels that ``fifos`` lists by index; the others keep theirs.

    In a chain they are least in the order of ``fifos``: each is the least while those after it are unbounded. Where
    paths meet again, each is the least while those after it have what a paced run needs.

    A trial lasts until it is proven whether the interval is kept (:class:`_Trials`). Where nothing is proven, the
    second half of a run of twice the time to the first output decides: a FIFO that is too short stops its producer once
    for each time that a slot takes to come back, which is less. Then a run four times as long confirms the depths, or
    the trials get longer. Trials run on parts of tensors, rows mostly (:func:`mase.dataflow.schedule.shortened`).

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
        target = network.steady(unbounded, tensors)
        needs = network.needs(math.ceil(target), tensors)
        start = unbounded if network.chain or network.excess(needs, tensors, target) else needs
        found = _least(network, start, needs, tensors, target)
        if network.proven or network.keeps(found, 4 * tensors, target):
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
        self._trials = _Trials(self._network, self.fifos)
        self.proven = False  # all that was decided since the last target

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
        return self._network.attempt(self._depths(found), tensors)

    def steady(self, found: Sequence[int], tensors: int) -> Fraction:
        """Return the interval for ever at some depths at which the network does not stop, else that of a run."""
        rate = self._trials.rate(self._depths(found), tensors)
        self.proven = rate is not None
        return self.interval(found, tensors) if rate is None else rate

    def excess(self, found: Sequence[int], tensors: int, target: Fraction) -> float:
        """Return the cycles by which the interval for ever at some depths is above another; 0 where it is not.

        Infinity where the network stops. Where nothing is proven, a run decides.
        """
        above = self._trials.excess(self._depths(found), tensors, target)
        if above is not None:
            return above
        self.proven, timing = False, self.run(found, tensors)
        return max(float(timing.interval - target), 0.0) if isinstance(timing, Timing) else math.inf

    def _depths(self, found: Sequence[int]) -> list[int]:
        depths = [channel.depth for channel in self.channels]
        for i, depth in zip(self.fifos, found, strict=True):
            depths[i] = depth
        return depths

    def interval(self, found: Sequence[int], tensors: int) -> Fraction:
        """Return the interval at some depths at which the network does not stop."""
        timing = self.run(found, tensors)
        assert isinstance(timing, Timing)
        return timing.interval

    def keeps(self, found: Sequence[int], tensors: int, target: Fraction) -> bool:
        """Tell whether the interval of a run at some depths is not above another."""
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


class _Trials:
    """Decide whether a network keeps an interval, with as few tensors as prove it.

    The times of rest of tensor k + 1 are maxima of those of tensor k plus constants. For such a map the greatest gain
    of any time from a tensor to the next never grows again. Where it is not above the target, it stays so, whatever
    the times were at first: the interval is kept. Where the times that had the greatest gain have it once more, a cycle
    of waits takes that long: the interval is not kept. The same holds for several tensors at a time. So a trial begins
    with the times of the last one that was enough, where most is settled already. A cycle of waits lies within one loop
    of actors, so only those loops run that a FIFO which may fill up closes.
    """

    def __init__(self, network: Network, fifos: Sequence[int]) -> None:
        self._network, self._fifos = network, fifos
        self._target: Fraction | None = None
        self._enough, self._short = list[tuple[int, ...]](), dict[tuple[int, ...], float]()
        self._last: tuple[tuple[int, ...], Times] | None = None  # depths that were enough, and times of rest there

    def excess(self, depths: Sequence[int], tensors: int, target: Fraction) -> float | None:
        """Return the cycles a tensor above the target, 0 for none, infinity for a stop; None where nothing is proven.

        More depth delays nothing, so what is known of other depths may decide.
        """
        found = tuple(depths)
        if target != self._target:
            self._target, self._last = target, None
            self._enough.clear()
            self._short.clear()
        if any(all(map(le, other, found)) for other in self._enough):
            return 0.0
        for other, known in self._short.items():
            if all(map(le, found, other)):
                return known
        above = self._decided(found, tensors, target)
        if above == 0:
            self._enough.append(found)
        elif above is not None:
            self._short[found] = above
        return above

    def rate(self, depths: Sequence[int], tensors: int) -> Fraction | None:
        """Return the interval for ever of all actors; None where the network stops or nothing is proven."""
        found = self._settled(self._network.rest(depths), depths, [True] * len(self._network.actors), tensors, None)
        return found if isinstance(found, Fraction) else None

    def _decided(self, depths: tuple[int, ...], tensors: int, target: Fraction) -> float | None:
        found = self._settled(self._begin(depths), depths, self._loops(depths), tensors, target)
        if isinstance(found, Fraction):
            return float(found - target)
        if isinstance(found, np.ndarray):
            self._last = depths, found
            return 0.0
        return found

    def _settled(
        self, rest: Times, depths: Sequence[int], live: Sequence[bool], tensors: int, target: Fraction | None
    ) -> Fraction | Times | float | None:
        """Return the interval, or a time of rest from which it is not above the target.

        Infinity where the network stops; None where nothing is proven after many tensors.
        """
        rests, lags = [rest], max(LAGS, min(MOST_LAGS, SMALL // len(rest)))
        for _ in range(4 * tensors):
            after = self._network.step(depths, rests[-1], live)
            if after is None:
                return math.inf
            rests = [*rests[-2 * lags :], after]
            whole = np.array(rests[::-1])
            gains = whole[0] - whole[1 : lags + 1]  # from some tensors ago, by lag less one
            most = gains.max(1)
            if target is not None and any(int(gain) <= lag * target for lag, gain in enumerate(most, 1)):
                return after
            for lag in range(1, (len(rests) - 1) // 2 + 1):
                before = whole[lag] - whole[2 * lag]
                top = most[lag - 1]
                if before.max() == top and (gains[lag - 1][before == top] == top).all():
                    return Fraction(int(top), lag)
        return None

    def _loops(self, depths: Sequence[int]) -> list[bool]:
        """Tell which actors lie on a loop with a FIFO that is being sized and may fill up."""
        channels, names = self._network.channels, [actor.name for actor in self._network.actors]
        places = {name: i for i, name in enumerate(names)}
        ends = [(places.get(c.source[0]), places.get(c.sink[0])) for c in channels]
        there = [(a, b, depth) for (a, b), depth in zip(ends, depths, strict=True) if a is not None and b is not None]
        arcs = [(a, b) for a, b, _ in there] + [(b, a) for a, b, depth in there if depth < ENDLESS]
        links = csr_array((np.ones(len(arcs)), tuple(zip(*arcs, strict=True)) or ([], [])), (len(names), len(names)))
        loops = connected_components(links, directed=True, connection="strong")[1]
        closed = {loops[ends[i][0]] for i in self._fifos if depths[i] < ENDLESS and ends[i][0] is not None}
        return [loop in closed for loop in loops]

    def _begin(self, depths: tuple[int, ...]) -> Times:
        """Return the time of rest from which a trial begins: that of the last one, slots beyond it back long ago."""
        rest = self._network.rest(depths)
        if self._last is None:
            return rest
        at = old = len(self._network.actors)
        others, times = self._last
        rest[:at] = times[:at]
        for depth, other in zip(depths, others, strict=True):
            kept = min(depth, other) if max(depth, other) < ENDLESS else 0
            at, old = at + (depth if depth < ENDLESS else 0), old + (other if other < ENDLESS else 0)
            rest[at - kept : at] = times[old - kept : old]
        return rest


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
            if not network.excess(trial, tensors, target):
                for kind in kinds[at : at + count]:
                    alike[kind].add(LEAST_FIFO)
                found, at, together = trial, at + count, 2 * count
                continue
            if count > 1:
                together = count // 2
                continue

        def excess(depth: int, before: list[int] = before, behind: list[int] = found[at + 1 :]) -> float:
            return network.excess([*before, depth, *behind], tensors, target)

        guesses = sorted(alike[kinds[at]] - {LEAST_FIFO})
        found[at] = _first(excess, LEAST_FIFO, max(LEAST_FIFO + 1, needs[at]), guesses)
        alike[kinds[at]].add(found[at])
        at, together = at + 1, 1
    return found


def _first(excess: Callable[[int], float], low: int, high: int, guesses: Sequence[int]) -> int:
    """Return the first depth from ``low`` on at which nothing is above; more depth is enough too.

    A slot more mostly takes a cycle or more off what is above, so the search goes as many slots on, where that is less
    than half of what is left.

    Args:
        high: where the search begins without guesses. guesses: in order.
    """
    enough, next_one = 1 << 62, high  # the least that is known to be
    for guess in guesses:
        above = excess(guess)
        if not above:
            enough, next_one = guess, guess - 1
            break
        low, next_one = guess + 1, guess + _slots(above, guess)
    while low < enough:
        depth = min(max(low, next_one), enough - 1)
        above = excess(depth)
        if above:
            low = depth + 1
            next_one = depth + _slots(above, depth)
            if next_one >= enough:
                next_one = (low + enough) // 2
        else:
            enough = depth
            next_one = (low + enough) // 2
    return enough


def _slots(above: float, depth: int) -> int:
    return min(math.ceil(above), max(depth, MOST_SLOTS)) if math.isfinite(above) else depth
