"""Cut a region out of a graph into a nested graph with an input a port."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import fx, nn

from mase.frontend.lift.nodes import (
    Node,
    around,
    is_free,
    is_op,
    label,
    same,
    shape,
    source,
    symbolic,
    tensor_type,
    value,
)
from mase.frontend.lift.work import Typed, Work
from mase.graph import META, Graph, NodeGraph, Record, TensorType


def outline(work: Work, region: set[Node], ports: Sequence[Node], result: Node) -> Graph:
    """Copy a region into a graph of its own, whose nodes are typed by the same rules.

    Args:
        region: its nodes. ports: what it reads, in order. result: the node of the region that others read.
    """
    inner = fx.Graph()
    env: dict[Node, Node] = {}
    for place, port in enumerate(ports):
        env[port] = inner.placeholder(f"port_{place}")
        env[port].meta = {"val": value(port)}

    def copy(node: Node) -> Node:
        if node not in env:
            env[node] = _size(inner, env, ports, node) or inner.node_copy(node, copy)
            env[node].meta = {k: v for k, v in node.meta.items() if k != META}
        return env[node]

    for node in work.graph.nodes:
        if node in region and node not in env:
            copy(node)
    inner.output(env[result])
    nested = work.nested(inner)
    nested.run()
    return finish(nested)


def _size(inner: fx.Graph, env: dict[Node, Node], ports: Sequence[Node], node: Node) -> Node | None:
    """Read a free size off a port, where the region reads it off something outside."""
    if not is_op(node, "sym_size"):
        return None
    for port in ports:
        for axis, size in enumerate(symbolic(port)):
            if same(size, value(node)):
                return inner.call_function(node.target, (env[port], axis))
    return None


def plainly(work: Work, node: Node, found: Typed) -> Typed:
    """Return a node without its body where the arithmetic of the kind gives the same bits on random inputs.

    Args:
        node: that it stands for.
    """
    from mase.interpreter import run  # the interpreter knows every kind
    from mase.ops.base import OPS

    assert found.body is not None
    record = Record(found.kind, found.path or node.name, tensor_type(node), dict(found.attrs), ports=found.ports)
    operands = {role: param.tensor for role, param in found.operands.items()}
    generator = torch.Generator().manual_seed(0)
    drawn = {p: torch.randn(shape(p), generator=generator).to(value(p).dtype) for p in found.inputs}
    inputs = [drawn[port] for port in found.inputs]
    with torch.no_grad():
        want = run(found.body, inputs).traced(found.body.output.inputs[0])
        try:
            got = OPS[found.kind].float(record, operands, *inputs)
        except (KeyError, RuntimeError):  # the kind has no such form
            return found
    equal = want.dtype == got.dtype and torch.equal(want, got)
    return replace(found, body=None) if equal else found


def finish(work: Work, fields: Sequence[str] = ()) -> Graph:
    """Give every node that is not typed its record: inputs, constants, opaque nodes, the output.

    Args:
        fields: names of the results, where there are several.
    """
    for node in list(work.graph.nodes):
        if META in node.meta:
            continue
        if node.op == "placeholder":  # a port: the sizes that are free outside are free here
            axes = [str(size.node.expr) if is_free(size) else "" for size in symbolic(node)]
            axes[:1] = [axes[0] or f"first_of_{node.name}"] if axes else []  # the batch may be free all the same
            record = Record("input", node.name, tensor_type(node), {"axes": axes})
        elif node.op == "output":
            record = Record("output", "output", _first(node.args[0]), {"fields": list(fields)} if fields else {})
        elif node.op == "get_attr":
            work.type_constant(node)
            continue
        else:
            path = f"{around(node)}.{node.name}".strip(".")
            record = Record("opaque", path, tensor_type(node), {"target": label(node)}, source=source(node))
        node.meta = {META: record}
    for node in work.graph.nodes:
        node.meta = {META: node.meta[META]}
    return Graph(NodeGraph(nn.Module(), work.graph), work.tensors, bodies=work.bodies)


def _first(result: Any) -> TensorType:
    """Return the type of a result, of the first where there are several."""
    node = result[0] if isinstance(result, tuple | list) else result
    record: Record = node.meta[META]
    return record.output
