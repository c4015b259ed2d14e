"""Operators of QONNX's domain for channels last, on ours: channels come forward, and go back behind the node.

Source: QONNX custom operators, channels_last: axes are [batch, ..., channels], weights [outputs, ..., inputs].
"""

from __future__ import annotations

from dataclasses import replace

from torch import fx

from mase.frontend.onnx_builder import Builder, Constant, Step, Value
from mase.frontend.onnx_judge import TURNED
from mase.frontend.onnx_layout import Import, permuted
from mase.frontend.onnx_nodes import NODES


def _read(b: Builder, step: Step) -> Value:
    """Read a node as the operator of the same name, between two turns."""
    rank = len(b.shape(b.node(step, 0)))
    _checked(b, step, rank)
    forward, back = [0, rank - 1, *range(1, rank - 1)], [0, *range(2, rank), 1]
    names = list(step.inputs)
    for index in range(TURNED[step.type]):
        value = b.value(step, index)
        names[index] = f"{step.inputs[index]} with channels first"
        turn = replace(step, name=f"{step.name}.first")
        b.values[names[index]] = (
            permuted(b, turn, value, forward) if isinstance(value, fx.Node) else _first(value, rank)
        )
    found = NODES[step.type](b, replace(step, domain="", inputs=tuple(names)))
    assert isinstance(found, fx.Node)
    return permuted(b, replace(step, name=f"{step.name}.last"), found, back)


def _checked(b: Builder, step: Step, rank: int) -> None:
    """Refuse inputs and weights of other than 3 axes or more, as many each."""
    ranks = [len(b.shape(b.value(step, index))) for index in range(TURNED[step.type])]
    if rank < 3 or set(ranks) != {rank}:
        raise step.refuse(
            f"has inputs of {ranks} axes; allowed are 3 or more, the same number for each input, with the channels last"
        )


def _first(weight: Constant, rank: int) -> Constant:
    """Return a weight with its inputs second, in its format."""
    axes = [0, rank - 1, *range(1, rank - 1)]
    params = replace(weight.params, axis=axes.index(weight.params.axis % rank))
    return Constant(weight.tensor.permute(axes).contiguous(), weight.name, weight.format, params)


CHANNELS_LAST: dict[str, Import] = dict.fromkeys(TURNED, _read)
