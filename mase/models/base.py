"""The registry of models: name -> function that builds an ``nn.Module`` from keyword arguments."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from mase.options import call
from mase.registry import Registry

MODELS: Registry[Callable[..., nn.Module]] = Registry("model", "mase.models")
Options = dict[str, Any]  # keyword arguments of a builder, as the configuration gives them


def build(name: str, options: Mapping[str, Any] | None = None, home: Path | None = None) -> nn.Module:
    """Build a registered model; its weights come from PyTorch's global generator.

    Args:
        options: keyword arguments of the model. home: what a relative option ``path`` is relative to.

    Raises:
        ConfigError: the name or an option is unknown, or a value is impossible.
    """
    return call(MODELS[name], options or {}, f"model {name}", home)
