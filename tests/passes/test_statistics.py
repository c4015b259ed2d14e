from __future__ import annotations

import gc
import json
import math
import weakref
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from mase.errors import ConfigError
from mase.frontend.module import trace_module
from mase.graph import Graph
from passes.base import PASSES
from passes.statistics import Accumulator, StatisticsConfig, StatisticsReport, TensorStatistics, statistics

CONFIG = StatisticsConfig(percentiles=(0, 1, 25, 50, 75, 99, 100))


def described(*parts: Tensor, config: StatisticsConfig = CONFIG) -> TensorStatistics:
    seen = Accumulator(config)
    for part in parts:
        seen.add(part)
    return seen.result("x", ())


def small() -> Graph:
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)).eval()
    return trace_module(model, (torch.zeros(2, 2, 2),))[0]


def report(graph: Graph, *batches: Tensor) -> StatisticsReport:
    found: StatisticsReport = statistics.run(graph, CONFIG, batches)[1]
    return found


# -- one tensor -------------------------------------------------------------------------------------------------------


def test_figures_by_hand() -> None:
    found = described(torch.tensor([-2.0, 0.0, 0.0, 1.0, 3.0, 4.0]))
    assert (found.count, found.minimum, found.maximum, found.absmax) == (6, -2, 4, 4)
    assert (found.mean, found.second_moment, found.zeros) == (1.0, 5.0, pytest.approx(1 / 3, abs=0))
    assert found.std == pytest.approx(2.0, rel=1e-15)  # float64: sqrt(24 / 6) after one merge
    assert [found.percentiles[p] for p in ("0", "25", "50", "100")] == [-2, 0, 0, 4]


values = st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=60)


@given(values, st.integers(3, 10))
def test_a_percentile_is_right_to_the_width_of_its_class(xs: list[float], resolution: int) -> None:
    config = StatisticsConfig(percentiles=(0, 10, 50, 99, 100), resolution=resolution)
    found, ordered = described(torch.tensor(xs), config=config), sorted(xs)
    for percent in config.percentiles:
        exact = ordered[math.floor(percent / 100 * (len(xs) - 1))]
        # a class is 2**-resolution of its lower border wide; below the least normal number all count as zero
        assert abs(found.percentiles[f"{percent:g}"] - exact) <= 2.0**-resolution * abs(exact) + 1.2e-38


@given(values)
def test_the_histogram_loses_nothing_and_is_right_to_one_class(xs: list[float]) -> None:
    found = described(torch.tensor(xs))
    low, high, counts = found.histogram.low, found.histogram.high, found.histogram.counts
    assert (sum(counts), low, high, min(counts) >= 0) == (len(xs), min(xs), max(xs), True)
    if low < high:
        for i, border in enumerate(np.linspace(low, high, len(counts) + 1)[1:-1]):
            near = abs(border) * 2.0**-5 + 1e-37  # a class, and its neighbour where the border rounds into that
            below, above = (sum(x < border + side for x in xs) for side in (-near, near))
            assert below <= sum(counts[: i + 1]) <= above


@given(values, st.integers(0, 60))
def test_parts_add_up_to_the_whole(xs: list[float], cut: int) -> None:
    x = torch.tensor(xs)
    whole, parts = described(x), described(x[:cut], x[cut:])
    assert (parts.histogram, parts.percentiles, parts.zeros) == (whole.histogram, whole.percentiles, whole.zeros)
    # float64 sums in another order: 60 additions of numbers up to absmax
    assert parts.mean == pytest.approx(whole.mean, abs=60 * 2.0**-52 * whole.absmax)
    assert parts.std == pytest.approx(whole.std, rel=1e-9, abs=1e-7 * whole.absmax)


def test_moments_agree_with_numpy() -> None:
    x = torch.randn(10_000) * 3 + 5
    found, wide = described(*x.split(777)), x.double().numpy()
    # float64 sums of 10,000 numbers in another order: 1e4 * 2**-52 at most
    assert found.mean == pytest.approx(wide.mean(), rel=1e-11)
    assert found.std == pytest.approx(wide.std(), rel=1e-11)
    assert found.second_moment == pytest.approx((wide**2).mean(), rel=1e-11)


def test_a_small_spread_on_a_large_mean_survives() -> None:
    x = 1e6 + torch.tensor([-1.0, 1.0]).repeat(1000)
    assert described(*x.split(100)).std == pytest.approx(1.0, rel=1e-9)  # sums of squares in float32 would give 0


def test_values_that_are_not_finite_are_counted_apart() -> None:
    found = described(torch.tensor([math.nan, math.inf, -math.inf, -math.inf, 1.0, 2.0]))
    assert (found.count, found.nan, found.infinite) == (6, 1, 3)
    assert (found.minimum, found.maximum, found.mean, sum(found.histogram.counts)) == (1, 2, 1.5, 2)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_each_float_type_is_taken(dtype: torch.dtype) -> None:
    found = described(torch.tensor([0.5, -1.0, 2.0], dtype=dtype))
    assert (found.minimum, found.maximum, found.percentiles["50"]) == (-1, 2, 0.5)


def test_numbers_beyond_float32_count_at_the_ends() -> None:
    found = described(torch.tensor([-1e300, -1.0, 1.0, 2 - 1e-12, 1e300], dtype=torch.float64))
    assert (found.minimum, found.maximum, sum(found.histogram.counts)) == (-1e300, 1e300, 5)
    assert found.percentiles["50"] == 1.0
    edge = described(torch.tensor([1.0, 2 - 1e-12], dtype=torch.float64))  # rounds into the class beyond its greatest
    assert (edge.percentiles["100"], edge.histogram.counts[0], edge.histogram.counts[-1]) == (2 - 1e-12, 1, 1)


