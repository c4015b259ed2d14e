"""Mistakes in decoders, encoders and normalisers, each made in a copy of the emitted files, are caught by codes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import torch
from torch import nn

from emit.design import Design
from emit.sim import Job, SimResult, simulate_many
from emit.verilog import emit
from mase.errors import ToolError
from mase.formats import Code
from passes.map import Folding
from passes.quantize import NodeFormats
from tests.emit.designs import Network
from tests.emit.proof import Case, rows, verdict
from tests.emit.test_mutants import Edit, swapped

# where the mistake is made, by victim, file and edit
MUTANTS: Mapping[str, tuple[str, str, Edit]] = {
    "subnormals_shifted": (
        "floats",
        "decode",
        swapped(r"\(Subnormal && hidden\) \? field - ExpBits'\(1\) : field", "field"),
    ),
    "hidden_digit_always": ("floats", "decode", swapped(r"!Subnormal \|\| field != '0", "1'b1")),
    "exponent_of_a_lane_lost": ("floats", "decode", swapped(r"OutExpBits'\(shift\);", "'0;")),
    "no_number_taken_as_one": (
        "floats",
        "decode",
        swapped(r"\(code\[Width-2:0\] > \(Width - 1\)'\(Top\)\) \? \(Width - 1\)'\(Top\) :", "0 ? '0 :"),
    ),
    "tail_lanes_not_cleared": ("zeros", "decode", swapped(r"\(l < Tail\) \|\| !row_end", "1'b1")),
    "zero_point_not_taken": ("zeros", "decode", swapped(r"OutWidth'\(code\) - OutWidth'\(Zero\)", "OutWidth'(code)")),
    "zero_point_not_given": (
        "zeros",
        "round",
        swapped(r"\$signed\(rounded\)\) \+ Moved'\(Zero\)", "$signed(rounded))"),
    ),
    "ties_up": ("floats", "float_round", swapped(r"\(sticky_q \|\| kept_q\[1\]\)", "1'b1")),
    "no_saturation": ("floats", "float_round", swapped(r"\(sum > Sum'\(Top\)\) \?", "0 ?")),
    "negative_zero": ("floats", "float_round", swapped(r"sign_q2 && number != '0", "sign_q2")),
    "zero_with_an_exponent": ("coarse", "float_round", swapped(r"\(size == '0\) \? '0 : ", "")),
    "others_count_for_the_maximum": ("floats", "block_normalise", swapped(r"both < above_or_q", "'0 != above_or_q")),
    "sign_of_a_power_lost": ("powers", "product", swapped(r"\^ \{\(XWidth \+ 1\)\{w_i\[Sign\]\}\}", "^ '0")),
    "complement_for_negative": (
        "powers",
        "product",
        swapped(r" \+ \$signed\(\{\{XWidth\{1'b0\}\}, w_i\[Sign\]\}\)", ""),
    ),
    "shift_of_a_power_lost": ("powers", "product", swapped(r" << w_i\[Sign-1:0\]", "")),
    "zero_taken_as_one": ("powers", "product", swapped(r"w_i\[WWidth-1\] \? raised : '0", "raised")),
    "sign_at_the_top": ("powers", "product", swapped(r"WWidth - 1 - \(HasZero \? 1 : 0\)", "WWidth - 1")),
    "half_for_the_root": (
        "logs",
        "log_round",
        swapped(r"= middle\(\)", "= InWidth'(3) << (InWidth - 2)"),
    ),
    "no_rounding_of_a_power": ("logs", "log_round", swapped(r"high >= Middle", "1'b0")),
    "no_least_power": ("logs", "log_round", swapped(r"power_q < \$signed\(Power'\(0\)\)", "0")),
    "no_greatest_power": ("logs", "log_round", swapped(r"power_q > \$signed\(Power'\(Top\)\)", "0")),
    "zero_as_another_power": ("logs", "log_round", swapped(r"zero_q2 \|\| ", "")),
    "sign_of_another_cycle": ("logs", "log_round", swapped(r"out_o <= \{sign_q2", "out_o <= {sign_q")),
    "no_ceiling": ("floats", "block_normalise", swapped(r"assign more\[e\] = both", "assign more[e] = 0 && both")),
}


def victims() -> Mapping[str, Case]:
    """Return networks that have all of these blocks: minifloats, zero points, and sums coarser than a result."""
    torch.manual_seed(11)
    first, second, third, plain = nn.Linear(6, 5), nn.Linear(5, 4), nn.Linear(4, 3), nn.Linear(3, 2)
    with torch.no_grad():
        first.weight.mul_(12)  # some results saturate, and others are subnormal
        first.weight[0] = 0.0
        first.weight[0, 0] = 2.0**-5  # the greatest number comes out as 14, one that is no number would as 16
        first.bias[0] = 0.0
    floats = {
        "0": NodeFormats("fixed12.7", output="e3m2"),
        "1": NodeFormats("ternaryu", output="mxfp4b2_xceil"),
        "2": NodeFormats("e2m1", output="fixed8.2"),
    }
    zeros = {
        "0": NodeFormats("fixed6.4", output="int5pa"),
        "0_requantize": NodeFormats(output="mxint4b4e3"),
        "1": NodeFormats("fixed6.4", output="int5a"),
    }
    coarse = {"0": NodeFormats("fixed3.0", output="e3m2")}
    lanes = {"0": Folding(4, 2), "1": Folding(2, 2), "2": Folding(2, 3)}
    # the converter between lanes fills the tail with code 0, which is not 0
    pairs = {"0": Folding(2, 3), "0_requantize": Folding(2, 2), "1": Folding(2, 2)}
    fit = {"0": Folding(3, 2), "1": Folding(4, 2), "2": Folding(2, 2)}
    x, few = 2 * torch.randn(6, 6), torch.randn(6, 3) + 1
    powers = {
        "0": NodeFormats("log4b6", output="fixed8.2"),
        "1": NodeFormats("ternary", output="fixed8.2"),
        "2": NodeFormats("binary", output="fixed8.2"),
    }
    logs = {
        "0": NodeFormats("int3p", output="log5b14"),
        "1": NodeFormats("log3", output="bl3b2s4"),
        "2": NodeFormats("binary", output="log2b1"),
    }
    wide = nn.Linear(6, 4)
    with torch.no_grad():
        wide.weight.mul_(8)  # some results are above the greatest power
        wide.weight[1] = wide.bias[1] = 0.0
    return {
        "logs": Network("logs", [wide, nn.Linear(4, 4), nn.Linear(4, 2)], x, "fixed6.3", logs, fit).case(),
        "powers": Network(
            "powers", [nn.Linear(6, 4), nn.Linear(4, 4), nn.Linear(4, 2)], x, "fixed6.3", powers, fit
        ).case(),
        "floats": Network("floats", [first, second, third], x, "e4m3", floats, lanes).case(),
        "zeros": Network(
            "zeros", [nn.Linear(3, 3), nn.Linear(3, 2)], few, "int5a", zeros, pairs, requantized=("0",)
        ).case(),
        "coarse": Network("coarse", [plain], few, "fixed3.0", coarse, {"0": Folding(2, 2)}).case(),
    }


def broken(case: Case, folder: Path, name: str, file: str, edit: Edit | None) -> Design:
    """Emit a design and make a mistake in the copy."""
    design = emit(case.graph, folder / name, name)
    if edit is None:
        return design
    (path,) = design.folder.glob(f"rtl/*__{file}.sv")
    before = path.read_text()
    after = edit(before)
    assert after != before, f"{name}: the edit changed nothing"
    path.write_text(after)
    return Design.load(design.folder)


@pytest.fixture(scope="module", name="verdicts")
def _verdicts(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    """Return what the vectors say of each design; nothing where it is right."""
    cases, folder = victims(), tmp_path_factory.mktemp("mutants")
    plans = {name: (name, "", None) for name in cases} | dict(MUTANTS)
    designs = [broken(cases[victim], folder, name, *plan) for name, (victim, *plan) in plans.items()]
    codes = [cases[victim].code for victim, *_ in plans.values()]
    return {name: verdict(cases[plans[name][0]], designs[i], alone(designs, codes, i)) for i, name in enumerate(plans)}


def alone(designs: Sequence[Design], codes: Sequence[Code], index: int) -> SimResult | ToolError:
    """Run one design of a bundle; the others get no samples."""
    fed = [code if i == index else rows(code, slice(0)) for i, code in enumerate(codes)]
    try:
        return simulate_many([Job(design, (code,)) for design, code in zip(designs, fed, strict=True)])[index]
    except ToolError as error:
        return error


@pytest.mark.sim
@pytest.mark.parametrize("victim", ["logs", "powers", "floats", "zeros", "coarse"])
def test_a_design_without_a_mistake_passes(verdicts: Mapping[str, str], victim: str) -> None:
    assert verdicts[victim] == ""


@pytest.mark.sim
@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_mutant_is_caught(verdicts: Mapping[str, str], mutant: str) -> None:
    assert verdicts[mutant] != ""
