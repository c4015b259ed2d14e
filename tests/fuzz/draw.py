"""Draw legal graphs: forks, joins, odd sizes, every kind and grid that has hardware, lanes, depths, pauses."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from random import Random

import torch
from torch import Tensor

from mase.dataflow.grid import activation_grid, produced_grid
from mase.errors import MaseError, UnsupportedOp
from mase.formats import FORMATS, parse
from mase.interpreter import run
from mase.netlist import build
from tests.emit import draws
from tests.fuzz.kinds import KINDS, MOST
from tests.fuzz.recipe import Node, Recipe, path_of

MOST_CYCLES = 800  # a sample
MOST_LANES = 24  # products a cycle
ATTEMPTS = 80
INPUTS = ((1, 5, 5), (2, 4, 3), (3, 3, 4), (4, 6, 5), (6,), (9,), (3, 4), (2, 7), (5, 3))
INNER, LAST = ([name for name in sorted(KINDS) if KINDS[name].last is last] for last in (False, True))
WEIGHTS = {
    "linear": 6,
    "conv": 4,
    "concat": 2,
    "rownorm": 3,
    "add": 2,
    "mul": 2,
    "flip": 0.4,
    "border": 0.5,
    "permute": 0.6,
}  # how often a kind is tried; once where it is not here
INDICES = 0.3  # chance of an index, or of the greatest elements, at an output
OTHERS = 0.2  # chance of a format of another class than the three that layers give


@cache
def others(role: str) -> tuple[str, ...]:
    """Return a format of every class that hardware takes as ``input``, ``output`` or ``weight``."""
    x, found = torch.randn(4, 8, generator=torch.Generator().manual_seed(0)), []
    for name in FORMATS:
        fmt = FORMATS[name]()
        try:
            params = fmt.calibrate(x)
            if role == "weight":
                fmt.weight_grid(params, "weight")
            else:
                (activation_grid if role == "input" else produced_grid)(fmt, params, role)
        except UnsupportedOp:
            continue
        found.append(str(fmt))
    return tuple(found)


def drawn(seed: int) -> Recipe:
    """Return a recipe that hardware takes; draws that it refuses are drawn again."""
    refusals: Counter[str] = Counter()
    for attempt in range(ATTEMPTS):
        rng = Random(seed * 1000 + attempt)
        recipe = _skeleton(rng)
        if recipe is None:
            continue
        try:
            recipe = _formats(rng, recipe)
            recipe = _lanes(rng, recipe)
            netlist = build(recipe.mapped())
        except MaseError as error:
            refusals[str(error)[-60:]] += 1
            continue
        except Exception:  # noqa: BLE001 - a fault, which whoever runs the recipe sees and reports
            return recipe
        if netlist.interval() <= MOST_CYCLES and netlist.ops:
            return recipe
        refusals["too many cycles"] += 1
    raise AssertionError(f"seed {seed}: nothing legal in {ATTEMPTS} draws: {refusals.most_common(3)}")


def _skeleton(rng: Random) -> Recipe | None:
    """Return nodes of which each has a use, without formats; forks and joins come as values are taken again."""
    shape = rng.choice(INPUTS)
    nodes, shapes = list[Node](), [shape]
    free = {0}  # values that nobody takes yet
    for _ in range(rng.randint(3, 9)):
        kind = rng.choices(INNER, [WEIGHTS.get(k, 1) for k in INNER])[0]
        made = KINDS[kind]
        latest = max(free)
        sources = [latest]
        if made.inputs == 2:
            like = shapes[latest] if made.op != "layout" else None
            same = [i for i, other in enumerate(shapes) if i > 0 and (like is None or other == like)]
            if not same:
                continue
            apart = [i for i in same if i != latest and rng.random() < 0.8] or same
            sources = rng.sample([latest, rng.choice(apart)], 2)
        elif rng.random() < 0.25:
            sources = [rng.randrange(len(shapes))]
        options = made.draw(rng, [shapes[i] for i in sources])
        if options is None:
            continue
        found = made.shape(options, [shapes[i] for i in sources])
        if math.prod(found) > MOST:
            continue
        nodes.append(Node(kind, tuple(sources), options))
        shapes.append(found)
        free = free - set(sources) | {len(shapes) - 1}
    while len(free) > 1:  # join what is left, where shapes are equal
        pairs = [(i, j) for i in free for j in free if i < j and i > 0 and shapes[i] == shapes[j]]
        if not pairs:
            break
        sources = list(rng.choice(pairs))
        kind = rng.choice(("add", "mul", "add"))
        nodes.append(Node(kind, tuple(sources), {"function": "add"} if kind == "add" else {}))
        shapes.append(shapes[sources[0]])
        free = free - set(sources) | {len(shapes) - 1}
    outputs = sorted(free - {0})[-rng.choice((1, 1, 2)) :]
    if outputs and rng.random() < INDICES:
        kind, source = rng.choice(LAST), outputs.pop()
        nodes.append(Node(kind, (source,), KINDS[kind].draw(rng, [shapes[source]]) or {}))
        outputs.append(len(nodes))
    recipe = needed(Recipe(rng.getrandbits(30), shape, "fixed8.4", tuple(nodes), tuple(outputs)))
    if recipe is None:
        return None
    changes = {"scale": rng.choice((-3, 0, 0, 0, 2)), "deeper": rng.choice((0, 0, 1, 4)), "fused": rng.random() < 0.75}
    stalls = rng.choice(((0.0, 0.5), (0.5, 0.0), (0.3, 0.3)))
    return replace(recipe, stalls=stalls, **changes)


def needed(recipe: Recipe) -> Recipe | None:
    """Return the recipe without nodes that no output depends on; None if nothing is left."""
    keep, pending = set[int](), list(recipe.outputs)
    while pending:
        at = pending.pop()
        if at and at not in keep:
            keep.add(at)
            pending += recipe.nodes[at - 1].sources
    if not keep or 0 in recipe.outputs:
        return None
    places = {0: 0} | {old: new for new, old in enumerate(sorted(keep), 1)}
    old = [recipe.nodes[i - 1] for i in sorted(keep)]
    nodes = tuple(replace(node, sources=tuple(places[j] for j in node.sources)) for node in old)
    return replace(recipe, nodes=nodes, outputs=tuple(places[i] for i in recipe.outputs), lanes={})


def _formats(rng: Random, recipe: Recipe) -> Recipe:
    graph = recipe.traced()
    values = run(graph, (recipe.x(),), keep=True).reals

    def at(index: int) -> Tensor:
        found = [values[node.name] for node in graph.operators() if node.path.startswith(path_of(index))]
        return found[-1] if found else recipe.x()

    def form(role: str, x: Tensor) -> str:
        if rng.random() < OTHERS:
            return rng.choice(others(role))
        kind = rng.choice(draws.CLASSES)
        return draws.weight(rng, kind, x) if role == "weight" else draws.activation(rng, kind, x, x.ndim > 2)

    nodes = []
    for i, node in enumerate(recipe.nodes):
        if KINDS[node.kind].last:
            nodes.append(node)
            continue
        out = form("output", at(i))
        given = {
            "output": out,
            "rounding": "even" if getattr(parse(out), "block", 0) else rng.choice(("even", "half_up", "trunc")),
        }
        if KINDS[node.kind].weights:
            (weight,) = [n.tensor("weight") for n in graph.operators() if n.path == path_of(i)]
            given["weight"] = form("weight", weight)
            given["accumulation"] = rng.choice(("auto", "auto", "aligned(3)")) if "mx" in given["weight"] else "auto"
        nodes.append(replace(node, formats=given))
    inputs = form("input", recipe.x())
    for i, node in enumerate(recipe.nodes):  # what is joined has one format, the result too
        if KINDS[node.kind].op == "layout" and len(node.sources) > 1:
            one = f"fixed{rng.randint(4, 8)}.{rng.randint(1, 4)}"
            nodes[i] = replace(nodes[i], formats={**nodes[i].formats, "output": one})
            for made in (_producer(recipe, source) for source in node.sources):
                if made:
                    nodes[made - 1] = replace(nodes[made - 1], formats={**nodes[made - 1].formats, "output": one})
                else:
                    inputs = one
    return replace(recipe, inputs=inputs, nodes=tuple(nodes))


def _producer(recipe: Recipe, value: int) -> int:
    """Return the value that one has its format from."""
    while value and KINDS[recipe.nodes[value - 1].kind].op == "layout":
        value = recipe.nodes[value - 1].sources[0]
    return value


def _lanes(rng: Random, recipe: Recipe) -> Recipe:
    """Fix the foldings of some operators, among those that they know."""
    lanes: dict[str, tuple[int, int]] = {}
    for node, op in build(recipe.quantized()).ops.items():
        foldings = op.foldings
        if foldings.follows or rng.random() < 0.2:
            continue
        simd, pe = (side.tolist() for side in foldings.lanes())
        pairs = [(a, b) for a, b in zip(simd, pe, strict=True) if a * b <= MOST_LANES]
        if pairs:
            lanes[node] = rng.choice(pairs)
    return replace(recipe, lanes=lanes)


def kinds(recipes: Mapping[str, Recipe]) -> Counter[str]:
    """Count kinds over recipes."""
    return Counter(node.kind for recipe in recipes.values() for node in recipe.nodes)
