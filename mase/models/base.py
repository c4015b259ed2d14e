"""The registry of models: name -> function that builds an ``nn.Module`` from keyword arguments."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from mase.registry import Registry

MODELS: Registry[Callable[..., nn.Module]] = Registry("model", "mase.models")
Options = dict[str, Any]  # keyword arguments of a builder, as the configuration gives them
