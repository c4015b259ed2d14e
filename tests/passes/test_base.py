"""Passes say what they need and what they give."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from mase.errors import ConfigError, UnknownName
from passes.base import PASSES, check_order, graph_pass


def test_passes_fill_from_their_folder_under_the_names_of_their_files() -> None:
    assert {"fuse", "quantize", "map"} <= set(PASSES)
    assert all(entry.run.__module__ == f"passes.{name}" for name, entry in PASSES.items())


def test_order_is_checked_before_anything_runs() -> None:
    check_order(["fuse", "quantize", "map"])
    check_order(["map"], given=("formats",))
    with pytest.raises(ConfigError, match="pass 'map': needs 'formats', which quantize gives; put that first"):
        check_order(["fuse", "map", "quantize"])


def test_unknown_pass_suggests() -> None:
    with pytest.raises(UnknownName, match="did you mean quantize"):
        check_order(["quantise"])


def test_a_pass_runs_with_its_default_configuration() -> None:
    @dataclass(frozen=True)
    class Config:
        word: str = "default"

    def run(graph: object, config: Config) -> tuple[object, str]:
        return graph, config.word

    entry = graph_pass("only_here", Config)(run)
    assert entry("graph") == ("graph", "default")
    assert entry("graph", Config("own")) == ("graph", "own")
    with pytest.raises(ValueError, match="registered twice"):
        graph_pass("only_here", Config)(run)
    del PASSES._items["only_here"]
