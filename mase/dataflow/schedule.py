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
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import cached_property, lru_cache
from typing import Self

import numpy as np

from mase.dataflow import compiled
from mase.dataflow.period import Times, continued
from mase.dataflow.sweeps import Firings, Lane, Program, balanced, joined, period, sweep
from mase.errors import GraphError

IN, OUT = "in", "out"
KEPT = 1 << 20  # firings of an actor a tensor up to which its arrays are kept
ENDLESS = 1 << 32  # slots of a channel from which it never fills up
ARRAYS = 2048  # firings of an actor a tensor from which whole arrays are faster than one firing after the other


@dataclass(frozen=True)
class Step:
    """One firing: ports by name for each of the four actions, and the cycles until the next firing may follow.

    Firings without a dwell share a cycle: several tokens are taken, or several slots given back, at once. A slot may be
    given back before its token was taken, or was even there: nobody waits for that token.
    """

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
    """Join a port of one actor to a port of another through ``depth`` slots; a port has one channel.

    Args:
        parameter: of the RTL block that a channel lies in, where one gives it its depth.
    """

    source: tuple[str, str]
    sink: tuple[str, str]
    depth: int
    parameter: str = ""


@dataclass(frozen=True)
class Schedule:
    """What an operator promises about cycles: its actors, and the channels inside it.

    Args:
        pace: cycles of a tensor that the channels inside ask for, where that is more than any actor's.
        ports: the actor and its port behind each port of the operator. Without any, the stream that enters is port
            ``in`` of ``actors[0]``, and the one that leaves is port ``out`` of ``actors[-1]``.
    """

    actors: tuple[Actor, ...]
    channels: tuple[Channel, ...] = ()
    pace: int = 0
    ports: Mapping[str, tuple[str, str]] = field(default_factory=dict)

    def port(self, name: str) -> tuple[str, str]:
        """Return the actor and its port behind a port of the operator."""
        chain = {IN: (self.actors[0].name, IN), OUT: (self.actors[-1].name, OUT)}
        return (self.ports or chain)[name]

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


def programs(actors: Sequence[Actor]) -> list[Program]:
    """Return the firings of a tensor of each actor in arrays; steps that touch no port lie in dwells."""
    return [Program(actor.name, _firings(actor.body).compact, actor.latency) for actor in actors]


def stream(*, take: bool = False, produce: bool = False, dwell: int = 1) -> Step:
    """Return the step of a plain stream: take and free ``in``, acquire and publish ``out``."""
    return Step((IN,) * take, (IN,) * take, (OUT,) * produce, (OUT,) * produce, dwell)


@dataclass(frozen=True)
class Timing:
    """Cycles of a run with all sources always valid and all sinks always ready; cycle 0 takes the first input beat.

    Args:
        first: cycle in which the first output beat leaves.
        completions: cycle in which the last output beat of each tensor leaves, by the last of the outputs.
        outputs: where there are several, the same of each by itself.
    """

    first: int
    completions: tuple[int, ...]
    outputs: tuple[Timing, ...] = ()

    @classmethod
    def of(cls, outputs: Sequence[Timing]) -> Self:
        """Return the cycles of a whole: a tensor is complete when the last output has given it."""
        ends = zip(*(found.completions for found in outputs), strict=True)
        several = tuple(outputs) if len(outputs) > 1 else ()
        return cls(min(found.first for found in outputs), tuple(map(max, ends)), several)

    @property
    def each(self) -> tuple[Timing, ...]:
        """Cycles of each output."""
        return self.outputs or (self,)

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


@dataclass(frozen=True)
class Wait:
    """One actor that cannot go on.

    Args:
        on: the actor that it waits for. slot: it waits for a free slot of the channel, instead of a token.
    """

    actor: str
    on: str
    channel: Channel
    slot: bool

    def __str__(self) -> str:
        return f"{self.actor} waits for {'a free slot towards' if self.slot else 'a token of'} {self.on}"


@dataclass(frozen=True)
class Deadlock:
    """A run that stops before its end.

    Args:
        waits: what each actor that has not finished waits for, in order of actors.
    """

    waits: tuple[Wait, ...]

    def __str__(self) -> str:
        return "; ".join(map(str, self.waits[:4]))


def run(actors: Sequence[Actor], channels: Sequence[Channel], tensors: int) -> Timing:
    """Return the cycles of ``tensors`` tensors through a network, as :func:`attempt` does.

    Raises:
        GraphError: the network cannot finish; says which actor waits for what.
    """
    found = attempt(actors, channels, tensors)
    if isinstance(found, Deadlock):
        raise GraphError(f"schedule stops before it ends: {found}")
    return found


