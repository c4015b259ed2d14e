"""What a block costs: rules by hand, monotone prices, origins, and what synthesis gave before and gives now."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import mase
from bench.calibration.blocks import LinearCase, points
from bench.calibration.designs import CASES
from emit import synth
from mase.cost.device import DEVICES, device
from mase.cost.estimate import READ_PJ, estimate_graph
from mase.cost.features import columns, features, tiles
from mase.cost.resources import ASSUMED, Resources, bill, estimate, origins
from mase.cost.table import load
from mase.dataflow.work import Work
from mase.paths import hw_dir
from passes.map import MapConfig, map_graph

XCUP = device("xcup")
RECORDED = json.loads((Path(__file__).parent / "recorded.json").read_text())


class TestRules:
    @pytest.mark.parametrize(
        ("a", "b", "blocks"),
        [
            *((4, 4, 0), (5, 3, 0), (5, 4, 1), (7, 2, 1), (6, 2, 0), (12, 1, 0)),  # from 9 bits of product on
            *((27, 18, 1), (28, 18, 2), (27, 19, 2), (18, 27, 1), (44, 17, 2), (45, 17, 3), (28, 19, 4)),
        ],
    )
    def test_a_product_is_cut_as_yosys_cuts_it(self, a: int, b: int, blocks: int) -> None:
        assert tiles(a, b, XCUP) == tiles(b, a, XCUP) == blocks

    def test_a_line_of_three_cycles_is_a_shift_register(self) -> None:
        for cycles, ff, lut in ((0, 0, 0), (2, 10, 0), (3, 0, 5), (32, 0, 5), (33, 0, 10)):
            found = features(Work(delays=((5, cycles),)), XCUP)
            assert (int(found.ff), int(found.lut)) == (ff, lut)

    def test_columns_that_are_equal_by_chance_share_a_register(self) -> None:
        assert float(columns(64, 1)) == 0.0  # constants
        assert float(columns(64, 2)) == pytest.approx(2.0, abs=1e-3)  # the address bit and its complement
        assert 13.5 < float(columns(64, 4)) < 14.0
        assert float(columns(64, 64)) == 64.0

    def test_a_rom_of_equal_words_takes_nothing(self) -> None:
        assert bill(Work(wires=((64, 8),)), XCUP) == bill(Work(), XCUP)

    def test_flip_flops_are_counted(self) -> None:
        work = Work(registers=7, counters=(1, 5, 8), fifos=((9, 4),), buffers=((12, 16),))
        assert int(bill(work, XCUP).ff) == 7 + 3 + 3 + (2 * 2 + 2 * 3) + 12


class TestPrices:
    @pytest.mark.parametrize("kind", ["fixed4", "fixed8", "int6", "mxint4b8e4"])
    def test_more_lanes_cost_more(self, kind: str) -> None:
        prices = [_linear(kind, simd=8, pe=pe) for pe in (8, 16, 32)]
        assert prices == sorted(prices, key=lambda r: r.lut)
        assert prices == sorted(prices, key=lambda r: r.ff)

    def test_more_bits_cost_more_until_products_become_blocks(self) -> None:
        luts = [_linear(f"fixed{bits}").lut for bits in (2, 3, 4)]
        assert luts == sorted(luts)
        assert _linear("fixed5").lut < luts[-1]
        assert (_linear("fixed4").dsp, _linear("fixed5").dsp) == (0, 64)

    @pytest.mark.parametrize("kind", ["fixed4", "int8", "mxint6b8e4"])
    def test_many_foldings_at_once_cost_what_each_costs_alone(self, kind: str) -> None:
        op = LinearCase(kind, kind, kind, 64, 32, 8, 8).blocks()[""].foldings  # type: ignore[attr-defined]
        simd, pe = op.lanes()
        together = op.work(simd, pe, op.fifos(simd, pe))
        for i in range(0, simd.size, 7):
            one, depths = (int(simd[i]), int(pe[i])), op.fifos(int(simd[i]), int(pe[i]))
            for role, work in op.work(*one, {r: int(n) for r, n in depths.items()}).items():
                alone, many = bill(work, XCUP), bill(together[role], XCUP)
                for name in ("lut", "ff", "dsp", "bram"):
                    figure = np.broadcast_to(getattr(many, name), simd.shape)[i]
                    assert float(np.max(getattr(alone, name))) == pytest.approx(float(figure))


class TestMemories:
    def test_the_words_of_a_table_are_stored_and_read(self) -> None:
        model = torch.nn.Sequential(torch.nn.Tanh()).eval()
        x = torch.randn(8, 16, generator=torch.Generator().manual_seed(0))
        formats = {"default": {"weight": "int8", "activation": "fixed10.6"}}
        found = estimate_graph(map_graph(mase.quantize(mase.trace(model, x), formats, [x]), MapConfig())[0])
        (table,) = found.instances.values()
        assert table.rom_bits == found.rom_bits == 1024 * 10
        assert table.energy_pj > 16 * 10 * READ_PJ  # every element reads a word of ten bits


class TestOrigins:
    def test_every_figure_says_where_it_comes_from(self) -> None:
        found, table = origins(XCUP), load("xcup")
        assert table is not None
        assert found["lut"].startswith(f"fitted to {table.tool}")
        assert str(table.designs_error["lut"]) in found["lut"]
        assert all(found[name].startswith(f"counted by the rules of {table.tool}") for name in ("ff", "dsp", "bram"))

    @pytest.mark.parametrize("name", sorted(set(DEVICES) - {"xcup"}))
    def test_a_device_without_a_fit_is_assumed(self, name: str) -> None:
        assert set(origins(device(name)).values()) == {ASSUMED}
        assert bill(Work(adders=((1, 8),)), device(name)).lut > 0


class TestRecorded:
    @pytest.mark.parametrize("name", RECORDED)
    def test_a_design_costs_what_synthesis_gave(self, name: str) -> None:
        (case,) = (case for case in CASES if case.name == name)
        table, predicted, found = load("xcup"), estimate_graph(case.graph("xcup")).resources, RECORDED[name]
        assert table is not None
        for what in ("lut", "ff"):
            bound = table.designs_error[what].worst + 1e-3
            assert getattr(predicted, what) == pytest.approx(found[what], rel=bound)
        assert (predicted.dsp, predicted.bram) == (found["dsp"], found["bram"])

    @pytest.mark.slow
    def test_a_block_costs_what_synthesis_gives_now(self) -> None:
        (point,) = (p for p in points() if p.name.startswith("linear fixed4 fixed4 fixed4 128x16 at 2x4"))
        files = sorted(hw_dir().rglob("*.sv"))
        found = synth.synthesize_module(point.module, point.params, point.memories, files)
        total = bill(point.work, XCUP)
        assert float(total.lut) == pytest.approx(found.lut, rel=0.15)
        assert float(total.ff) == pytest.approx(found.ff, rel=0.05)
        assert (float(total.dsp), float(total.bram)) == (found.dsp, found.bram)


def _linear(kind: str, simd: int = 8, pe: int = 8) -> Resources:
    case = LinearCase(kind, kind, kind, 64, 64, 8, 8)
    blocks = replace(case, simd=simd, pe=pe).blocks()
    return sum((estimate(block, XCUP).resources for block in blocks.values()), Resources())
