from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mase.errors import ConfigError, UnknownName
from mase.explore.space import Axis, Condition, Point, Space
from tests.explore.evaluators import SMALL, WIDTHS


@st.composite
def spaces(draw: st.DrawFn) -> Space:
    """Up to five axes of up to four values, some tied to an equal one, some switched by an earlier one."""
    axes: list[Axis] = []
    ties: list[tuple[str, ...]] = []
    conditions: list[Condition] = []
    for i in range(draw(st.integers(1, 5))):
        values = draw(st.lists(st.integers(-9, 9) | st.sampled_from("abcd"), min_size=1, max_size=4, unique=True))
        axes.append(Axis(f"axis{i}", tuple(values)))
        earlier = draw(st.none() | st.sampled_from(axes[:-1])) if i else None
        if earlier is not None:
            chosen = draw(st.lists(st.sampled_from(earlier.values), min_size=1, unique=True))
            conditions.append(Condition(f"axis{i}", earlier.name, tuple(chosen)))
        if draw(st.integers(0, 3)) == 0:
            axes.append(Axis(f"twin{i}", tuple(values)))
            ties.append((f"twin{i}", f"axis{i}"))
    return Space(tuple(axes), tuple(ties), tuple(conditions))


@given(spaces())
def test_size_counts_the_points_and_none_repeats(space: Space) -> None:
    points = list(space.points())
    assert len(points) == len(set(points)) == space.size


@given(spaces())
def test_index_and_digits_invert_point(space: Space) -> None:
    for i, point in enumerate(space.points()):
        assert space.index(point) == i
        assert space.from_digits(space.digits(point)) == point


@given(spaces(), st.integers(0, 2**32))
def test_same_seed_gives_the_same_point_of_the_space(space: Space, seed: int) -> None:
    drawn = space.sample(np.random.default_rng(seed))
    assert drawn == space.sample(np.random.default_rng(seed))
    assert 0 <= space.index(drawn) < space.size


@given(spaces(), st.integers(0, 2**32))
def test_ties_and_conditions_hold_in_every_sample(space: Space, seed: int) -> None:
    point = space.sample(np.random.default_rng(seed))
    for tie in space.ties:
        assert len({point.get(name) for name in tie}) == 1
    for condition in space.conditions:
        assert (condition.axis in point) == (point.get(condition.on) in condition.values)


@given(spaces())
def test_text_round_trips(space: Space) -> None:
    again = Space.from_json(space.to_json())
    assert again == space  # these values are text already
    assert all(again.parse(space.text(point)) == point for point in space.points())


def test_points_come_with_the_last_axis_fastest() -> None:
    space = Space((Axis("a", (1, 2)), Axis("b", ("x", "y"))))
    assert [tuple(point.values()) for point in space.points()] == [(1, "x"), (1, "y"), (2, "x"), (2, "y")]


def test_sampling_reaches_every_point() -> None:
    rng = np.random.default_rng(0)
    assert {SMALL.index(SMALL.sample(rng)) for _ in range(3000)} == set(range(SMALL.size))


def test_a_space_too_large_to_list_still_counts_and_numbers() -> None:
    space = Space(tuple(Axis(f"layer{i}.width", WIDTHS) for i in range(200)))
    assert space.size == 5**200
    assert space.index(space.point(5**150 + 7)) == 5**150 + 7


def test_a_condition_on_a_tied_axis_asks_the_axis_that_decides() -> None:
    space = Space(
        (Axis("a", (1, 2)), Axis("b", (1, 2)), Axis("c", ("x", "y"))),
        ties=(("a", "b"),),
        conditions=(Condition("c", "b", (2,)),),
    )
    assert [dict(point) for point in space.points()] == [
        {"a": 1, "b": 1},
        {"a": 2, "b": 2, "c": "x"},
        {"a": 2, "b": 2, "c": "y"},
    ]


def test_an_inactive_axis_switches_off_what_hangs_on_it() -> None:
    space = Space(
        (Axis("a", (0, 1)), Axis("b", (0, 1)), Axis("c", (0, 1))),
        conditions=(Condition("b", "a", (1,)), Condition("c", "b", (0,))),
    )
    assert [dict(p) for p in space.points()] == [
        {"a": 0},
        {"a": 1, "b": 0, "c": 0},
        {"a": 1, "b": 0, "c": 1},
        {"a": 1, "b": 1},
    ]


def test_uniform_designs_give_a_group_one_value() -> None:
    space = Space(
        (
            Axis("fc1.format", ("fixed8.4", "int8", "int4")),
            Axis("fc2.format", ("int8", "int4", "int2")),
            Axis("fc1.lanes", (1, 2)),
        )
    )
    assert [tuple(point.values()) for point in space.uniform_points()] == [("int8", "int8", 1), ("int4", "int4", 2)]


