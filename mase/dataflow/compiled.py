"""The recurrence as a compiled program: tens of times faster than Python, the same cycles (recurrence.cpp).

It is compiled on first use and kept in the cache. Where there is no compiler, Python runs the recurrence.
"""

from __future__ import annotations

import ctypes
import hashlib
import platform
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from shutil import which
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt

from mase.dataflow.sweeps import Firings, Port, Program, Times
from mase.paths import cache_dir

SOURCE = Path(__file__).with_name("recurrence.cpp")
FLAGS = ("-std=c++17", "-O3", "-shared", "-fPIC")
TAKE, FREE, ACQUIRE, PUBLISH, ENTER, LEAVE = range(6)
ACTIONS = {"take": TAKE, "free": FREE, "acquire": ACQUIRE, "publish": PUBLISH}
MOST_KINDS, MOST_TWICE = 1 << 16, 1 << 3  # kinds of firings of an actor; times that a firing touches one port


@cache
def library() -> Any:  # a ctypes library, or None
    """Return the compiled program; None where it cannot be had."""
    if which("g++") is None:
        return None
    source = SOURCE.read_bytes()
    key = hashlib.sha256(source + " ".join((*FLAGS, platform.machine())).encode()).hexdigest()[:32]
    target = cache_dir() / "recurrence" / f"{key}.so"
    try:
        if not target.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=target.parent) as work:
                made = Path(work) / "recurrence.so"
                command = ["g++", *FLAGS, str(SOURCE), "-o", str(made)]
                if subprocess.run(command, capture_output=True, check=False, timeout=120).returncode:
                    return None
                made.rename(target)
        return ctypes.CDLL(str(target))
    except (OSError, subprocess.TimeoutExpired):
        return None


@dataclass(frozen=True)
class Kinds:
    """The firings of a tensor, each of one of a few kinds.

    Args:
        of: kind of each run of equal firings. lengths: of these runs. dwells: of each kind. actions: of each kind,
            (action, port).
    """

    of: npt.NDArray[np.uint16]
    lengths: npt.NDArray[np.int32]
    dwells: tuple[int, ...]
    actions: tuple[tuple[tuple[str, str], ...], ...]


def kinds(firings: Firings) -> Kinds | None:
    """Sort firings into kinds; None where they have too many."""
    keys = list(firings.ports)
    dwell_values, mixed = np.unique(firings.dwells, return_inverse=True)
    mixed = mixed.astype(np.int64)
    if len(keys) > 16 or len(dwell_values) > MOST_KINDS:
        return None
    for indices in firings.ports.values():
        times = np.bincount(indices, minlength=firings.count)
        if times.max(initial=0) >= MOST_TWICE:
            return None
        mixed = mixed * MOST_TWICE + times
    found, of = np.unique(mixed, return_inverse=True)
    if len(found) > MOST_KINDS:
        return None
    dwells, actions = [], []
    for value in found.tolist():
        done: list[tuple[str, str]] = []
        for key in reversed(keys):
            value, times = divmod(value, MOST_TWICE)
            done[:0] = [key] * times
        dwells.append(int(dwell_values[value]))
        actions.append(tuple(done))
    first = np.flatnonzero(np.diff(of, prepend=-1))
    lengths = np.diff(first, append=len(of)).astype(np.int32)
    return Kinds(of[first].astype(np.uint16), lengths, tuple(dwells), tuple(actions))


@dataclass(frozen=True)
class Ran:
    """What a run gave.

    Args:
        start: first firing that takes a token from outside. left: times of the tokens of each output, in order of
            actors and of their ports. finished: tensors of each actor. waits: channel that each waits for, or -1.
        slots: whether for a slot of it. used: slots of each queue in use at once, where asked for. entered: tokens that
            each port took from outside. lag: cycles from one tensor to the next where the run repeats itself, or -1.
    """

    start: int
    left: list[Times]
    finished: list[int]
    waits: list[int]
    slots: list[bool]
    used: list[int]
    entered: dict[Port, int]
    lag: int


