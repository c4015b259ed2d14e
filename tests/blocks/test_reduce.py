"""The unit that reduces rows: arithmetic by hand, sizes, refusals, contents; mistakes in its RTL are caught."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from emit.sim import Job, simulate_many
from emit.synth import synthesize_module
from emit.verilog import library_files
from mase.blocks.output import Output
from mase.blocks.reduce import Reduce, Reduction
from mase.cost.device import device
from mase.cost.resources import bill
from mase.errors import ToolError, UnsupportedOp
from mase.formats import Code, QuantParams
from mase.formats.grid import Grid
from mase.formats.mxint import MXInt
from passes.map import Folding
from passes.quantize import NodeFormats
from tests.emit.designs import Network
from tests.emit.proof import Case, rows, verdict
from tests.emit.test_mutants import Mutant, mutated, swapped

PLAIN = Grid(5, True, -16, 15)
BLOCKS = MXInt(4, 2, 3).grid(QuantParams(base=torch.tensor(-3)), "here")


def unit(reduction: Reduction, lanes: int = 2, groups: int = 3) -> Reduce:
    out = Output.of(PLAIN, None, None, -2, reduction.bound, False, "even", "here")
    return Reduce(groups, lanes, reduction, out)


class TestArithmetic:
    x = Code(torch.tensor([[[1, -4], [7, -3], [-9, 5], [0, 0], [15, -16], [3, -1]]]))  # two groups of three rows

    def test_the_greatest_and_the_sum_of_each_column(self) -> None:
        greatest = Reduction(PLAIN, -16, 3, 2, maximum=True)
        assert greatest.integers(self.x).tolist() == [[[7, 5], [15, 0]]]
        assert Reduction(PLAIN, -16, 3, 2).integers(self.x).tolist() == [[[-1, -2], [18, -17]]]

    def test_weights_and_biases(self) -> None:
        weight, bias = torch.tensor([[1, 2], [3, -1], [0, 5]]), torch.tensor([10, -10])
        red = Reduction(PLAIN, -16, 3, 2, weight=weight, bias=bias)
        assert red.integers(self.x).tolist() == [[[1 + 21 + 10, -8 + 3 + 25 - 10], [45 + 10, 16 - 5 - 10]]]
        assert red.scalar([1, 7, -9], 0) == 32

    def test_exponents_shift_before_the_sum(self) -> None:
        x = Code(torch.tensor([[[1, 2], [3, -4]]]), torch.tensor([[[-1], [0]]]))  # 4 and 8 times the least
        assert Reduction(BLOCKS, -7, 2, 2).integers(x).tolist() == [[[4 + 24, 8 - 32]]]
        assert Reduction(BLOCKS, -7, 2, 2, maximum=True).integers(x).tolist() == [[[24, 8]]]

    def test_any_partial_sum_fits(self) -> None:
        weight = torch.tensor([[3, 1], [-2, 1]])
        assert Reduction(PLAIN, -16, 2, 2, weight=weight).range == (-16 * 3 - 15 * 2, 15 * 3 + 16 * 2)
        assert Reduction(PLAIN, 0, 2, 2, weight=weight, bias=torch.tensor([0, -9])).range == (-30, 45)
        assert Reduction(PLAIN, 0, 9, 1).acc_width == 9  # 135 and a sign

    def test_wide_sums_are_refused(self) -> None:
        wide = replace(BLOCKS, exp_bits=8, span=200)
        with pytest.raises(UnsupportedOp, match=r"pool: the exact sum takes 205 bits; allowed are 48; use a smaller"):
            Reduction(wide, -7, 2, 2, where="pool")
        with pytest.raises(UnsupportedOp, match=r"the exact sum takes \d+ bits; allowed are 62"):
            Reduction(PLAIN, -16, 1, 1, weight=torch.tensor([[1 << 60]]))


class TestCycles:
    @pytest.mark.parametrize("taps", [1, 4])
    def test_one_beat_a_cycle(self, taps: int) -> None:
        block = unit(Reduction(PLAIN, -16, taps, 5), lanes=2, groups=4)
        assert block.schedule().interval() == 4 * taps * 3 == int(block.foldings.cycles(2))

    def test_latency_counts_stages(self) -> None:
        plain, weighted = Reduction(PLAIN, -16, 2, 2), Reduction(PLAIN, -16, 2, 2, weight=torch.ones(2, 2).long())
        assert (unit(plain).foldings.latency, unit(weighted).foldings.latency) == (4, 5)

    def test_many_foldings_at_once_cost_what_each_costs_alone(self) -> None:
        red = Reduction(PLAIN, -16, 9, 24, weight=torch.arange(9 * 24).reshape(9, 24), bias=torch.arange(24))
        foldings, xcup = unit(red).foldings, device("xcup")
        lanes = np.array([1, 2, 3, 6, 24])
        together = bill(foldings.work(lanes, foldings.fifos(lanes))[""], xcup)
        for i, n in enumerate(lanes.tolist()):
            alone = bill(foldings.work(n, {"": int(np.broadcast_to(foldings.fifos(n)[""], ()))})[""], xcup)
            for name in ("lut", "ff", "dsp", "bram"):
                assert float(np.max(getattr(alone, name))) == pytest.approx(
                    float(np.broadcast_to(getattr(together, name), lanes.shape)[i])
                )

    @pytest.mark.slow
    @pytest.mark.parametrize("weighted", [False, True])
    def test_it_costs_what_synthesis_gives(self, weighted: bool) -> None:
        generator = torch.Generator().manual_seed(0)
        weight = torch.randint(-8, 8, (9, 24), generator=generator) if weighted else None
        bias = torch.randint(-99, 99, (24,), generator=generator) if weighted else None
        block = unit(Reduction(PLAIN, -16, 9, 24, weight=weight, bias=bias), lanes=8, groups=16)
        images = {name: image.text() for name, image in block.memories().items()}
        found = synthesize_module(block.sv_module, block.sv_params(), images, library_files([block.sv_module]))
        total = bill(block.work(), device("xcup"))
        # Whether Yosys puts the choice between sum and start into the adder depends on names: a LUT a bit.
        assert float(total.lut) == pytest.approx(found.lut, rel=0.3)
        assert float(total.ff) == pytest.approx(found.ff, rel=0.05)
        assert (float(total.dsp), float(total.bram)) == (found.dsp, found.bram)


# -- mistakes in the RTL ----------------------------------------------------------------------------------------------

FILE = "rtl/*__reduce.sv"
MUTANTS = (
    Mutant("old_sum_kept", FILE, swapped(r"\(first \? start", "(1'b0 ? start"), "values"),
    Mutant("unsigned_greatest", FILE, swapped(r": t > old\)", ": $unsigned(t) > $unsigned(old))"), "values"),
    Mutant("always_written", FILE, swapped(r"if \(valid\) bank", "bank"), "values"),
    Mutant("place_too_early", FILE, swapped(r"held = bank\[place\]", "held = bank[beat_q]"), "values"),
    Mutant("exponent_halved", FILE, swapped(r"<< (in_data_i\[.*?\]);", r"<< (\1 >> 1);"), "values"),
    Mutant("row_too_few", FILE, swapped(r"TapWidth'\(Taps - 1\)", "TapWidth'(Taps - 2)"), ""),
    Mutant("weights_not_back", FILE, swapped(r"Addr'\(Words - 1\)\) \? '0", "Addr'(Words - 1)) ? Addr'(1)"), "values"),
    Mutant("credit_ignored", FILE, swapped(r"in_ready_o = !tap_last \|\| credit", "in_ready_o = 1'b1 || credit"), ""),
    Mutant("last_of_each_row", FILE, swapped(r"group_last && beat_last\}", "beat_last}"), ""),
)


def victim() -> Case:
    """Return a depthwise layer on blocks and the greatest of its results, both of three beats a pixel."""
    torch.manual_seed(3)
    layers = [nn.Conv2d(6, 6, 2, groups=6), nn.MaxPool2d(2, 1)]
    formats = {"0": NodeFormats("fixed5.3", output="fixed6.2")}
    folding = {"0": Folding(2, 2), "1": Folding(2, 2)}
    return Network("victim", layers, torch.randn(6, 6, 3, 4), "mxint5b2e3", formats, folding).case()


@pytest.fixture(scope="module", name="verdicts")
def _verdicts(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    """Return what is found of each design, with a sink that pauses, or else in its cycles."""
    case, folder = victim(), tmp_path_factory.mktemp("mutants")
    designs = [mutated(case, folder, mutant) for mutant in (None, *MUTANTS)]
    out = {}
    for i, name in enumerate(["sound", *(mutant.name for mutant in MUTANTS)]):
        found = ""
        for stall in (0.0, 0.7):
            jobs = [Job(d, (case.code if j == i else rows(case.code, slice(0)),)) for j, d in enumerate(designs)]
            jobs[i] = replace(jobs[i], stall_out=stall)
            try:
                found += verdict(case, designs[i], simulate_many(jobs)[i]) if not stall else ""
            except ToolError as error:
                found += str(error)
        out[name] = found
    return out


@pytest.mark.sim
def test_the_design_without_a_mistake_passes(verdicts: Mapping[str, str]) -> None:
    assert verdicts["sound"] == ""


@pytest.mark.sim
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_is_caught(verdicts: Mapping[str, str], mutant: Mutant) -> None:
    assert verdicts[mutant.name]
    assert mutant.caught in verdicts[mutant.name]
