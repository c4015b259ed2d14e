"""Fit the cost model to Yosys and write ``mase/cost/tables/TARGET.json``, in a quarter of an hour.

Every block of ``bench/calibration/blocks.py`` is synthesised in a child process, two at a time, and recorded in
``bench/calibration/TARGET.json``; ``--recorded`` takes what is recorded there, and three minutes. Then whole designs
that are not among the blocks tell the error. The same tool gives the same files.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from bench.calibration import designs
from bench.calibration.blocks import Point, points
from bench.calibration.fit import block_errors, fitted
from emit import synth, tools
from mase.cost import table
from mase.cost.device import device
from mase.cost.resources import Resources
from mase.files import write_atomic
from mase.paths import hw_dir

FOLDER = Path(__file__).resolve().parent
AT_ONCE = 2


def record(target: str) -> Path:
    """Return where the synthesised blocks of a target are recorded."""
    return FOLDER / f"{target}.json"


def recorded(target: str) -> dict[str, Resources]:
    """Return what was synthesised before, by the point's name."""
    found = json.loads(record(target).read_text())["points"]
    return {name: Resources(*figures) for name, figures in found.items()}


def synthesised(target: str, todo: Sequence[Point]) -> dict[str, Resources]:
    """Synthesize every point and record it."""
    files = sorted([*hw_dir().rglob("*.sv"), *FOLDER.glob("*.sv")])

    def one(point: Point) -> Resources:
        found = synth.synthesize_module(point.module, point.params, point.memories, files, target)
        print(f"{point.name}: {found.lut:g} LUT, {found.ff:g} FF, {found.dsp:g} DSP, {found.bram:g} BRAM", flush=True)
        return found

    with ThreadPoolExecutor(AT_ONCE) as pool:
        found = dict(zip([point.name for point in todo], pool.map(one, todo), strict=True))
    data = {name: [int(n) for n in (r.lut, r.ff, r.dsp, r.bram)] for name, r in found.items()}
    lines = ",\n".join(f"  {json.dumps(name)}: {json.dumps(figures)}" for name, figures in data.items())
    head = f'{{\n "tool": {json.dumps(tool())},\n "figures": ["lut", "ff", "dsp", "bram"],\n "points": {{\n'
    write_atomic(record(target), f"{head}{lines}\n }}\n}}\n")
    return found


def tool() -> str:
    """Return the synthesiser's name and version."""
    return f"Yosys {tools.require('pyosys').version}"


def main() -> None:
    """Fit, check, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", default="xcup", choices=("xcup", "xc7"))
    parser.add_argument("--recorded", action="store_true", help="fit to the recorded blocks instead of new ones")
    options = parser.parse_args()
    torch.set_num_threads(1)
    target, todo = options.target, points()
    found = recorded(target) if options.recorded else synthesised(target, todo)
    script = synth.SCRIPTS[target].partition(" -top")[0]
    first = fitted(todo, found, device(target), tool(), script)
    blocks = block_errors(todo, found, device(target), first)
    first = dataclasses.replace(first, blocks_error=blocks, designs_error=blocks)  # until there are designs
    path = table.FOLDER / f"{target}.json"
    write_atomic(path, first.text())
    table.load.cache_clear()
    checked = designs.check(target)
    write_atomic(path, dataclasses.replace(first, designs=len(checked), designs_error=designs.errors(checked)).text())
    designs.show(checked)
    print(f"{path}: {len(todo)} points, blocks {first.blocks_error}")


if __name__ == "__main__":
    main()
