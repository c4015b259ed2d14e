"""Methods of post-training quantization on layers with correlated inputs: output error and the bits that are stored.

Three drawn layers of 576 inputs, 384 outputs; 4096 tokens to calibrate on, 2048 others to measure on. Each method
stands beside the best of rounding to nearest, by rows or in any group size, that stores no more bits: a ratio below 1
says that the method is worth its bits. ``docs/ptq/layers.md`` has the table that is printed first.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.common import Figure, main
from mase.calib.statistics import SUMS, Statistics
from mase.formats.packed import PackedWeight
from passes.ptq.base import Layer, Quantizer
from passes.ptq.billm import BiLlm
from passes.ptq.db_llm import DbLlm
from passes.ptq.gptq import Gptq
from passes.ptq.l2qer import L2qer
from passes.ptq.lowrank import LowRank
from passes.ptq.lqer import Lqer
from passes.ptq.opt_rtn import OptRtn
from passes.ptq.pb_llm import PbLlm
from passes.ptq.qera import Qera
from passes.ptq.qlora import Qlora
from passes.ptq.quip import Quip
from passes.ptq.rtn import Rtn
from passes.ptq.slim_llm import SlimLlm

INPUTS, OUTPUTS, SEEDS = 576, 384, 3
CALIBRATION, HELD = 4096, 2048
SLACK = 0.02  # bits a weight that rounding to nearest may store more
NEAREST = [Rtn(f"int{bits}{per}a_fp16") for bits in (2, 3, 4) for per in ("c", "g128", "g64", "g32", "g16")]
METHODS: Mapping[str, tuple[Quantizer, LowRank | None]] = {
    "opt_rtn_2": (OptRtn("int2g128f_fp16"), None),
    "gptq_2": (Gptq("int2g128a_fp16"), None),
    "slim_llm_2": (SlimLlm(2), None),
    "quip_2": (Quip(2), None),
    "db_llm": (DbLlm(), None),
    "billm": (BiLlm(), None),
    "billm_paper": (BiLlm(compat="paper"), None),
    "pb_llm_10": (PbLlm(0.1), None),
    "opt_rtn_3": (OptRtn("int3g128f_fp16"), None),
    "gptq_3": (Gptq("int3g128a_fp16"), None),
    "slim_llm_3": (SlimLlm(3), None),
    "quip_3": (Quip(3), None),
    "rtn_3_lqer_16": (Rtn("int3g128a_fp16"), Lqer(16)),
    "rtn_3_l2qer_16": (Rtn("int3g128a_fp16"), L2qer(16)),
    "rtn_3_qera_16": (Rtn("int3g128a_fp16"), Qera(16)),
    "gptq_3_qera_16": (Gptq("int3g128a_fp16"), Qera(16)),
    "nfq4": (Qlora(rank=1), None),
}
NO_BAR = ("rtn_3_lqer_16", "billm", "pb_llm_10")  # docs/ptq/layers.md says why


@dataclass(frozen=True)
class Row:
    """What one method does, means over layers: relative output error on held tokens, bits a weight, seconds."""

    error: float
    stored: float
    paper: float
    seconds: float


def layer(seed: int) -> tuple[Layer, Tensor]:
    """Return a layer with all statistics, and held tokens: a decaying spectrum, features of very different size."""
    g = torch.Generator().manual_seed(seed)
    mix = torch.randn(INPUTS, INPUTS, generator=g) / INPUTS**0.5 * torch.logspace(0, -1.5, INPUTS)[:, None]
    size = torch.exp(torch.randn(INPUTS, generator=g) * 0.8) * 4
    x = torch.randn(CALIBRATION + HELD, INPUTS, generator=g) @ mix * size
    seen = Statistics()
    for sample in x[:CALIBRATION].split(256):
        seen.add(sample, SUMS)
    return Layer("layer", torch.randn(OUTPUTS, INPUTS, generator=g) * 0.05, seen), x[CALIBRATION:]


def row(method: Quantizer, residual: LowRank | None, layers: Sequence[tuple[Layer, Tensor]]) -> Row:
    """Run one method on all layers."""
    found = [_one(method, residual, *pair) for pair in layers]
    error, stored, paper, seconds = (sum(column) / len(found) for column in zip(*found, strict=True))
    return Row(error, stored, paper, seconds)


def _one(method: Quantizer, residual: LowRank | None, one: Layer, held: Tensor) -> tuple[float, float, float, float]:
    start = time.process_time()
    packed = method.layer(one)
    if residual is not None:
        packed = PackedWeight(packed.shape, packed.pieces, packed.map_bits, residual.branch(one, packed))
    seconds, dense = time.process_time() - start, packed.dense()
    if residual is not None and packed.branch is not None:
        dense = dense + packed.branch[1].dense() @ packed.branch[0].dense()
    wanted = held @ one.weight.T
    error = float((held @ dense.T - wanted).square().sum() / wanted.square().sum())
    return error, packed.stored_bits() / packed.elements, packed.paper_bits() / packed.elements, seconds


def table() -> dict[str, Row]:
    """Return the rows of all methods, rounding to nearest first."""
    layers = [layer(seed) for seed in range(SEEDS)]
    rows = {f"rtn {method.format}": row(method, None, layers) for method in NEAREST}
    return rows | {name: row(method, residual, layers) for name, (method, residual) in METHODS.items()}


def ratio(name: str, rows: Mapping[str, Row]) -> float:
    """Return a method's error over that of the best rounding to nearest that stores no more bits."""
    own = rows[name]
    rivals = [
        other.error for key, other in rows.items() if key.startswith("rtn ") and other.stored <= own.stored + SLACK
    ]
    return own.error / min(rivals)


def measure() -> list[Figure]:
    """Return the ratio of each method."""
    rows = table()
    print(text(rows))
    figures = [
        Figure(f"ptq_layers_{name}", ratio(name, rows), "x rtn", at_most=None if name in NO_BAR else 1.0)
        for name in METHODS
    ]
    plain, scaled, exact = (rows[f"rtn_3_{name}_16"].error for name in ("lqer", "l2qer", "qera"))
    return [
        *figures,
        Figure("ptq_layers_l2qer_over_lqer", scaled / plain, "", at_most=1.0),
        Figure("ptq_layers_qera_over_l2qer", exact / scaled, "", at_most=1.0),
    ]


def text(rows: Mapping[str, Row]) -> str:
    """Return the table in Markdown."""
    lines = ["| method | relative output error | stored bits | paper's bits | CPU s | x rtn |", "| --- " * 6 + "|"]
    for name, one in rows.items():
        own = "" if name.startswith("rtn ") else f"{ratio(name, rows):.2f}"
        lines.append(f"| `{name}` | {one.error:.4f} | {one.stored:.2f} | {one.paper:.2f} | {one.seconds:.2f} | {own} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main(__doc__, measure)
