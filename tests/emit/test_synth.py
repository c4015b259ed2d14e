"""Synthesis of a small design, how cells are counted, and what is said when the tool is missing, killed or fails."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from emit import synth, tools
from emit.design import Design
from emit.synth import SynthResult, commands, count, flat_cells, run_yosys, synthesize, synthesize_module
from emit.verilog import emit
from mase.cost.resources import Resources
from mase.errors import GraphError, MaseError, ToolError, UnknownName
from mase.paths import hw_dir
from passes.map import Folding
from passes.quantize import NodeFormats
from tests.emit.designs import Network

FIFO = [hw_dir() / "common" / "mase_fifo.sv"]


@pytest.fixture(scope="module")
def design(tmp_path_factory: pytest.TempPathFactory) -> Design:
    torch.manual_seed(0)
    layers = [nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 4)]
    formats = {path: NodeFormats(weight="fixed4.3", output="fixed5.3") for path in ("0", "2")}
    folding = {"0": Folding(4, 3), "2": Folding(2, 2)}
    network = Network("small", layers, torch.randn(4, 8), "fixed5.3", formats, folding)
    return emit(network.case().graph, tmp_path_factory.mktemp("synth") / "design", "small")


@pytest.fixture(scope="module")
def result(design: Design) -> SynthResult:
    return synthesize(design)


@pytest.mark.slow
class TestDesign:
    def test_every_instance_has_its_share(self, design: Design, result: SynthResult) -> None:
        assert list(result.instances) == ["_0", "_2.convert", "_2"]
        parts = sum(result.instances.values(), Resources())
        assert all(part.lut > 0 and part.ff > 0 for part in result.instances.values())
        for name in ("lut", "ff", "dsp", "bram"):  # the top adds a monitor and the reset
            assert 0 <= getattr(result.resources, name) - getattr(parts, name) < 40

    def test_narrow_products_and_small_memories_are_luts(self, result: SynthResult) -> None:
        assert result.resources.bram == 0
        assert result.resources.dsp == 12 + 4  # 4 x 5 bits make 9, the least that a DSP block is taken for

    def test_the_counts_are_those_of_the_cells(self, result: SynthResult) -> None:
        assert count(result.cells) == result.resources
        assert result.cells["DSP48E2"] == result.resources.dsp
        assert result.tool.startswith("Yosys ")
        assert result.seconds > 0
        assert "synth_xilinx" in result.log

    def test_what_is_saved_is_what_is_loaded(self, result: SynthResult, tmp_path: Path) -> None:
        result.save(tmp_path)
        assert SynthResult.load(tmp_path) == result
        assert (tmp_path / "synth.log").read_text() == result.log

    def test_other_families_count_their_own_cells(self, design: Design) -> None:
        found = synthesize(design, "ecp5")
        assert found.resources.lut > 0
        assert found.resources.ff > 0
        assert found.resources.dsp == found.cells["MULT18X18D"]


@pytest.mark.slow
class TestModule:
    def test_a_fifo_lies_in_lut_ram(self) -> None:
        found = synthesize_module("mase_fifo", {"Width": 9, "Depth": 4}, {}, FIFO)
        assert (found.ff, found.dsp, found.bram) == (7, 0, 0)  # two pointers of 2 bits, a count of 3
        assert found.lut > 8  # one memory of 8 LUTs, and the control

    def test_an_image_is_what_the_rom_holds(self) -> None:
        rom = [hw_dir() / "common" / "mase_rom.sv"]
        equal = synthesize_module("mase_rom", {"Width": 8, "Depth": 16}, {"File": "5a\n" * 16}, rom)
        words = "".join(f"{37 * n % 256:02x}\n" for n in range(16))
        varied = synthesize_module("mase_rom", {"Width": 8, "Depth": 16}, {"File": words}, rom)
        assert equal == Resources(0, 0, 0, 0)
        assert (varied.ff, varied.lut > 0) == (8, True)

    def test_a_module_that_is_not_there_is_an_error_of_the_tool(self) -> None:
        with pytest.raises(ToolError, match="nowhere"):
            synthesize_module("nowhere", {}, {}, FIFO)


@pytest.mark.slow
class TestChild:
    def test_a_command_that_fails_gives_its_line(self, tmp_path: Path) -> None:
        with pytest.raises(ToolError, match=r"^yosys: .*nonsense"):
            run_yosys(["nonsense"], tmp_path)

    def test_a_child_that_takes_too_long_is_killed(self, design: Design) -> None:
        with pytest.raises(ToolError, match=r"yosys: no result after 0\.2 s"):
            synthesize(design, timeout_seconds=0.2)

    def test_a_child_without_memory_says_how_much_it_had(self, design: Design) -> None:
        with pytest.raises(ToolError, match="yosys: "):
            synthesize(design, memory_bytes=200 << 20)


class TestErrors:
    def test_a_killed_child_is_one_line(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setattr(synth, "_child", lambda arguments, folder, timeout: (-9, ""))
        with pytest.raises(ToolError, match=r"stopped without a message \(status -9\); its memory is 64 MiB"):
            run_yosys(["stat"], tmp_path, memory_bytes=64 << 20)

    def test_an_exit_without_an_error_line_gives_the_end_of_the_log(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setattr(synth, "_child", lambda arguments, folder, timeout: (3, "what was last said"))
        with pytest.raises(ToolError, match="exit code 3: what was last said"):
            run_yosys(["stat"], tmp_path)

    def test_a_missing_tool_names_its_remedy(self, design: Design, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(tools, "_distribution_version", lambda name: "")
        with pytest.raises(ToolError, match=r"pyosys: not found.*pip install 'mase-dse\[synth\]'"):
            synthesize(design)
        with pytest.raises(ToolError, match="pyosys: not found"):
            synthesize_module("mase_fifo", {}, {}, FIFO)

    def test_an_unknown_target_names_the_known_ones(self, design: Design) -> None:
        with pytest.raises(UnknownName, match="xcup"):
            synthesize(design, "xcupp")
        with pytest.raises(UnknownName, match="xcup"):
            synthesize_module("mase_fifo", {}, {}, FIFO, "xcupp")

    def test_a_missing_liberty_file_says_where_one_is(self, design: Design) -> None:
        with pytest.raises(ToolError, match=r"nowhere\.lib: no such liberty file; apt-get install"):
            synthesize(design, "asic:nowhere.lib")

    def test_a_liberty_file_is_given_to_every_command_that_needs_it(self, design: Design, tmp_path: Path) -> None:
        liberty = tmp_path / "some.lib"
        liberty.touch()
        script = commands(design, f"asic:{liberty}")
        assert [command.split()[0] for command in script if str(liberty) in command] == ["dfflibmap", "abc"]

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            (None, "no such file"),
            ("{", "corrupt"),
            ('{"schema": 0}', "schema 0; this version reads schema 1"),
            ('{"schema": 1}', "corrupt"),
        ],
    )
    def test_a_damaged_result_is_one_clear_error(self, text: str | None, said: str, tmp_path: Path) -> None:
        if text is not None:
            (tmp_path / "synth.json").write_text(text)
        with pytest.raises(GraphError, match=said):
            SynthResult.load(tmp_path)

    def test_a_result_that_cannot_be_written_is_an_error(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        made = SynthResult("xcup", Resources(), {}, {}, 0.0, "Yosys")
        with pytest.raises(MaseError, match="file"):
            made.save(tmp_path / "file")


class TestCounting:
    def test_cells_become_resources(self) -> None:
        cells = {"LUT6": 3, "INV": 1, "CARRY4": 9, "MUXF7": 2, "SRL16E": 1, "RAM32M16": 2, "FDCE": 4, "FDRE": 5}
        assert count({**cells, "DSP48E2": 2, "RAMB36E2": 1, "RAMB18E2": 1}) == Resources(3 + 1 + 1 + 16, 9, 2, 3)

    def test_a_module_counts_what_lies_below_it(self) -> None:
        text = """{"modules": {
            "\\\\top": {"num_cells_by_type": {"LUT2": 1, "$scopeinfo": 4, "inner": 2}},
            "\\\\inner": {"num_cells_by_type": {"LUT2": 3, "FDRE": 1}}}}"""
        assert flat_cells(json.loads(text), "top") == {"LUT2": 7, "FDRE": 2}
        assert flat_cells(json.loads(text), "optimised_away") == {}
