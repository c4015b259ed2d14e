"""Mistakes in the blocks of single elements are caught, each made in a copy of an emitted design; the sound ones pass.

Tables: padding that is looked up, an index with its parts swapped, the exponent of another block, a lost word, a row
that ends early. Scale and shift: the shift subtracted, multipliers without a sign, constants of another beat, exponents
left out, a sum of one bit less. Argmax: ties to the right in a beat and to the last beat, a maximum that is carried on,
padding that wins, exponents left out. Polynomials: z from the other end, a shift without the sign, codes taken as
unsigned, a coefficient a cycle early, padding that is computed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache

import pytest
from torch import nn

from emit.design import Design
from emit.sim import Job, SimResult, simulate_many
from emit.verilog import emit
from mase.errors import ToolError
from tests.emit.proof import Case, rows, verdict
from tests.emit.test_mutants import Mutant, mutated, swapped, within
from tests.ops import test_activation, test_argmax, test_norm


def mutants(block: str, *edits: tuple[str, str, str]) -> list[Mutant]:
    """Return mutants of a block's file: name, pattern and what stands there instead."""
    return [
        Mutant(f"{block}_{name}", f"rtl/*__{block}.sv", swapped(pattern, text), "") for name, pattern, text in edits
    ]


MUTANTS: Mapping[str, list[Mutant]] = {
    "table": [
        *mutants(
            "table",
            ("padding", r"\(l >= Tail && row_end_q\) \? '0 : word", "word"),
            ("swapped", r"\{(in_data_i\[Lanes\*XWidth \+ .*?\]), (in_data_i\[l\*XWidth \+: XWidth\])\}", r"{\2, \1}"),
            ("other_block", r"\(XExps > 1\) \? l / XBlock : 0", "XExps - 1"),
            ("early_row", r"ColWidth'\(RowBeats - 1\)", "ColWidth'(RowBeats - 2)"),
        ),
        Mutant("table_lost_word", "mem/*.mem", lambda text: text[: text.rindex("\n", 0, -1)] + "\n" + "0\n", ""),
    ],
    "affine": [
        *mutants(
            "affine",
            ("minus", r"\+ SumWidth'\(b\)", "- SumWidth'(b)"),
            ("unsigned", r"logic signed \[MultWidth-1:0\] m;", "logic [MultWidth-1:0] m;"),
            ("other_beat", r"WordWidth'\(Words - 1\)", "WordWidth'(Words - 2)"),
            ("no_exponent", r"Shifted'\(x\) << in_data_i\[.*?\];", "Shifted'(x);"),
        ),
        Mutant(
            "affine_one_bit_less", "rtl/mase_affine_one_bit_less.sv", within("u_0", "SumWidth", lambda n: n - 1), ""
        ),
    ],
    "argmax": mutants(
        "argmax",
        ("right_of_equal", r"value_q > gen_level", "value_q >= gen_level"),
        ("last_of_equal", r"beat_value > best_value_q", "beat_value >= best_value_q"),
        ("carried_on", r"begin_q\[Stages-1\] \|\| ", ""),
        ("padding", r"\(i >= Tail && row_end\) \? Least : shifted", "shifted"),
        ("no_exponent", r"Value'\(x\) << in_data_i\[.*?\];", "Value'(x);"),
    ),
    "piecewise": mutants(
        "piecewise",
        ("other_end", r"\{!offset\[R-1\], offset\[R-2:0\]\}", "offset[R-1:0]"),
        ("no_sign", r"square >>> ShiftC", "square >> ShiftC"),
        ("unsigned", r"\] \^ XSigned,", "],"),
        ("early", r"assign a = a_q;", "assign a = word[0 +: AWidth];"),
        ("padding", r"\(l >= Tail && end_q\[Stages-2\]\) \? '0 : ", ""),
    ),
}


@cache
def victims() -> Mapping[str, Case]:
    """Return a design of each block, with exponents where it takes some and rows that lanes do not divide."""
    found = {
        "table": test_activation.mapped("mxint4b2e2", "fixed6.3", (2, 5), 4, nn.Softplus()),
        "affine": test_norm.mapped("mxint4b2e2", "fixed9.4", (5,), 2),
        "argmax": test_argmax.mapped("mxint3b2e2", (3, 7), 4, keepdim=True),
        "piecewise": test_activation.mapped("fixed12.8", "fixed9.7", (2, 7), 3, nn.Sigmoid()),
    }
    return {name: Case(name, mapped.graph, mapped.code) for name, mapped in found.items()}


@pytest.fixture(scope="module", name="verdicts")
def _verdicts(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    """Return what the victims' own vectors say of each design, by mutant; of the sound ones by block."""
    folder = tmp_path_factory.mktemp("mutants")
    plan: list[tuple[str, Case, Mutant | None]] = [(block, case, None) for block, case in victims().items()]
    plan += [(mutant.name, victims()[block], mutant) for block, made in MUTANTS.items() for mutant in made]
    designs = [
        mutated(case, folder, mutant) if mutant else emit(case.graph, folder / name, f"sound_{name}")
        for name, case, mutant in plan
    ]
    cases = [case for _, case, _ in plan]
    return {name: verdict(case, designs[i], alone(designs, cases, i)) for i, (name, case, _) in enumerate(plan)}


def alone(designs: Sequence[Design], cases: Sequence[Case], index: int) -> SimResult | ToolError:
    """Run one design of the bundle; the others get no samples."""
    some = [slice(None) if i == index else slice(0) for i in range(len(cases))]
    pairs = zip(designs, cases, some, strict=True)
    try:
        return simulate_many([Job(design, (rows(case.code, part),)) for design, case, part in pairs])[index]
    except ToolError as error:
        return error


@pytest.mark.sim
@pytest.mark.parametrize("block", MUTANTS)
def test_the_block_without_a_mistake_passes(verdicts: Mapping[str, str], block: str) -> None:
    assert verdicts[block] == ""


@pytest.mark.sim
@pytest.mark.parametrize("name", [mutant.name for made in MUTANTS.values() for mutant in made])
def test_a_mutant_is_caught(verdicts: Mapping[str, str], name: str) -> None:
    assert verdicts[name]


def test_every_block_has_five_mutants() -> None:
    assert {block: len(made) for block, made in MUTANTS.items()} == dict.fromkeys(MUTANTS, 5)
