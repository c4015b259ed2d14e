"""The structure of a transformers model of any depth, from its configuration alone: traced short, then unrolled."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx

from mase.calib.cut import AFTER, BEFORE, Part, cut, joined
from mase.doors import file
from mase.errors import UnsupportedOp
from mase.formats import QuantParams
from mase.graph import META, Graph, NodeGraph, OpNode, Record, TensorType
from mase.models.checkpoint import Checkpoint
from mase.models.huggingface import load_config, quiet

TOKENS = 97  # of the short model: a prime that is no size of another axis; the true number comes from config.json
LARGEST = 1 << 24  # bytes of a configuration
KEPT = 8  # structures that are kept
SPECIAL = ("pad_token_id", "bos_token_id", "eos_token_id")  # ids that may lie beyond the short vocabulary


KNOWN: dict[tuple[str, int], Skeleton] = {}  # by configuration and length: they are never changed


@dataclass(frozen=True, eq=False)
class Skeleton:
    """Hold the parts of a model without its weights.

    Args:
        count: blocks of the model. path: of the blocks without their number. period: blocks that differ.
        parts: of the short model. owned: keys of its tables that the files of weights hold. vocabulary: true size.
        inputs, output: of the whole graph.
    """

    count: int
    path: str
    period: int
    parts: tuple[Part, ...]
    owned: frozenset[str]
    vocabulary: int
    inputs: tuple[OpNode, ...]
    output: Record

    @property
    def total(self) -> int:
        """Parts of the whole model."""
        return self.count + 2

    @property
    def names(self) -> list[str]:
        """Names of all parts, in order."""
        return [BEFORE, *(f"{self.path}.{i}" for i in range(self.count)), AFTER]

    def part(self, number: int) -> Part:
        """Return a part of the whole model; its weights are without memory until :meth:`filled`."""
        if number in (0, self.total - 1):
            part = self.parts[0] if number == 0 else self.parts[-1]
            return self._chained(_sized(part, self.vocabulary), number)
        return self._chained(self._renamed(number - 1), number)

    def check(self, part: Part, checkpoint: Checkpoint) -> None:
        """Refuse files of weights that do not hold what a part needs.

        Raises:
            GraphError: names the tensor.
        """
        for key, x in self._missing(part).items():
            checkpoint.check(key, tuple(x.t().shape if _turned(x) else x.shape))

    def filled(self, part: Part, checkpoint: Checkpoint) -> Part:
        """Return a part with its weights, in float32."""
        tensors = {}
        for key, x in self._missing(part).items():
            turned = _turned(x)
            read = checkpoint.read(key, tuple(x.t().shape if turned else x.shape))
            tensors[key] = read.t() if turned else read
        return part.on(part.graph.replace(tensors=tensors))

    def _missing(self, part: Part) -> dict[str, Tensor]:
        return {key: x for key, x in part.graph.tensors.items() if x.device.type == "meta"}

    def later(self, number: int) -> frozenset[str]:
        """Return the edges that parts behind one still take."""
        shared = {name for part in self.parts[1:] for name in part.takes if name in self._before()}
        return frozenset(shared | ({self._edge(number)} if number < self.total - 1 else set()))

    def whole(self, parts: Mapping[int, Part]) -> Graph:
        """Return one graph of all parts."""
        ends = [node.name for node in parts[self.total - 1].graph.output.inputs]
        return joined([parts[i] for i in range(self.total)], self.inputs, self.output, ends)

    def _before(self) -> set[str]:
        """Return the edges that come from the inputs and the prologue, the main one aside: all blocks may take them."""
        return {node.name for node in self.inputs} | (set(self.parts[0].gives) - {self._main()})

    def _main(self) -> str:
        """Return the edge of the prologue that the first block takes, and no other."""
        others = {name for part in self.parts[2:-1] for name in part.takes}
        return next(name for name in self.parts[1].takes if name in self.parts[0].gives and name not in others)

    def _edge(self, number: int) -> str:
        """Return the main edge behind a part."""
        return self._main() if number == 0 else f"{self.path}.{number - 1}".replace(".", "_") + "_out"

    def _chained(self, part: Part, number: int) -> Part:
        """Return a part whose main edges have the names of its place."""
        if number == 0:
            return part
        shared = self._before()
        main = next(name for name in part.takes if name not in shared)
        names = {main: self._edge(number - 1)}
        if number < self.total - 1:
            names[part.gives[0]] = self._edge(number)
        takes = tuple(names.get(name, name) for name in part.takes)
        gives = tuple(names.get(name, name) for name in part.gives)
        return Part(part.name, _relabelled(part.graph, names, lambda text: text), takes, gives)

    def _renamed(self, block: int) -> Part:
        """Return a block of the whole model: the one of the short model that is like it, under other paths and keys."""
        like = block % self.period if self.period > 1 else min(1, len(self.parts) - 3)
        part, old, new = self.parts[1 + like], f"{self.path}.{like}.", f"{self.path}.{block}."

        def path(text: str) -> str:
            return new + text.removeprefix(old) if text.startswith(old) else text

        names = {}
        for node in part.graph.operators():
            if node.path.startswith(old):
                names[node.name] = path(node.path).replace(".", "_")
            elif node.inputs:
                names[node.name] = f"{node.name}_of_{block}"
        kept = {key for key in part.graph.tensors if key not in self.owned}
        graph = _relabelled(part.graph, names, path, kept)
        return Part(f"{self.path}.{block}", graph, part.takes, tuple(names.get(name, name) for name in part.gives))


def skeleton(folder: Path, length: int) -> Skeleton:
    """Return the structure of the model of a folder, for samples of ``length`` tokens.

    Raises:
        ConfigError: the configuration is not one of a model that transformers can build.
        UnsupportedOp: the model is not a row of equal blocks; says what was found.
    """
    key = file.text(folder / "config.json", LARGEST), length
    if key not in KNOWN:
        while len(KNOWN) >= KEPT:
            KNOWN.pop(next(iter(KNOWN)))
        KNOWN[key] = _traced(folder, length)
    return KNOWN[key]


def _traced(folder: Path, length: int) -> Skeleton:
    from mase.frontend.export import trace_export  # takes a second to import

    transformers, config = load_config(folder)
    count, vocabulary = int(config.num_hidden_layers), int(config.vocab_size)
    types = list(getattr(config, "layer_types", None) or ["one"] * count)
    period = next(p for p in range(1, count + 1) if all(types[i] == types[i % p] for i in range(count)))
    short = max(period, 2)  # also of a model of one block: a row is found by what repeats
    types = [types[i % period] for i in range(max(count, short))]
    _shorten(config, short, types)
    torch.manual_seed(0)
    with quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    ids = torch.randint(0, TOKENS, (2, length))
    graph, _ = trace_export(model.eval().requires_grad_(False), {"input_ids": ids})
    owned = frozenset(dict(model.named_parameters(remove_duplicate=False)))
    made = cut(graph)
    blocks = [part.name for part in made.blocks]
    path = blocks[0].rpartition(".")[0]
    if blocks != [f"{path}.{i}" for i in range(short)] or [p.name for p in made.parts] != [BEFORE, *blocks, AFTER]:
        raise UnsupportedOp(f"{folder}: the blocks of the model are {', '.join(blocks)}; a row of {short} is needed")
    parts = tuple(part.on(_without(part.graph, owned)) for part in made.parts)
    inputs = tuple(graph.inputs)
    output = graph.output.record
    output = replace(output, output=_size(output.output, vocabulary))
    found = Skeleton(count, path, period, parts, owned, vocabulary, inputs, output)
    _check(found, folder)
    return found


def _shorten(config: Any, short: int, types: list[str]) -> None:
    """Make the configuration one of a short model of few tokens."""
    if getattr(config, "layer_types", None):
        config.layer_types = types[:short]
    config.num_hidden_layers, config.vocab_size, config.use_cache = short, TOKENS, False
    for name in SPECIAL:
        setattr(config, name, None)


def _turned(x: Tensor) -> bool:
    """Tell whether the model stores a matrix as ``[inputs, outputs]``; the table then holds the transposed view."""
    return x.ndim == 2 and not x.is_contiguous() and x.t().is_contiguous()


def _check(found: Skeleton, folder: Path) -> None:
    """Refuse a model whose blocks pass more than one edge on, or are not alike."""
    blocks = found.parts[1:-1]
    shared = found._before()
    for part in found.parts[1:]:
        extra = [name for name in part.takes if name not in shared]
        if len(extra) != 1:
            raise UnsupportedOp(f"{folder}: {part.name} takes {len(extra)} edges of the block before; allowed is one")
    if found.period == 1 and len(blocks) > 1 and _shape(blocks[0]) != _shape(blocks[1]):
        raise UnsupportedOp(f"{folder}: {blocks[0].name} and {blocks[1].name} differ; allowed are equal blocks")


def _shape(part: Part) -> list[object]:
    nodes = [node for node in part.graph.operators() if node.inputs]  # constants may stand elsewhere
    return [(n.kind, n.record.output.shape, sorted((r, t.shape) for r, t in n.record.operands.items())) for n in nodes]


def _without(graph: Graph, owned: frozenset[str]) -> Graph:
    """Return the graph with its weights as shapes alone."""
    return graph.replace(tensors={key: x.to("meta") for key, x in graph.tensors.items() if key in owned})


def _size(kind: TensorType, vocabulary: int) -> TensorType:
    return replace(kind, shape=tuple(vocabulary if size == TOKENS else size for size in kind.shape))


def _sized(part: Part, vocabulary: int) -> Part:
    """Return a part with the true number of tokens in place of the short model's."""
    records, tensors = {}, dict[str, Tensor]()
    for node in part.graph.nodes():
        record = node.record
        operands = {role: _size(kind, vocabulary) for role, kind in record.operands.items()}
        records[node.name] = replace(record, output=_size(record.output, vocabulary), operands=operands)
        for role, kind in operands.items():
            if part.graph.tensors[record.key(role)].device.type == "meta":
                tensors[record.key(role)] = torch.empty(kind.shape, device="meta")
    return part.on(part.graph.replace(records, tensors))


