from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mase.errors import ConfigError, UnknownName
from mase.explore.pareto import eps_front_indices, front, front_indices, hypervolume, select
from mase.explore.space import Point
from mase.explore.trial import Constraint, Objective, Trial


def trial(number: int, accuracy: float, lut: float) -> Trial:
    return Trial(number, Point({"a": number}), {"accuracy": accuracy, "lut": lut})


tied_rows = st.integers(1, 3).flatmap(
    lambda width: st.lists(st.lists(st.integers(0, 4), min_size=width, max_size=width), min_size=1, max_size=30)
)


@given(tied_rows)
def test_the_front_is_what_nothing_dominates_and_ties_count_once(rows: list[list[int]]) -> None:
    def dominated(i: int) -> bool:
        return any(
            all(a <= b for a, b in zip(rows[k], rows[i], strict=True)) and rows[k] != rows[i] for k in range(len(rows))
        )

    expected = [i for i in range(len(rows)) if not dominated(i) and rows[i] not in rows[:i]]
    assert front_indices(np.array(rows, dtype=float)) == expected


def test_the_front_of_nothing_is_empty() -> None:
    assert front([], (Objective("lut"),)) == ()


def test_front_turns_maximised_metrics_and_leaves_out_infeasible_trials() -> None:
    trials = [trial(0, 0.90, 100), trial(1, 0.95, 200), trial(2, 0.94, 200), trial(3, 0.99, 900)]
    best = front(trials, (Objective("accuracy", "maximize"), Objective("lut")), (Constraint("lut", "<=", 500),))
    assert [t.number for t in best] == [0, 1]


def test_hypervolume_by_hand() -> None:
    rows = np.array([[1.0, 3.0], [2.0, 1.0], [9.0, 0.0]])  # the last is beyond the reference
    assert hypervolume(rows, (4.0, 4.0)) == 3 * 1 + 2 * 2
    assert hypervolume(np.empty((0, 2)), (4.0, 4.0)) == 0.0


@given(tied_rows)
def test_hypervolume_counts_the_cells_that_are_dominated(rows: list[list[int]]) -> None:
    values = np.array(rows, dtype=float)
    cells = np.stack(np.meshgrid(*[np.arange(5)] * values.shape[1]), axis=-1).reshape(-1, values.shape[1])
    covered = (values[None, :, :] <= cells[:, None, :]).all(axis=2).any(axis=1).sum()
    assert hypervolume(values, [5.0] * values.shape[1]) == covered


def test_eps_front_keeps_one_of_what_differs_by_noise() -> None:
    rows = np.array([[1.9, 7.9], [1.1, 7.1], [5.5, 2.5], [6.5, 2.9], [1.2, 9.0]])
    # boxes of side 2: (0,3) twice, (2,1), (3,1) dominated, (0,4) dominated; the second twin is nearer its corner
    assert eps_front_indices(rows, (2.0, 2.0)) == [1, 2]


def test_eps_must_be_positive() -> None:
    with pytest.raises(ConfigError, match="must be above 0"):
        eps_front_indices(np.ones((1, 1)), (0.0,))


GOOD = (Constraint("accuracy", ">=", 0.9),)


def test_the_cheapest_good_trial_wins_and_ties_go_to_the_first() -> None:
    trials = [trial(0, 0.89, 1), trial(1, 0.95, 50), trial(2, 0.90, 40), trial(3, 0.97, 40)]
    assert select(trials, GOOD, "lut").number == 2
    assert select(trials[::-1], GOOD, "lut").number == 2


def test_no_good_trial_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"none of 2 .* >= 0\.9; the nearest is trial 1 with accuracy = 0\.8"):
        select([trial(0, 0.7, 1), trial(1, 0.8, 1)], GOOD, "lut")


def test_selecting_from_nothing_or_by_an_unknown_metric_is_refused() -> None:
    with pytest.raises(ConfigError, match="no trials"):
        select([], GOOD, "lut")
    with pytest.raises(UnknownName, match="did you mean lut"):
        select([trial(0, 1, 1)], GOOD, "luts")