def attempt(actors: Sequence[Actor], channels: Sequence[Channel], tensors: int) -> Timing | Deadlock:
    """Evaluate the recurrence for ``tensors`` tensors through a network.

    Ports without a channel are the outside: inputs there are always valid, outputs always ready. Such outputs are
    those whose cycles are returned, in order of actors; cycle 0 is the first step that frees an outside token: then its
    beat has been accepted, though an actor may have waited for it before.

    Raises:
        GraphError: nothing leaves the network.
    """
    return Network(tuple(actors), tuple(channels)).attempt([channel.depth for channel in channels], tensors)


@dataclass(frozen=True, eq=False)
class Network:
    """A network whose channels may be tried at many depths: its firings are laid out once."""

    actors: tuple[Actor, ...]
    channels: tuple[Channel, ...]

    def attempt(self, depths: Sequence[int], tensors: int) -> Timing | Deadlock:
        """Return what :func:`attempt` does, at these depths of the channels."""
        short, parts = self._short
        ran = self._compiled.run(depths, parts * tensors)
        if ran is not None:
            stuck = [i for i, finished in enumerate(ran.finished) if finished < parts * tensors]
            if stuck:
                return Deadlock(tuple(self._wait(i, depths, ran.waits[i], ran.slots[i]) for i in stuck))
            return _timed((ran.start, ran.left), tensors)
        channels = self._at(depths)
        compact, found = self._programs, None
        lanes = balanced(compact, [(c.source, c.sink, c.depth) for c in channels], parts * tensors)
        if lanes is not None and max(program.firings.count for program in compact) >= ARRAYS:
            found = sweep(compact, lanes, parts * tensors)
        times = found or _stepped(short, channels, parts * tensors, lanes)
        return times if isinstance(times, Deadlock) else _timed(times, tensors)

    def taken(self, tensors: int) -> dict[tuple[str, str], int]:
        """Return what :func:`taken` does."""
        short, parts = self._short
        ran = self._compiled.run([channel.depth for channel in self.channels], parts * tensors)
        if ran is not None:
            return ran.entered
        runners = _runners(short, self.channels)
        _move(runners, parts * tensors)
        return {(runner.actor.name, port): count for runner in runners for port, count in runner.entered.items()}

    def steady(self, tensors: int) -> int | None:
        """Return the cycles from a tensor to the next for ever, where so many are enough to see that all repeats."""
        parts = self._short[1]
        ran = self._compiled.run([channel.depth for channel in self.channels], parts * tensors)
        return None if ran is None or ran.lag < 0 else parts * ran.lag

    def rest(self, depths: Sequence[int]) -> Times:
        """Return the first time of rest: when every actor may fire, then when every slot that counts came back."""
        slots = sum(depth for depth in depths if depth < ENDLESS)
        return np.zeros(len(self.actors) + slots, np.int64)

    def step(self, depths: Sequence[int], times: Times, live: Sequence[bool]) -> Times | None:
        """Return the time of rest a tensor after another; None where the network stops.

        At a time of rest all actors are between two tensors, and all slots are back. It decides all that follows.

        Args:
            times: as of :meth:`rest`; channels of ``ENDLESS`` slots and more have none.
            live: which actors run; to these the others are the outside, and keep their times.
        """
        short, parts = self._short
        running = {actor.name for actor, lives in zip(self.actors, live, strict=True) if lives}
        counts = [channel.source[0] in running and channel.sink[0] in running for channel in self.channels]
        found = self._compiled.step(depths, parts, times, live, counts)
        if not isinstance(found, bool) and found is not None:
            return found
        return None if found is False else _rested(short, self._at(depths), parts, times, live, counts)

    def _at(self, depths: Sequence[int]) -> list[Channel]:
        return [replace(channel, depth=depth) for channel, depth in zip(self.channels, depths, strict=True)]

    @cached_property
    def firings(self) -> dict[str, int]:
        """Firings of a tensor, or of the part of it that is run, of each actor by name."""
        return {program.name: program.firings.count for program in self._programs}

    @cached_property
    def _short(self) -> tuple[list[Actor], int]:
        return shortened(self.actors)

    @cached_property
    def _programs(self) -> list[Program]:
        return programs(self._short[0])

    @cached_property
    def _compiled(self) -> compiled.Network:
        return compiled.Network(self._programs, [(channel.source, channel.sink) for channel in self.channels])

    def _wait(self, actor: int, depths: Sequence[int], queue: int, slot: bool) -> Wait:
        channel = replace(self.channels[queue], depth=depths[queue])
        return Wait(self.actors[actor].name, channel.sink[0] if slot else channel.source[0], channel, slot)


def _timed(times: tuple[int, list[Times]], tensors: int) -> Timing:
    start, outputs = times
    if not any(len(leaving) for leaving in outputs):
        raise GraphError("schedule: no token leaves the network")
    return Timing.of([_timing(leaving - start, tensors) for leaving in outputs if len(leaving)])


