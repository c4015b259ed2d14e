"""Mistakes in the compiler, each of which drawn graphs find: in software where they can, else on the simulated RTL."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from pkgutil import resolve_name
from typing import Any
from unittest import mock

import pytest

from emit.design import Design
from emit.verilog import emit
from mase.blocks.block_normalise import BlockNormalise
from mase.blocks.concat import Concat
from mase.blocks.fork import Fork
from mase.blocks.linear import LinearBlock
from mase.blocks.pad import Pad
from mase.blocks.pair import Pair
from mase.blocks.reduce import Reduce
from mase.blocks.slice import Slice
from mase.blocks.table import Table
from mase.blocks.window import Window
from mase.dataflow.block import MemoryImage
from mase.dataflow.width_converter import WidthConverter
from mase.formats import Code
from mase.netlist import Netlist, build
from tests.fuzz.check import Ready, ready, simulated
from tests.fuzz.draw import drawn
from tests.fuzz.recipe import Recipe

SEEDS = range(60)  # the graphs of the suite
TRIES = len(SEEDS)  # graphs that a mistake changes: in most a FIFO is deeper than it has to be, which hides it


@dataclass(frozen=True)
class Mutant:
    """One mistake.

    Args:
        target: what is replaced, as ``mock.patch`` names it. change: makes the replacement from the original.
        module: of the RTL block that a graph must have to show it; any where it is empty.
    """

    name: str
    target: str
    change: Callable[[Any], Any]
    module: str = ""

    @contextmanager
    def made(self) -> Iterator[None]:
        """Make it, for a while."""
        place, _, attr = self.target.rpartition(".")
        owner = resolve_name(place)
        with mock.patch.object(owner, attr, self.change(getattr(owner, attr))):
            yield


def anywhere(found: Mapping[str, int]) -> bool:
    return True


def rounds_some(found: Mapping[str, int]) -> bool:
    """Tell whether bits go at the end of sums, not all of them, by a rule that a node named, into some codes."""
    wide = found["AccWidth"] + found["MultBits"] - 2
    return 1 < found["ShiftRight"] < wide and found["OutWidth"] > 3 and found["RoundMode"] > 0


def moves_along(found: Mapping[str, int]) -> bool:
    """Tell whether a row of an image has several windows, so that the stride along it matters."""
    reach = (found["KernelWidth"] - 1) * found["DilationWidth"] + 1
    return found["Width"] - reach >= found["StrideWidth"]


def parameter(
    block: type[Any], key: str, value: Callable[[int], int], where: Callable[[Mapping[str, int]], bool] = anywhere
) -> Mutant:
    """Return a wrong parameter of a block's instances, or of some of them."""

    def change(original: Callable[[Any], Mapping[str, int]]) -> Callable[[Any], Mapping[str, int]]:
        def sv_params(self: Any) -> Mapping[str, int]:
            found = original(self)
            return {**found, key: value(found[key])} if where(found) else found

        return sv_params

    return Mutant(f"{block.__name__} {key}", f"{block.__module__}.{block.__name__}.sv_params", change, block.sv_module)


def memory(block: type[Any], key: str, words: Callable[[list[int]], list[int]]) -> Mutant:
    """Return a wrong memory of a block."""

    def change(original: Callable[[Any], Mapping[str, MemoryImage]]) -> Callable[[Any], Mapping[str, MemoryImage]]:
        def memories(self: Any) -> Mapping[str, MemoryImage]:
            found = dict(original(self))
            return {**found, key: replace(found[key], words=words(list(found[key].words)))}

        return memories

    return Mutant(f"{block.__name__} {key}", f"{block.__module__}.{block.__name__}.memories", change, block.sv_module)


def one_less(n: int) -> int:
    return n - 1


def one_more(n: int) -> int:
    return n + 1


def turned(words: list[int]) -> list[int]:
    return words[1:] + words[:1]


def swapped_inputs(original: Callable[..., tuple[Code, ...]]) -> Callable[..., tuple[Code, ...]]:
    return lambda self, a, b: original(self, b, a)


def shorter(original: Callable[..., dict[Any, int]]) -> Callable[..., dict[Any, int]]:
    return lambda netlist: {pin: max(2, depth - 1) for pin, depth in original(netlist).items()}


def early(original: property) -> property:
    getter = original.fget
    assert getter is not None
    return property(lambda self: getter(self) - 1)


def with_lost_last(original: Callable[..., str]) -> Callable[..., str]:
    """Return a top whose guard expects one beat more."""
    return lambda *args, **kwargs: original(*args, **kwargs).replace(".Beats(", ".Beats(1 + ")


