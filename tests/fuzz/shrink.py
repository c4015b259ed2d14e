"""Make a failing graph small: fewer nodes first, then the plainest formats, lanes, depths and pauses."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from tests.fuzz.draw import needed
from tests.fuzz.recipe import Node, Recipe

PLAIN = "fixed8.4"


def shrunk(recipe: Recipe, fails: Callable[[Recipe], bool], trials: int = 60) -> Recipe:
    """Return the smallest recipe that still fails, as far as ``trials`` tries find one."""
    left, moved = trials, True
    while moved and left > 0:
        moved = False
        for other in smaller(recipe):
            left -= 1
            if fails(other):
                recipe, moved = other, True
                break
            if left <= 0:
                break
    return recipe


def smaller(recipe: Recipe) -> Iterator[Recipe]:
    """Yield recipes that are simpler by one step, the greatest steps first."""
    yield from _fewer(recipe)
    plain = {"deeper": 0, "stalls": (0.0, 0.0), "lanes": {}, "scale": 0, "fused": False, "inputs": PLAIN}
    for key, value in plain.items():
        if getattr(recipe, key) != value:
            yield replace(recipe, **{key: value})  # type: ignore[arg-type]  # of the key's type
    for i, node in enumerate(recipe.nodes):
        for key, text in {"output": PLAIN, "weight": "int6c", "rounding": "even", "accumulation": "auto"}.items():
            if node.formats.get(key, text) != text:
                yield _with(recipe, i, replace(node, formats={**node.formats, key: text}))


def _fewer(recipe: Recipe) -> Iterator[Recipe]:
    for value in range(1, len(recipe.nodes) + 1):  # one node alone gives the result
        if recipe.outputs != (value,):
            yield from _legal(replace(recipe, outputs=(value,)))
    for i, node in enumerate(recipe.nodes):  # a node is left out
        for source in dict.fromkeys(node.sources):
            nodes = [
                replace(other, sources=tuple(source if j == i + 1 else j for j in other.sources))
                for other in recipe.nodes
            ]
            outputs = tuple(source if j == i + 1 else j for j in recipe.outputs)
            yield from _legal(replace(recipe, nodes=tuple(nodes), outputs=outputs))


def _legal(recipe: Recipe) -> Iterator[Recipe]:
    """Yield a recipe without nodes that nobody needs, if its shapes still fit."""
    found = needed(recipe)
    if found is None:
        return
    try:
        found.shapes()
    except (ValueError, KeyError):
        return
    yield found


def _with(recipe: Recipe, index: int, node: Node) -> Recipe:
    return replace(recipe, nodes=(*recipe.nodes[:index], node, *recipe.nodes[index + 1 :]))
