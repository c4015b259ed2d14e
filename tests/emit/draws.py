"""Random networks for the property test: every draw is legal, reproducible, and small enough to simulate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from random import Random

import torch
from torch import Tensor, nn

from mase.errors import UnsupportedOp
from mase.formats import parse
from mase.interpreter import run
from mase.netlist import build
from passes.map import Folding
from passes.quantize import NodeFormats
from tests.emit.designs import Network
from tests.emit.proof import Case

FIXED, INT, MX = "fixed", "int", "mxint"
CLASSES = (FIXED, INT, MX)
ZERO, BFP, FLOAT, MXFP = "zero", "bfp", "float", "mxfp"  # of streams whose codes are decoded, or encoded
GROUPS, NV, LOG, SIGNS = "groups", "nvfp4", "log", "signs"
STREAMS = (FIXED, MX, ZERO, BFP, FLOAT, MXFP, NV, LOG, SIGNS)
WEIGHTS = (ZERO, GROUPS, BFP, FLOAT, MXFP, NV, LOG, SIGNS)
SIZES = (1, 2, 3, 4, 5, 7, 8, 11, 13, 16, 17, 19, 23, 29, 31, 32, 33, 37, 41, 48, 53, 61, 64, 67, 70)
BLOCKS = (1, 2, 4, 8, 16, 32)
MANTISSAS = (2, 3, 4, 4, 5, 6, 7, 8, 8, 8, 11, 16)
WINDOWS = (1, 2, 3, 4, 4, 4, 5, 6, 8)  # bits of a block's exponent
MOST_LANES = 40  # products a cycle
MOST_CYCLES = 1500  # a sample
SAMPLES = 6
FEW = (1, 1, 2, 3, 4, 5)  # sizes of networks with degenerate ranges
NARROWEST = {  # formats of one or two bits, of one value behind a ReLU, or with almost no window
    FIXED: ("fixed1.0", "fixed1.3", "fixed1.-5", "fixed1.0", "ufixed1.0", "fixed2.1"),
    INT: ("int2", "int2p"),
    MX: ("mxint2b1e1", "mxint2b4e1", "mxint2b2e8", "mxint8b2e1"),
}
SHARE = 0.7  # of the tensors of such a network that have a format of these
Triple = tuple[str, str, str]  # classes of input, weight and output


def chains(rng: Random) -> list[list[Triple]]:
    """Return walks of 1 to 4 layers that together have each of the 27 triples of classes once, in a drawn order."""
    left = {x: [(w, y) for w in CLASSES for y in CLASSES] for x in CLASSES}
    for options in left.values():
        rng.shuffle(options)
    path, tour = [("", rng.choice(CLASSES))], list[tuple[str, str]]()  # Hierholzer: every class has as many in as out
    while path:
        if options := left[path[-1][1]]:
            path.append(options.pop())
        else:
            tour.append(path.pop())
    tour.reverse()
    triples = [(tour[i][1], tour[i + 1][0], tour[i + 1][1]) for i in range(len(tour) - 1)]
    lengths, out = [4, 3, 2, 1, 3, 2, 4, 2, 3, 1, 2], list[list[Triple]]()
    for length in lengths:
        out.append(triples[:length])
        triples = triples[length:]
    assert not triples
    assert all(out)
    return out


def pairs(triple: Triple) -> set[tuple[str, str, str]]:
    """Return the pairs of classes (input, weight), (weight, output) and (input, output) of a layer."""
    x, w, y = triple
    return {(x, w, ""), ("", w, y), (x, "", y)}


def other_chains(rng: Random) -> list[list[Triple]]:
    """Return walks of 4 layers that together have each pair of the other classes: greedily, in a drawn order."""
    left = set().union(*(pairs((x, w, y)) for x in STREAMS for w in WEIGHTS for y in STREAMS))
    out = list[list[Triple]]()
    while left:
        at = rng.choice(sorted({x for x, w, y in left if x and w} or set(STREAMS)))
        walk = list[Triple]()
        for _ in range(4):
            options = [(at, w, y) for w in WEIGHTS for y in STREAMS]
            rng.shuffle(options)
            walk.append(max(options, key=lambda triple: len(pairs(triple) & left)))
            left -= pairs(walk[-1])
            at = walk[-1][2]
        out.append(walk)
    return out


def degenerate(name: str, seed: int) -> Case:
    """Return a small random network with ranges of one value: words of a bit, weights of zeros, edges of zeros."""
    rng = Random(seed)
    kinds = [rng.choice((FIXED, *CLASSES)) for _ in range(2 * rng.choice((1, 2, 2, 3)) + 1)]
    triples = list(zip(kinds[:-2:2], kinds[1::2], kinds[2::2], strict=True))
    return drawn(name, seed, triples, narrow=True)


def drawn(name: str, seed: int, triples: Sequence[Triple], narrow: bool = False) -> Case:
    """Return a random network whose layers have these classes; draws that hardware refuses are drawn again."""
    rng, refusals = Random(seed), list[str]()
    for _ in range(60):
        torch.manual_seed(rng.getrandbits(31))
        try:
            case = _network(name, rng, triples, narrow).case()
        except UnsupportedOp as error:
            refusals.append(str(error))
            continue
        if build(case.graph).interval() <= MOST_CYCLES:
            return case
        refusals.append("too many cycles")
    raise AssertionError(f"{name}: nothing legal in 60 draws: {refusals[-3:]}")


def _network(name: str, rng: Random, triples: Sequence[Triple], narrow: bool = False) -> Network:
    rows = rng.choice((1, 1, 1, 2, 3, 5)[: 4 if narrow else None])
    size = rng.choice(FEW if narrow else SIZES)
    shape = (rows, size) if rows > 1 or rng.random() < 0.2 else (size,)
    x = torch.randn(SAMPLES, *shape) * 2.0 ** rng.choice((-9, 0, 0, 0, 6))
    layers = _layers(rng, shape, len(triples), narrow)
    network = Network(name, layers, x, "", {}, fused=rng.random() < 0.75)
    graph = network.traced()
    wanted = [node.path for node in graph.operators() if node.kind == "linear"]
    requantized = [path for path in wanted if rng.random() < (0.4 if narrow else 0.15)]
    network = Network(name, layers, x, "", {}, fused=network.fused, requantized=requantized)
    graph, formats = network.traced(), dict[str, NodeFormats]()
    values = run(graph, (x,), keep=True).reals
    entry, layer = graph.inputs[0].name, -1
    inputs = _either(rng, narrow, triples[0][0], activation(rng, triples[0][0], values[entry], values[entry].ndim > 2))
    for node in graph.operators():
        if node.kind == "layout":
            continue
        layer += node.kind == "linear"
        y = triples[max(layer, 0)][2] if layer >= 0 else triples[0][0]
        if node.kind == "linear" and node.path in requantized:
            y = rng.choice(CLASSES)
        out = _either(rng, narrow, y, activation(rng, y, values[node.name], rows > 1))
        rounded = out.startswith((FIXED, f"u{FIXED}", INT))  # all others round to even
        rounding = rng.choice(("even", "even", "half_up", "trunc")) if rounded else "even"
        w = None
        if node.kind == "linear":
            w = _either(rng, narrow, triples[layer][1], weight(rng, triples[layer][1], node.tensor("weight")))
        block = node.kind == "linear" and bool({MX, BFP} & set(triples[layer][:2]))
        accumulation = rng.choice(("auto", f"aligned({rng.randint(0, 12)})")) if block else "auto"
        formats[node.path] = NodeFormats(w, output=out, accumulation=accumulation, rounding=rounding)
    chosen = Network(name, layers, x, inputs, formats, {}, network.fused, requantized)
    return Network(name, layers, x, inputs, formats, lanes(rng, chosen), network.fused, requantized)


def _either(rng: Random, narrow: bool, kind: str, text: str) -> str:
    """Return a text form, or in a network with degenerate ranges perhaps one of the narrowest of its class."""
    return rng.choice(NARROWEST[kind]) if narrow and rng.random() < SHARE else text


def _layers(rng: Random, shape: tuple[int, ...], count: int, narrow: bool = False) -> list[nn.Module]:
    """Return ``count`` linear layers with what may stand around them."""
    layers: list[nn.Module] = [nn.Flatten()] if len(shape) > 1 and rng.random() < 0.25 else []
    shape = (math.prod(shape),) if layers else shape
    if rng.random() < 0.1:
        layers.append(nn.ReLU())
    for i in range(count):
        if len(shape) > 1 and i and rng.random() < 0.5:
            layers.append(nn.Flatten())
            shape = (math.prod(shape),)
        outputs = rng.choice(FEW if narrow else SIZES[:14] if len(shape) > 1 else SIZES)
        linear = nn.Linear(shape[-1], outputs, bias=rng.random() < 0.8)
        with torch.no_grad():
            linear.weight.mul_(2.0 ** rng.choice((-8, 0, 0, 0, 0, 7)))
            linear.weight[torch.rand_like(linear.weight) < 0.1] = 0.0
            if rng.random() < 0.15:
                linear.weight.abs_()
            if linear.bias is not None:
                linear.bias.mul_(2.0 ** rng.choice((-6, 0, 0, 0, 5)))
            if narrow:
                _spoil(rng, linear)
        layers.append(linear)
        shape = (*shape[:-1], outputs)
        if i < count - 1 or rng.random() < 0.3:
            layers += [nn.ReLU()] * rng.choice((0, 1, 1, 1, 2))
    return layers


def _spoil(rng: Random, linear: nn.Linear) -> None:
    """Give a layer weights of zeros or of one value, all or an output's, and perhaps a bias far from all products."""
    rows = linear.weight if rng.random() < 0.6 else linear.weight[:1]
    how = rng.choice(("as it is", "zero", "zero", "one value"))
    if how != "as it is":
        rows.fill_(0.0 if how == "zero" else rng.choice((1.0, -0.375)))
    if linear.bias is not None:
        linear.bias.mul_(rng.choice((0.0, 1.0, 1.0, 2.0**12)))


