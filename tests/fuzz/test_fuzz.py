"""Drawn graphs compute on chip what they compute in software, in the cycles that are predicted; so do kept cases."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from mase.ops.base import OPS, HardwareOp
from tests.fuzz.__main__ import CASES, keep, main, way
from tests.fuzz.check import failures, software
from tests.fuzz.draw import drawn, needed
from tests.fuzz.kinds import KINDS, NOT_DRAWN
from tests.fuzz.recipe import Node, Recipe
from tests.fuzz.shrink import shrunk

GRAPHS = 60
GROUPS = 5  # builds
KEPT = sorted(CASES.glob("*.json"))


@pytest.fixture(scope="module", name="recipes")
def _recipes() -> dict[str, Recipe]:
    return {f"graph{seed}": drawn(seed) for seed in range(GRAPHS)}


def test_every_kind_with_hardware_is_drawn() -> None:
    built = {kind for kind, op in OPS.items() if issubclass(op, HardwareOp)}
    assert built == {kind.op for kind in KINDS.values()} | set(NOT_DRAWN)


def test_the_graphs_have_what_they_should(recipes: dict[str, Recipe]) -> None:
    kinds = Counter(node.kind for recipe in recipes.values() for node in recipe.nodes)
    assert set(kinds) == set(KINDS)
    takers = [Counter(i for node in recipe.nodes for i in (*node.sources,)) for recipe in recipes.values()]
    assert sum(max(count.values()) > 1 for count in takers) >= GRAPHS // 4  # forks
    assert sum(any(len(node.sources) > 1 for node in recipe.nodes) for recipe in recipes.values()) >= GRAPHS // 4
    assert {recipe.deeper > 0 for recipe in recipes.values()} == {True, False}
    forms = {text.rstrip("0123456789.-cpbe") for r in recipes.values() for n in r.nodes for text in n.formats.values()}
    assert forms >= {"fixed", "ufixed", "int", "mxint"}
    assert {text for r in recipes.values() for n in r.nodes for text in n.formats.values()} >= {"trunc", "half_up"}


def test_a_recipe_is_plain_data(recipes: dict[str, Recipe], tmp_path: Path) -> None:
    for recipe in list(recipes.values())[:12]:
        assert Recipe.load(keep(recipe, tmp_path)) == Recipe.load(keep(Recipe.load(keep(recipe, tmp_path)), tmp_path))
    assert drawn(3).text() == recipes["graph3"].text()


@pytest.mark.sim
@pytest.mark.slow
@pytest.mark.parametrize("group", range(GROUPS))
def test_drawn_graphs(recipes: dict[str, Recipe], group: int, tmp_path: Path) -> None:
    mine = dict(list(recipes.items())[group::GROUPS])
    assert failures(mine, tmp_path) == {}


@pytest.mark.sim
def test_kept_cases(tmp_path: Path) -> None:
    assert failures({path.stem: Recipe.load(path) for path in KEPT}, tmp_path) == {}


def chain(*kinds: Node) -> Recipe:
    return Recipe(1, (4,), "fixed8.4", kinds, (len(kinds),))


def linear(source: int) -> Node:
    return Node("linear", (source,), {"outputs": 4, "bias": True, "zeros": False})


def test_a_failure_is_shrunk_to_the_node_that_shows_it() -> None:
    tanh = Node("activation", (1,), {"function": "tanh"}, {"output": "int5", "rounding": "trunc"})
    recipe = chain(linear(0), tanh, linear(2), Node("add", (2, 3), {"function": "add"}), linear(4))
    recipe = replace(recipe, deeper=4, lanes={"n00": (2, 2)}, stalls=(0.5, 0.0))
    found = shrunk(recipe, lambda other: any(node.options.get("function") == "tanh" for node in other.nodes))
    assert [node.kind for node in found.nodes] == ["activation"]
    assert (found.deeper, found.lanes, found.stalls) == (0, {}, (0.0, 0.0))
    assert found.nodes[0].formats["rounding"] == "even"


def test_nodes_without_use_are_dropped() -> None:
    recipe = chain(linear(0), linear(1), linear(1))
    found = needed(recipe)
    assert found is not None
    assert [node.sources for node in found.nodes] == [(0,), (1,)]
    assert needed(replace(recipe, outputs=(0,))) is None


def test_shrinking_ends_when_its_trials_do() -> None:
    asked: list[Recipe] = []

    def never(recipe: Recipe) -> bool:
        asked.append(recipe)
        return False

    recipe = chain(linear(0), linear(1), linear(2))
    assert shrunk(recipe, never, trials=2) == recipe
    assert len(asked) == 2


def test_ways_to_fail() -> None:
    assert way("top: 3 of 9 codes differ, on 1 of 2 wires") == "codes"
    assert way("cycles 3, predicted 4") == "cycles"
    assert way("GraphError: what") == "GraphError:"


def test_what_fails_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        "tests.fuzz.__main__.failures",
        lambda recipes, folder, told=None: dict.fromkeys(recipes, "cycles 1, predicted 2"),
    )
    assert main(["--graphs", "1", "--seed", "5", "--trials", "4", "--cases", str(tmp_path)]) == 1
    (path,) = tmp_path.glob("*.json")
    assert len(Recipe.load(path).nodes) <= len(drawn(5).nodes)
    assert "1 graphs, 1 failures" in capsys.readouterr().out


def test_software_agrees_on_more_graphs() -> None:
    for seed in range(1000, 1006):
        software(drawn(seed), f"more{seed}")