@pytest.mark.parametrize("value", [0.0, -0.0, 3.0, -(2.0**-133)])
def test_a_constant_has_one_bin(value: float) -> None:
    found = described(torch.full((9,), value))
    assert found.histogram.counts == (9,)
    assert list(found.percentiles.values()) == [value] * 7
    assert (found.std, found.zeros) == (0.0, float(value == 0))


@pytest.mark.parametrize(
    ("field", "value"),
    [("percentiles", (101.0,)), ("percentiles", (-1.0,)), ("bins", 0), ("resolution", 2), ("resolution", 11)],
)
def test_an_impossible_configuration_is_refused(field: str, value: object) -> None:
    with pytest.raises(ConfigError, match=rf"statistics\.{field}: found .* allowed is"):
        StatisticsConfig(**{field: value})  # type: ignore[arg-type]


# -- a graph ----------------------------------------------------------------------------------------------------------


def test_it_is_registered() -> None:
    assert PASSES["statistics"] is statistics


def test_every_edge_is_described() -> None:
    graph, x = small(), torch.randn(10, 2, 2)
    found = report(graph, x[:4], x[4:])
    assert found.samples == 10
    assert {entry.path for entry in found.edges.values()} == set(graph.paths())
    relu = graph.node("2")
    assert found.edges[relu.name].minimum == 0.0
    assert found.edges[relu.name].shape == (3,)
    hidden = nn.functional.linear(x.flatten(1), graph.tensors["1.weight"], graph.tensors["1.bias"]).relu()
    assert found.edges[relu.name].zeros == float((hidden == 0).double().mean())
    assert found.edges[relu.name].maximum == float(hidden.max())


def test_the_graph_and_its_tensors_stay_as_they_are() -> None:
    graph = small()
    before = {key: tensor.clone() for key, tensor in graph.tensors.items()}
    after, _ = statistics.run(graph, CONFIG, [torch.randn(3, 2, 2)])
    assert after is graph
    assert all(torch.equal(graph.tensors[key], tensor) for key, tensor in before.items())


def test_without_data_nothing_is_described() -> None:
    found = statistics(small())[1]
    assert (found.samples, dict(found.edges)) == (0, {})


def test_inputs_go_in_by_name() -> None:
    graph, x = small(), torch.randn(3, 2, 2)
    found = statistics.run(graph, CONFIG, [{"input": x}])[1]  # as the model's forward calls it
    assert (found.samples, found.edges[graph.inputs[0].name].absmax) == (3, float(x.abs().max()))


def test_one_pass_batch_by_batch_equals_all_at_once() -> None:
    graph, x = small(), eighths(torch.randn(96, 2, 2))
    graph = graph.replace({}, {name: eighths(tensor) for name, tensor in graph.tensors.items()})
    whole, parts = report(graph, x), report(graph, *x.split(7))
    for name, one in whole.edges.items():
        other = parts.edges[name]
        assert (other.percentiles, other.histogram, other.count) == (one.percentiles, one.histogram, one.count)
        # float64 sums in another order: 400 numbers at most
        assert other.second_moment == pytest.approx(one.second_moment, rel=400 * 2.0**-52)


def eighths(x: Tensor) -> Tensor:
    """Round to eighths: sums of their products are exact in float32, so a layer's result depends on no kernel."""
    return (x * 8).round() / 8


def test_counts_take_no_more_memory_than_is_said() -> None:
    seen = Accumulator(CONFIG)
    seen.add(torch.randn(1000))
    usual = seen.bytes
    assert usual <= 2 * 20 * 8 * 2**6  # about 20 powers of two on either side
    for _ in range(50):
        seen.add(torch.randn(1000))
    assert seen.bytes < 2 * usual
    every = torch.arange(0, 1 << 32, 1 << 17, dtype=torch.int64).to(torch.int32).view(torch.float32)
    seen.add(every)  # all signs, powers and first six bits of the fraction that float32 has
    assert seen.bytes == 510 * 8 * 2**6  # infinity and NaN, of either sign, are counted apart


def test_no_more_edges_are_kept_than_a_run_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = trace_module(nn.Sequential(*(nn.ReLU() for _ in range(20))).eval(), (torch.zeros(2, 3),))[0]
    alive: list[weakref.ref[Tensor]] = []
    most = [0]

    def add(self: Accumulator, x: Tensor) -> None:
        alive.append(weakref.ref(x))
        most[0] = max(most[0], sum(ref() is not None for ref in alive))

    monkeypatch.setattr(Accumulator, "add", add)
    report(graph, torch.randn(5, 3))
    assert (len(alive), most[0]) == (21, 3)  # the batch itself, a node's input and its result


def test_several_inputs_go_in_as_a_tuple() -> None:
    class Two(nn.Module):
        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return a - b

    graph, _ = trace_module(Two().eval(), (torch.zeros(2, 3), torch.zeros(2, 3)))
    found = statistics.run(graph, CONFIG, [(torch.ones(2, 3), torch.zeros(2, 3))])[1]
    assert [entry.maximum for entry in found.edges.values()] == [1, 0, 1]


def test_the_report_is_json() -> None:
    text = json.dumps(report(small(), torch.randn(3, 2, 2)).to_json(), allow_nan=False)
    assert json.loads(text)["resolution"] == 2.0**-6


def test_no_tensor_of_an_earlier_batch_is_kept() -> None:
    alive = []

    def batches() -> Iterator[Tensor]:
        for _ in range(6):
            alive.append(sum(issubclass(type(found), Tensor) for found in gc.get_objects()))
            yield torch.randn(64, 2, 2)

    statistics.run(small(), CONFIG, batches())
    assert len(set(alive[2:])) == 1  # while a batch is made, the values of the one before are still there
