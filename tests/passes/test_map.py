"""Lanes for an interval, FIFO depths, layouts that follow their neighbours, and what cannot be kept."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from mase.dataflow.work import Fold, named
from mase.errors import ConfigError, UnknownName, UnsupportedOp
from mase.graph import Graph
from mase.netlist import build
from passes.map import Folding, MapConfig, map_graph
from passes.quantize import NodeFormats
from tests.emit.designs import Network


def graph(layers: list[nn.Module], shape: tuple[int, ...], output: str = "fixed8.4") -> Graph:
    """Return a quantized chain that is not mapped yet."""
    torch.manual_seed(0)
    formats = {
        str(i): NodeFormats("int4", output=output) for i, m in enumerate(layers) if isinstance(m, nn.Linear | nn.Conv1d)
    }
    formats |= {str(i): NodeFormats(output=output) for i, m in enumerate(layers) if isinstance(m, nn.Sigmoid)}
    return Network("chain", layers, torch.randn(4, *shape), "fixed8.4", formats).quantized()


def mlp(*sizes: int, output: str = "fixed8.4") -> Graph:
    return graph([nn.Linear(a, b) for a, b in pairwise(sizes)], (sizes[0],), output)


@pytest.mark.parametrize("interval", [1, 2, 3, 5, 8, 16, 40, 100, 500])
def test_the_interval_is_kept(interval: int) -> None:
    for output in ("fixed8.4", "mxint5b4e3"):
        mapped, _ = map_graph(mlp(13, 7, 11, 5, output=output), MapConfig(interval=interval))
        netlist = build(mapped)
        assert netlist.interval() <= interval
        assert netlist.timing(80).interval <= interval


def test_a_converter_that_adds_a_cycle_is_counted() -> None:
    """Ten elements from 2 lanes to 3 take 6 cycles, though neither side takes more than 5: the producer gets 3."""
    config = MapConfig(interval=5, folding={"1": Folding(3, 1)})
    mapped, report = map_graph(mlp(1, 10, 1), config)
    assert [c.fold for c in report.choices.values()] == [Folding(1, 3), Folding(3, 1)]
    assert build(mapped).timing(20).interval == 4
    slow = replace(config, folding={"0": Folding(1, 2), "1": Folding(3, 1)})
    with pytest.raises(
        UnsupportedOp, match=r"node '1' .*the width converter takes 6 cycles a sample; map.interval allows 5"
    ):
        map_graph(mlp(1, 10, 1), slow)


class Half(nn.Module):
    """Keep the second half of the last axis."""

    def forward(self, x: Tensor) -> Tensor:
        return x[..., x.shape[-1] // 2 :]


@pytest.mark.parametrize(
    ("layers", "shape", "fold", "why"),
    [
        ([nn.Linear(8, 6)], (8,), Folding(4, 0), "pe is 0; allowed are 1 and more"),
        ([Half()], (8,), {"lanes": 3}, "elements cannot be moved 3 at a time; allowed are 1, 2, 4 lanes"),
        ([nn.Linear(8, 6)], (8,), Folding(9, 1), "it has at most simd 8, pe 6; the nearest is simd 8, pe 1"),
        ([nn.Linear(8, 6)], (8,), Folding(2, 7), "it has at most simd 8, pe 6; the nearest is simd 2, pe 6"),
        ([nn.Conv1d(3, 4, 2)], (3, 9), Folding(4, 1), "it has at most simd 3, pe 4; the nearest is simd 3, pe 1"),
        ([nn.Sigmoid()], (8,), {"lanes": 9}, "it has at most lanes 8; the nearest is lanes 8"),
        ([nn.Linear(8, 6)], (8,), {"lanes": 2}, "lanes is not a folding of it; allowed are simd, pe"),
        ([nn.Sigmoid()], (8,), {"lane": 2}, "lane is not a folding of it; allowed are lanes, simd, pe"),
        ([nn.Sigmoid()], (8,), {"lanes": 2, "pe": 2}, "allowed are lanes alone, or simd and pe"),
    ],
)
def test_lanes_by_hand_that_an_operator_does_not_have_are_refused(
    layers: list[nn.Module], shape: tuple[int, ...], fold: Fold, why: str
) -> None:
    with pytest.raises(UnsupportedOp, match=f"node '0.*: a folding of {named(fold)}: {why}"):
        map_graph(graph(layers, shape), MapConfig(folding={"0*": fold}))


def test_streams_may_be_wider_than_a_row_where_that_is_asked_for() -> None:
    mapped, _ = map_graph(mlp(3, 4), MapConfig(folding={"0": Folding(8, 6)}, wide=True))
    netlist = build(mapped)
    assert (netlist.stream_in.lanes, netlist.stream_out.lanes, netlist.interval()) == (8, 6, 1)


def test_a_beat_may_hold_whole_blocks() -> None:
    """Six inputs in blocks of four: a beat of eight holds both."""
    chain = [nn.Linear(5, 6), nn.Linear(6, 2)]
    fit, beyond = (graph(chain, (5,), output="mxint5b4e4") for _ in range(2))
    map_graph(fit, MapConfig(folding={"1": {"simd": 8}}))
    with pytest.raises(UnsupportedOp, match=r"node '1' .*it has at most simd 8, pe 2; the nearest is simd 8, pe 1"):
        map_graph(beyond, MapConfig(folding={"1": {"simd": 12}}))


def test_lanes_are_called_by_the_names_of_the_operator() -> None:
    """What has one number of lanes takes it by its own name, or as the two that everything has."""
    layers = [nn.Linear(8, 6), nn.Sigmoid(), nn.Linear(6, 3)]
    folds: list[Fold] = [{"lanes": 2}, Folding(2, 2), {"pe": 2}]
    for fold in folds:
        mapped, report = map_graph(graph(layers, (8,)), MapConfig(folding={"1": fold, "*": {"simd": 2}}))
        assert {name: choice.fold for name, choice in report.choices.items()} == {
            node.name: node.record.hw and node.record.hw.fold for node in mapped.operators()
        }
        assert [choice.fold for choice in report.choices.values()] == [Folding(2, 1), {"lanes": 2}, Folding(2, 1)]


def test_less_time_never_costs_less() -> None:
    def cost(interval: int | None) -> float:
        return sum(c.cost for c in map_graph(mlp(16, 16, 8), MapConfig(interval=interval))[1].choices.values())

    costs = [cost(interval) for interval in (4, 16, 64, 256, None)]
    assert costs == sorted(costs, reverse=True)


def test_folding_by_hand_beats_the_interval_and_the_first_glob_wins() -> None:
    config = MapConfig(interval=300, folding={"1": Folding(2, 3), "*": Folding(4, 1)})
    mapped, report = map_graph(mlp(8, 6, 4), config)
    assert [c.fold for c in report.choices.values()] == [Folding(4, 1), Folding(2, 3)]
    assert [n.record.hw and n.record.hw.fold for n in mapped.operators()] == [Folding(4, 1), Folding(2, 3)]


def test_a_folding_that_is_too_slow_is_refused() -> None:
    with pytest.raises(
        UnsupportedOp, match=r"node '0' .*the chosen folding takes 48 cycles a sample; map.interval allows 20"
    ):
        map_graph(mlp(8, 6, 4), MapConfig(interval=20, folding={"0": Folding(1, 1)}))


def test_an_interval_below_full_width_is_refused() -> None:
    network = graph([nn.Linear(4, 3)], (5, 4))
    with pytest.raises(UnsupportedOp, match=r"node '0' .*needs 5 cycles a sample at full width; map.interval allows 4"):
        map_graph(network, MapConfig(interval=4))


def test_layouts_take_the_lanes_of_what_follows() -> None:
    layers = [nn.Linear(4, 6), nn.Unflatten(1, (3, 2)), nn.Flatten(), nn.Linear(6, 2), nn.Unflatten(1, (2, 1))]
    config = MapConfig(folding={"0": Folding(4, 6), "3": Folding(6, 2)})
    netlist = build(map_graph(graph(layers, (4,)), config)[0])
    assert netlist.stream_out.lanes == 2
    assert not [i.name for i in netlist.instances if i.role == "convert"]
    assert netlist.interval() <= 3


def test_a_reshape_that_moves_nothing_costs_nothing() -> None:
    config = MapConfig(folding={"0": Folding(4, 6), "2": Folding(6, 2)})
    netlist = build(map_graph(graph([nn.Linear(4, 6), nn.Flatten(), nn.Linear(6, 2)], (1, 4)), config)[0])
    assert [i.node for i in netlist.instances] == ["_0", "_2"]


def test_the_graph_that_was_given_stays_as_it_was() -> None:
    before = mlp(8, 6, 4)
    records = {node.name: node.record for node in before.nodes()}
    mapped, _ = map_graph(before, MapConfig(interval=10))
    assert {node.name: node.record for node in before.nodes()} == records
    assert mapped.tensors["0.weight"].data_ptr() == before.tensors["0.weight"].data_ptr()


def test_report_names_the_bottleneck() -> None:
    _, report = map_graph(mlp(8, 6, 4), MapConfig(folding={"0": Folding(8, 6), "1": Folding(1, 1)}))
    assert report.bottleneck == "_1"
    assert set(report.fifos) >= {"_0", "_1"}


def test_unknown_names_suggest() -> None:
    with pytest.raises(ConfigError, match=r"map.folding 'O': matches no node"):
        map_graph(mlp(8, 6, 4), MapConfig(folding={"O": Folding(1, 1)}))
    with pytest.raises(UnknownName, match=r"xcupp.*did you mean xcup"):
        map_graph(mlp(8, 6, 4), MapConfig(target="xcupp"))


def test_an_operator_without_hardware_is_named() -> None:
    network = mlp(8, 6, 4)
    node = network.node("1")
    other = replace(node.record, kind="opaque", attrs={"target": "tanh"}, source="model.py:7")
    with pytest.raises(
        UnsupportedOp, match=r"node '1' \(opaque, model.py:7\) tanh: has no hardware; supported: .*linear"
    ):
        map_graph(network.replace({node.name: other}), MapConfig())