def weight(rng: Random, kind: str, x: Tensor) -> str:
    """Return a weight format of a class, fitted loosely to the data."""
    if kind == INT:
        return f"int{rng.randint(2, 8)}{rng.choice(('', 'c', 'p', 'cp'))}"
    if kind == ZERO:
        return f"int{rng.randint(2, 8)}{rng.choice(('a', 'ca', 'pa', 'f', 'cf'))}"
    if kind == GROUPS:
        return f"int{rng.randint(2, 6)}g{rng.choice(BLOCKS)}{rng.choice(('', 'a', 'f', 'p', 'pa'))}"
    if kind == LOG:
        return _log(rng)
    if kind == SIGNS:
        return rng.choice(("binary", "ternary")) + rng.choice(("", "c", "u"))
    return _stream(rng, kind, x)


def activation(rng: Random, kind: str, x: Tensor, small: bool) -> str:
    """Return an activation format of a class, fitted loosely to the data."""
    if kind == INT:
        return f"int{rng.randint(2, 9)}{rng.choice(('', '', 'p'))}"
    if kind == ZERO:
        return f"int{rng.randint(2, 8)}{rng.choice(('a', 'a', 'pa'))}"
    if kind == LOG:
        return _log(rng)
    if kind == SIGNS:
        return rng.choice(("binary", "ternary")) + rng.choice(("", "u"))
    return _stream(rng, kind, x)