def _timing(leaving: Times, tensors: int) -> Timing:
    """Return the cycles of one output from those of all its tokens."""
    beats = len(leaving) // tensors
    return Timing(int(leaving[0]), tuple(leaving[beats - 1 :: beats].tolist()))


def _stepped(
    actors: Sequence[Actor], channels: Sequence[Channel], tensors: int, lanes: Sequence[Lane] | None
) -> tuple[int, list[Times]] | Deadlock:
    """Run firing by firing, tensor by tensor where ``lanes`` says that tensors do not overlap, until it repeats.

    Returns:
        When the first token comes from outside, and when tokens leave by each output.
    """
    runners = _runners(actors, channels)
    outputs = [(i, port) for i, runner in enumerate(runners) for port in runner.outside]
    watched, leaving = None if lanes is None else period(lanes), [list[Times]() for _ in outputs]
    for tensor in range(1, tensors + 1) if watched else [tensors]:
        _move(runners, tensor)
        if any(runner.tensors < tensor for runner in runners):
            _move(runners, tensors)  # whatever can still fire does
            return Deadlock(tuple(r.waits for r in runners if r.waits is not None and r.tensors < tensors))
        for times, (i, port) in zip(leaving, outputs, strict=True):
            times.append(runners[i].left(port))
        settled = watched.add([runner.window() for runner in runners]) if watched else None
        if settled is not None:
            lag, distances = settled
            found = [continued(t, lag, distances[i], tensors) for t, (i, _) in zip(leaving, outputs, strict=True)]
            return _start(runners), found
    return _start(runners), [np.concatenate(times) for times in leaving]


def _start(runners: Sequence[_Runner]) -> int:
    return min((r.first_take for r in runners if r.first_take is not None), default=0)


def taken(actors: Sequence[Actor], channels: Sequence[Channel], tensors: int) -> dict[tuple[str, str], int]:
    """Return how many outside tokens each input takes, of at most ``tensors`` tensors, before all stand still.

    A channel whose sink is not among the actors never gives a slot back, and one whose source is not gives no token.
    """
    return Network(tuple(actors), tuple(channels)).taken(tensors)