def _relabelled(graph: Graph, names: Mapping[str, str], path: Any, kept: set[str] | None = None) -> Graph:
    """Return a graph under other names of nodes and paths.

    Args:
        names: of nodes. path: new path of an old one, and new key. kept: keys that stay; None: all.
    """
    new, env = fx.Graph(), dict[fx.Node, fx.Node]()

    def key(text: str) -> str:
        return text if kept is None or text in kept else str(path(text))

    for node in graph.nodes():
        copied = new.node_copy(node.node, lambda n: env[n])
        copied.name, record = names.get(node.name, node.name), node.record
        table = {role: key(record.key(role)) for role in record.operands}
        attrs = dict(record.attrs)
        if "argument" in attrs:
            attrs["argument"] = names.get(attrs["argument"], attrs["argument"])
        if record.kind == "output":
            attrs["fields"] = [names.get(name, name) for name in attrs.get("fields", [])]
        copied.meta = {META: replace(record, path=path(record.path), table=table, attrs=attrs)}
        env[node.node] = copied
    tensors = {key(name): x for name, x in graph.tensors.items()}
    quant: dict[str, QuantParams] = {names.get(name, name): params for name, params in graph.quant.items()}
    bodies = {names.get(name, name): _relabelled(body, {}, path, kept) for name, body in graph.bodies.items()}
    return Graph(NodeGraph(graph.module, new), tensors, quant, bodies=bodies)