def _stream(rng: Random, kind: str, x: Tensor) -> str:
    """Return a format of a class that weights and activations share."""
    if kind == BFP:
        code = rng.choice(("", "_xfloor", "_tc", "_xfloor_tc"))
        return f"bfp{rng.choice(MANTISSAS)}b{rng.choice(BLOCKS)}e{rng.choice(WINDOWS)}{code}"
    if kind == NV:
        return f"nvfp4{rng.choice(('', 'l1'))}b{rng.choice(BLOCKS)}"
    if kind == FLOAT:
        return rng.choice(("e4m3", "e5m2", "e3m2", "e2m3", "e2m1", "e3m0", "e4m3fnuz", "e2m1t", "e3m2t", "e1m2"))
    if kind == MXFP:
        text = rng.choice(("mxfp4", "mxfp8e4m3", "mxfp8e5m2", "mxfp6e3m2", "mxfp6e2m3", "bm6e2", "bm4e3"))
        block, window = rng.choice(BLOCKS), f"s{rng.choice((2, 3, 4))}"
        return f"{text}b{block}{window if text.startswith('bm') else rng.choice(('', '_xceil', '_xeven', '_xrceil'))}"
    return _fixed(rng, x) if kind == FIXED else _mxint(rng, rng.choice(MANTISSAS))


def _log(rng: Random) -> str:
    return rng.choice((f"log{rng.randint(2, 6)}", f"bl{rng.randint(2, 5)}b{rng.choice(BLOCKS)}s4"))


def _fixed(rng: Random, x: Tensor) -> str:
    width, signed = rng.choice((1, 2, 3, 4, 5, 6, 7, 8, 8, 8, 11)), bool((x < 0).any()) or rng.random() < 0.3
    top = float(x.abs().max()) or 1.0
    frac = width - signed - math.frexp(top)[1] + rng.choice((-1, 0, 0, 1, 3))
    return f"{'' if signed else 'u'}fixed{width}.{max(-64, min(64, frac))}"


def _mxint(rng: Random, width: int) -> str:
    return f"mxint{width}b{rng.choice(BLOCKS)}e{rng.choice(WINDOWS)}"


def lanes(rng: Random, network: Network) -> dict[str, Folding]:
    """Return random lanes that fit the blocks, not always dividing and sometimes wider than the row."""
    graph, out = network.quantized(), {}
    for node in graph.operators():
        if node.kind == "layout":
            continue
        x, y = node.inputs[0].record.output, node.record.output
        w = node.record.operands.get("weight")
        ins, outs = [t.format for t in (x, w) if t is not None], [y.format]
        if node.kind != "linear":
            ins = outs = [*ins, *outs]
        simd = rng.choice(_fitting(ins, x.shape[-1] + 3))
        pe = simd
        if node.kind == "linear":
            pe = rng.choice([n for n in _fitting(outs, y.shape[-1] + 3) if n * simd <= MOST_LANES] or [1])
        elif simd > MOST_LANES // 2:
            simd = pe = 1
        out[node.path] = Folding(simd, pe)
    return out


def _fitting(formats: Sequence[object], most: int) -> list[int]:
    blocks = [size for f in formats if (size := getattr(f, "block", 0) or getattr(f, "group", 0))]
    return [n for n in range(1, min(most, MOST_LANES) + 1) if all(n % b == 0 or b % n == 0 for b in blocks)]


def combinations(case: Case) -> set[Triple]:
    """Return the classes (input, weight, output) of every linear node of a case."""
    out = set()
    for node in case.graph.operators():
        if node.kind == "linear":
            kinds = node.inputs[0].record.output, node.record.operands["weight"], node.record.output
            names = [parse(str(kind.format)) for kind in kinds]
            out.add(tuple(type(fmt).__name__.lower() for fmt in names))
    return out  # type: ignore[return-value]  # three each
