"""What a pass is: ``(graph, config) -> (graph, report)``, with what it needs and what it gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mase.errors import ConfigError
from mase.graph import Graph
from mase.registry import Registry

Run = Callable[..., tuple[Graph, Any]]  # graph, config, and the data of passes that run the model


@dataclass(frozen=True)
class Pass:
    """A registered pass.

    Args:
        run: pure function. config: dataclass that it reads. requires, provides: facts about graphs.
    """

    name: str
    run: Run
    config: type[Any]
    requires: tuple[str, ...]
    provides: tuple[str, ...]

    def __call__(self, graph: Graph, config: Any = None) -> tuple[Graph, Any]:
        """Run on a graph; the default configuration where none is given."""
        return self.run(graph, self.config() if config is None else config)


PASSES: Registry[Pass] = Registry("pass", "passes")


def graph_pass(
    name: str, config: type[Any], requires: tuple[str, ...] = (), provides: tuple[str, ...] = ()
) -> Callable[[Run], Pass]:
    """Register a function as a pass; the name is that of its file."""

    def register(run: Run) -> Pass:
        return PASSES.add(name)(Pass(name, run, config, requires, provides))

    return register


def check_order(names: list[str], given: tuple[str, ...] = ()) -> None:
    """Raise ConfigError where a pass needs what nothing before it gives."""
    have = set(given)
    for name in names:
        missing = [fact for fact in PASSES[name].requires if fact not in have]
        if missing:
            makers = [other for other, entry in PASSES.items() if missing[0] in entry.provides]
            raise ConfigError(
                f"pass {name!r}: needs {missing[0]!r}, which {' or '.join(makers) or 'no pass'} gives; put that first"
            )
        have.update(PASSES[name].provides)
