"""Requantize nodes before inputs that may have to come in another format than their producer gives.

What joins tensors takes all of them in the format of its result, with the same scale; what looks values up takes codes
of few bits. Such inputs get an *adapter*, a requantize node, before formats are chosen; :mod:`mase.calib.assign` gives
it what the operator asks for, and where that is what comes anyway, :func:`pruned` takes it out again. The search and
the quantize pass both work on the graph with adapters, so what is scored is what is built.
"""

from __future__ import annotations

from mase.graph import META, Graph, OpNode, Record, new_type, typed
from mase.ops.base import ADAPTER, OPS, constant, moves, same_codes


def adapter(node: OpNode) -> bool:
    """Tell whether a node was put before an input that may have to come in another format."""
    return bool(node.record.attrs.get(ADAPTER, False))


def inserted(graph: Graph) -> Graph:
    """Return the graph with an adapter before each input that may need one; itself where none does."""
    needed = [
        (node.name, i) for node in graph.operators() for i, source in enumerate(node.inputs) if _may(node, source)
    ]
    if not needed:
        return graph
    out, editable = graph.edited()
    for name, i in needed:
        node = out.node(name)
        source = node.inputs[i]
        with editable.inserting_before(node.node):
            made = editable.create_node("call_function", typed, (source.node,), {}, f"{name}_adapt{i or ''}")
        output = new_type(source.record.output, None)
        path = f"{node.path}.adapt{i or ''}"
        made.meta = {META: Record("requantize", path, output, {ADAPTER: True}, source=node.record.source)}
        node.node.update_arg(i, made)
    return out.verify()


def _may(node: OpNode, source: OpNode) -> bool:
    if node.kind not in OPS or not OPS[node.kind].adapts(node.record) or adapter(source) or constant(source):
        return False
    follows = moves(node) and len(node.inputs) == 1  # it has the format of its input
    return not follows and source.record.output.dtype.startswith("float")


def pruned(graph: Graph) -> Graph:
    """Return the graph without the adapters that change nothing; itself where each one is needed."""
    needless = [node.name for node in graph.operators() if adapter(node) and _needless(node)]
    if not needless:
        return graph
    out, editable = graph.edited()
    for name in needless:
        node = out.node(name)
        node.node.replace_all_uses_with(node.inputs[0].node)
        editable.erase_node(node.node)
        out.quant.pop(name, None)
    return out.verify()


def _needless(node: OpNode) -> bool:
    return node.record.output.format is None or same_codes(node.inputs[0], node)