SOFTWARE = (  # found without a simulation
    Mutant("wrong order of a join", "mase.blocks.concat.Concat.compute", swapped_inputs, "mase_concat"),
    Mutant("a FIFO off by one", "passes.map.sized", shorter),
    parameter(Fork, "DepthB", one_less),
    parameter(LinearBlock, "FifoDepth", one_less),
    parameter(Window, "Depth", one_less),
)
HARDWARE = (
    parameter(LinearBlock, "AccWidth", lambda bits: max(1, bits - 2)),
    parameter(LinearBlock, "ShiftRight", one_more),
    parameter(LinearBlock, "RoundMode", lambda mode: 0 if mode == 2 else 2, rounds_some),
    parameter(LinearBlock, "XSigned", lambda signed: 1 - signed),
    memory(LinearBlock, "WeightFile", turned),
    memory(LinearBlock, "BiasFile", turned),
    Mutant("a cycle too few", "mase.blocks.linear.LinearBlock.latency", early, "mase_linear"),
    parameter(Pair, "Minus", lambda minus: 1 - minus, lambda found: not found["Product"]),
    parameter(Window, "StrideWidth", lambda stride: 3 - min(stride, 2), moves_along),
    parameter(Pad, "Mantissa", one_more),
    parameter(BlockNormalise, "Offset", one_more),
    parameter(WidthConverter, "OutTail", lambda tail: max(1, tail - 1)),
    parameter(Concat, "BeatsA", one_more),
    parameter(Slice, "First", one_more),
    parameter(Reduce, "Maximum", lambda maximum: 1 - maximum),
    memory(Table, "TableFile", turned),
    Mutant("a last too late", "emit.verilog._guard", with_lost_last),
)


@cache
def recipe_of(seed: int) -> Recipe:
    return drawn(seed)


@cache
def netlist_of(seed: int) -> Netlist:
    return build(recipe_of(seed).mapped())


def sizes(seed: int) -> tuple[int, int]:
    """Rank graphs: those that compile fast first."""
    blocks = [instance.block for instance in netlist_of(seed).instances]
    return len(blocks), sum(stream.bits for block in blocks for stream in block.outputs.values())


def with_module(module: str) -> list[int]:
    """Return the seeds of graphs that have such a block, the small ones first."""
    found = [s for s in SEEDS if not module or any(i.block.sv_module == module for i in netlist_of(s).instances)]
    return sorted(found, key=sizes)


def bitten(mutant: Mutant, folder: Path, tries: int = 1) -> tuple[list[Ready], str]:
    """Return graphs that come out differently, and what software says of the first that it refuses."""
    items: list[Ready] = []
    for seed in with_module(mutant.module):
        if len(items) == tries:
            break
        title = f"{mutant.name.lower().replace(' ', '_')}_{seed}"
        sound = Design.load(_sound(seed, folder))
        try:
            with mutant.made():
                item = ready(recipe_of(seed), title, folder)
        except Exception as error:  # noqa: BLE001 - however it shows itself
            return items, f"{type(error).__name__}: {error}"
        if _facts(item.design, title) != _facts(sound, sound.folder.name):
            items.append(item)
    return items, ""


def _sound(seed: int, folder: Path) -> Path:
    place = folder / f"sound_{seed}"
    if not place.exists():
        emit(recipe_of(seed).case(place.name).graph, place, place.name)
    return place


def _facts(design: Design, title: str) -> tuple[object, ...]:
    """Return what a design is, but its name."""
    top = (design.folder / "rtl" / f"{design.top}.sv").read_text().replace(title, "NAME")
    memories = [item["sha256"] for _, item in sorted(design.manifest["memories"].items())]
    return top, memories, design.manifest["cycles"]


def test_there_are_twenty() -> None:
    names = [mutant.name for mutant in (*SOFTWARE, *HARDWARE)]
    assert len(names) == len(set(names)) >= 20


@pytest.mark.parametrize("mutant", SOFTWARE, ids=lambda mutant: mutant.name)
def test_a_mistake_is_found_without_a_simulation(mutant: Mutant, tmp_path: Path) -> None:
    assert bitten(mutant, tmp_path, TRIES)[1] != ""


@pytest.mark.sim
@pytest.mark.slow
def test_mistakes_are_found_on_the_rtl(tmp_path: Path) -> None:
    found: dict[str, str] = {}
    items: list[tuple[str, Ready]] = []
    for mutant in HARDWARE:
        made, found[mutant.name] = bitten(mutant, tmp_path)
        items += [(mutant.name, item) for item in made]
        assert made or found[mutant.name], f"{mutant.name}: changes no graph"
    for (name, _), text in zip(items, simulated([item for _, item in items]), strict=True):
        found[name] = found[name] or text
    assert [name for name, text in found.items() if not text] == []
