"""What an accelerator costs before it is built: resources, cycles, memory, an energy proxy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any

from mase.cost.device import Device, device
from mase.cost.resources import Resources, bill, estimate, origins
from mase.dataflow.work import Work
from mase.graph import Graph
from mase.netlist import Netlist, build

# Energy of one operation in pJ, 45 nm at 0.9 V: 8-bit product, 8-bit sum, one bit read from an 8 KB SRAM.
# Source: M. Horowitz, "Computing's energy problem", ISSCC 2014, figure 1.1.9.
MULTIPLY_PJ, ADD_PJ, READ_PJ = 0.2 / 64, 0.03 / 8, 10.0 / 64


@dataclass(frozen=True)
class InstanceCost:
    """One RTL instance.

    Args:
        node: graph node it belongs to. role: its part in the node, empty for the operator. module: of the RTL.
        resources: predicted. cycles: a sample. rom_bits, ram_bits: stored constants; buffers and FIFOs.
        energy_pj: proxy, a sample.
    """

    node: str
    role: str
    module: str
    resources: Resources
    cycles: int
    rom_bits: int
    ram_bits: int
    energy_pj: float


@dataclass(frozen=True)
class Cost:
    """A mapped graph on a device.

    Args:
        target, part: device and the part whose budget counts. clock_mhz: assumed, not derived.
        resources: of all instances and the top module. origin: where each figure comes from.
        lut_equivalents: one number by the weights of the device. utilisation: share of the part's budget.
        latency_cycles: last output beat of the first sample. interval_cycles: between samples, steady.
        instances: by name in the netlist, in order of the stream.
        energy_pj: proxy a sample: products, sums, shifts, memory reads at 45 nm; no clock, no wires, no leakage.
    """

    target: str
    part: str
    clock_mhz: float
    resources: Resources
    origin: Mapping[str, str]
    lut_equivalents: float
    utilisation: Mapping[str, float]
    latency_cycles: int
    interval_cycles: Fraction
    instances: Mapping[str, InstanceCost]
    energy_pj: float

    @property
    def samples_per_second(self) -> float:
        """Throughput at the assumed clock."""
        return self.clock_mhz * 1e6 / float(self.interval_cycles)

    @property
    def latency_us(self) -> float:
        """Latency at the assumed clock."""
        return self.latency_cycles / self.clock_mhz

    @property
    def rom_bits(self) -> int:
        """Bits of stored constants, padding included."""
        return sum(instance.rom_bits for instance in self.instances.values())

    @property
    def ram_bits(self) -> int:
        """Bits of buffers and FIFOs."""
        return sum(instance.ram_bits for instance in self.instances.values())

    @property
    def fits(self) -> bool:
        """Whether every resource is within the part's budget."""
        return all(share <= 1.0 for share in self.utilisation.values())

    def node(self, name: str) -> Resources:
        """Return the resources of all instances of one graph node; none for a node that the host does."""
        return sum((i.resources for i in self.instances.values() if i.node == name), Resources())

    def to_json(self) -> dict[str, Any]:
        """Return the whole as JSON-able data, derived figures included."""
        derived = ("samples_per_second", "latency_us", "rom_bits", "ram_bits", "fits")
        data = {**asdict(self), **{name: getattr(self, name) for name in derived}}
        return {**data, "interval_cycles": str(self.interval_cycles)}


def estimate_graph(graph: Graph, target: str = "xcup", clock_mhz: float = 200.0) -> Cost:
    """Predict what a mapped graph costs.

    Raises:
        UnknownName: there is no such target. UnsupportedOp: a node has no hardware; names it.
    """
    where, netlist = device(target), build(graph)
    instances = {item.name: _instance(netlist, index, where) for index, item in enumerate(netlist.instances)}
    total = sum((one.resources for one in instances.values()), _top(netlist, where))
    timing = netlist.timing()
    budget = {"lut": where.lut, "ff": where.ff, "dsp": where.dsp, "bram": where.bram}
    return Cost(
        where.name,
        where.part,
        clock_mhz,
        total,
        origins(where),
        total.equivalent(where),
        {name: getattr(total, name) / most for name, most in budget.items()},
        timing.latency,
        timing.interval,
        instances,
        sum(one.energy_pj for one in instances.values()),
    )


def _instance(netlist: Netlist, index: int, where: Device) -> InstanceCost:
    item = netlist.instances[index]
    work, cycles = item.block.work(), item.block.schedule().interval()
    rom = sum(int(bits * depth) for bits, depth in (*work.roms, *work.wires))
    rom += sum(int(n * bits * depth) for n, bits, depth, *_ in (*work.tables, *work.known))
    ram = sum(int(bits * depth) for bits, depth in (*work.fifos, *work.buffers, *work.banks))
    found = estimate(item.block, where).resources
    return InstanceCost(item.node, item.role, item.block.sv_module, found, cycles, rom, ram, cycles * energy_pj(work))


def _top(netlist: Netlist, where: Device) -> Resources:
    """Price what the top module adds: the monitor of ``last`` of each entry, and the reset register."""
    counters = tuple(stream.beats for stream in netlist.circuit.takes)
    return Resources.of(bill(Work(registers=1 + len(counters), counters=counters), where))


def energy_pj(work: Work) -> float:
    """Return the energy proxy of one cycle in which every part works once."""
    products = sum(float(n * a * b) for n, a, b in work.multipliers) * MULTIPLY_PJ
    sums = sum(float(n * bits) for n, bits in (*work.adders, *work.accumulators))
    shifts = sum(float(n * bits) * int(shift).bit_length() for n, bits, shift in work.shifters)
    reads = sum(float(bits) for bits, _ in (*work.roms, *work.buffers, *work.banks, *work.fifos))
    reads += sum(float(n * bits) for n, bits, *_ in (*work.tables, *work.known))
    return products + (sums + shifts) * ADD_PJ + reads * READ_PJ
