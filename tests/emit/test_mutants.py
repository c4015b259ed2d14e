"""Broken hardware is caught: mistakes, each made in a copy of the emitted files, each seen by the same vectors.

The mistakes: floor for nearest-even, one bit less in the accumulator, the exponent taken after rounding, the tiles of
the weights transposed, one FIFO entry less; registers that no reset clears. The design without a mistake passes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from emit.design import Design
from emit.sim import Job, SimResult, simulate_many
from emit.verilog import emit
from mase.dataflow.block import LEAST_FIFO
from mase.errors import ToolError
from mase.formats import Code
from mase.netlist import build
from mase.ops.linear import Linear
from passes.map import Folding
from passes.quantize import NodeFormats
from tests.emit.designs import Network
from tests.emit.proof import Case, joined, rows, verdict

LANES = 2
Edit = Callable[[str], str]


@dataclass(frozen=True)
class Mutant:
    """One mistake.

    Args:
        file: glob of the file that it is made in, in the emitted folder. edit: makes it.
        caught: what the directed vectors must see.
    """

    name: str
    file: str
    edit: Edit
    caught: str


def swapped(pattern: str, replacement: str | Callable[[re.Match[str]], str]) -> Edit:
    """Return an edit of the one place where a pattern matches."""

    def edit(text: str) -> str:
        assert len(re.findall(pattern, text)) == 1, f"{pattern} matches {len(re.findall(pattern, text))} times"
        return re.sub(pattern, replacement, text)

    return edit


def within(instance: str, pattern: str, change: Callable[[int], int]) -> Edit:
    """Return an edit of one integer parameter of one instance of the top."""

    def edit(text: str) -> str:
        start = text.rindex("#(", 0, text.index(f") {instance} ("))
        end = text.index(f") {instance} (")
        changed = swapped(rf"\.{pattern}\((\d+)\)", lambda m: f".{pattern}({change(int(m[1]))})")(text[start:end])
        return text[:start] + changed + text[end:]

    return edit


def transposed(tiles: int) -> Edit:
    """Return an edit that stores the word of output tile o and input tile k at k * outer + o."""

    def edit(text: str) -> str:
        words = text.splitlines()
        outer = len(words) // tiles
        return "\n".join(words[o * tiles + k] for k in range(tiles) for o in range(outer)) + "\n"

    return edit


MUTANTS = (
    Mutant("floor_for_even", "rtl/mase_floor_for_even.sv", within("u_0", "RoundMode", lambda _: 2), "values of 0"),
    Mutant("one_bit_less", "rtl/mase_one_bit_less.sv", within("u_0", "AccWidth", lambda bits: bits - 1), "values of 0"),
    Mutant(
        "exponent_after_rounding",
        "rtl/*__block_normalise.sv",
        # The magnitudes' common leading one moves up where rounding to Width - 1 bits carries into the next bit.
        swapped(r"or_q\[fill_bank\] <= gathered;", "or_q[fill_bank] <= gathered + (gathered >> (Width - 1));"),
        "values of 2",
    ),
    Mutant("tiles_transposed", "mem/*_0_weight.mem", transposed(tiles=3), "values of 0"),
    Mutant("one_entry_less", "rtl/mase_one_entry_less.sv", within("u_2", "FifoDepth", lambda n: n - 1), "cycles"),
)  # fmt: skip
# Each works in a simulation whose registers begin at zero; what it does from noise depends on the simulator. The third
# is cleared by a reset of several cycles, as the synchroniser makes it, and not by a flush, which lasts one.
NOT_RESET = (
    Mutant("valid_not_reset", "rtl/*__linear_core.sv", swapped(r"valid_q <= '0;\n", "\n"), ""),
    Mutant("done_not_reset", "rtl/*__linear_core.sv", swapped(r"done_q  <= '0;\n", "\n"), ""),
    Mutant("leave_not_reset", "rtl/*__block_normalise.sv", swapped(r"else valid_q <=", "valid_q <="), ""),
)


def victim() -> Case:
    """Return two layers, the first with one rounding, the second into blocks, fed the vectors that catch all."""
    torch.manual_seed(7)
    first, second = nn.Linear(6, 4), nn.Linear(4, 16)
    with torch.no_grad():
        first.weight.mul_(4)  # results far above those that carry, so that the window has room for another exponent
        second.weight.copy_(torch.eye(16, 4))  # its blocks are what the first layer gives
        second.bias.zero_()
    formats = {"0": NodeFormats("fixed4.2", output="fixed9.2"), "2": NodeFormats("fixed2.0", output="mxint4b2e4")}
    folding = {"0": Folding(LANES, LANES), "2": Folding(4, LANES)}
    case = Network("victim", [first, nn.ReLU(), second], 3 * torch.randn(6, 6), "fixed6.3", formats, folding).case()
    return Case(
        "victim", case.graph, joined([full_scale(case), searched(case, carries), searched(case, ties), case.code])
    )


def layer(case: Case, name: str) -> Linear:
    op = build(case.graph).ops[name]
    assert isinstance(op, Linear)
    return op


def full_scale(case: Case) -> Code:
    """Return the inputs that drive each accumulator of the first layer to its greatest value."""
    op = layer(case, "_0")
    return Code(torch.where(op.weight >= 0, op.x.high, op.x.low))


def searched(case: Case, wanted: Callable[[Case, Code], Tensor], count: int = 4) -> Code:
    """Return random inputs on which two rules disagree."""
    grid = build(case.graph).stream_in.grid
    generator = torch.Generator().manual_seed(2)
    code = Code(torch.randint(grid.low, grid.high + 1, (4000, 6), generator=generator))
    hits = wanted(case, code).nonzero().flatten()[:count]
    assert len(hits) == count
    return Code(code.mantissa[hits])


def carries(case: Case, code: Code) -> Tensor:
    """Tell where a block's maximum would round up into the next exponent: its first four bits are ones."""
    y = build(case.graph).codes(code)["_0"].mantissa.unflatten(-1, (2, 2))
    top = y.amax(-1)
    bits = torch.floor(torch.log2(top.clamp(min=1).double())).long()
    return ((top >> (bits - 3).clamp(min=0) == 15) & (y.amin(-1) == 0)).any(-1)