class _Queue:
    """Times of one channel: when each token becomes visible, when each slot came back."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.visible: list[int] = []
        self.returned: list[int] = []
        self.taken = self.acquired = 0


@dataclass(frozen=True)
class _Ports:
    """The queue at each port."""

    by_source: dict[tuple[str, str], _Queue]
    by_sink: dict[tuple[str, str], _Queue]


class _Runner:
    """Carry one actor forward as far as the known times allow.

    ``tensors`` are those that it has finished, ``entered`` how many tokens it accepted from outside by each port, and
    ``outside`` when its tokens for the outside left.
    """

    def __init__(self, actor: Actor, ports: _Ports) -> None:
        self.actor, self.now, self.tensors = actor, 0, 0
        self.waits: Wait | None = None
        self.outside: dict[str, list[int]] = {}
        self.entered: dict[str, int] = {}
        self.first_take: int | None = None
        self._steps = [self._bound(step, ports) for step in _steps(actor.body)]
        self._index, self._times = 0, list[int]()

    def _bound(
        self, step: Step, ports: _Ports
    ) -> tuple[list[_Queue], tuple[str, ...], list[_Queue], list[_Queue], list[tuple[list[int], int]], int]:
        name, late = self.actor.name, self.actor.latency.get
        take = [ports.by_sink[name, port] for port in step.take if (name, port) in ports.by_sink]
        enter = tuple(port for port in step.free if (name, port) not in ports.by_sink)
        self.entered |= dict.fromkeys(enter, 0)
        self.outside |= {p: self.outside.get(p, []) for p in step.publish if (name, p) not in ports.by_source}
        free = [ports.by_sink[name, port] for port in step.free if (name, port) in ports.by_sink]
        acquire = [ports.by_source[name, port] for port in step.acquire if (name, port) in ports.by_source]
        publish = [
            (queue.visible if (queue := ports.by_source.get((name, port))) else self.outside[port], late(port, 1))
            for port in step.publish
        ]
        return take, enter, free, acquire, publish, step.dwell

    def left(self, port: str) -> Times:
        """Return the times of all tokens that left the network by a port since the last call."""
        times = np.array(self.outside[port], np.int64)
        self.outside[port].clear()
        return times

    def window(self) -> Times:
        """Return the times of all firings since the last call."""
        times, self._times = self._times, []
        return np.array(times, np.int64)

    def advance(self, tensors: int) -> bool:
        """Fire until ``tensors`` tensors are finished; tell whether anything moved."""
        moved = False
        while self.tensors < tensors:
            take, enter, free, acquire, publish, dwell = self._steps[self._index]
            now = self.now
            for queue in take:
                if queue.taken >= len(queue.visible):
                    self.waits = Wait(self.actor.name, queue.channel.source[0], queue.channel, False)
                    return moved
                if queue.visible[queue.taken] > now:
                    now = queue.visible[queue.taken]
            for queue in acquire:
                slot = queue.acquired - queue.channel.depth
                if slot >= len(queue.returned):
                    self.waits = Wait(self.actor.name, queue.channel.sink[0], queue.channel, True)
                    return moved
                if slot >= 0 and queue.returned[slot] > now:
                    now = queue.returned[slot]
            for queue in take:
                queue.taken += 1
            for port in enter:
                self.entered[port] += 1
                if self.first_take is None:
                    self.first_take = now
            for queue in free:
                queue.returned.append(now + 1)
            for queue in acquire:
                queue.acquired += 1
            for times, latency in publish:
                times.append(now + latency)
            self._times.append(now)
            self.now = now + dwell
            self._index += 1
            if self._index == len(self._steps):
                self._index, self.tensors = 0, self.tensors + 1
            moved = True
        return moved


def _runners(actors: Sequence[Actor], channels: Sequence[Channel]) -> list[_Runner]:
    return _joined(actors, [_Queue(channel) for channel in channels])


def _joined(actors: Sequence[Actor], queues: Sequence[_Queue]) -> list[_Runner]:
    ports = _Ports({q.channel.source: q for q in queues}, {q.channel.sink: q for q in queues})
    return [_Runner(actor, ports) for actor in actors]


def _rested(
    actors: Sequence[Actor],
    channels: Sequence[Channel],
    tensors: int,
    times: Times,
    live: Sequence[bool],
    counts: Sequence[bool],
) -> Times | None:
    """Return the time of rest so many tensors after another; see :meth:`Network.step`."""
    queues = [_Queue(channel) for channel, there in zip(channels, counts, strict=True) if there]
    runners, after = _joined([actor for actor, lives in zip(actors, live, strict=True) if lives], queues), times.copy()
    places = np.flatnonzero(live)
    for runner, place in zip(runners, places, strict=True):
        runner.now = int(times[place])
    at, slots = len(actors), dict[int, slice]()
    for channel in channels:
        depth = channel.depth if channel.depth < ENDLESS else 0
        slots[id(channel)] = slice(at, at + depth)
        at += depth
    bounded = [queue for queue in queues if queue.channel.depth < ENDLESS]
    for queue in bounded:
        queue.acquired, queue.returned = queue.channel.depth, times[slots[id(queue.channel)]].tolist()
    _move(runners, tensors)
    whole = all(runner.tensors == tensors for runner in runners)
    empty = all(queue.taken == len(queue.visible) for queue in queues)
    if not whole or not empty or any(queue.acquired != len(queue.returned) for queue in bounded):
        return None
    after[places] = [runner.now for runner in runners]
    for queue in bounded:
        after[slots[id(queue.channel)]] = queue.returned[queue.acquired - queue.channel.depth :]
    return after


def _move(runners: Sequence[_Runner], tensors: int) -> None:
    """Let all actors fire until each has finished ``tensors`` tensors, or none can."""
    moving = True
    while moving:
        moving = False
        for runner in runners:
            moving |= runner.advance(tensors)


def _flat(body: Sequence[Step | Loop]) -> Iterator[Step]:
    for item in body:
        if isinstance(item, Step):
            yield item
        else:
            for _ in range(item.count):
                yield from _flat(item.body)


def _firings(body: tuple[Step | Loop, ...]) -> Firings:
    """Return a loop nest in arrays, without running through its loops."""
    return _kept(body) if _count(body) < KEPT else _nest(body)


@lru_cache(256)
def _kept(body: tuple[Step | Loop, ...]) -> Firings:
    return _nest(body)


def _nest(body: tuple[Step | Loop, ...]) -> Firings:
    done = [item for item in body if isinstance(item, Step) or item.count]  # a port that never fires is not there
    return joined(
        [_once(item) if isinstance(item, Step) else _firings(item.body).repeated(item.count) for item in done]
    )


def _count(body: Sequence[Step | Loop]) -> int:
    return sum(1 if isinstance(item, Step) else item.count * _count(item.body) for item in body)


def _once(step: Step) -> Firings:
    actions = {"take": step.take, "free": step.free, "acquire": step.acquire, "publish": step.publish}
    ports = {(name, port): np.zeros(ports.count(port), np.int64) for name, ports in actions.items() for port in ports}
    return Firings(np.array([step.dwell], np.int64), ports)


@lru_cache(32)
def _steps(body: tuple[Step | Loop, ...]) -> list[Step]:
    return _compact(_flat(body))


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
