"""Merge a ReLU into the linear layer before it: one node, one output format, one rounding (ARITHMETIC 3)."""

from __future__ import annotations

from dataclasses import dataclass, replace

from mase.graph import META, Graph, OpNode
from passes.base import graph_pass


@dataclass(frozen=True)
class FuseConfig:
    """Nothing to choose: every legal pair is fused. Leave the pass out to keep roundings apart."""


@dataclass(frozen=True)
class FuseReport:
    """Pairs that became one node: (linear, activation) paths."""

    fused: tuple[tuple[str, str], ...]


@graph_pass("fuse", FuseConfig, provides=("fused",))
def fuse(graph: Graph, config: FuseConfig) -> tuple[Graph, FuseReport]:
    """Fuse linear + ReLU where the ReLU is the only consumer."""
    out, editable = graph.edited()
    fused = []
    for node in list(out.operators()):
        partner = _partner(node)
        if partner is None:
            continue
        record = partner.record
        attrs = {**record.attrs, "activation": "relu"}
        partner.node.meta[META] = replace(record, attrs=attrs, output=node.record.output)
        if node.name in out.quant:
            out.quant[partner.name] = out.quant.pop(node.name)
        node.node.replace_all_uses_with(partner.node)
        editable.erase_node(node.node)
        fused.append((partner.path, node.path))
    return out.verify(), FuseReport(tuple(fused))


def _partner(node: OpNode) -> OpNode | None:
    """Return the linear node that this activation, a ReLU, may join: one that does not round before it."""
    if node.kind != "activation" or node.record.attrs["function"] != "relu":
        return None
    producer = node.inputs[0]
    alone = len(producer.users) == 1 and producer.record.output.format is None
    return producer if producer.kind == "linear" and alone and "activation" not in producer.record.attrs else None
