"""The blocks of every kind of operator, which the fit has not seen: predicted beside what Yosys gives.

Small networks, narrow and wide, are taken apart, and each block is synthesised alone: ``python -m
bench.calibration.kinds``, in an hour; ``--recorded`` takes what is recorded, and a minute.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from bench.calibration.blocks import Point, of_block
from bench.calibration.fit import error
from emit import synth, tools
from mase import flow
from mase.cost.device import device
from mase.cost.resources import Resources, bill
from mase.files import write_atomic
from mase.netlist import Instance, build
from mase.paths import hw_dir
from passes.map import MapConfig, map_graph

FOLDER = Path(__file__).resolve().parent
NORMS = (nn.LayerNorm, nn.RMSNorm, nn.BatchNorm1d)
SEEN = frozenset({"mase_requantize", "mase_block_normalise", "mase_stream_converter"})  # blocks.py has these


class Function(nn.Module):
    """A function of one tensor."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


@dataclass(frozen=True)
class Case:
    """A network.

    Args:
        model: makes it. shape: of a sample. weight, x, y: formats of its weights, input and results. share: of the
            interval of the cheapest design that the other, wide one takes.
    """

    name: str
    model: Callable[[], nn.Module]
    shape: tuple[int, ...]
    x: str = "fixed8"
    y: str = "fixed8"
    weight: str = "int6c"
    share: int = 8

    def instances(self) -> Iterator[tuple[int, Instance]]:
        """Yield the blocks with the share of the interval that they keep."""
        torch.manual_seed(0)
        model, x = self.model().eval(), torch.randn(16, *self.shape)
        with torch.no_grad():
            for module in model.modules():
                if isinstance(module, NORMS):  # it begins with ones and zeros, which no hardware is made of
                    for parameter in module.parameters():
                        parameter.add_(0.3 * torch.randn_like(parameter))
        formats = {"default": {"weight": self.weight, "activation": self.y}, "inputs": self.x}
        graph = flow.quantize(flow.trace(model, x[:2]), formats, [x])
        slowest = build(map_graph(graph, MapConfig())[0]).interval()
        for share in (1, self.share):
            interval = -(-slowest // share)
            for instance in build(map_graph(graph, MapConfig(interval=interval))[0]).instances:
                yield share, instance


def _depthwise() -> nn.Module:
    return nn.Conv2d(8, 8, 3, padding=1, groups=8)


CASES = (
    Case("layer norm", lambda: nn.LayerNorm(32), (4, 32), "int8", "int8", share=4),
    Case("rms norm", lambda: nn.RMSNorm(32, eps=1e-5), (4, 32), share=4),
    Case("sigmoid", nn.Sigmoid, (32,), "fixed6", "fixed6"),
    Case("tanh of blocks", nn.Tanh, (32,), "mxint6b8e4", "fixed6"),
    Case("gelu", nn.GELU, (32,), "fixed12", "fixed8"),
    Case("silu", nn.SiLU, (32,), "fixed14", "fixed10"),
    Case("few levels", nn.Sigmoid, (32,), "fixed8", "ufixed2"),
    Case("top-k", lambda: Function(lambda x: x.topk(3, -1).indices), (32,), share=1),
    Case("argmax", lambda: Function(lambda x: x.argmax(-1, keepdim=True)), (32,)),
    Case("argmax of blocks", lambda: Function(lambda x: x.argmax(-1, keepdim=True)), (32,), "mxint6b8e4"),
    Case("sum", lambda: Function(lambda x: x + x.relu()), (32,), "fixed8", "fixed6"),
    Case("sum with scales", lambda: Function(lambda x: x + x.relu()), (32,), "int8", "int6"),
    Case("sum of blocks", lambda: Function(lambda x: x + x.relu()), (32,), "mxint6b8e4", "mxint6b8e4"),
    Case("product", lambda: Function(lambda x: x * x.relu()), (32,), "int8", "int6"),
    Case("batch norm", lambda: nn.Sequential(nn.ReLU(), nn.BatchNorm1d(32)), (32,), "int8", "int8"),
    Case("greatest of windows", lambda: nn.MaxPool2d(2), (8, 8, 8)),
    Case("mean of windows", lambda: nn.AvgPool2d(3, 2), (8, 9, 9), "int8", "int8"),
    Case("mean of blocks", lambda: nn.AvgPool2d(2), (8, 8, 8), "mxint8b8e8", "mxint8b8e8"),
    Case("depthwise", _depthwise, (8, 8, 8)),
    Case("depthwise with scales", _depthwise, (8, 8, 8), "int6", "int6", "int4c"),
    Case("convolution", lambda: nn.Conv2d(8, 8, 3, padding=1), (8, 8, 8), "fixed6", "fixed6", "fixed4"),
    Case("slice", lambda: Function(lambda x: x[:, 4:20]), (32,), share=4),
    Case("join", lambda: Function(lambda x: torch.cat((x.relu(), x.sigmoid()), 1)), (16,), "fixed6", "fixed6.4"),
    Case("turned", lambda: Function(lambda x: x.relu().flip(1)), (8, 16)),
    Case("minifloats", lambda: nn.Linear(32, 16), (32,), "e4m3", "e4m3", "e4m3"),
    Case("narrow minifloats", lambda: nn.Linear(32, 16), (32,), "e2m1", "e2m1", "e2m1"),
    Case("mxfp4", lambda: nn.Linear(64, 32), (64,), "mxfp4", "mxfp4", "mxfp4"),
    Case("ternary", lambda: nn.Linear(64, 32), (64,), "int8", "int8", "ternary"),
    Case("binary", lambda: nn.Linear(64, 32), (64,), "int6", "int6", "binary"),
    Case("powers of two", lambda: nn.Linear(64, 32), (64,), "int6", "int6", "log3"),
    Case("groups", lambda: nn.Linear(64, 32), (64,), "int8", "int8", "int4g32"),
)


def points(cases: Sequence[Case] = CASES) -> list[Point]:
    """Return every block once, by what it is."""
    found: dict[tuple[object, ...], Point] = {}
    for case in cases:
        for share, instance in case.instances():
            block = instance.block
            if block.sv_module in SEEN:
                continue
            point = of_block(f"{case.name} {instance.role} 1/{share} {block.sv_module}".replace("  ", " "), block)
            key = (block.sv_module, *point.params.items())
            found.setdefault(key, point)
    return list(found.values())


def record(target: str) -> Path:
    """Return where the synthesised blocks of a target are recorded."""
    return FOLDER / f"{target}-kinds.json"


def recorded(target: str) -> Mapping[str, Resources]:
    """Return what was synthesised, by the name of the point."""
    kept = json.loads(record(target).read_text())["points"]
    return {name: Resources(*figures) for name, figures in kept.items()}


def compared(
    found: Mapping[str, Resources], target: str, cases: Sequence[Case] = CASES
) -> dict[str, list[tuple[Resources, Resources]]]:
    """Return, by module, what is predicted and what was synthesised of every block that was."""
    out: dict[str, list[tuple[Resources, Resources]]] = {}
    for point in points(cases):
        if point.name in found:
            one = bill(point.work, device(target))
            predicted = Resources(*(float(n) for n in (one.lut, one.ff, one.dsp, one.bram)))
            out.setdefault(point.module, []).append((predicted, found[point.name]))
    return out


def table(pairs: Mapping[str, Sequence[tuple[Resources, Resources]]]) -> str:
    """Return the errors as a table of a page."""
    lines = ["| block | points | LUT: median, worst | FF: median, worst | DSP off |", "| --- | --- | --- | --- | --- |"]
    for module, found in sorted(pairs.items()):
        lut, ff = (
            error([getattr(a, name) for a, _ in found], [getattr(b, name) for _, b in found]) for name in ("lut", "ff")
        )
        shown = [f"{one.median:.0%}, {one.worst:.0%}" for one in (lut, ff)]
        dsp = f"{sum(a.dsp for a, _ in found):.0f} for {sum(b.dsp for _, b in found):.0f}"
        lines.append(f"| `{module}` | {len(found)} | {' | '.join(shown)} | {dsp} |")
    return "\n".join(lines)


def main() -> None:
    """Synthesize, record, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", default="xcup", choices=("xcup", "xc7"))
    parser.add_argument("--recorded", action="store_true", help="compare with what is recorded, without synthesis")
    options = parser.parse_args()
    torch.set_num_threads(1)
    path = record(options.target)
    if not options.recorded:
        files = sorted([*hw_dir().rglob("*.sv"), *FOLDER.glob("*.sv")])
        figures = {}
        for point in points():
            r = synth.synthesize_module(point.module, point.params, point.memories, files, options.target)
            figures[point.name] = [int(n) for n in (r.lut, r.ff, r.dsp, r.bram)]
            print(f"{point.name}: {figures[point.name]}", flush=True)
        write(path, figures)
    print(table(compared(recorded(options.target), options.target)))


def write(path: Path, figures: Mapping[str, Sequence[int]]) -> None:
    """Write what was synthesised."""
    lines = ",\n".join(f"  {json.dumps(name)}: {json.dumps(list(n))}" for name, n in figures.items())
    tool = f"Yosys {tools.require('pyosys').version}"
    head = f'{{\n "tool": {json.dumps(tool)},\n "figures": ["lut", "ff", "dsp", "bram"],\n "points": {{\n'
    write_atomic(path, f"{head}{lines}\n }}\n}}\n")


if __name__ == "__main__":
    main()
