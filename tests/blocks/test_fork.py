"""A fork gives its input twice, and takes a beat once both readers have room for it."""

from __future__ import annotations

import torch

from mase.blocks.fork import Fork
from mase.dataflow.schedule import Actor, Channel, Loop, Step, run
from mase.dataflow.stream import StreamType
from mase.formats import Code
from mase.formats.grid import Grid
from mase.testing import count_port, module_parameters

STREAM = StreamType(2, 6, 4, Grid(5, True, -16, 15))


def test_both_outputs_are_the_input() -> None:
    code = Code(torch.arange(24).reshape(2, 2, 6))
    assert [given is code for given in Fork(STREAM).compute(code)] == [True, True]


def test_every_beat_moves_once() -> None:
    schedule = Fork(STREAM).schedule()
    (actor,) = schedule.actors
    assert {port: count_port(actor.body, schedule.port(port)[1]) for port in ("in", "a", "b")} == {
        "in": 4,
        "a": 4,
        "b": 4,
    }


def test_each_output_has_a_depth_of_its_own() -> None:
    fork = Fork(STREAM, {"b": 9}, fifo=3)
    assert (fork.depth("a"), fork.depth("b")) == (3, 9)
    assert fork.sv_params() == {"Width": 20, "Beats": 4, "DepthA": 3, "DepthB": 9}
    assert set(fork.sv_params()) == set(module_parameters("mase_fork"))
    assert fork.work().fifos == ((21, 3), (21, 9))


def test_a_reader_that_waits_stops_the_other_once_its_fifo_is_full() -> None:
    fork = Fork(STREAM, {"b": 3})
    schedule = fork.schedule()
    slow = Actor("slow", (Step(("x",), ("x",), ("out",), ("out",), dwell=5),), {"out": 0})
    fast = Actor("fast", (Step(("x",), ("x",), ("out",), ("out",)),), {"out": 0})
    channels = [
        Channel(schedule.port("a"), ("fast", "x"), fork.depth("a")),
        Channel(schedule.port("b"), ("slow", "x"), fork.depth("b")),
    ]
    bodies = [Actor(a.name, (Loop(4, a.body),), a.latency) for a in (fast, slow)]
    timing = run([*bodies, *schedule.actors], channels, 2).outputs[0]
    # The slow reader takes in cycles 1, 6, 11, ...; beats are taken in 0 to 3, then each time that it has freed a slot.
    assert timing.completions == (4, 23)  # the fourth beat is taken in 3, the eighth in 22
