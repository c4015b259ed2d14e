"""Layer and root-mean-square normalisation of rows, on chip: exact integers, one rounding (mase/ops/norm.py).

Four blocks: a fork, the statistics of each row, their inverse root, and the scale that joins it with the row again. The
row waits in the fork's own FIFO, which mapping gives its depth.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch

from mase.blocks.fork import A, B, Fork, ForkFoldings
from mase.blocks.root import FIFO, Root, dwell, root_part, unrolled
from mase.blocks.row_scale import NormSizes, R, RowNorm, RowScale, X
from mase.blocks.row_stats import RowStats, rows_of, stats_fifo, stats_latency, stats_part
from mase.blocks.unit import Behind
from mase.dataflow.block import LEAST_FIFO, Block
from mase.dataflow.circuit import Circuit, Pin, Wire
from mase.dataflow.grid import activation_grid, produced_grid
from mase.dataflow.schedule import IN, OUT
from mase.dataflow.stream import StreamType, Travel
from mase.dataflow.work import Count, Foldings, Lanes, Work, ceil_div, tile_lanes
from mase.errors import UnsupportedOp
from mase.formats import Code
from mase.graph import OpNode
from mase.ops.base import Arithmetic, travel

SPLIT, STATS, ROOT, NORMALISE = "split", "stats", "root", "normalise"


@dataclass(frozen=True)
class RowNormFoldings(Foldings):
    """The blocks before they are folded: all that they depend on but the lanes."""

    norm: NormSizes
    normaliser: Behind | None

    def lanes(self) -> tuple[Lanes, Lanes]:
        lanes = tile_lanes(self.norm.cols, self.norm.stats.x.block, self.norm.out_block)
        return lanes, lanes

    def cycles(self, simd: Count, pe: Count) -> Count:
        row = np.maximum(self._beats(pe), dwell(self.norm.roots.bits, self.unroll(pe)))
        return (
            self.norm.rows * row
            if self.normaliser is None
            else np.maximum(self.norm.rows * row, self.normaliser.cycles(pe))
        )

    def _beats(self, lanes: Count) -> Count:
        return ceil_div(self.norm.cols, lanes)

    def unroll(self, lanes: Count) -> Count:
        """Return the bits that a root works out in a cycle."""
        return unrolled(self.norm.roots.bits, self._beats(lanes))

    def fifos(self, simd: Count, pe: Count) -> Mapping[str, Count]:
        root, beats = self.unroll(pe), self._beats(pe)
        waits = beats + stats_latency(pe) + dwell(self.norm.roots.bits, root) + 3
        return {
            f"{SPLIT}.{A}": 0 * pe + LEAST_FIFO,
            f"{SPLIT}.{B}": waits,
            STATS: stats_fifo(self.norm.cols, pe),
            ROOT: 0 * pe + FIFO,
            "": 0 * pe + self.norm.latency + 2,
            NORMALISE: 0 * pe + (0 if self.normaliser is None else self.normaliser.fifo(1)),
        }

    def work(self, simd: Count, pe: Count, fifos: Mapping[str, Count]) -> Mapping[str, Work]:
        norm, stats = self.norm, self.norm.stats
        fork = ForkFoldings(norm.rows, norm.cols, stats.x.width, stats.x.block, stats.x.exp_bits)
        found = {
            SPLIT: fork.part(pe, {port: fifos[f"{SPLIT}.{port}"] for port in (A, B)}).work,
            STATS: stats_part(norm.rows, stats, pe, fifos[STATS]).work,
            ROOT: root_part(norm.rows, stats.grid.width, norm.roots, stats.sum_bits, self.unroll(pe), fifos[ROOT]).work,
            "": norm.part(pe, fifos[""]).work,
        }
        if self.normaliser is not None:
            found[NORMALISE] = self.normaliser.part(pe, fifos[NORMALISE]).work
        return found


@dataclass(frozen=True, eq=False)
class RowNormalise(Arithmetic):
    """y = norm(x) along the axis that travels fastest; the attributes are those of the kind ``norm``.

    Args:
        order: in which elements travel, on both sides. norm: all integers.
    """

    order: Travel
    norm: RowNorm

    @classmethod
    def of(cls, node: OpNode) -> Self:
        """Build for a norm along the last axis, whose input ``[batch, ..., cols]`` and result have formats.

        Raises:
            UnsupportedOp: another axis travels fastest, or a format or a sum has no exact hardware.
        """
        source, attrs, where = node.inputs[0], node.record.attrs, node.where()
        x_format, y_format = source.record.output.format, node.record.output.format
        assert x_format is not None and y_format is not None
        x, y = activation_grid(x_format, source.params(), where), produced_grid(y_format, node.params(), where)
        order, cols = travel(source), attrs["shape"][-1]
        if order.cols != cols or not Travel.of(source.record.output.shape[1:], -1).strides == order.strides:
            raise UnsupportedOp(
                f"{where}: the last axis is normalised, and another one travels fastest; allowed is that one: another "
                "consumer of the same tensor works along another axis"
            )
        tensors = {role: node.tensor(role).double().reshape(-1) for role in node.record.operands}
        gamma = tensors.get("weight", torch.ones(1)).double() + attrs.get("offset", 0.0) * ("weight" in tensors)
        beta = tensors.get("bias", torch.zeros(1)).double()
        constants = tuple(t.expand(cols).contiguous() for t in (gamma, beta))
        scales = [
            float(params.scale.double()) if grid.scaled and params.scale is not None else 1.0
            for grid, params in ((x, source.params()), (y, node.params()))
        ]
        norm = RowNorm.of(
            (order.rows, cols),
            x,
            y,
            (scales[0], scales[1]),
            (constants[0], constants[1]),
            torch.finfo(getattr(torch, node.record.output.dtype)).eps if attrs["eps"] is None else attrs["eps"],
            attrs["function"] == "layer",
            attrs.get("activation") == "relu",
            attrs.get("rounding", "even"),
            where,
        )
        return cls(order, norm)

    def reference(self, *inputs: Code) -> Code:
        rows = self.order.travelling(inputs[0], self.norm.stats.x.block)
        return self._held(self.norm.out.apply(self.norm.integers(rows)), inputs[0])

    def oracle(self, *inputs: Code) -> Code:
        code = self.order.travelling(inputs[0], self.norm.stats.x.block)
        rows = [self.norm.scalar(row) for row in rows_of(self.norm.stats.x, code)]
        mantissa = torch.tensor([m for m, _ in rows]).reshape(code.mantissa.shape)
        blocks = torch.tensor([e for _, e in rows]).reshape(*mantissa.shape[:2], -1) if rows[0][1] else None
        return self._held(Code(mantissa, blocks), inputs[0])

    def _held(self, y: Code, x: Code) -> Code:
        return self.order.held(y, x.mantissa.shape[1:], self.norm.out.grid.block)

    @property
    def foldings(self) -> RowNormFoldings:
        norm, normaliser = self.norm, None
        if norm.out.raw:
            normaliser = norm.out.normaliser(norm.rows, norm.cols, 1, norm.sum_width, 2).normaliser
        return RowNormFoldings(norm.sizes, normaliser)

    def circuit(self, simd: int, pe: int, fifos: Mapping[str, int]) -> Circuit:
        norm, stats = self.norm, self.norm.stats
        depths = {port: fifos.get(f"{SPLIT}.{port}", LEAST_FIFO) for port in (A, B)}
        first = RowStats(norm.rows, pe, stats, fifo=fifos.get(STATS, LEAST_FIFO))
        unroll = int(self.foldings.unroll(pe))
        root = Root(first.stream_out, norm.roots, stats.sum_bits, unroll, fifo=fifos.get(ROOT, LEAST_FIFO))
        blocks: dict[str, Block] = {
            SPLIT: Fork(StreamType(norm.rows, norm.cols, pe, stats.x), depths),
            STATS: first,
            ROOT: root,
            "": RowScale(norm, pe, fifo=fifos.get("", LEAST_FIFO)),
        }
        wires = [
            Wire(Pin(SPLIT, A), Pin(STATS, IN)),
            Wire(Pin(SPLIT, B), Pin("", X)),
            Wire(Pin(STATS, OUT), Pin(ROOT, IN)),
            Wire(Pin(ROOT, OUT), Pin("", R)),
        ]
        last = Pin("", OUT)
        if norm.out.raw:
            fifo = fifos.get(NORMALISE, LEAST_FIFO)
            blocks[NORMALISE] = norm.out.normaliser(norm.rows, norm.cols, pe, norm.sum_width, fifo)
            wires.append(Wire(last, Pin(NORMALISE, IN)))
            last = Pin(NORMALISE, OUT)
        return Circuit(blocks, tuple(wires), (Pin(SPLIT, IN),), (last,))

    def warnings(self) -> tuple[str, ...]:
        return self.norm.out.warnings
