"""A report as the main job writes it, with hostile text in the names; for tests of what reads reports."""

from __future__ import annotations

import math

from mase.report import summary as s

HOSTILE = '</script><img src=x onerror="alert(1)">'


def example() -> s.Report:
    """Return an MLP of three layers and a search of eight trials."""
    points = tuple(_point(i) for i in range(8))
    return s.Report(
        name=f"quickstart {HOSTILE}",
        model=s.Model("mlp", 6602, 6464),
        data=s.Data("digits", 1149, 288, 360),
        accuracy=s.Accuracy("accuracy", 0.975, 0.9694, 0.9722, 0.9688, 0.01),
        rtl=_rtl(),
        resources=s.Resources(
            lut=s.Figure(5210, 5034),
            ff=s.Figure(3120.5, 2998),
            dsp=s.Figure(0, 0),
            bram=s.Figure(3, 4),
            lut_equivalents=s.Figure(6110, 6234),
            target="xcup",
            synthesised_by="yosys 0.60",
        ),
        search=s.Search("tpe", len(points), 3.25, tuple(p for p in points if p.trial in (2, 4, 7)), points, 4),
        layers=_layers(),
        graph=_graph(),
        seconds={"train": 2.1, "trace": 0.3, "search": 3.25, "emit": 0.2, "simulate": 8.4, "synthesise": 21.0},
        versions={"mase": "0.1.0", "torch": "2.13.0", "verilator": "5.48"},
        seed=1,
        reproduce=s.Reproduce("mase run configs/quickstart.yaml", f"name: quickstart\n# {HOSTILE}\nseed: 1\n"),
        warnings=(f"node {HOSTILE!r}: accumulator of 47 bits",),
    )


def _point(i: int) -> s.SearchPoint:
    point = {"0.weight": f"int{i % 7 + 2}", "2.weight": "mxint4b8e3", "activation": "fixed8.4", HOSTILE: "int4"}
    return s.SearchPoint(i, 0.90 + 0.01 * i, 2000.0 + 700 * i, 3.0 + i / 2, 64, i != 3, point)


def _rtl() -> s.Rtl:
    edges = (
        s.RtlEdge("0", "fixed8.4", 23040, 0, 2880, 0, 20160),
        s.RtlEdge("2", "fixed8.4", 23040, 0, 2880, 12, 20148),
        s.RtlEdge(f"4.{HOSTILE}", "mxint4b8e3", 11520, 0, 1440, 0, 21600),
        s.RtlEdge("6", "int8", 3600, 0, 3600, 0, 19440),
    )
    return s.Rtl(360, 0, 0, s.Cycles(182, 182), s.Cycles(64, 64.0), edges)


def _layers() -> tuple[s.Layer, ...]:
    def layer(path: str, sizes: tuple[int, int], simd: int, pe: int, snr: float | None, slow: bool) -> s.Layer:
        inputs, outputs = sizes
        cycles, count = inputs * outputs // (simd * pe), inputs * outputs + outputs
        resources = s.LayerResources(lut=20.0 * simd * pe, ff=12.0 * simd * pe, dsp=0, bram=1)
        formats = ("int4p", "fixed8.4", "fixed8.4", "exact")
        sizes_of_it = (inputs * outputs, count, 4.0 * count)
        return s.Layer(path, "linear", *formats, {"simd": simd, "pe": pe}, cycles, *sizes_of_it, resources, snr, slow)

    small = s.LayerResources(30, 20, 0, 0)
    return (
        layer("1", (64, 64), 8, 8, 31.5, True),
        layer(f"3.{HOSTILE}", (64, 32), 8, 8, math.inf, False),
        layer("5", (32, 10), 4, 2, None, False),
        s.Layer("6", "requantize", None, "fixed8.4", "int8", None, {"lanes": 1}, 10, 0, 0, 0, small, 28.0, False),
    )


def _graph() -> s.Dataflow:
    kinds = {"x": "input", "flatten": "layout", "fc1": "linear", "fc2": "linear", "fc3": "linear", "out": "requantize"}
    names = list(kinds)
    sizes = (64, 64, 64, 32, 10)
    nodes = tuple(s.Node(n, HOSTILE if n == "fc2" else n, kind) for n, kind in kinds.items())
    pairs = zip(names, names[1:], sizes, strict=False)
    edges = tuple(s.Edge(a, b, (size,), None if a == "x" else "fixed8.4") for a, b, size in pairs)
    return s.Dataflow(nodes, edges)
