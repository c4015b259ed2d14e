"""Firing programs and the one recurrence that gives every cycle (docs/arithmetic.md, "Firing programs").

An operator is one or more *actors*. An actor runs a fixed loop nest of *steps*, greedily and in order. A step may

- ``take`` a token (wait until the producer's token is visible), and ``free`` the slot that it lay in,
- ``acquire`` a slot of an output channel (wait for a credit), and ``publish`` a token into it,

and then holds the actor for ``dwell`` cycles. A plain FIFO stream takes and frees in one step, acquires and publishes
in one step. With t_i the cycle in which step i fires:

    t_i = max(t_{i-1} + dwell_{i-1}, visible(token taken), returned(credit acquired))

A token published at t is visible at t + latency; a slot freed at t can be acquired again at t + 1.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from mase.errors import GraphError

IN, OUT = "in", "out"


@dataclass(frozen=True)
class Step:
    """One firing: ports by name for each of the four actions, and the cycles until the next firing may follow."""

    take: tuple[str, ...] = ()
    free: tuple[str, ...] = ()
    acquire: tuple[str, ...] = ()
    publish: tuple[str, ...] = ()
    dwell: int = 1


@dataclass(frozen=True)
class Loop:
    """Repeat a body ``count`` times."""

    count: int
    body: tuple[Step | Loop, ...]


@dataclass(frozen=True)
class Actor:
    """Run ``body`` once a tensor.

    Args:
        name: unique in a network.
        body: the loop nest for one tensor.
        latency: cycles from publishing on a port until the token is visible to its consumer.
    """

    name: str
    body: tuple[Step | Loop, ...]
    latency: Mapping[str, int]

    def cycles(self) -> int:
        """Return the sum of dwells of one tensor: no tensor can take fewer cycles."""
        return _cycles(self.body)


@dataclass(frozen=True)
class Channel:
    """Join a port of one actor to a port of another through ``depth`` slots."""

    source: tuple[str, str]
    sink: tuple[str, str]
    depth: int


@dataclass(frozen=True)
class Schedule:
    """What an operator promises about cycles: its actors, and the channels inside it.

    The stream that enters is port ``in`` of ``actors[0]``, the one that leaves is port ``out`` of ``actors[-1]``.

    Args:
        pace: cycles of a tensor that the channels inside ask for, where that is more than any actor's.
    """

    actors: tuple[Actor, ...]
    channels: tuple[Channel, ...] = ()
    pace: int = 0

    def interval(self) -> int:
        """Return the least cycles between two tensors when nothing stalls the operator."""
        return max(self.pace, *(actor.cycles() for actor in self.actors))


def shortened(actors: Sequence[Actor]) -> tuple[list[Actor], int]:
    """Cut each tensor into as many equal parts as the outermost loops of all actors allow: the firings stay the same.

    Returns:
        Actors whose tensor is one part, and the number of parts. A steady interval of theirs, times the parts, is that
        of the actors.
    """
    loops = [actor.body[0] if len(actor.body) == 1 else None for actor in actors]
    counts = [loop.count if isinstance(loop, Loop) else 1 for loop in loops]
    parts = math.gcd(*counts)
    if parts <= 1:
        return list(actors), 1
    short = [
        replace(actor, body=(replace(loop, count=loop.count // parts),))
        for actor, loop in zip(actors, loops, strict=True)
        if isinstance(loop, Loop)
    ]
    return short, parts


def stream(*, take: bool = False, produce: bool = False, dwell: int = 1) -> Step:
    """Return the step of a plain stream: take and free ``in``, acquire and publish ``out``."""
    return Step((IN,) * take, (IN,) * take, (OUT,) * produce, (OUT,) * produce, dwell)


@dataclass(frozen=True)
class Timing:
    """Cycles of a run with the source always valid and the sink always ready; cycle 0 takes the first input beat.

    Args:
        first: cycle in which the first output beat leaves.
        completions: cycle in which the last output beat of each tensor leaves.
    """

    first: int
    completions: tuple[int, ...]

    @property
    def latency(self) -> int:
        """Cycle of the last output beat of tensor 0."""
        return self.completions[0]

    @property
    def interval(self) -> Fraction:
        """Steady distance between tensors: over the last half of the run."""
        half = len(self.completions) // 2
        if len(self.completions) < 2:
            return Fraction(self.latency)
        return Fraction(
            self.completions[-1] - self.completions[half - 1 if half else 0], len(self.completions) - max(half, 1)
        )


def run(actors: Sequence[Actor], channels: Sequence[Channel], tensors: int) -> Timing:
    """Evaluate the recurrence for ``tensors`` tensors through a network.

    Ports without a channel are the outside: inputs there are always valid, outputs always ready. The first such output,
    in order of actors, is the one whose cycles are returned; cycle 0 is the first step that takes an outside token.

    Raises:
        GraphError: the network cannot finish; says which actor waits for what.
    """
    lanes = [_Lane(channel) for channel in channels]
    by_source = {lane.channel.source: lane for lane in lanes}
    by_sink = {lane.channel.sink: lane for lane in lanes}
    runners = [_Runner(actor, tensors, by_source, by_sink) for actor in actors]
    moving = True
    while moving:
        moving = False
        for runner in runners:
            moving |= runner.advance()
    stuck = [f"{r.actor.name} waits for {r.waits}" for r in runners if not r.done]
    if stuck:
        raise GraphError(f"schedule stops before it ends: {'; '.join(stuck[:4])}")
    outside = next(r for r in runners if r.outside)
    start = min((r.first_take for r in runners if r.first_take is not None), default=0)
    beats = len(outside.outside) // tensors
    ends = tuple(t - start for t in outside.outside[beats - 1 :: beats])
    return Timing(outside.outside[0] - start, ends)


def taken(actors: Sequence[Actor], channels: Sequence[Channel], tensors: int) -> int | None:
    """Return how many outside tokens a network takes before it stands still; None if it finishes ``tensors`` tensors.

    A channel whose sink is not among the actors never gives a slot back.
    """
    lanes = [_Lane(channel) for channel in channels]
    by_source = {lane.channel.source: lane for lane in lanes}
    by_sink = {lane.channel.sink: lane for lane in lanes}
    runners = [_Runner(actor, tensors, by_source, by_sink) for actor in actors]
    while any(runner.advance() for runner in runners):
        pass
    return None if runners[0].done else sum(runner.outside_takes for runner in runners)


class _Lane:
    """Times of one channel: when each token becomes visible, when each slot came back."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.visible: list[int] = []
        self.returned: list[int] = []
        self.taken = self.acquired = 0


