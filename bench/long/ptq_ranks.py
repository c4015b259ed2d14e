"""Low-rank corrections of one error on one set of inputs, layer by layer of a tiny Llama that is trained.

The models are those of `configs/study/tiny_llama.yaml`. Each layer is rounded to nearest and gets a branch of rank 16
in float32 by each method, from the same inputs: those that it sees behind the rounded blocks before. Figures count the
layers in which a method has no more output error on these inputs than another one, LQER being a plain SVD of the error.
QERA-exact must win in every layer; L2QER is a rule of thumb, so its losses are told and counted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from bench.common import Figure, main
from mase import studyconfig
from mase.data.base import Passage, load
from mase.formats import parse
from mase.formats.packed import PackedWeight
from mase.frontend import trace
from mase.models.base import build
from mase.paths import configs_dir
from mase.training import trained
from passes.ptq.base import Block, Method
from passes.ptq.engine import quantize
from passes.ptq.l2qer import L2qer
from passes.ptq.lqer import Lqer
from passes.ptq.qera import Qera
from passes.ptq.recipe import Plan

RANK, EXACT = 16, "e8m23ieee"
METHODS = {
    "exact": Qera(RANK, EXACT, "exact"),
    "approx": Qera(RANK, EXACT, "approx"),
    "l2qer": L2qer(RANK, EXACT),
    "lqer": Lqer(RANK, EXACT),
}
SLACK = 1e-5  # branches are rounded to float32


@dataclass(frozen=True)
class Compared(Method):
    """Round to nearest, and keep the output error that each correction would leave."""

    format: str
    needs: ClassVar[tuple[str, ...]] = ("gram", "mean_peak", "squares")
    seen: ClassVar[list[tuple[str, dict[str, float]]]] = []

    def run(self, block: Block) -> None:
        for layer in block.layers(self.needs):
            packed = PackedWeight.of(layer.weight, parse(self.format))
            dense, found = packed.dense(), {"none": layer.output_error(packed.dense())}
            for name, method in METHODS.items():
                a, b = method.branch(layer, packed)
                found[name] = layer.output_error(dense + b.dense() @ a.dense())
            self.seen.append((layer.path, found))
            block.write(layer.path, packed)


def measure() -> list[Figure]:
    """Walk the models of all seeds at 3 and at 2 bits."""
    torch.set_num_threads(1)
    config = studyconfig.load(configs_dir() / "study" / "tiny_llama.yaml")
    model = config.models["llama"]
    data = load(config.data.name, config.data.options)
    assert model.name is not None and model.train is not None and isinstance(data.train, Passage)
    name, options, train = model.name, model.options, model.train
    samples, length = config.calibration.samples, config.calibration.length
    Compared.seen.clear()
    for seed in config.seeds:
        module = trained(lambda: build(name, options), data, train, seed)
        rows = data.train.ids[: len(data.train.ids) // length * length].view(-1, length)
        order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))
        graph = trace(module, rows[:2])[0]
        for form in config.formats:
            quantize(graph, Plan((Compared(form),)), rows[order[:samples]])
    seen = [found for _, found in Compared.seen]

    def count(less: str, more: str) -> float:
        return sum(found[less] <= found[more] * (1 + SLACK) for found in seen)

    def mean(name: str) -> float:
        return sum(found[name] / found["none"] for found in seen) / len(seen)

    for path, found in Compared.seen:
        if not found["exact"] <= found["l2qer"] * (1 + SLACK) or not found["l2qer"] <= found["lqer"] * (1 + SLACK):
            print(f"{path}: " + ", ".join(f"{key} {value / found['none']:.4f}" for key, value in found.items()))
    return [
        Figure("ranks_layers", len(seen), ""),
        *(Figure(f"ranks_error_{key}", mean(key), "x rounding alone") for key in METHODS),
        *(
            Figure(f"ranks_exact_below_{key}", count("exact", key), "layers", at_least=len(seen))
            for key in ("approx", "l2qer", "lqer")
        ),
        Figure("ranks_l2qer_below_lqer", count("l2qer", "lqer"), "layers"),
        Figure("ranks_approx_below_lqer", count("approx", "lqer"), "layers"),
    ]


if __name__ == "__main__":
    main(__doc__, measure)
