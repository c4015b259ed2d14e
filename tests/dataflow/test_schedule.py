"""The recurrence against a simulator that knows nothing but the rules of one cycle."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mase.dataflow import compiled, schedule
from mase.dataflow.schedule import (
    IN,
    OUT,
    Actor,
    Channel,
    Deadlock,
    Loop,
    Schedule,
    Step,
    Timing,
    Wait,
    attempt,
    run,
    shortened,
    stream,
    taken,
)
from mase.errors import GraphError

DEEP = 1 << 40


# -- brute force ------------------------------------------------------------------------------------------------------


class Slots:
    """A channel in one cycle: what is yet to be taken and when it is visible, and the slots that are free.

    A slot is on its way back as soon as it is freed, even before its token was there.
    """

    def __init__(self, depth: int) -> None:
        self.free = depth
        self.returning: list[int] = []
        self.tokens: list[int] = []

    def step(self, now: int) -> None:
        self.free += sum(t <= now for t in self.returning)
        self.returning = [t for t in self.returning if t > now]


def steps(body: Sequence[Step | Loop]) -> Iterator[Step]:
    for item in body:
        if isinstance(item, Loop):
            for _ in range(item.count):
                yield from steps(item.body)
        else:
            yield item


def brute(actors: Sequence[Actor], channels: Sequence[Channel], tensors: int, limit: int = 20_000) -> Timing | None:
    """Go through the cycles one by one; None where nothing moves any more."""
    slots = [Slots(min(c.depth, 1 << 20)) for c in channels]
    into = {c.sink: s for c, s in zip(channels, slots, strict=True)}
    out_of = {c.source: s for c, s in zip(channels, slots, strict=True)}
    programs = {a.name: list(steps(a.body)) * tensors for a in actors}
    place, ready = dict.fromkeys(programs, 0), dict.fromkeys(programs, 0)
    outside: dict[tuple[str, str], list[int]] = {}
    first, quiet = None, 0
    for now in range(limit):
        for channel in slots:
            channel.step(now)
        moved = False
        for actor in actors:
            while place[actor.name] < len(programs[actor.name]) and now >= ready[actor.name]:
                step = programs[actor.name][place[actor.name]]
                takes = [into.get((actor.name, p)) for p in step.take]
                acquires = [out_of[actor.name, p] for p in step.acquire if (actor.name, p) in out_of]
                there = all(t is None or (t.tokens and t.tokens[0] <= now) for t in takes)
                if not there or not all(s.free > 0 for s in acquires):
                    break
                for queue in takes:
                    if queue is not None:
                        queue.tokens.pop(0)
                for p in step.free:
                    if (actor.name, p) in into:
                        into[actor.name, p].returning.append(now + 1)
                    elif first is None:
                        first = now  # a beat from outside is accepted
                for s in acquires:
                    s.free -= 1
                for p in step.publish:
                    arrives = now + actor.latency.get(p, 1)
                    if (actor.name, p) in out_of:
                        out_of[actor.name, p].tokens.append(arrives)
                    else:
                        outside.setdefault((actor.name, p), []).append(arrives)
                place[actor.name] += 1
                ready[actor.name] = now + step.dwell
                moved = True
        if all(place[name] == len(program) for name, program in programs.items()):
            order, start = [a.name for a in actors], first or 0
            found = []
            for port in sorted(outside, key=lambda port: order.index(port[0])):
                times = [t - start for t in outside[port]]
                found.append(Timing(times[0], tuple(times[len(times) // tensors - 1 :: len(times) // tensors])))
            return Timing.of(found)
        quiet = 0 if moved else quiet + 1
        if quiet > 200:
            return None
    raise AssertionError("the brute simulator needs more cycles")


@settings(max_examples=100)
@given(st.data())
def test_arrays_hold_the_firings_of_the_loop_nest(data: st.DataObject) -> None:
    program = actor(data.draw, "a", data.draw(st.integers(1, 4)), data.draw(st.integers(1, 4)))
    body = (Loop(data.draw(st.integers(1, 3)), program.body), *program.body)
    flat, arrays = list(steps(body)), schedule._firings(body)
    assert arrays.dwells.tolist() == [step.dwell for step in flat]
    for action in ("take", "free", "acquire", "publish"):
        for port in (IN, OUT):
            expected = [i for i, step in enumerate(flat) if port in getattr(step, action)]
            assert arrays.of(action).get(port, np.zeros(0)).tolist() == expected
    merged = schedule._compact(iter(flat))
    assert arrays.compact.dwells.tolist() == [step.dwell for step in merged]
    assert arrays.compact.of("take")[IN].tolist() == [i for i, step in enumerate(merged) if IN in step.take]


# -- random networks --------------------------------------------------------------------------------------------------


@st.composite
def chain(draw: st.DrawFn) -> tuple[list[Actor], list[Channel]]:
    """Draw a chain of actors whose rates fit: each takes and gives some tokens a tensor, in a random loop nest."""
    length = draw(st.integers(1, 4))
    tokens = [draw(st.integers(1, 5)) for _ in range(length + 1)]
    actors = [actor(draw, f"a{i}", tokens[i], tokens[i + 1]) for i in range(length)]
    depths = st.one_of(st.integers(1, 6), st.just(DEEP))
    channels = [Channel((f"a{i}", OUT), (f"a{i + 1}", IN), draw(depths)) for i in range(length - 1)]
    return actors, channels


def actor(draw: st.DrawFn, name: str, takes: int, gives: int) -> Actor:
    """Draw an actor that takes and gives so many tokens a tensor, in any order that begins with a taking."""
    kinds = [True, *draw(st.permutations([True] * (takes - 1) + [False] * gives))]
    body: list[Step | Loop] = []
    for take in kinds:
        dwell = draw(st.integers(1, 4))
        body.append(stream(take=take, produce=not take, dwell=dwell))
        if draw(st.integers(0, 3)) == 0:
            body.append(Loop(draw(st.integers(1, 3)), (Step(),)))
    if takes == gives and draw(st.booleans()):
        body = [Loop(takes, (stream(take=True, produce=True, dwell=draw(st.integers(1, 3))),))]
    return Actor(name, tuple(body), {OUT: draw(st.integers(1, 6))})


@st.composite
def diamond(draw: st.DrawFn) -> tuple[list[Actor], list[Channel]]:
    """Draw a fork into two chains that join again: back-pressure on one path stops the other."""
    tokens = draw(st.integers(1, 4))
    ports = ("left", "right")
    fork = Actor(
        "fork", (Loop(tokens, (Step((IN,), (IN,), ports, ports),)),), {p: draw(st.integers(1, 4)) for p in ports}
    )
    join = Actor("join", (Loop(tokens, (Step(ports, ports, (OUT,), (OUT,), draw(st.integers(1, 3))),)),), {OUT: 2})
    between = [actor(draw, p, tokens, tokens) for p in ports]
    channels = [Channel(("fork", p), (p, IN), draw(st.integers(1, 8))) for p in ports]
    channels += [Channel((p, OUT), ("join", p), draw(st.integers(1, 8))) for p in ports]
    return [fork, *between, join], channels


@st.composite
def forks(draw: st.DrawFn) -> tuple[list[Actor], list[Channel]]:
    """Draw a fork into two or three branches of up to two actors, and their join.

    A branch of none is the shortcut of a residual.
    """
    tokens, branches = draw(st.integers(1, 4)), draw(st.integers(2, 3))
    ports = tuple(f"p{i}" for i in range(branches))
    depths = st.one_of(st.integers(1, 8), st.just(DEEP))
    gives = {port: draw(st.integers(1, 4)) for port in ports}
    actors = [Actor("fork", (Loop(tokens, (Step((IN,), (IN,), ports, ports, draw(st.integers(1, 2))),)),), gives)]
    channels = list[Channel]()
    for port in ports:
        names = [f"{port}_{i}" for i in range(draw(st.integers(0, 2)))]
        actors += [actor(draw, name, tokens, tokens) for name in names]
        channels.append(Channel(("fork", port), (names[0], IN) if names else ("join", port), draw(depths)))
        ends = [(names[i + 1], IN) if i + 1 < len(names) else ("join", port) for i in range(len(names))]
        channels += [Channel((name, OUT), end, draw(depths)) for name, end in zip(names, ends, strict=True)]
    body = (Loop(tokens, (Step(ports, ports, (OUT,), (OUT,), draw(st.integers(1, 3))),)),)
    return [*actors, Actor("join", body, {OUT: 2})], channels


@settings(max_examples=150)
@given(forks(), st.sampled_from([1, 2, 3, 19]))
def test_recurrence_is_exact_behind_forks(network: tuple[list[Actor], list[Channel]], tensors: int) -> None:
    compare(*network, tensors)


@settings(max_examples=150)
@given(chain(), st.integers(1, 4))
def test_recurrence_equals_cycle_by_cycle_simulation(network: tuple[list[Actor], list[Channel]], tensors: int) -> None:
    compare(*network, tensors)


@settings(max_examples=60)
@given(chain(), st.integers(12, 30))
def test_a_run_that_repeats_itself_is_continued(network: tuple[list[Actor], list[Channel]], tensors: int) -> None:
    compare(*network, tensors)


@settings(max_examples=60)
@given(st.one_of(chain(), diamond(), forks()), st.data())
def test_both_ways_find_the_same_times_of_rest(network: tuple[list[Actor], list[Channel]], data: st.DataObject) -> None:
    """Compiled and in Python; the last actor to rest does when the run ends."""
    made = schedule.Network(*map(tuple, network))
    depths = [channel.depth for channel in made.channels]
    live = [data.draw(st.sampled_from([True, True, True, False])) for _ in made.actors]
    times = [made.rest(depths)]
    with pytest.MonkeyPatch.context() as patch:
        for _ in range(4):
            after = made.step(depths, times[-1], live)
            patch.setattr(compiled, "library", lambda: None)
            stepped = made.step(depths, times[-1], live)
            patch.undo()
            assert (after is None) == (stepped is None)
            if after is None or stepped is None:
                return
            np.testing.assert_array_equal(after, stepped)
            times.append(after)


@st.composite
def buffered(draw: st.DrawFn) -> tuple[list[Actor], list[Channel]]:
    """Draw a buffer from which windows are read.

    Several tokens are waited for at once, several slots given back at once, some before their tokens are there.
    """
    tokens, windows = draw(st.integers(1, 9)), draw(st.integers(1, 4))
    cuts = [sorted(draw(st.lists(st.integers(0, tokens), min_size=windows, max_size=windows))) for _ in range(2)]
    takes, frees = (np.diff([0, *cut[:-1], tokens]).tolist() for cut in cuts)
    body: list[Step | Loop] = []
    for take, free in zip(takes, frees, strict=True):
        body += [Loop(take, (Step((IN,), dwell=0),)), stream(produce=True, dwell=draw(st.integers(1, 3)))]
        body += [stream(produce=True, dwell=0), Loop(free, (Step((), (IN,), dwell=0),)), Step()]
    reader = Actor("reader", tuple(body), {OUT: draw(st.integers(1, 4))})
    actors = [actor(draw, "writer", tokens, tokens), reader, actor(draw, "after", 2 * windows, 3)]
    depths = draw(st.integers(1, 10)), draw(st.integers(1, 4))
    return actors, [
        Channel((a.name, OUT), (b.name, IN), depth) for a, b, depth in zip(actors, actors[1:], depths, strict=False)
    ]


@settings(max_examples=200)
@given(buffered(), st.sampled_from([1, 2, 3, 19]))
def test_recurrence_is_exact_where_firings_share_a_cycle(
    network: tuple[list[Actor], list[Channel]], tensors: int
) -> None:
    compare(*network, tensors)


@settings(max_examples=100)
@given(diamond(), st.sampled_from([1, 2, 3, 17]))
def test_recurrence_is_exact_on_reconvergent_paths(network: tuple[list[Actor], list[Channel]], tensors: int) -> None:
    compare(*network, tensors)


def compare(actors: Sequence[Actor], channels: Sequence[Channel], tensors: int) -> None:
    """Compare all ways to run a network, compiled, firing by firing and in whole arrays, with the simulator."""
    expected = brute(actors, channels, tensors)
    for engine, arrays in ((compiled.library, 1), (lambda: None, 1), (lambda: None, schedule.ARRAYS)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(compiled, "library", engine)
            patch.setattr(schedule, "ARRAYS", arrays)
            if expected is None:
                with pytest.raises(GraphError, match="waits for"):
                    run(actors, channels, tensors)
            else:
                assert run(actors, channels, tensors) == expected


@settings(max_examples=60)
@given(chain())
def test_closed_form_is_the_interval_once_fifos_are_deep(network: tuple[list[Actor], list[Channel]]) -> None:
    actors, channels = network
    deep = [Channel(c.source, c.sink, DEEP) for c in channels]
    assert run(actors, deep, 8).interval == max(a.cycles() for a in actors)


@settings(max_examples=60)
@given(chain(), st.integers(0, 3))
def test_a_deeper_fifo_never_delays_anything(network: tuple[list[Actor], list[Channel]], which: int) -> None:
    actors, channels = network
    if channels and brute(actors, channels, 3) is not None:
        i = which % len(channels)
        more = [Channel(c.source, c.sink, c.depth + (j == i)) for j, c in enumerate(channels)]
        pairs = zip(run(actors, more, 3).completions, run(actors, channels, 3).completions, strict=True)
        assert all(deeper <= shallower for deeper, shallower in pairs)


def line(firings: int, depth: int, dwells: Sequence[int] = (1, 2, 1)) -> tuple[list[Actor], list[Channel]]:
    """Return a chain whose actors fire so often a tensor."""
    loops = [(stream(take=True), Loop(firings - 2, (stream(take=True, produce=True, dwell=n),))) for n in dwells]
    actors = [Actor(f"a{i}", (*loop, stream(produce=True)), {OUT: 3}) for i, loop in enumerate(loops)]
    return actors, [Channel((f"a{i}", OUT), (f"a{i + 1}", IN), depth) for i in range(len(dwells) - 1)]


def test_a_long_run_fires_only_until_it_repeats(monkeypatch: pytest.MonkeyPatch) -> None:
    network, tensors = line(20, 4), list[int]()
    expected = brute(*network, 40)
    assert expected is not None
    move = schedule._move
    monkeypatch.setattr(schedule, "_move", lambda runners, n: (tensors.append(n), move(runners, n))[1])
    ends = run(*network, 100_000).completions
    assert len(tensors) < 12
    assert ends[:40] == expected.completions
    assert ends[-1] - ends[9] == (100_000 - 10) * expected.interval


@pytest.mark.parametrize("depth", [5, DEEP])
def test_many_firings_a_tensor_run_in_arrays(depth: int, monkeypatch: pytest.MonkeyPatch) -> None:
    network = line(6000, depth)
    with monkeypatch.context() as patch:
        patch.setattr(schedule, "ARRAYS", 1 << 62)
        expected = run(*network, 3)
    monkeypatch.delattr(schedule, "_stepped")
    assert run(*network, 3) == expected


def test_arrays_give_up_where_times_never_settle() -> None:
    network = line(3000, 1, (1, 1, 1))  # one slot: each firing waits for the one before it, there and back
    programs = [schedule.Program(a.name, schedule._firings(a.body), a.latency) for a in network[0]]
    lanes = schedule.balanced(programs, [(c.source, c.sink, c.depth) for c in network[1]], 1)
    assert lanes is not None
    assert schedule.sweep(programs, lanes, 1) is None
    assert run(*network, 1) == brute(*network, 1)


# -- by hand ----------------------------------------------------------------------------------------------------------


def pipe(latency: int = 1, dwell: int = 1) -> Actor:
    return Actor("a", (Loop(2, (stream(take=True, produce=True, dwell=dwell),)),), {OUT: latency})


def fork() -> Actor:
    return Actor("a", (Loop(2, (Step((IN,), (IN,), ("x", "y"), ("x", "y")),)),), {"x": 1, "y": 1})


def test_a_pipeline_by_hand() -> None:  # beats at 0, 1 leave at 3, 4; the next tensor follows without a bubble
    assert run([pipe(latency=3)], [], 2) == Timing(3, (4, 6))


def test_a_tensor_is_complete_when_its_last_output_is() -> None:
    # Tokens at 0 and 1; one branch holds each for a cycle, the other for 4: 2, 3 and 2, 6, then 4, 5 and 10, 14.
    fast, slow = (
        Actor(n, (Loop(2, (stream(take=True, produce=True, dwell=d),)),), {OUT: 1}) for n, d in (("b", 1), ("c", 4))
    )
    channels = [Channel(("a", "x"), ("b", IN), DEEP), Channel(("a", "y"), ("c", IN), DEEP)]
    found = run([fork(), fast, slow], channels, 2)
    assert found == Timing(2, (6, 14), (Timing(2, (3, 5)), Timing(2, (6, 14))))
    assert found.each == found.outputs
    assert found == brute([fork(), fast, slow], channels, 2)
    assert run([pipe()], [], 2).each == (run([pipe()], [], 2),)


def test_two_outputs_of_an_actor_have_cycles_of_their_own() -> None:
    step = Step((IN,), (IN,), ("a", "b"), ("a", "b"))
    actor = Actor("fork", (Loop(2, (step,)),), {"a": 1, "b": 5})
    assert run([actor], [], 2).outputs == (Timing(1, (2, 4)), Timing(5, (6, 8)))


def test_what_an_input_takes_before_all_stands_still() -> None:
    join = Actor("join", (Loop(2, (Step(("x", "y"), ("x", "y"), (OUT,), (OUT,)),)),), {OUT: 1})
    full = Channel(("join", OUT), ("nobody", IN), 3)
    first = Channel(("a", OUT), ("join", "x"), 2)
    assert taken([pipe(), join], [first, full], 9) == {("a", IN): 5, ("join", "y"): 3}
    assert taken([pipe(), join], [first, full], 1) == {("a", IN): 2, ("join", "y"): 2}


def test_a_credit_comes_back_a_cycle_after_the_slot_is_freed() -> None:
    # One slot: published at 0, visible at 1, freed at 1, acquired again at 2: half rate.
    actors = [pipe(), Actor("b", (Loop(2, (stream(take=True, produce=True),)),), {OUT: 1})]
    assert run(actors, [Channel(("a", OUT), ("b", IN), 1)], 2).completions == (4, 8)
    assert run(actors, [Channel(("a", OUT), ("b", IN), 2)], 2).completions == (3, 5)


def test_a_fork_waits_for_the_slower_branch() -> None:
    # One slot each: published at 0, freed at 1 by the fast branch, at 1 and 5 by the slow one, which holds each for 4.
    fast, slow = (
        Actor(n, (Loop(2, (stream(take=True, produce=True, dwell=d),)),), {OUT: 1}) for n, d in (("b", 1), ("c", 4))
    )
    channels = [Channel(("a", "x"), ("b", IN), 1), Channel(("a", "y"), ("c", IN), 1)]
    found = run([fork(), fast, slow], channels, 2)  # tokens at 0, 2, 6, 10 reach both a cycle later
    assert [out.completions for out in found.outputs] == [(4, 12), (6, 14)]


def test_interval_is_taken_over_the_last_half() -> None:
    assert Timing(0, (10, 14, 18, 22)).interval == 4
    assert Timing(0, (10, 14, 17, 22)).interval == Fraction(22 - 14, 2)
    assert Timing(0, (10,)).interval == 10


def test_a_network_that_cannot_finish_says_who_waits_for_whom() -> None:
    greedy = Actor("greedy", (stream(take=True), stream(take=True), stream(produce=True)), {OUT: 1})
    waits = Actor("a", (Step(("back",), ("back",), (OUT,), (OUT,)),), {OUT: 1})
    channels = [Channel(("a", OUT), ("greedy", IN), DEEP), Channel(("greedy", OUT), ("a", "back"), 1)]
    with pytest.raises(GraphError, match="a waits for a token of greedy; greedy waits for a token of a"):
        run([waits, greedy], channels, 1)


def test_a_deadlock_is_data() -> None:
    # The join takes both branches of two tokens in turn; "late" gives its first only after it has both.
    late = Actor("late", (stream(take=True), stream(take=True, produce=True), stream(produce=True)), {OUT: 1})
    join = Actor("join", (Loop(2, (Step(("long", "short"), ("long", "short"), (OUT,), (OUT,)),)),), {OUT: 1})
    a, long, short = fork(), Channel(("a", "x"), ("late", IN), 1), Channel(("a", "y"), ("join", "short"), 1)
    path = Channel(("late", OUT), ("join", "long"), 2)
    found = attempt([a, late, join], [long, short, path], 3)
    assert found == Deadlock(
        (Wait("a", "join", short, True), Wait("late", "a", long, False), Wait("join", "late", path, False))
    )
    assert (
        str(found)
        == "a waits for a free slot towards join; late waits for a token of a; join waits for a token of late"
    )
    deep = [long, replace(short, depth=2), path]
    assert attempt([a, late, join], deep, 3) == brute([a, late, join], deep, 3)


def test_a_network_that_nothing_leaves_is_refused() -> None:
    with pytest.raises(GraphError, match="no token leaves"):
        run([Actor("a", (stream(take=True),), {})], [], 1)


def test_ports_of_an_operator_are_those_of_its_actors() -> None:
    a, b = pipe(), replace(pipe(), name="b")
    assert [Schedule((a, b)).port(name) for name in (IN, OUT)] == [("a", IN), ("b", OUT)]
    two = Schedule((a, b), ports={"x": ("a", IN), "y": ("b", IN), "sum": ("a", OUT)})
    assert [two.port(name) for name in ("x", "y", "sum")] == [("a", IN), ("b", IN), ("a", OUT)]
    with pytest.raises(KeyError):
        two.port(IN)


def test_steps_without_ports_hold_the_actor() -> None:
    body: tuple[Step | Loop, ...] = (stream(take=True), Loop(4, (Step(),)), stream(produce=True))
    assert run([Actor("a", body, {OUT: 1})], [], 2).completions == (6, 12)
    assert Schedule((Actor("a", body, {OUT: 1}),)).interval() == 6


def test_cycles_count_every_dwell() -> None:
    nest = (Loop(3, (Step(dwell=2), Loop(2, (Step(),)))), Step(dwell=5))
    assert Actor("a", nest, {}).cycles() == 3 * (2 + 2) + 5


@settings(max_examples=60)
@given(chain(), st.integers(2, 4), st.integers(1, 3))
def test_parts_of_tensors_are_the_same_firings(
    network: tuple[list[Actor], list[Channel]], rows: int, tensors: int
) -> None:
    actors, channels = network
    whole = [Actor(a.name, (Loop(rows, a.body),), a.latency) for a in actors]
    short, parts = shortened(whole)
    assert parts % rows == 0
    if brute(actors, channels, rows) is not None:
        ends = run(short, channels, parts * tensors).completions
        assert run(whole, channels, tensors).completions == ends[parts - 1 :: parts]


def test_an_actor_without_one_outer_loop_keeps_its_tensors_whole() -> None:
    actors = [pipe(), Actor("b", (stream(take=True), stream(take=True, produce=True)), {OUT: 1})]
    assert shortened(actors) == (actors, 1)
