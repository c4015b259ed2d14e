"""FIFO depths: those of a search one by one in chains, and such that keep the interval where paths meet again."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from mase.dataflow import compiled, sizing
from mase.dataflow.schedule import (
    IN,
    OUT,
    Actor,
    Channel,
    Deadlock,
    Loop,
    Step,
    Timing,
    run,
    shortened,
    stream,
)
from mase.dataflow.sizing import LEAST_TENSORS, UNBOUNDED, least_depths
from mase.errors import GraphError
from tests.dataflow.test_schedule import chain, diamond, forks

Network = tuple[list[Actor], list[Channel]]


def with_depths(channels: Sequence[Channel], depths: Sequence[int]) -> list[Channel]:
    return [replace(channel, depth=depth) for channel, depth in zip(channels, depths, strict=True)]


def one_by_one(actors: list[Actor], channels: list[Channel]) -> list[int]:
    """Return depths by counting up each one from 2, with those after it unbounded: slow, and nothing to get wrong."""
    short = shortened(actors)[0]
    deep = [UNBOUNDED] * len(channels)
    first = run(short, with_depths(channels, deep), LEAST_TENSORS)
    tensors = max(LEAST_TENSORS, 2 * math.ceil(first.first / first.interval) + 2)
    while True:
        found = list(deep)
        target = run(short, with_depths(channels, deep), tensors).interval
        for i in range(len(found)):
            found[i] = 2
            while run(short, with_depths(channels, found), tensors).interval > target:
                found[i] += 1
        if run(short, with_depths(channels, found), 4 * tensors).interval <= target:
            return found
        tensors *= 2


@settings(max_examples=60)
@given(chain())
def test_depths_of_a_chain_are_those_of_a_search_one_by_one(network: Network) -> None:
    actors, channels = network
    assert least_depths(actors, channels, range(len(channels))) == one_by_one(actors, channels)


LONG = 1200  # tensors, far more than any delay at the start lasts


def kept(network: sizing._Network, depths: Sequence[int], target: Fraction) -> bool:
    """Tell by a long run whether an interval is kept: one that is not costs a sixth of a cycle a tensor or more."""
    timing = network.run(depths, LONG)
    if isinstance(timing, Deadlock):
        return False
    half = LONG // 2
    return timing.completions[-1] - timing.completions[half - 1] <= target * (LONG - half) + LONG // 24


@settings(max_examples=150, phases=[Phase.generate])
@given(st.one_of(chain(), forks(), diamond()), st.data())
def test_a_trial_says_what_a_long_run_says(network: Network, data: st.DataObject) -> None:
    actors, channels = network
    found = sizing._Network(shortened(actors)[0], channels, range(len(channels)))
    unbounded = [UNBOUNDED] * len(channels)
    target = found.steady(unbounded, 6)
    assert found.proven
    depth = st.one_of(st.integers(1, 8), st.just(UNBOUNDED))
    for _ in range(4):  # later ones begin where earlier ones ended
        depths = [data.draw(depth) for _ in channels]
        assert (found.excess(depths, 6, target) == 0) == kept(found, depths, target)
    assert found.proven


def plain(actors: Sequence[Actor], channels: Sequence[Channel]) -> list[int]:
    """Return depths by counting up each one from 2 in long runs, with those after it as at the start."""
    network = sizing._Network(shortened(actors)[0], channels, range(len(channels)))
    unbounded = [UNBOUNDED] * len(channels)
    target = Fraction(round(network.interval(unbounded, 2 * LONG) * 60), 60)
    free = network.run(unbounded, LEAST_TENSORS)
    assert isinstance(free, Timing)
    needs = network.needs(math.ceil(target), max(LEAST_TENSORS, 2 * math.ceil(free.first / free.interval) + 2))
    found = unbounded if network.chain or not kept(network, needs, target) else list(needs)
    for i in range(len(found)):
        found[i] = 2
        while not kept(network, found, target):
            found[i] += 1
    return found


@settings(max_examples=40, phases=[Phase.generate])
@given(st.one_of(forks(), diamond()))
def test_depths_behind_forks_are_those_of_a_search_one_by_one(network: Network) -> None:
    actors, channels = network
    assert least_depths(actors, channels, range(len(channels))) == plain(actors, channels)


@settings(max_examples=10, phases=[Phase.generate])
@given(forks())
def test_depths_do_not_depend_on_the_compiler(network: Network) -> None:
    actors, channels = network
    found = least_depths(actors, channels, range(len(channels)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiled, "library", lambda: None)
        assert least_depths(actors, channels, range(len(channels))) == found


@settings(max_examples=50, phases=[Phase.generate])
@given(forks())
def test_depths_keep_the_interval_where_paths_meet_again(network: Network) -> None:
    actors, channels = network
    found = least_depths(actors, channels, range(len(channels)))
    assert all(2 <= depth < UNBOUNDED for depth in found)
    target, interval = (
        run(actors, with_depths(channels, depths), 1000).interval for depths in ([UNBOUNDED] * len(channels), found)
    )
    assert interval <= target * Fraction(101, 100)  # both are taken over whole tensors, a period may be several


def residual(latency: int) -> Network:
    """Return a fork into a path of some cycles and a shortcut past it, each with its own FIFO, and their join."""
    beats = 64
    both = Step((IN, "past"), (IN, "past"), (OUT,), (OUT,))
    one = stream(take=True, produce=True)
    actors = [
        Actor("fork", (Loop(beats, (Step((IN,), (IN,), (OUT, "past"), (OUT, "past")),)),), {OUT: 1, "past": 1}),
        Actor("path", (Loop(beats, (one,)),), {OUT: latency}),
        Actor("join", (Loop(beats, (both,)),), {OUT: 1}),
    ]
    ends = [("fork", OUT, "path", IN), ("path", OUT, "join", IN), ("fork", "past", "join", "past")]
    return actors, [Channel((a, give), (b, take), UNBOUNDED) for a, give, b, take in ends]


@pytest.mark.parametrize("latency", [1, 10, 40])
def test_a_shortcut_holds_what_is_under_way_on_the_path(latency: int) -> None:
    # A token acquired at t is taken from the shortcut at t + 1 + latency, and its slot comes back a cycle later.
    assert least_depths(*residual(latency), range(3)) == [2, latency + 1, latency + 2]


def test_fifos_of_the_least_depth_are_found_together(monkeypatch: pytest.MonkeyPatch) -> None:
    trials = list[float | None]()

    class Counted(sizing._Trials):
        def _decided(self, *args: Any) -> float | None:
            trials.append(super()._decided(*args))
            return trials[-1]

    monkeypatch.setattr(sizing, "_Trials", Counted)
    one = stream(take=True, produce=True)
    actors = [Actor(f"a{i}", (Loop(8, (one,)),), {OUT: 1}) for i in range(41)]
    channels = [Channel((f"a{i}", OUT), (f"a{i + 1}", IN), UNBOUNDED) for i in range(40)]
    assert least_depths(actors, channels, range(40)) == [2] * 40
    assert 0 < len(trials) < 12


def test_a_channel_that_is_not_listed_keeps_its_depth() -> None:
    actors, channels = residual(10)
    channels[1] = replace(channels[1], depth=30)
    assert least_depths(actors, channels, (0, 2)) == [2, 12]


def test_a_network_that_stops_at_any_depth_is_refused() -> None:
    waits = Actor("a", (Step((IN, "back"), (IN, "back"), (OUT,), (OUT,)),), {OUT: 1})
    after = Actor("b", (Step((IN,), (IN,), (OUT, "end"), (OUT, "end")),), {OUT: 1, "end": 1})
    channels = [Channel(("a", OUT), ("b", IN), UNBOUNDED), Channel(("b", OUT), ("a", "back"), UNBOUNDED)]
    with pytest.raises(GraphError, match="at any FIFO depths: a waits for a token of b; b waits for a token of a"):
        least_depths([waits, after], channels, range(2))
