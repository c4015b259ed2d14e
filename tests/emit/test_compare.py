"""Every wire is compared; of broken hardware the block, the element, its operands and its rounding are named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from emit.compare import Comparison, compare, judge, tap
from emit.design import Design
from emit.sim import Job, simulate_many
from emit.verilog import emit
from mase.errors import ConfigError, GraphError
from mase.netlist import build
from tests.emit.proof import Case, rows
from tests.emit.test_mutants import MUTANTS, Mutant, layer, mutated, victim

BY_NAME = {mutant.name: mutant for mutant in MUTANTS}
BROKEN = {  # what is broken: the first wire that differs, and the module that gives it
    "floor_for_even": ("_0.out", "mase_linear"),
    "exponent_after_rounding": ("_2.normalise.out", "mase_block_normalise"),
    "tiles_transposed": ("_0.out", "mase_linear"),
    "raw_sums": ("_2.out", "mase_linear"),
}


def raw_sums(text: str) -> str:
    """Return the weights of the second layer with the first word in place of the last."""
    words = text.splitlines()
    return "\n".join([*words[:-1], words[0]]) + "\n"


@pytest.fixture(scope="module", name="case")
def _case() -> Case:
    return victim()


@pytest.fixture(scope="module", name="found")
def _found(case: Case, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Comparison]:
    """Compare the sound design and the broken ones, in one build."""
    folder = tmp_path_factory.mktemp("compare")
    mutants = [BY_NAME.get(name, Mutant(name, "mem/*_2_weight.mem", raw_sums, "")) for name in BROKEN]
    designs = [mutated(case, folder, mutant) for mutant in (None, *mutants)]
    netlist = build(case.graph)
    results = simulate_many([Job(tap(netlist, design), (case.code,)) for design in designs])
    return {
        name: judge(netlist, (case.code,), result) for name, result in zip(("sound", *BROKEN), results, strict=True)
    }


@pytest.mark.sim
def test_all_wires_of_a_sound_design_are_equal(case: Case, found: dict[str, Comparison]) -> None:
    sound, netlist = found["sound"], build(case.graph)
    assert sound.ok
    assert [w.wire for w in sound.wires] == [".".join(pin) for pin in netlist.fifos()]
    assert {w.wire for w in sound.wires} > {"_0.out", "_2.out", "_2.normalise.out"}  # the second is inside a node
    assert str(sound).endswith(f"on {len(sound.wires)} wires, all equal.")


@pytest.mark.sim
@pytest.mark.parametrize("name", BROKEN)
def test_the_first_wire_that_differs_is_named(name: str, found: dict[str, Comparison]) -> None:
    first = found[name].first
    assert first is not None
    assert (first.wire, first.module) == BROKEN[name]
    assert not found[name].ok
    wires = [w.wire for w in found[name].wires if w.mismatches]
    assert wires[0] == first.wire
    before = [w.wire for w in found[name].wires][: [w.wire for w in found[name].wires].index(first.wire)]
    assert not set(before) & set(wires)


@pytest.mark.sim
def test_the_element_comes_with_all_that_made_it(case: Case, found: dict[str, Comparison]) -> None:
    first = found["floor_for_even"].first
    assert first is not None
    op, x = layer(case, "_0"), case.code.mantissa[first.sample]
    total = int(op.bias[first.column] + op.weight[first.column].reshape(-1) @ x)
    assert first.accumulator == total
    assert (
        first.rounding
        == f"max(t, 0), over 2**{op.out.shift}, rounded even, within {op.out.grid.low}..{op.out.grid.high}"
    )
    assert first.found.code == total >> op.out.shift
    assert first.expected.code == round(total / 2**op.out.shift) != first.found.code
    given = {o.column: o.value.code for o in first.operands}
    weighty = {i for i, w in enumerate(op.weight[first.column].reshape(-1).tolist()) if w}
    assert set(given) <= weighty
    assert given == {i: int(x[i]) for i in given}
    assert {o.wire for o in first.operands} == {build(case.graph).entry}
    text = str(found["floor_for_even"])
    assert f"Accumulator: {total}; rounding: max(t, 0), over 2**" in text
    assert "block mase_linear u_0, sample" in text


@pytest.mark.sim
def test_blocks_have_exponents(found: dict[str, Comparison]) -> None:
    first = found["exponent_after_rounding"].first
    assert first is not None
    assert first.expected.exponent is not None
    assert (first.accumulator, first.rounding) == (None, None)
    assert {o.column // 4 for o in first.operands} == {first.column // 4}  # those of its block
    data = found["exponent_after_rounding"].to_json()
    assert json.loads(json.dumps(data))["first"]["expected"] == {
        "code": first.expected.code,
        "exponent": first.expected.exponent,
    }


@pytest.fixture
def design(case: Case, tmp_path: Path) -> Design:
    return emit(case.graph, tmp_path / "design", "design")


def test_no_samples_are_refused(case: Case, design: Design) -> None:
    with pytest.raises(ConfigError, match="compare: found 0 samples; allowed is 1 or more"):
        compare(case.graph, design, torch.zeros(0, 6))


def test_a_folder_that_does_not_name_its_wires_is_refused(case: Case, design: Design) -> None:
    manifest = json.loads((design.folder / "design.json").read_text())
    for item in manifest["instances"]:
        del item["outputs"]
    (design.folder / "design.json").write_text(json.dumps(manifest))
    with pytest.raises(GraphError, match=r"does not say where .* gives; emit the graph again"):
        tap(build(case.graph), Design.load(design.folder))


@pytest.mark.sim
def test_compare_runs_model_inputs(case: Case, design: Design) -> None:
    x = design.input.decode(rows(case.code, slice(0, 2)))
    assert compare(case.graph, design, x.float()).ok
