from dataclasses import replace

from mase.report import pareto
from mase.report.pareto import Plot
from mase.report.summary import Accuracy, Search, SearchPoint
from tests.report.example import example


def plotted(search: Search, accuracy: Accuracy | None = None) -> Plot:
    plot = pareto.plot(search, accuracy or example().accuracy)
    assert plot is not None
    return plot


def search() -> Search:
    found = example().search
    assert found is not None
    return found


def test_every_trial_is_drawn_in_its_role() -> None:
    marks = {m.point.trial: m for m in plotted(search()).marks}
    assert {trial: m.role for trial, m in marks.items()} == {
        **dict.fromkeys((0, 1, 5, 6), "trial"),
        3: "infeasible",
        2: "front",
        7: "front",
        4: "chosen",
    }
    assert [trial for trial, m in sorted(marks.items()) if m.front] == [2, 4, 7]


def test_chosen_lies_on_top_and_the_front_over_the_rest() -> None:
    roles = [m.role for m in plotted(search()).marks]
    assert roles[-3:] == ["front", "front", "chosen"]


def test_cheaper_is_left_and_better_is_up() -> None:
    marks = {m.point.trial: m for m in plotted(search()).marks}
    assert marks[0].x < marks[7].x
    assert marks[0].y > marks[7].y


def test_front_is_a_staircase_that_holds_the_score_until_the_next_point() -> None:
    plot = plotted(search())
    two, four, seven = sorted((m for m in plot.marks if m.front), key=lambda m: m.x)
    assert [(line.x1, line.y1, line.x2, line.y2) for line in plot.steps] == [
        (two.x, two.y, four.x, two.y),
        (four.x, two.y, four.x, four.y),
        (four.x, four.y, seven.x, four.y),
        (seven.x, four.y, seven.x, seven.y),
    ]


def test_front_of_three_objectives_is_no_line() -> None:
    found = search()
    up_and_down = (found.pareto[0], replace(found.pareto[1], accuracy=0.5), found.pareto[2])
    points = tuple({p.trial: p for p in (*found.points, *up_and_down)}.values())
    assert plotted(replace(found, pareto=up_and_down, points=points)).steps == ()


def test_levels_are_the_float_score_and_what_was_allowed() -> None:
    upper, lower = plotted(search()).levels
    assert (upper.label, lower.label) == ("float: 97.22 %", "allowed: 96.22 %")
    assert upper.y < lower.y
    assert len(plotted(search(), replace(example().accuracy, tolerance=0.0)).levels) == 1


def test_allowed_perplexity_lies_above_that_of_the_float_model() -> None:
    accuracy = Accuracy("perplexity", 11.0, 11.4, 12.0, 12.3, 0.5)
    points = tuple(replace(p, accuracy=12.0 + p.trial) for p in search().points)
    plot = plotted(replace(search(), points=points, pareto=points[:1]), accuracy)
    assert plot.levels[1].label == "allowed: 12.5"
    assert plot.levels[1].y < plot.levels[0].y


def test_thousands_of_trials_are_thinned_but_never_the_front() -> None:
    points = tuple(SearchPoint(i, 0.5, 1000.0 + i, 4.0, 64, True, {}) for i in range(10_000))
    front = tuple(replace(p, accuracy=0.9 + p.trial / 1e6) for p in points[::500])
    many = Search("random", len(points), 1.0, front, tuple({p.trial: p for p in (*points, *front)}.values()), 7)
    plot = plotted(many)
    assert sum(m.front for m in plot.marks) == len(front)
    assert any(m.role == "chosen" for m in plot.marks)
    assert len(plot.marks) <= pareto.MOST_MARKS + len(front) + 1
    assert plot.hidden == len(points) - len(plot.marks)


def test_points_say_how_many_choices_they_leave_out() -> None:
    wide = replace(search().points[0], point={f"axis{i}": "int4" for i in range(40)})
    mark = plotted(replace(search(), points=(wide,), pareto=(), chosen=9)).marks[0]
    assert (len(mark.axes), mark.more) == (pareto.MOST_AXES, 40 - pareto.MOST_AXES)


def test_a_search_without_trials_has_no_plot() -> None:
    assert pareto.plot(replace(search(), points=(), pareto=()), example().accuracy) is None
