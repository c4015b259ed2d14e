"""The recurrence in whole arrays, for actors with very many firings a tensor: all firings of a tensor at once.

With the waits of an actor known, its times are t = D + max-accumulate(waits - D), where D are the sums of its dwells.
Waits for credits feed back, so the times of a tensor begin at a lower bound and only grow from sweep to sweep. Every
channel takes a cycle or more and the firings of an actor are in order, also those that take no time, so the equations
have one solution, and times that no longer move are that solution.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

from mase.dataflow.period import Period, continued

Times = npt.NDArray[np.int64]
Port = tuple[str, str]
SWEEPS = 24  # of a tensor, forwards or backwards; a run that needs more is faster firing by firing


@dataclass(frozen=True, eq=False)
class Firings:
    """A firing program of one tensor in arrays.

    Args:
        dwells: of each firing. ports: by action (``take``, ``free``, ``acquire``, ``publish``) and port, the indices of
            the firings that do it.
    """

    dwells: Times
    ports: Mapping[tuple[str, str], Times]

    @property
    def count(self) -> int:
        """Number of firings."""
        return len(self.dwells)

    def of(self, action: str) -> dict[str, Times]:
        """Return the indices of one action by port."""
        return {port: i for (name, port), i in self.ports.items() if name == action}

    def repeated(self, count: int) -> Firings:
        """Return these firings so many times."""
        starts = np.arange(count)[:, None] * self.count
        return Firings(np.tile(self.dwells, count), {key: (starts + i).reshape(-1) for key, i in self.ports.items()})

    @cached_property
    def compact(self) -> Firings:
        """The same with each firing that touches no port in the dwell of the one before it (the first one stays)."""
        kept = np.zeros(self.count, bool)
        kept[:1] = True
        for i in self.ports.values():
            kept[i] = True
        if kept.all():
            return self
        places = np.cumsum(kept) - 1
        return Firings(
            np.add.reduceat(self.dwells, kept.nonzero()[0]), {key: places[i] for key, i in self.ports.items()}
        )


def joined(firings: Sequence[Firings]) -> Firings:
    """Return firings one after the other."""
    if len(firings) == 1:
        return firings[0]
    parts: dict[tuple[str, str], list[Times]] = {}
    start = 0
    for item in firings:
        for key, i in item.ports.items():
            parts.setdefault(key, []).append(i + start)
        start += item.count
    dwells = [np.zeros(0, np.int64), *(item.dwells for item in firings)]
    return Firings(np.concatenate(dwells), {key: np.concatenate(found) for key, found in parts.items()})


@dataclass(frozen=True, eq=False)
class Program:
    """What an actor does for each tensor."""

    name: str
    firings: Firings
    latency: Mapping[str, int]


@dataclass(eq=False)
class Lane:
    """One channel, of which each tensor gives, takes, acquires and frees equally many tokens.

    Args:
        ends: actors by index. bounded: False where no run of that many tensors can use up its slots.
    """

    source: Port
    sink: Port
    depth: int
    ends: tuple[int, int]
    tokens: int
    bounded: bool
    visible: Times = field(default_factory=lambda: np.zeros(0, np.int64))  # of this tensor
    returned: Times = field(default_factory=lambda: np.zeros(0, np.int64))  # the last ``depth``, then this tensor's

    def begin(self) -> None:
        """Keep what the next tensor can still see of those before; times of the new one begin at 0."""
        new = np.zeros(self.tokens, np.int64)
        self.visible = new
        if self.bounded:
            past = self.returned[-self.depth :] if len(self.returned) else np.zeros(self.depth, np.int64)
            self.returned = np.concatenate([past, new])


def balanced(
    programs: Sequence[Program], channels: Sequence[tuple[Port, Port, int]], tensors: int
) -> list[Lane] | None:
    """Return the lanes of a network in which tensors do not overlap and every channel takes a cycle; None for others.

    Args:
        channels: source, sink and depth of each.
    """
    if len({sink for _, sink, _ in channels}) < len(channels):
        return None
    counts: dict[tuple[Port, str], int] = {}
    for program in programs:
        firings = program.firings
        if not firings.count or any((np.diff(i) == 0).any() for i in firings.ports.values()):
            return None  # the last: a port twice in one firing
        counts |= {((program.name, port), action): len(i) for (action, port), i in firings.ports.items()}
    places, out = {program.name: i for i, program in enumerate(programs)}, list[Lane]()
    for source, sink, depth in channels:
        ends = [(source, "acquire"), (source, "publish"), (sink, "take"), (sink, "free")]
        found = {counts.get(end, 0) for end in ends}
        if len(found) > 1 or found == {0} or programs[places[source[0]]].latency.get(source[1], 1) < 1:
            return None
        tokens = found.pop()
        lane_ends = places[source[0]], places[sink[0]]
        out.append(Lane(source, sink, depth, lane_ends, tokens, depth < tokens * tensors))
    return out


def period(lanes: Sequence[Lane]) -> Period:
    """Return what finds the period of a network."""
    reach = max((-(-lane.depth // lane.tokens) for lane in lanes if lane.bounded), default=1)
    ends = [[lane.ends for lane in lanes if lane.bounded is bounded] for bounded in (True, False)]
    return Period(reach, *ends)


def sweep(programs: Sequence[Program], lanes: Sequence[Lane], tensors: int) -> tuple[int, list[Times]] | None:
    """Return when the first token comes from outside, and when tokens leave by each output, in order of actors.

    None where the times of a tensor still move after many sweeps, perhaps for ever because the network stops.
    """
    actors = [_bound(program, lanes) for program in programs]
    outputs = [(i, port, late) for i, actor in enumerate(actors) for port, late in actor.outside]
    start, leaving, found = 0, [list[Times]() for _ in outputs], period(lanes)
    for tensor in range(tensors):
        if not _settle(actors, lanes):
            return None
        if tensor == 0:
            start = min((int(a.times[a.entries.min()]) for a in actors if len(a.entries)), default=0)
        for times, (i, port, late) in zip(leaving, outputs, strict=True):
            times.append(actors[i].times[port] + late)
        settled = found.add([actor.times for actor in actors])
        if settled is not None:
            lag, distances = settled
            ends = zip(leaving, outputs, strict=True)
            return start, [continued(times, lag, distances[i], tensors) for times, (i, _, _) in ends]
    return start, [np.concatenate(times) for times in leaving]


def peaks(programs: Sequence[Program], lanes: Sequence[Lane], tensors: int) -> dict[tuple[Port, Port], int] | None:
    """Return how many slots of each channel are in use at once, by source and sink; None where times do not settle.

    A channel of fewer slots would delay a firing: the i-th token is acquired at once with the least depth d for which
    slot i - d came back by then, for all i.
    """
    actors = [_bound(program, lanes) for program in programs]
    acquired, returned = ([list[Times]() for _ in lanes] for _ in range(2))
    for _ in range(tensors):
        if not _settle(actors, lanes):
            return None
        for k, lane in enumerate(lanes):
            source, sink = (actors[end] for end in lane.ends)
            acquired[k] += [source.times[i] for other, i in source.acquires if other is lane]
            returned[k] += [sink.times[i] + 1 for other, i in sink.frees if other is lane]
    out = {}
    for k, lane in enumerate(lanes):
        taken, freed = np.concatenate(acquired[k]), np.concatenate(returned[k])
        used = np.arange(1, len(taken) + 1) - np.searchsorted(freed, taken, side="right")
        out[lane.source, lane.sink] = int(used.max())
    return out


@dataclass(eq=False)
class _Actor:
    """An actor bound to its lanes; arrays are indices of its steps."""

    dwells: Times
    offsets: Times
    entries: Times  # accept from outside
    outside: list[tuple[Times, int]]  # give to the outside, with the latency
    takes: list[tuple[Lane, Times]]
    frees: list[tuple[Lane, Times]]
    acquires: list[tuple[Lane, Times]]
    publishes: list[tuple[Lane, Times, int]]
    times: Times
    ready: int = 0  # when the first step of the tensor may fire

    def fire(self) -> list[int]:
        """Find the times of the tensor from what is known; return the actors that wait for something that moved."""
        waits = np.zeros(len(self.dwells), np.int64)
        waits[0] = self.ready
        for lane, i in self.takes:
            waits[i] = np.maximum(waits[i], lane.visible)
        for lane, i in self.acquires:
            if lane.bounded:
                waits[i] = np.maximum(waits[i], lane.returned[: lane.tokens])
        self.times = np.maximum.accumulate(waits - self.offsets) + self.offsets
        woken = []
        for lane, i, latency in self.publishes:
            visible = self.times[i] + latency
            if not np.array_equal(visible, lane.visible):
                lane.visible = visible
                woken.append(lane.ends[1])
        for lane, i in self.frees:
            returned = self.times[i] + 1
            if lane.bounded and not np.array_equal(returned, lane.returned[lane.depth :]):
                lane.returned[lane.depth :] = returned
                woken.append(lane.ends[0])
        return woken


def _bound(program: Program, lanes: Sequence[Lane]) -> _Actor:
    name = program.name
    takes, frees, acquires, publishes = map(program.firings.of, ("take", "free", "acquire", "publish"))
    entering = [lane for lane in lanes if lane.sink[0] == name]
    leaving = [lane for lane in lanes if lane.source[0] == name]
    inner = {lane.sink[1] for lane in entering} | {lane.source[1] for lane in leaving}
    dwells, none = program.firings.dwells, np.zeros(0, np.int64)
    late = {port: program.latency.get(port, 1) for port in publishes}
    return _Actor(
        dwells,
        np.cumsum(dwells) - dwells,
        np.concatenate([none, *(i for port, i in frees.items() if port not in inner)]),
        [(i, late[port]) for port, i in publishes.items() if port not in inner],
        [(lane, takes[lane.sink[1]]) for lane in entering],
        [(lane, frees[lane.sink[1]]) for lane in entering],
        [(lane, acquires[lane.source[1]]) for lane in leaving],
        [(lane, publishes[lane.source[1]], late[lane.source[1]]) for lane in leaving],
        none,
    )


def _settle(actors: Sequence[_Actor], lanes: Sequence[Lane]) -> bool:
    """Find the times of the next tensor; False if they still move after many sweeps."""
    for lane in lanes:
        lane.begin()
    waiting, order = set(range(len(actors))), list(range(len(actors)))
    for _ in range(SWEEPS):
        for i in order:
            if i in waiting:
                waiting.discard(i)
                waiting.update(actors[i].fire())
        if not waiting:
            for actor in actors:
                actor.ready = int(actor.times[-1] + actor.dwells[-1])
            return True
        order.reverse()
    return False
