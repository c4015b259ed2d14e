"""What became of a model's operations when it was traced."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class TraceReport:
    """Say what became of the model's operations, and how far the graph is from the model.

    Args:
        lifted: paths that became typed nodes.
        refused: paths that look like a typed kind and are not one, with the reason; they are traced in pieces.
        opaque: paths that stay as traced, with the reason.
        notes: what a user should know of the trace, one line each.
        bound: greatest difference from the model that is allowed, relative to its greatest output; 0 is bit for bit.
        worst: greatest difference that was found on the example and on a second input, relative in the same way;
            None where there was nothing to compare with.
    """

    lifted: tuple[str, ...] = ()
    refused: Mapping[str, str] = field(default_factory=dict)
    opaque: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    bound: float = 0.0
    worst: float | None = 0.0

    def __str__(self) -> str:
        equal = "not compared" if self.worst is None else f"{self.worst:.1e} from the model"
        equal = "equal to the model bit for bit" if self.worst == self.bound == 0.0 else equal
        counts = f"{len(self.lifted)} typed nodes, {len(self.refused)} refused, {len(self.opaque)} opaque; {equal}"
        lines = [f"  refused {path}: {reason}" for path, reason in self.refused.items()]
        lines += [f"  opaque {path}: {reason}" for path, reason in self.opaque.items()]
        return "\n".join([counts, *lines, *(f"  {note}" for note in self.notes)])

    def to_json(self) -> dict[str, Any]:  # JSON
        """Return JSON data."""
        return {
            "lifted": list(self.lifted),
            "refused": dict(self.refused),
            "opaque": dict(self.opaque),
            "notes": list(self.notes),
            "bound": self.bound,
            "worst": self.worst,
        }
