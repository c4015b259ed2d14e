"""FIFO depths and intervals of whole networks: least depths, and closed forms that the recurrence confirms."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
import torch
from torch import nn

from emit.verilog import emit
from mase.dataflow.block import LEAST_FIFO
from mase.dataflow.schedule import run
from mase.dataflow.stream import Travel
from mase.errors import UnsupportedOp
from mase.frontend.module import trace_module
from mase.netlist import UNBOUNDED, Netlist, build, sized
from passes.map import Folding
from passes.quantize import NodeFormats, QuantizeConfig, quantize
from tests.emit.designs import Network
from tests.emit.draws import chains, drawn

LONG = 60  # samples: more than ``sized`` looks at


def networks() -> list[Netlist]:
    rng = Random(11)
    return [build(drawn(f"drawn_{i}", 500 + i, chain).graph) for i, chain in enumerate(chains(rng)[:7])]


@pytest.fixture(scope="module", name="drawn_netlists")
def _drawn_netlists() -> list[Netlist]:
    return networks()


def blocks_end_early() -> Netlist:
    """Return 9 outputs in blocks of 8, one a cycle: the short block at a row's end leaves the normaliser waiting."""
    formats = {"0": NodeFormats("int4", output="mxint6b8e4")}
    x = torch.randn(4, 3)
    network = Network("early", [nn.Linear(3, 9)], x, "int8", formats, {"0": Folding(3, 1)})
    return build(network.case().graph)


def test_closed_form_is_the_interval_once_fifos_are_deep(drawn_netlists: list[Netlist]) -> None:
    for netlist in [*drawn_netlists, blocks_end_early()]:
        deep = dict.fromkeys(netlist.fifos(), UNBOUNDED)
        assert run(*netlist.network(deep), LONG).interval == netlist.interval()


def test_a_normaliser_takes_whole_blocks() -> None:
    assert blocks_end_early().interval() == 16  # two blocks of 8 beats, though the second one holds 1 element


def test_sized_fifos_keep_the_closed_form(drawn_netlists: list[Netlist]) -> None:
    for netlist in [*drawn_netlists, blocks_end_early()]:
        assert netlist.timing(LONG).interval == netlist.interval()


def test_one_entry_less_lowers_the_throughput(drawn_netlists: list[Netlist]) -> None:
    tried = 0
    for netlist in drawn_netlists:
        depths = netlist.depths()
        for name in [name for name, depth in depths.items() if depth > LEAST_FIFO]:
            fewer = run(*netlist.network({**depths, name: depths[name] - 1}), LONG).interval
            assert fewer > netlist.interval(), f"{name}: {depths[name]} is not the least depth"
            tried += 1
    assert tried >= 5


def test_rows_do_not_make_sizing_longer() -> None:
    """Depths of 1 row and of 196 are those of a search over whole tensors; parts of tensors make it short."""
    few, many = (rows_of(rows) for rows in (1, 196))
    assert sized(few) == sized(many)
    assert (
        run(*many.network(sized(many)), 4).interval
        == run(*many.network(dict.fromkeys(many.fifos(), UNBOUNDED)), 4).interval
    )


def rows_of(rows: int) -> Netlist:
    torch.manual_seed(0)
    x = torch.randn(4, rows, 6)
    formats = {"0": NodeFormats("int4", output="mxint6b2e4"), "2": NodeFormats("int4", output="int8")}
    layers = [nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 6)]
    network = Network("rows", layers, x, "int8", formats, {"0": Folding(2, 4), "2": Folding(4, 2)})
    return build(network.case().graph)


def test_depths_are_those_of_the_mapped_graph(drawn_netlists: list[Netlist]) -> None:
    for netlist in drawn_netlists[:3]:
        assert sized(netlist) == netlist.depths()


def test_depths_of_chains_stay_as_they_were(drawn_netlists: list[Netlist]) -> None:
    expected = [
        [2, 2, 2, 2, 2, 2, 2, 2, 2, 2],
        [2, 2, 3, 2, 2, 2],
        [2, 2, 2, 2, 2, 3, 2, 2],
        [2],
        [3, 2, 2, 2, 2, 2, 2, 2, 2],
        [3, 2, 2, 2, 6, 2],
        [3, 2, 6, 3, 2, 2, 2, 2, 2, 2, 2, 2, 2],
    ]
    assert [list(sized(netlist).values()) for netlist in drawn_netlists] == expected
    assert list(sized(blocks_end_early()).values()) == [8, 5]
    assert list(sized(rows_of(196)).values()) == [3, 2, 5]


def test_an_entry_that_groups_take_in_parts_keeps_its_order(tmp_path: Path) -> None:
    """A convolution with kernel 1 takes each pixel as it comes, the channels of one group after the other."""
    layers, x = [nn.Conv2d(4, 2, 1, groups=2)], torch.randn(4, 4, 3, 2)
    graph = Network("parts", layers, x, "int4", {"0": NodeFormats("int4", output="int6")}).case().graph
    edge = emit(graph, tmp_path / "parts").input  # it is read again from its file
    assert (edge.stream.rows, edge.stream.cols, edge.travel.strides) == (12, 2, Travel.of((4, 3, 2), 0).strides)


def test_choices_promise_the_cycles_of_the_blocks(drawn_netlists: list[Netlist]) -> None:
    for netlist in drawn_netlists:
        for instance in [i for i in netlist.instances if i.role == ""]:
            op, node = netlist.ops[instance.node], netlist.graph.node(instance.node)
            assert node.record.hw is not None
            simd, pe = op.foldings.sides(node.record.hw.fold)
            blocks = op.circuit(simd, pe, node.record.hw.fifos).blocks.values()
            if node.kind != "layout":
                assert int(op.foldings.cycles(simd, pe)) == max(b.schedule().interval() for b in blocks)


def test_a_sink_that_takes_more_lets_more_in_and_a_sample_more_one_sample(drawn_netlists: list[Netlist]) -> None:
    for netlist in drawn_netlists:
        out, size = netlist.stream_out.beats, netlist.stream_in.beats
        held = [netlist.backlog(given)[0] for given in range(2 * out + 1)]
        assert held == sorted(held)
        assert held[out:] == [beats + size for beats in held[: out + 1]]
        assert netlist.frames_inside(0, 0) == held[out - 1] // size > 0


def test_an_unformatted_input_is_refused() -> None:
    network = Network(
        "plain", [nn.Linear(3, 2)], torch.randn(2, 3), "fixed8.4", {"0": NodeFormats("int4", output="int4")}
    )
    graph = network.quantized()
    entry = graph.node("input_1")
    bare = graph.replace({entry.name: replace(entry.record, output=replace(entry.record.output, format=None))})
    with pytest.raises(UnsupportedOp, match="input has no format"):
        build(bare)


def test_samples_without_an_axis_are_refused() -> None:
    x = torch.randn(9)
    graph, _ = trace_module(nn.Sequential(nn.ReLU()).eval(), (x,))
    quantized = quantize.run(graph, QuantizeConfig(NodeFormats("fixed4.2", "fixed4.2")), [x])[0]
    with pytest.raises(UnsupportedOp, match="a sample is one number without an axis"):
        build(quantized)