class _Runner:
    """Carry one actor forward as far as the known times allow."""

    def __init__(
        self,
        actor: Actor,
        tensors: int,
        by_source: Mapping[tuple[str, str], _Lane],
        by_sink: Mapping[tuple[str, str], _Lane],
    ) -> None:
        self.actor, self.now, self.done, self.waits = actor, 0, False, ""
        self.outside: list[int] = []
        self.first_take: int | None = None
        self.outside_takes = 0
        steps = _compact(_flat(actor.body))
        self._steps = [self._bound(step, by_source, by_sink) for step in steps]
        self._index, self._left = 0, tensors

    def _bound(
        self, step: Step, by_source: Mapping[tuple[str, str], _Lane], by_sink: Mapping[tuple[str, str], _Lane]
    ) -> tuple[list[_Lane | None], list[_Lane], list[_Lane], list[tuple[_Lane | None, int]], int]:
        name = self.actor.name
        take = [by_sink.get((name, port)) for port in step.take]
        free = [by_sink[name, port] for port in step.free if (name, port) in by_sink]
        acquire = [by_source[name, port] for port in step.acquire if (name, port) in by_source]
        publish = [(by_source.get((name, port)), self.actor.latency.get(port, 1)) for port in step.publish]
        return take, free, acquire, publish, step.dwell

    def advance(self) -> bool:
        moved = False
        while not self.done:
            take, free, acquire, publish, dwell = self._steps[self._index]
            now = self.now
            for lane in take:
                if lane is None:
                    continue
                if lane.taken >= len(lane.visible):
                    self.waits = f"a token of {lane.channel.source[0]}"
                    return moved
                now = max(now, lane.visible[lane.taken])
            for lane in acquire:
                slot = lane.acquired - lane.channel.depth
                if slot >= len(lane.returned):
                    self.waits = f"a free slot towards {lane.channel.sink[0]}"
                    return moved
                if slot >= 0:
                    now = max(now, lane.returned[slot])
            for lane in take:
                if lane is not None:
                    lane.taken += 1
                    continue
                self.outside_takes += 1
                if self.first_take is None:
                    self.first_take = now
            for lane in free:
                lane.returned.append(now + 1)
            for lane in acquire:
                lane.acquired += 1
            for target, latency in publish:
                (self.outside if target is None else target.visible).append(now + latency)
            self.now = now + dwell
            self._step()
            moved = True
        return moved

    def _step(self) -> None:
        self._index += 1
        if self._index == len(self._steps):
            self._index, self._left = 0, self._left - 1
            self.done = self._left == 0


def _flat(body: Sequence[Step | Loop]) -> Iterator[Step]:
    for item in body:
        if isinstance(item, Step):
            yield item
        else:
            for _ in range(item.count):
                yield from _flat(item.body)


def _compact(steps: Iterator[Step]) -> list[Step]:
    """Merge each step that touches no port into the dwell of the step before it (the first one stays)."""
    out: list[Step] = []
    for step in steps:
        if out and not (step.take or step.free or step.acquire or step.publish):
            last = out[-1]
            out[-1] = Step(last.take, last.free, last.acquire, last.publish, last.dwell + step.dwell)
        else:
            out.append(step)
    return out


def _cycles(body: Sequence[Step | Loop]) -> int:
    return sum(item.dwell if isinstance(item, Step) else item.count * _cycles(item.body) for item in body)
