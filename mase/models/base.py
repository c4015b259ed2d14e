"""The registry of models: name -> function that builds an ``nn.Module`` from keyword arguments."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from mase.errors import ConfigError
from mase.options import call
from mase.registry import Registry

MODELS: Registry[Callable[..., nn.Module]] = Registry("model", "mase.models")
LARGEST = 1 << 31  # parameters and buffers: 8 GiB in float32
MAKES = ("empty", "zeros", "ones", "full", "rand", "randn", "arange", "tensor", "eye", "linspace")
FILLS = ("normal_", "uniform_", "fill_", "zero_", "trunc_normal_")
Options = dict[str, Any]  # keyword arguments of a builder, as the configuration gives them


def build(name: str, options: Mapping[str, Any] | None = None, home: Path | None = None) -> nn.Module:
    """Build a registered model; its weights come from PyTorch's global generator.

    Args:
        options: keyword arguments of the model. home: what a relative option ``path`` is relative to.

    Raises:
        ConfigError: the name or an option is unknown, or a value is impossible.
    """
    builder = MODELS[name]
    if "path" not in inspect.signature(builder).parameters:
        _check_size(name, builder, options or {})
    return call(builder, options or {}, f"model {name}", home)


def _check_size(name: str, builder: Callable[..., nn.Module], options: Mapping[str, Any]) -> None:
    """Build a model once without memory, and refuse one with more numbers than we ever want."""
    with torch.device("meta"), _Counting(name):
        call(builder, options, f"model {name}")


class _Counting(TorchFunctionMode):
    """Count the elements of all tensors that are made, and draw no random numbers.

    Args:
        name: of the model, for the error.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        self._name, self._count = name, 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # as torch has it
        called = getattr(func, "__name__", "")
        if called in FILLS:
            return args[0] if args else kwargs["tensor"]
        made = func(*args, **(kwargs or {}))
        if called in MAKES:
            self._count += made.numel()
            if self._count > LARGEST:
                raise ConfigError(f"model {self._name}: has more than {LARGEST:,} numbers with these options")
        return made