def test_uniform_designs_step_through_short_lists_more_slowly() -> None:
    space = Space((Axis("fc1.width", (2, 4, 6, 8)), Axis("fc1.kind", ("fixed", "int"))))
    assert [tuple(p.values()) for p in space.uniform_points()] == [(2, "fixed"), (4, "fixed"), (6, "int"), (8, "int")]


def test_a_group_is_the_last_part_of_the_name_unless_given() -> None:
    assert [Axis("fc1.weight", (1,)).group, Axis("depth", (1,)).group, Axis("x", (1,), "y").group] == [
        "weight",
        "depth",
        "y",
    ]


def test_rising_numbers_are_ordinal_and_names_are_not() -> None:
    lists = ((1, 2, 4), (0.5, 1), (4, 2), ("a", "b"), (False, True))
    assert [Axis("a", values).ordinal for values in lists] == [True, True, False, False, False]


def test_values_of_any_type_travel_as_their_text() -> None:
    @dataclass(frozen=True)
    class Fixed:
        width: int

        def __str__(self) -> str:
            return f"fixed{self.width}"

    space = Space((Axis("a", (Fixed(4), Fixed(8))), Axis("b", (1, 2))))
    point = Point({"a": Fixed(8), "b": 1})
    assert space.text(point) == {"a": "fixed8", "b": 1}
    assert space.parse({"a": "fixed8", "b": 1}) == point
    assert Space.from_json(space.to_json()).to_json() == space.to_json()


def test_points_are_immutable_hashable_and_equal_by_content() -> None:
    point = Point({"a": 1, "b": "x"})
    assert point == Point({"b": "x", "a": 1}) == {"a": 1, "b": "x"}
    assert hash(point) == hash(Point({"b": "x", "a": 1}))
    assert point != Point({"a": 1})
    with pytest.raises(TypeError):
        point["a"] = 2  # type: ignore[index]


AB = (Axis("a", (1, 2)), Axis("b", (1, 3)))


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Axis("", (1,)), "needs a name"),
        (lambda: Axis("a", ()), "axis 'a' has no values"),
        (lambda: Axis("a", (1, 2, 1)), "value 1 twice"),
        (lambda: Axis("a", (1, True)), "value True twice"),
        (lambda: Axis("a", ([1],)), "cannot be hashed"),
        (lambda: Axis("a", (float("nan"),)), "NaN"),
        (lambda: Axis("a", ((1, 2), "(1, 2)")), "twice"),
        (lambda: Space(()), "no axes"),
        (lambda: Space((AB[0], AB[0])), "axis 'a' is declared 2 times"),
        (lambda: Space(AB, ties=(("a", "bb"),)), r"ties\[0\]: axis: unknown name 'bb'"),
        (lambda: Space(AB, ties=(("a", "b"),)), "'b' and 'a' are tied but have different values"),
        (lambda: Space((*AB, Axis("c", (1, 2))), ties=(("a", "c"), ("c", "a"))), "tied twice"),
        (lambda: Space(AB, conditions=(Condition("b", "aa", (1,)),)), r"conditions\[0\]: axis: unknown name 'aa'"),
        (lambda: Space(AB, conditions=(Condition("b", "a", (7,)),)), "value of axis 'a': unknown name '7'"),
        (lambda: Space(AB, conditions=(Condition("b", "a", ()),)), "could never be active"),
        (lambda: Space(AB, conditions=(Condition("a", "b", (1,)),)), "must be declared before it"),
        (lambda: Space(AB, conditions=(Condition("a", "a", (1,)),)), "must be declared before it"),
        (lambda: Space(AB, conditions=(Condition("b", "a", (1,)), Condition("b", "a", (2,)))), "two conditions"),
        (lambda: Space((*AB, Axis("c", (1, 2))), (("a", "c"),), (Condition("c", "b", (1,)),)), "follows 'a' in a tie"),
        (lambda: Space(AB).point(4), r"no point 4; allowed: 0\.\.3"),
        (lambda: Space(AB).digits({"a": 1}), "axis 'b' is missing"),
        (lambda: Space(AB).digits({"a": 1, "b": 2}), "value of axis 'b': unknown name '2'"),
        (lambda: Space(AB).digits({"a": 1, "b": 1, "c": 1}), "point: axis: unknown name 'c'"),
        (lambda: Space(AB).parse({"a": 1, "b": "3"}), "value of axis 'b': unknown name '3'"),
        (lambda: SMALL.digits({**SMALL.point(0), "block": 4}), "axis 'block' is inactive here"),
        (lambda: SMALL.digits({**SMALL.point(0), "c.width": 8}), "axis 'c.width' is 8, but the axis that it is tied"),
        (lambda: Space.from_json({"schema": 2}), "schema version 2 cannot be read"),
    ],
)
def test_what_is_wrong_is_said(make: object, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        make()  # type: ignore[operator]


def test_an_unknown_axis_suggests_the_nearest() -> None:
    with pytest.raises(UnknownName, match=r"did you mean a\.width\?"):
        SMALL.digits({"a.widht": 2})
