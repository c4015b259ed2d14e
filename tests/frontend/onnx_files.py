"""Small ONNX and QONNX files, and what ONNX's reference evaluator computes of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from mase.frontend.onnx import load
from mase.graph import Graph

Q, LAST = "qonnx.custom_op.general", "qonnx.custom_op.channels_last"
Arrays = Mapping[str, Any]
BOUND = 1e-5  # of the greatest output: PyTorch and NumPy sum float32 in different orders


class Quant(OpRun):  # type: ignore[misc]  # onnx ships no types
    """Written from QONNX's description of IntQuant, apart from ours."""

    op_domain = Q
    rounds: ClassVar[dict[str, Any]] = {
        "ROUND": np.round,
        "FLOOR": np.floor,
        "CEIL": np.ceil,
        "DOWN": np.trunc,
        "HALF_UP": lambda v: np.sign(v) * np.floor(np.abs(v) + 0.5),
    }

    def _run(self, x: Any, scale: Any, zero: Any, bits: Any, signed: int, narrow: int, rounding_mode: str) -> Any:
        span = 2 ** int(bits)
        low, high = (-span // 2 + narrow, span // 2 - 1) if signed else (0, span - 1 - narrow)
        code = self.rounds[rounding_mode](np.clip(x / scale + zero, low, high))
        return (((code - zero) * scale).astype(np.float32),)


class BipolarQuant(OpRun):  # type: ignore[misc]  # onnx ships no types
    op_domain = Q

    def _run(self, x: Any, scale: Any) -> Any:
        return (np.where(x >= 0, scale, -scale).astype(np.float32),)


def node(kind: str, inputs: Sequence[str], output: str | Sequence[str] = "y", **attrs: Any) -> Any:
    outputs = [output] if isinstance(output, str) else list(output)
    return helper.make_node(kind, list(inputs), outputs, name=attrs.pop("name", ""), **attrs)


def quant(x: str, scale: str, y: str, bits: str = "bits", zero: str = "zero", **attrs: Any) -> Any:
    attrs = {"signed": 1, "narrow": 0, "rounding_mode": "ROUND", **attrs}
    return node("Quant", [x, scale, zero, bits], y, domain=Q, name=f"quant_{y}", **attrs)


def file(
    folder: Path,
    nodes: Sequence[Any],
    arrays: Arrays,
    shape: Sequence[int | str] = ("N", 4),
    kind: int = TensorProto.FLOAT,
    opset: int = 21,
    outputs: Sequence[str] = ("y",),
) -> Path:
    """Write a file with one input ``x``."""
    values = [numpy_helper.from_array(np.asarray(array), name) for name, array in arrays.items()]
    given = [helper.make_tensor_value_info("x", kind, shape)]
    graph = helper.make_graph(
        list(nodes), "g", given, [helper.make_empty_tensor_value_info(o) for o in outputs], values
    )
    imports = [helper.make_opsetid("", opset), helper.make_opsetid(Q, 1), helper.make_opsetid(LAST, 1)]
    onnx.save(helper.make_model(graph, opset_imports=imports), str(folder / "model.onnx"))
    return folder / "model.onnx"


def judge(path: Path, x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    model = onnx.load(str(path))
    return np.asarray(ReferenceEvaluator(model, new_ops=[Quant, BipolarQuant]).run(None, {"x": x})[0])


def compare(path: Path, x: np.ndarray[Any, Any], **options: Any) -> Graph:
    """Load the file, compare both results on ``x``, and return the graph."""
    graph, _ = load(path, **options)
    want, got = judge(path, x), graph(torch.from_numpy(x)).numpy()
    exact = graph.output.inputs[0].record.output.format is not None  # then the values of codes come as float64
    assert got.shape == want.shape and (exact or got.dtype == want.dtype)
    np.testing.assert_allclose(got, want, rtol=0, atol=BOUND * float(np.abs(want).max()))
    return graph


def kinds(graph: Graph) -> list[str]:
    return [operator.kind for operator in graph.operators()]


def rand(*shape: int, seed: int = 0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


SCALARS = {"zero": np.float32(0), "bits": np.float32(8), "four": np.float32(4)}
SCALARS |= {"s": np.float32(2**-4), "t": np.float32(2**-6), "r": np.float32(0.0371)}


def formats(graph: Graph) -> dict[str, str]:
    """Return the formats of edges and operands, by name."""
    found = {n.path: str(n.record.output.format) for n in graph.nodes() if n.record.output.format is not None}
    for operator in graph.operators():
        for role, kind in operator.record.operands.items():
            if kind.format is not None:
                found[f"{operator.path}.{role}"] = str(kind.format)
    return found
