import re
from itertools import combinations, pairwise

import pytest

from mase.errors import GraphError
from mase.report import dataflow
from mase.report.dataflow import HEIGHT, Picture, plan, tall, wide
from mase.report.summary import Dataflow, Edge, Node
from tests.report.example import example


def graph(*edges: tuple[str, str]) -> Dataflow:
    names = dict.fromkeys(name for edge in edges for name in edge)
    nodes = tuple(Node(name, name, "linear") for name in sorted(names))
    return Dataflow(nodes, tuple(Edge(a, b, (8,), "int8") for a, b in edges))


def chain(length: int) -> Dataflow:
    names = [f"n{i:03}" for i in range(length)]
    return graph(*pairwise(names))


def spelled(pairs: str) -> Dataflow:
    return graph(*((pair[0], pair[1]) for pair in pairs.split()))


RESIDUAL = spelled("ab bc cd ad de")
ATTENTION = spelled("ab bq br bs qt rt st au tu")
ONE = Dataflow((Node("a", "a", "add"),), ())
GRAPHS = {"chain": chain(25), "residual": RESIDUAL, "attention": ATTENTION, "one": ONE}


def pictures(found: Dataflow) -> list[Picture]:
    return [wide(found), wide(found, width=400), wide(found, width=1), tall(found)]


def test_chain_keeps_one_slot() -> None:
    assert list(plan(chain(4)).nodes.values()) == [(0, 0), (1, 0), (2, 0), (3, 0)]


def test_edge_past_other_ranks_keeps_a_slot_of_its_own() -> None:
    found = plan(RESIDUAL)
    (edge,) = found.lanes
    assert (edge.source, edge.target, list(found.between(edge)), found.lanes[edge]) == ("a", "d", [1, 2], 1)


def test_branches_lie_side_by_side_and_join_in_the_first_slot() -> None:
    places = plan(ATTENTION).nodes
    assert [places[name] for name in "bqrstu"] == [(1, 0), (2, 0), (2, 1), (2, 2), (3, 0), (4, 0)]


@pytest.mark.parametrize("name", GRAPHS)
def test_boxes_lie_apart_and_inside(name: str) -> None:
    for picture in pictures(GRAPHS[name]):
        for box in picture.boxes:
            assert 0 <= box.x <= picture.width - picture.node
            assert 0 <= box.y <= picture.height - HEIGHT
        for one, two in combinations(picture.boxes, 2):
            assert abs(one.x - two.x) >= picture.node or abs(one.y - two.y) >= HEIGHT


@pytest.mark.parametrize("name", GRAPHS)
def test_every_edge_ends_at_its_target_and_stays_inside(name: str) -> None:
    for picture in pictures(GRAPHS[name]):
        at = {box.node.name: box for box in picture.boxes}
        assert len(picture.wires) == len(GRAPHS[name].edges)
        for wire in picture.wires:
            target = at[wire.edge.target]
            middle = (target.x + picture.node / 2, target.y) if picture.down else (target.x, target.y + HEIGHT / 2)
            assert wire.tip == middle
            # Starts and curves carry pairs of coordinates, V and H one.
            ys = [float(y) for y in re.findall(r"V([-\d.]+)", wire.path)]
            ys += [float(y) for y in re.findall(r"[-\d.]+ ([-\d.]+)", wire.path)]
            assert all(0 <= y <= picture.height for y in ys)
            xs = [float(x) for x in re.findall(r"(?:H|([-\d.]+) )[-\d.]+", wire.path) if x]
            xs += [float(x) for x in re.findall(r"H([-\d.]+)", wire.path)]
            assert all(0 <= x <= picture.width for x in xs)


def test_no_edge_passes_through_a_node() -> None:
    for found in (RESIDUAL, ATTENTION):
        for edge, lane in plan(found).lanes.items():
            for rank in plan(found).between(edge):
                assert (rank, lane) not in plan(found).nodes.values()


def test_each_tensor_has_one_label() -> None:
    picture = wide(ATTENTION)
    assert len([w for w in picture.wires if w.label]) == len({w.edge.source for w in picture.wires})


def test_wide_picture_keeps_its_width_and_fills_its_rows_evenly() -> None:
    picture = wide(chain(7), width=dataflow.PAGE)
    assert picture.width <= dataflow.PAGE
    rows = [box.y for box in picture.boxes]
    assert sorted(rows.count(y) for y in set(rows)) == [3, 4]
    assert len({box.y for box in wide(chain(6)).boxes}) == 1


def test_tall_picture_fits_a_phone_where_only_edges_lie_beside() -> None:
    assert tall(chain(30)).width <= 340
    assert tall(RESIDUAL).width <= 340
    assert tall(ATTENTION).width > 340


def test_boxes_know_their_layers_by_path() -> None:
    report = example()
    nodes = (Node("x", "x", "input"), Node("n", "1", "linear"), Node("i", "1", "input"))
    picture = wide(Dataflow(nodes, ()), report.layers)
    assert [box.layer for box in picture.boxes] == [None, report.layers[0], None]  # an argument called as a module
    assert [box.family for box in picture.boxes] == ["end", "compute", "end"]
    assert dataflow.family("linear + relu") == "compute"
    assert dataflow.family("opaque") == "other"


@pytest.mark.parametrize(("source", "target"), [("a", "nowhere"), ("b", "a"), ("a", "a"), ("?", "a")])
def test_edge_that_leads_nowhere_is_refused(source: str, target: str) -> None:
    broken = Dataflow(RESIDUAL.nodes, (Edge(source, target, (), None),))
    with pytest.raises(GraphError, match=r"edge '.' -> '\w+' does not lead to a later node"):
        plan(broken)


def test_name_that_stands_twice_is_refused() -> None:
    with pytest.raises(GraphError, match="1 node names are used twice"):
        plan(Dataflow((*RESIDUAL.nodes, RESIDUAL.nodes[0]), ()))


def test_empty_graph_is_an_empty_picture() -> None:
    for picture in pictures(Dataflow((), ())):
        assert (picture.boxes, picture.wires) == ((), ())
