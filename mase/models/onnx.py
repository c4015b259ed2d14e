"""A model from an ONNX or QONNX file."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from mase.models.base import MODELS
from mase.options import Size


@MODELS.add("onnx")
def onnx(path: str, sizes: Mapping[str, Size] | None = None, compare: bool = True) -> nn.Module:
    """Load a file; its parameters can be trained and stored like those of any model.

    Args:
        path: of the ``.onnx`` file. sizes: of axes that the file names and leaves open, such as ``{"sequence": 16}``.
        compare: with ONNX's reference evaluator, on two inputs.

    Raises:
        MaseError: see :func:`mase.frontend.onnx.load`.
    """
    from mase.frontend.onnx import OnnxModel

    return OnnxModel(path, sizes, compare)
