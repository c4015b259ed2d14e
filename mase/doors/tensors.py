"""Tensors by name, in files of safetensors."""

from __future__ import annotations

from torch import Tensor

from mase.errors import GraphError, MaseError, said


def parse(raw: bytes, where: str, error: type[MaseError] = GraphError) -> dict[str, Tensor]:
    """Return the tensors that the content of a file is.

    Args:
        where: what errors call it. error: what is raised.

    Raises:
        MaseError: it is damaged.
    """
    from safetensors.torch import load

    try:
        return load(raw)
    except Exception as fault:  # noqa: BLE001  # of the package, and of torch for a type that it does not know
        raise error(f"{where}: corrupt: this is not a safetensors file: {said(fault)}") from None
