"""Find the number formats and the hardware shape that give a PyTorch model its accuracy for the least hardware.

``import mase`` is light: a name below is imported when it is first used (PEP 562), and PyTorch with it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mase.errors import ConfigError, FormatError, GraphError, MaseError, ToolError, UnsupportedOp
    from mase.flow import emit, emulate, estimate, ptq, quantize, run, search, simulate, synthesize, trace, verify
    from mase.graph import Graph

__version__ = "0.1.0"

__all__ = [
    "trace",
    "quantize",
    "ptq",
    "emulate",
    "estimate",
    "emit",
    "simulate",
    "synthesize",
    "search",
    "verify",
    "run",
    "Graph",
    "MaseError",
    "ConfigError",
    "FormatError",
    "GraphError",
    "ToolError",
    "UnsupportedOp",
]

_HOME = {
    "Graph": "mase.graph",
    "MaseError": "mase.errors",
    "ConfigError": "mase.errors",
    "FormatError": "mase.errors",
    "GraphError": "mase.errors",
    "ToolError": "mase.errors",
    "UnsupportedOp": "mase.errors",
}  # where a name is defined; all others are functions of mase.flow


def __getattr__(name: str) -> object:
    """Import a public name from the module that defines it, and keep it for the next use."""
    if name not in __all__:
        raise AttributeError(f"module 'mase' has no attribute {name!r}")
    value: object = getattr(importlib.import_module(_HOME.get(name, "mase.flow")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
