"""Networks of the model zoo on real digits: the codes of every edge and the cycles of every sample, in RTL."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import mase
from emit.verify import prove
from mase.data.base import load
from mase.graph import Graph
from mase.models.base import MODELS
from mase.netlist import build
from passes.fuse import FuseConfig, fuse
from passes.map import MapConfig, map_graph

SAMPLES = 4
CALIBRATION = 64
Network = tuple[str, Mapping[str, object], Callable[[Tensor], Tensor]]

NETWORKS: Mapping[str, Network] = {  # model, its options, and what makes its input of 8x8 digits
    "lenet": ("lenet", {"size": 16}, lambda x: F.interpolate(x, scale_factor=2)),
    "resnet": ("resnet", {"depth": 8, "width": 4, "channels": 1}, lambda x: x),
    "mobilenet": ("mobilenet", {"width": 0.25, "channels": 1}, lambda x: x),
    "ds_cnn": ("ds_cnn", {"width": 8, "blocks": 2}, lambda x: F.interpolate(x, size=(13, 10))),
    "autoencoder": ("autoencoder", {"sizes": [64, 16, 4]}, lambda x: x.flatten(1)),
}
CLASSES: Mapping[str, tuple[str, str]] = {  # formats of weights and of activations
    "fixed": ("fixed8", "fixed8"),
    "int_channels": ("int8c", "int8"),
    "int_groups": ("int4g32", "int8"),
    "mxint8": ("mxint8b8e4", "mxint8b8e4"),
    "mxint4": ("mxint4b8e4", "mxint6b8e4"),
    "bfp": ("bfp8b8e4", "bfp8b8e4"),
    "e4m3": ("e4m3", "e4m3"),
    "mxfp4": ("mxfp4", "mxint8b8e4"),
    "ternary": ("ternary", "int8"),
}
MIXED = {"weight": "int4", "activation": "int8"}
OVERRIDES: Mapping[str, Mapping[str, Mapping[str, str]]] = {  # of networks with mixed formats, beside ``MIXED``
    "lenet": {
        "conv2": {"weight": "mxfp4", "output": "mxint8b4e4"},
        "fc1": {"weight": "ternary", "output": "e4m3"},
        "fc2": {"weight": "fixed6", "output": "bfp8b8e4"},
    },
    "resnet": {
        "blocks.0.*": {"weight": "mxint4b4e4", "output": "mxint8b4e4"},
        "blocks.1.*": {"weight": "fixed6", "output": "fixed8"},
    },
    "mobilenet": {
        "block1.*": {"weight": "fixed6", "output": "fixed8"},
        "block[34].*": {"weight": "mxint6b4e4", "output": "mxint8b4e4"},
        "block7.*": {"weight": "int4c", "output": "int6"},
    },
    "ds_cnn": {
        "depthwise1": {"weight": "int6c", "output": "mxint8b8e4"},
        "pointwise1": {"weight": "mxfp4", "output": "e4m3"},
        "depthwise2": {"weight": "fixed6", "output": "fixed8"},
    },
    "autoencoder": {
        "fc1": {"weight": "int4g32", "output": "mxint8b8e4"},
        "fc2": {"weight": "e2m1", "output": "e4m3"},
        "fc3": {"weight": "ternary", "output": "fixed8"},
    },
}
SHARE = (
    4  # a network of mixed formats keeps this share of the cheapest design's interval, so that several nodes are busy
)


@cache
def network(name: str) -> tuple[Graph, Tensor]:
    """Return a fused graph with statistics that are not trivial, and its input."""
    model_name, options, view = NETWORKS[name]
    torch.manual_seed(0)
    model = MODELS[model_name](**options).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    x = view(load("digits", {}).test.x)
    graph = mase.trace(model, (x[:2],))
    return fuse.run(graph, FuseConfig())[0], x


def check(name: str, section: Mapping[str, object], folder: Path, share: int = 1) -> None:
    graph, x = network(name)
    quantized = mase.quantize(graph, section, x[:CALIBRATION])
    mapped, _ = map_graph.run(quantized, MapConfig())
    if share > 1:
        mapped, _ = map_graph.run(quantized, MapConfig(interval=build(mapped).interval() // share))
    design = mase.emit(mapped, folder / "rtl", name)
    proof = prove(mapped, design, x[-SAMPLES:])
    assert not sum(edge.mismatches for edge in proof.edges), proof.first
    assert proof.cycles_equal, proof.late
    assert proof.interval.simulated == busy(mapped), f"{proof.interval}: the slowest actor is not always busy"


def busy(mapped: Graph) -> int:
    """Return the cycles that the slowest actor works for one sample: in steady state there are no others."""
    actors, _ = build(mapped).network()
    return max(actor.cycles() for actor in actors)


@pytest.mark.sim
@pytest.mark.slow
def test_a_residual_network_of_mixed_formats(tmp_path: Path) -> None:
    check("resnet", {"default": MIXED, "overrides": OVERRIDES["resnet"]}, tmp_path)


@pytest.mark.sim
@pytest.mark.nightly
@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_of_mixed_formats(name: str, tmp_path: Path) -> None:
    check(name, {"default": MIXED, "overrides": OVERRIDES[name]}, tmp_path, SHARE)


@pytest.mark.sim
@pytest.mark.nightly
@pytest.mark.parametrize("numbers", CLASSES)
@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_in_every_class_of_numbers(name: str, numbers: str, tmp_path: Path) -> None:
    weight, activation = CLASSES[numbers]
    check(name, {"default": {"weight": weight, "activation": activation}}, tmp_path)