def ties(case: Case, code: Code) -> Tensor:
    """Tell where a sum lies between two codes, the lower one odd: floor and nearest-even differ."""
    op = layer(case, "_0")
    sums = code.mantissa @ op.weight.T + op.bias
    return (sums.remainder(16) == 12).any(-1)


def mutated(case: Case, folder: Path, mutant: Mutant | None) -> Design:
    """Emit the design and make one mistake in the copy."""
    name = mutant.name if mutant else "sound"
    design = emit(case.graph, folder / name, name)
    if mutant is None:
        return design
    (path,) = design.folder.glob(mutant.file)
    before = path.read_text()
    after = mutant.edit(before)
    assert after != before, f"{mutant.name}: the edit changed nothing"
    path.write_text(after)
    return Design.load(design.folder)


def alone(designs: Sequence[Design], index: int, code: Code, flush_at: int = 0) -> SimResult | ToolError:
    """Run one design of a bundle, from a flush in mid-stream if so asked; the others get no samples."""
    jobs = [Job(design, (code if i == index else rows(code, slice(0)),)) for i, design in enumerate(designs)]
    jobs[index] = replace(jobs[index], restart_at=flush_at, flush=flush_at > 0)
    try:
        return simulate_many(jobs)[index]
    except ToolError as error:
        return error


@pytest.fixture(scope="module", name="verdicts")
def _verdicts(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    """Return what the directed vectors say of each design."""
    case, folder = victim(), tmp_path_factory.mktemp("mutants")
    designs = [mutated(case, folder, mutant) for mutant in (None, *MUTANTS)]
    names = ["sound", *(mutant.name for mutant in MUTANTS)]
    out = {name: verdict(case, designs[i], alone(designs, i, case.code)) for i, name in enumerate(names)}
    print("".join(f"{name:28}{text or 'passes'}\n" for name, text in out.items()))  # noqa: T201 - the table of the mutants
    return out


def test_the_fifo_that_loses_an_entry_has_one_to_lose() -> None:
    depths = {i.name: i.block.fifo for i in build(victim().graph).instances}
    assert depths["_2"] > LEAST_FIFO


@pytest.mark.sim
def test_the_design_without_a_mistake_passes(verdicts: Mapping[str, str]) -> None:
    assert verdicts["sound"] == ""


@pytest.mark.sim
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_is_caught(verdicts: Mapping[str, str], mutant: Mutant) -> None:
    assert mutant.caught in verdicts[mutant.name]


@pytest.mark.sim
@pytest.mark.parametrize("mutant", NOT_RESET, ids=lambda mutant: mutant.name)
def test_a_register_without_reset_is_caught(mutant: Mutant, tmp_path: Path) -> None:
    case = victim()
    design = mutated(case, tmp_path, mutant)
    assert verdict(case, design, alone([design], 0, case.code, flush_at=41))
