from __future__ import annotations

from collections.abc import Iterator

import pytest

from mase.report.dataflow import plan
from mase.report.modules import AT_LEAST, Facts, Module, collapsed, drawn, fold, pictures, placed
from tests.report.large import graph, layers


def all_modules(root: Module) -> Iterator[Module]:
    yield root
    for part in root.inside:
        yield from all_modules(part)


def test_modules_nest_and_every_node_is_drawn_once() -> None:
    found, whole = fold(layers(3)), layers(3)
    shown = [node.name for module in all_modules(found) for node in module.flow.nodes]
    names = {node.name for node in whole.nodes}
    assert sorted(name for name in shown if name in names) == sorted(names)
    assert [module.path for module in all_modules(found)] == [
        "",
        "l",
        *("l.0", "l.0.att"),
        *("l.1", "l.1.att"),
        *("l.2", "l.2.att"),
    ]
    assert found.nodes == len(whole.nodes)


def test_every_picture_can_be_drawn() -> None:
    for module in all_modules(fold(layers(4))):
        assert len(plan(module.flow).nodes) == len(module.flow.nodes)  # an edge back would be refused


def test_titles_in_a_picture_start_at_its_module() -> None:
    inner = next(module for module in all_modules(fold(layers(2))) if module.path == "l.0")
    assert [(node.path, node.kind) for node in inner.flow.nodes] == [
        ("embed", "input"),
        ("table", "input"),
        ("l.0.norm", "linear"),
        ("l.0.att", "module of 2"),
        ("add0", "output"),
    ]
    for picture in pictures(inner):
        assert [box.title for box in picture.boxes] == ["embed", "table", "norm", "att", "add0"]


def test_a_small_graph_is_one_picture() -> None:
    small = drawn(layers(3), {"embed": Facts(macs=8)})
    assert (small.flow, small.inside, small.remarks["embed"].lines) == (layers(3), (), ("8 MACs",))
    assert drawn(layers(30)).inside


def test_modules_that_look_the_same_say_so() -> None:
    (outer,) = fold(layers(4)).inside
    assert [bool(part.like) for part in outer.inside] == [False, True, True, True]
    first = outer.inside[0]
    assert (first.others, {part.like for part in outer.inside[1:]}) == (("l.1", "l.2", "l.3"), {first.anchor})
    assert outer.remarks[outer.inside[2].anchor].link == first.anchor


def test_modules_of_other_figures_are_not_the_same() -> None:
    (outer,) = fold(layers(2), {"l_1_norm": Facts(macs=7)}).inside
    assert [bool(part.like) for part in outer.inside] == [False, False]


def test_facts_add_up() -> None:
    facts = {"l_0_norm": Facts(3, 10), "l_0_att_q": Facts(20_000, 4), "l_1_norm": Facts(unknown=1)}
    (outer,) = fold(layers(2), facts).inside
    assert outer.facts == Facts(20_003, 14, 1)
    assert outer.remarks[outer.inside[0].anchor].lines == ("20k MACs", "14 parameters")
    assert outer.facts.lines == (f"{AT_LEAST}20k MACs", "14 parameters")
    assert outer.inside[1].facts.lines == ("? MACs",)
    assert Facts().lines == ()


def test_a_constant_lies_where_its_readers_do() -> None:
    nodes, places = placed(layers(2))
    assert places["table"] == ("l",)
    assert [node.name for node in nodes].index("table") == [node.name for node in nodes].index("l_0_norm") - 1
    alone, places = placed(graph("x:input c:constant m.a<x m.b<m.a,c"))
    assert (places["c"], [node.name for node in alone]) == (("m",), ["x", "m_a", "c", "m_b"])


def test_a_node_without_a_module_lies_where_its_neighbours_do() -> None:
    _, places = placed(graph("x:input m.i.a<x add:add<x,m.i.a m.b<add"))
    assert places["add"] == ("m",)


def test_a_module_that_is_left_and_entered_again_stands_twice() -> None:
    found = fold(graph("x:input m.a<x m.b<m.a n.a<m.b n.b<n.a m.c<n.b m.d<m.c"))
    assert [part.path for part in found.inside] == ["m", "n", "m (2)"]
    assert [node.path for node in found.flow.nodes] == ["x", "m", "n", "m (2)"]


def test_a_module_that_holds_one_module_alone_is_passed_by() -> None:
    found = fold(graph("x:input a.b.c.d<x a.b.c.e<a.b.c.d y:output<a.b.c.e"))
    assert [module.path for module in all_modules(found)] == ["", "a.b.c"]


def test_a_module_of_one_node_is_that_node() -> None:
    found = fold(graph("x:input a.b<x c.d<a.b"))
    assert ([part.path for part in found.inside], [node.path for node in found.flow.nodes]) == ([], ["x", "a.b", "c.d"])


def test_edges_in_and_out_have_one_end_a_tensor() -> None:
    found = fold(graph("x:input m.a<x m.b<m.a,x y<m.a,m.b z<m.b"))
    (inner,) = found.inside
    assert [(node.path, node.kind) for node in inner.flow.nodes] == [
        ("x", "input"),
        ("m.a", "linear"),
        ("m.b", "linear"),
        ("y", "output"),
        ("y", "output"),
    ]
    ends = {(edge.source, edge.target) for edge in inner.flow.edges}
    assert ends == {("from x", "m_a"), ("from x", "m_b"), ("m_a", "m_b"), ("m_a", "to m_a"), ("m_b", "to m_b")}


def test_one_picture_keeps_the_deepest_modules_that_fit() -> None:
    whole = layers(6)
    assert collapsed(whole, len(whole.nodes)) is whole
    assert [node.path for node in collapsed(whole, 24).nodes][2:6] == ["table", "l.0.norm", "l.0.att", "add0"]
    assert [node.path for node in collapsed(whole, 20).nodes][2:6] == ["table", "l.0", "add0", "l.1"]
    assert [node.path for node in collapsed(whole, 8).nodes] == ["ids", "embed", "l", "add5", "head", "output"]
    assert plan(collapsed(whole, 8)).ranks == 6


@pytest.mark.slow
def test_a_graph_of_ten_thousand_nodes_is_folded() -> None:
    whole = layers(2500)
    found = fold(whole)
    assert found.nodes == len(whole.nodes) > 10_000
