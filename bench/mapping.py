"""Mapping and emission of whole networks: CPU time of lanes, FIFO depths and files, from a fresh interpreter.

Three linear layers run on 196 rows a sample. ResNet-8 and ResNet-20 (CIFAR) take images of 32 x 32 pixels with the
fewest lanes: one sample takes millions of cycles, and residual branches need deep FIFOs.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from bench.common import Figure, cpu_seconds, in_fresh_process, main
from emit.verilog import emit
from mase.frontend.module import trace_module
from mase.models.resnet import resnet
from passes.fuse import fuse
from passes.map import MapConfig, map_graph
from passes.quantize import NodeFormats, QuantizeConfig, apply, ranges

HERE = "bench.mapping"
FORMAT = "int8"


def rows() -> tuple[nn.Module, tuple[int, ...]]:
    """Return three linear layers and the shape of a sample."""
    layers = nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64)
    return nn.Sequential(*layers), (196, 64)


NETWORKS: dict[str, tuple[Callable[[], tuple[nn.Module, tuple[int, ...]]], float]] = {  # with the bar in seconds
    "rows": (rows, 1.0),
    "resnet8": (lambda: (resnet(8), (3, 32, 32)), 10.0),
    "resnet20": (lambda: (resnet(20), (3, 32, 32)), 30.0),
}


def seconds(name: str) -> tuple[float, float]:
    """Return the CPU seconds of mapping and of emission."""
    torch.manual_seed(0)
    model, shape = NETWORKS[name][0]()
    x = torch.randn(4, *shape)
    graph = fuse(trace_module(model.eval(), (x[:2],))[0])[0]
    formats = NodeFormats(weight=FORMAT, activation=FORMAT)
    graph = apply(graph, QuantizeConfig(default=formats), ranges(graph, [x]))[0]
    start = cpu_seconds()
    mapped = map_graph(graph, MapConfig())[0]
    between = cpu_seconds()
    with tempfile.TemporaryDirectory() as folder:
        emit(mapped, Path(folder) / "design", name)
    return between - start, cpu_seconds() - between


def measure() -> list[Figure]:
    """Map and emit each network."""
    out = []
    for name, (_, bar) in NETWORKS.items():
        mapping, emission = in_fresh_process(HERE, "seconds", name)
        out += [Figure(f"mapping_{name}", mapping, "CPU s", at_most=bar), Figure(f"emission_{name}", emission, "CPU s")]
    return out


if __name__ == "__main__":
    main(__doc__, measure)
