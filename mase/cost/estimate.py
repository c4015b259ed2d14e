"""Predict what a mapped graph costs: resources, cycles, bits; each figure with its origin."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mase.cost.device import device
from mase.cost.resources import Resources, estimate
from mase.graph import Graph
from mase.netlist import Netlist, build
from mase.ops.base import HardwareOp


@dataclass(frozen=True)
class InstanceCost:
    """One RTL block: graph node, role in it, cycles a sample, resources and where each figure comes from."""

    node: str
    role: str
    cycles: int
    resources: Resources
    origin: Mapping[str, str]


@dataclass(frozen=True)
class Cost:
    """What a design costs.

    Args:
        target: device. resources: in all; ``equivalents`` in LUTs by the weights of the device.
        utilisation: share of the device by resource. first_output, latency, interval: exact cycles, source always
            valid and sink always ready. samples_per_second: at ``clock_mhz``, if the clock is met.
    """

    target: str
    clock_mhz: float
    instances: tuple[InstanceCost, ...]
    resources: Resources
    equivalents: float
    utilisation: Mapping[str, float]
    first_output: int
    latency: int
    interval: float

    @property
    def samples_per_second(self) -> float:
        """Throughput at the clock."""
        return self.clock_mhz * 1e6 / self.interval

    def to_json(self) -> dict[str, Any]:  # JSON
        """Return JSON data."""
        return {
            "target": self.target,
            "clock_mhz": self.clock_mhz,
            "resources": vars(self.resources),
            "equivalents": self.equivalents,
            "utilisation": dict(self.utilisation),
            "first_output": self.first_output,
            "latency": self.latency,
            "interval": self.interval,
            "samples_per_second": self.samples_per_second,
            "instances": [
                {**vars(item), "resources": vars(item.resources), "origin": dict(item.origin)} for item in self.instances
            ],
        }


def estimate_graph(
    graph: Graph, target: str, clock_mhz: float = 200.0, ops: dict[str, HardwareOp] | None = None
) -> Cost:
    """Predict a quantized, mapped graph.

    Raises:
        UnknownName: there is no such device. UnsupportedOp: a node has no hardware.
    """
    return estimate_netlist(build(graph, ops), target, clock_mhz)


def estimate_netlist(netlist: Netlist, target: str, clock_mhz: float) -> Cost:
    """Predict a laid-out graph."""
    part, timing = device(target), netlist.timing(4)
    items = []
    for instance in netlist.instances:
        figures = estimate(instance.block, part)
        cycles = instance.block.schedule().interval()
        items.append(InstanceCost(instance.node, instance.role, cycles, figures.resources, figures.origin))
    total = sum((item.resources for item in items), Resources())
    shares = {name: getattr(total, name) / getattr(part, name) for name in ("lut", "ff", "dsp", "bram")}
    return Cost(
        target,
        clock_mhz,
        tuple(items),
        total,
        total.equivalent(part),
        shares,
        timing.first,
        timing.latency,
        float(timing.interval),
    )
