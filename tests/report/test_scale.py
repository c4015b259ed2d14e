import math

import pytest

from mase.report.scale import MOST_TICKS, Scale


@pytest.mark.parametrize(
    ("values", "fraction", "kind"),
    [
        ([2000, 7000], False, "linear"),
        ([100, 20_000], False, "log"),
        ([-1, 100], False, "linear"),
        ([0, 0, 5], False, "linear"),
        ([0.9, 0.95], True, "linear"),
        ([0.1, 0.97], True, "error"),
        ([0.5, 1.0, 0.99], True, "error"),
        ([0.9, 0.9], True, "linear"),
        ([1.0], True, "linear"),
        ([0.0], False, "linear"),
    ],
)
def test_kind_follows_the_range_and_all_values_have_a_place(values: list[float], fraction: bool, kind: str) -> None:
    scale = Scale.over(values, fraction)
    assert scale.kind == kind
    places = [scale.place(v) for v in sorted(values)]
    assert places == sorted(places)
    assert all(0 < place < 100 for place in places)
    assert len(set(places)) == len(set(values))


@pytest.mark.parametrize("low", [1e-9, 0.3, 1, 950, 3.2e7])
@pytest.mark.parametrize("factor", [1.0001, 1.5, 7.9, 8.1, 45, 1e4, 1e12])
def test_ticks_are_few_round_and_in_order(low: float, factor: float) -> None:
    scale = Scale.over([low, low * factor])
    ticks = scale.ticks(lambda v: f"{v:.12g}")
    assert 2 <= len(ticks) <= MOST_TICKS + 1
    assert [t.place for t in ticks] == sorted(t.place for t in ticks)
    assert all(0 <= t.place <= 100 for t in ticks)
    digits = {tick.label.partition("e")[0].replace(".", "").strip("0") for tick in ticks}
    assert factor < 2 or all(len(text) <= 2 for text in digits)


def test_ticks_of_errors_are_nines() -> None:
    labels = [t.label for t in Scale.over([0.5, 0.999], fraction=True).ticks(lambda v: f"{100 * v:.4g}")]
    assert labels == ["70", "90", "97", "99", "99.7", "99.9"]


def test_a_tick_stands_where_its_value_stands() -> None:
    scale = Scale.over([100, 20_000])
    for tick in scale.ticks(lambda v: f"{v:g}"):
        assert math.isclose(tick.place, scale.place(float(tick.label)))
