"""What evaluates a point: a function in this process, or one named so that other processes can build it."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mase.errors import ConfigError, UnknownName
from mase.explore.space import Point

Evaluate = Callable[[Point], Mapping[str, float]]  # metrics by name; nothing missing, nothing NaN


@dataclass(frozen=True)
class EvaluatorSpec:
    """Name a function that makes an evaluator, so that a worker builds its own instead of receiving pickled code.

    The evaluator gets points in text form (``Space.text``), in this process as in others.

    Args:
        factory: ``module:function``, called with ``config``.
        config: JSON data.

    Raises:
        ConfigError: the name does not have that form, or the configuration is not JSON.
    """

    factory: str
    config: Mapping[str, Any] = field(default_factory=dict)  # JSON: whatever the factory takes

    def __post_init__(self) -> None:
        module, _, function = self.factory.partition(":")
        if not module or not function:
            raise ConfigError(f"evaluator {self.factory!r}: write module:function")
        try:
            json.dumps(self.config)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"evaluator {self.factory}: its configuration is not JSON ({error})") from error

    def build(self) -> Evaluate:
        """Import the factory and make the evaluator; raise ``ConfigError`` where the name leads nowhere."""
        name, _, function = self.factory.partition(":")
        try:
            module = importlib.import_module(name)
        except ModuleNotFoundError as error:
            raise ConfigError(f"evaluator {self.factory}: {error}") from error
        factory = getattr(module, function, None)
        if not callable(factory):
            raise UnknownName(f"evaluator {self.factory}: function", function, vars(module))
        evaluate: Evaluate = factory(self.config)
        return evaluate