class Network:
    """A network made ready to be run many times, with queues of different depths.

    Args:
        queues: source and sink of each.
    """

    def __init__(self, programs: Sequence[Program], queues: Sequence[tuple[Port, Port]]) -> None:
        self._kinds = [_kept(program) for program in programs]
        self._queues, self._outputs, self._inputs = len(queues), dict[Port, int](), dict[Port, int]()  # tokens a tensor
        if None not in self._kinds:
            self._prepare(programs, queues)

    def _prepare(self, programs: Sequence[Program], queues: Sequence[tuple[Port, Port]]) -> None:
        by_source = {source: i for i, (source, _) in enumerate(queues)}
        by_sink = {sink: i for i, (_, sink) in enumerate(queues)}
        offsets, dwells, starts, actions, ends, latencies = [0], list[int](), [0], list[int](), list[int](), list[int]()
        outputs, inputs = list[Port](), list[Port]()
        for program, one in zip(programs, self._kinds, strict=True):
            assert one is not None
            given = {port: at for port, at in program.firings.of("publish").items() if len(at)}
            for port in sorted(given, key=lambda port: int(given[port][0])):
                if (program.name, port) not in by_source:
                    outputs.append((program.name, port))
                    self._outputs[program.name, port] = len(given[port])
            for port, freed in program.firings.of("free").items():
                if (program.name, port) not in by_sink:
                    inputs.append((program.name, port))
                    self._inputs[program.name, port] = len(freed)
            for dwell, done in zip(one.dwells, one.actions, strict=True):
                dwells.append(dwell)
                for action, port in done:
                    place, late = (program.name, port), program.latency.get(port, 1)
                    if action in ("take", "free"):
                        inside = place in by_sink
                        at = [by_sink[place]] if inside else [inputs.index(place)] * (action == "free")
                        code = ACTIONS[action] if inside else ENTER
                    else:
                        inside = place in by_source
                        at = [by_source[place]] if inside else [outputs.index(place)] * (action == "publish")
                        code = ACTIONS[action] if inside else LEAVE
                    actions += [code] * len(at)
                    ends += at
                    latencies += [late] * len(at)
                starts.append(len(actions))
            offsets.append(offsets[-1] + len(one.dwells))
        found = [one for one in self._kinds if one is not None]
        self._runs = np.array([len(one.of) for one in found], np.int64)
        self._kinds_of = (ctypes.c_void_p * len(found))(*(one.of.ctypes.data for one in found))
        self._lengths = (ctypes.c_void_p * len(found))(*(one.lengths.ctypes.data for one in found))
        self._tables = [
            np.array(values or [0], kind)
            for values, kind in (
                (offsets, np.int32),
                (dwells, np.int64),
                (starts, np.int32),
                (actions, np.int32),
                (ends, np.int32),
                (latencies, np.int64),
            )
        ]

    def run(self, depths: Sequence[int], tensors: int, used: bool = False) -> Ran | None:
        """Run it; None where the program cannot.

        Args:
            depths: of each queue. used: count the slots in use, with queues that never fill.
        """
        engine, actors, queues = library(), len(self._kinds), self._queues
        if engine is None or None in self._kinds:
            return None
        left = [np.zeros(tokens * tensors, np.int64) for tokens in self._outputs.values()]
        outs = (ctypes.c_void_p * max(1, len(left)))(*(times.ctypes.data for times in left))
        first, lag, entered = ctypes.c_int64(0), ctypes.c_int64(0), np.zeros(max(1, len(self._inputs)), np.int64)
        finished, slots_used = np.zeros(actors, np.int64), np.zeros(max(1, queues), np.int64)
        waits, slots = np.zeros(actors, np.int32), np.zeros(actors, np.int32)
        slots_of = np.array(depths or [0], np.int64)
        engine.mase_run(
            *self._program, _pointer(slots_of), ctypes.c_int64(tensors), len(self._inputs), len(left), outs,
            ctypes.byref(first), _pointer(entered), _pointer(finished), _pointer(waits), _pointer(slots),
            ctypes.byref(lag), _pointer(slots_used) if used else None,
        )  # fmt: skip
        return Ran(
            max(0, first.value),
            left,
            finished.tolist(),
            waits.tolist(),
            [bool(s) for s in slots],
            slots_used.tolist(),
            dict(zip(self._inputs, entered.tolist(), strict=False)),  # one more where there is none
            lag.value,
        )

    def step(
        self, depths: Sequence[int], tensors: int, times: Times, live: Sequence[bool], counts: Sequence[bool]
    ) -> Times | bool | None:
        """Return the next time of rest, so many tensors later; False where there is none, None as :meth:`run`.

        Args:
            times: when each actor may fire again, then when each slot of each queue that may fill up came back.
            live: which actors run. counts: which queues lie between two of these; the others are not there.
        """
        engine = library()
        if engine is None or None in self._kinds:
            return None
        slots_of, after = np.array(depths or [0], np.int64), times.copy()
        which = [np.array([*flags, False], np.uint8) for flags in (live, counts)]
        failed = engine.mase_step(
            *self._program, _pointer(slots_of), ctypes.c_int64(tensors), *map(_pointer, which), _pointer(after)
        )
        return False if failed else after

    @property
    def _program(self) -> tuple[Any, ...]:
        """What the program needs to know of the network, as its first arguments."""
        tables = map(_pointer, self._tables)
        return len(self._kinds), _pointer(self._runs), self._kinds_of, self._lengths, *tables, self._queues


def _pointer(array: npt.NDArray[Any]) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


_KINDS: WeakKeyDictionary[Firings, Kinds | None] = WeakKeyDictionary()


def _kept(program: Program) -> Kinds | None:
    """Return the kinds of a program, kept while its firings live."""
    if program.firings not in _KINDS:
        _KINDS[program.firings] = kinds(program.firings)
    return _KINDS[program.firings]
