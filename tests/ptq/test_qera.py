"""Low-rank branches: closed forms against singular values by numpy, published results, order of the methods."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mase.calib.statistics import SUMS, Statistics
from mase.errors import ConfigError
from mase.formats import parse
from mase.formats.packed import PackedWeight
from passes.ptq.base import METHODS, Layer
from passes.ptq.l2qer import L2qer
from passes.ptq.lowrank import LowRank, correction
from passes.ptq.lqer import Lqer
from passes.ptq.qera import Qera
from passes.ptq.rtn import Rtn
from tests.ptq.fake import applied, as_block, layer

GOLDEN = Path(__file__).resolve().parent.parent / "golden" / "formats"
FLOAT = "e8m23ieee"
VARIANTS: dict[str, type[LowRank] | Any] = {"identity": Lqer, "lqer": L2qer}


def method(name: str, rank: int) -> LowRank:
    """Return our counterpart of a reference: its ``lqer`` is the activation-scaled one."""
    if name == "identity":
        return Lqer(rank, FLOAT)
    return L2qer(rank, FLOAT) if name == "lqer" else Qera(rank, FLOAT, variant=name)  # type: ignore[arg-type]


def golden(name: str) -> dict[str, np.ndarray[Any, Any]]:
    with np.load(GOLDEN / f"{name}.npz") as found:
        return dict(found)


def golden_layer(data: dict[str, np.ndarray[Any, Any]]) -> Layer:
    seen = Statistics()
    for batch in torch.from_numpy(data["X"]):
        seen.add(batch, SUMS)
    return Layer("layer0", torch.from_numpy(data["W"]), seen)


def exactly(dense: Tensor) -> PackedWeight:
    """Return float32 weights as packed weights."""
    return PackedWeight.of(dense, parse(FLOAT))


def corrected(step: LowRank, one: Layer, packed: PackedWeight) -> Tensor:
    block = as_block(one)
    block.write(one.path, packed)
    step.run(block)
    found = block.packed(one.path)
    assert found is not None
    assert torch.equal(found.dense(), packed.dense())
    return applied(found)


@pytest.mark.parametrize("shape", [(48, 64), (64, 48), (48, 48)])
@pytest.mark.parametrize("rank", [1, 4, 16])
def test_exact_error_is_the_tail_of_the_singular_values(shape: tuple[int, int], rank: int) -> None:
    one = layer(*shape)
    packed = Rtn("mxint3b16").layer(one)
    a, b = correction(one.weight - packed.dense(), one.seen.autocorrelation(), rank)
    left = (packed.dense().double() + b @ a - one.weight.double()).numpy()
    r = one.seen.autocorrelation().numpy()
    values, vectors = np.linalg.eigh(r)
    root = vectors * np.sqrt(values.clip(0)) @ vectors.T
    tail = (np.linalg.svd(root @ (one.weight - packed.dense()).double().numpy().T, compute_uv=False)[rank:] ** 2).sum()
    assert np.trace(left @ r @ left.T) == pytest.approx(tail, rel=1e-6)


@pytest.mark.parametrize("shape", [(20, 64), (64, 20)])
def test_all_ranks_leave_no_error_even_where_inputs_are_singular(shape: tuple[int, int]) -> None:
    one = layer(*shape, tokens=12)  # fewer tokens than features
    packed = Rtn("int2g16").layer(one)
    a, b = correction(one.weight - packed.dense(), one.seen.autocorrelation(), 64)
    assert b.shape == (shape[0], min(shape))
    assert one.output_error(packed.dense().double() + b @ a) < 1e-12 * one.output_error(packed.dense())


@pytest.mark.parametrize("name", ["lqer_qera_layer0", "lqer_qera_layer1"])
@pytest.mark.parametrize("reference", ["identity", "lqer", "approx", "exact"])
def test_published_errors_at_every_rank(name: str, reference: str) -> None:
    data = golden(name)
    one, checked = golden_layer(data), 0
    for key in [k for k in data if k.endswith(f"__{reference}__output_err")]:
        fmt = key.split("__")[0]
        packed = exactly(torch.from_numpy(data[f"{fmt}__Wq"]))
        for rank, expected in zip(data["ranks"].tolist(), data[key].tolist(), strict=True):
            found = corrected(method(reference, rank), one, packed) if rank else packed.dense()
            assert one.output_error(found) == pytest.approx(expected, rel=1e-4)
            checked += 1
    assert checked == 21


@pytest.mark.parametrize("name", ["lqer_qera_layer0", "lqer_qera_layer1"])
def test_published_products_and_scales(name: str) -> None:
    data = golden(name)
    one, checked = golden_layer(data), 0
    for key in [k for k in data if k.endswith("__AB_rank8") and not k.startswith("bfp")]:
        fmt, reference, _ = key.split("__")
        packed = exactly(torch.from_numpy(data[f"{fmt}__Wq"]))
        product = corrected(method(reference, 8), one, packed).numpy() - packed.dense().double().numpy()
        assert np.linalg.norm(product.T - data[key]) <= 1e-4 * np.linalg.norm(data[key])
        checked += 1
    assert checked >= 5
    metric = L2qer().metric(one)
    assert metric is not None
    assert np.allclose(metric.sqrt().numpy(), data["lqer_repo_scale"], rtol=1e-4)


@pytest.mark.parametrize("name", ["lqer_qera_layer0", "lqer_qera_layer1"])
def test_the_original_lqer_with_branches_in_float(name: str) -> None:
    data = golden(name)
    one, packed = golden_layer(data), exactly(torch.from_numpy(data["bfp4_1x16__Wq"]))
    for key, step in (("lqer_svd", Lqer), ("l2qer", L2qer)):
        for rank, expected in zip(
            data["ranks"].tolist(), data[f"bfp4__{key}__passthrough__output_err"].tolist(), strict=True
        ):
            found = corrected(step(rank, FLOAT), one, packed) if rank else packed.dense()
            assert one.output_error(found) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("fmt", ["mxint4_b32", "mxint2_b16"])
@pytest.mark.parametrize("variant", ["approx", "exact"])
def test_published_starts_of_fine_tuning(fmt: str, variant: str) -> None:
    data = golden("qpeft_init")
    one, packed = golden_layer(data), exactly(torch.from_numpy(data[f"{fmt}__Wq"]))
    product = corrected(method(variant, 8), one, packed).numpy() - packed.dense().double().numpy()
    expected = data[f"qera_{variant}__{fmt}__BA_rank8"]
    assert np.linalg.norm(product - expected) <= 1e-4 * np.linalg.norm(expected)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("shape", [(48, 64), (64, 48)])
def test_exact_beats_l2qer_beats_plain_singular_values(shape: tuple[int, int], seed: int) -> None:
    one = layer(*shape, seed=seed)
    packed = Rtn("mxint3").layer(one)
    exact, approx, l2qer, lqer = (
        one.output_error(corrected(step, one, packed))
        for step in (Qera(16, FLOAT), Qera(16, FLOAT, variant="approx"), L2qer(16, FLOAT), Lqer(16, FLOAT))
    )
    assert exact <= l2qer <= lqer
    assert exact <= approx


def test_branches_in_eight_bits_cost_little_and_are_counted() -> None:
    one = layer()
    block = as_block(one)
    packed = Rtn("int3g32a").layer(one)
    block.write(one.path, packed)
    Qera(8).run(block)
    found = block.packed(one.path)
    assert found is not None
    assert found.branch is not None
    assert one.output_error(applied(found)) < 1.02 * one.output_error(corrected(Qera(8, FLOAT), one, packed))
    assert found.stored_bits() == packed.stored_bits() + 8 * (64 * 8.25 + 48 * 8) + 48 * 8  # b: blocks of 8 of 32


def test_identity_is_lqer() -> None:
    one = layer()
    packed = Rtn("int3g32a").layer(one)
    assert torch.equal(corrected(Qera(4, variant="identity"), one, packed), corrected(Lqer(4), one, packed))


def test_only_what_a_variant_needs_is_collected() -> None:
    assert Lqer().calibrates is Qera(variant="identity").calibrates is False
    assert Qera().calibrates and Qera(variant="approx").calibrates and L2qer().calibrates
    assert (Qera().wanted, Qera(variant="approx").wanted) == (("gram",), ("squares",))


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Lqer(rank=0), "lqer.rank: found 0; allowed is a whole number from 1"),
        (lambda: Lqer(format="int"), "format 'int'"),
        (lambda: Qera(variant="exakt"), "qera.variant: found 'exakt'; did you mean exact"),  # type: ignore[arg-type]
        (lambda: Qera().run(as_block(layer())), "qera: mlp.up is not quantized; put a step such as rtn before"),
    ],
)
def test_bad_input_is_one_line(make: Any, text: str) -> None:
    with pytest.raises(ConfigError if "format" not in text else Exception, match=text):
        make()


def test_a_second_branch_is_refused() -> None:
    one = layer()
    block = as_block(one)
    Rtn().run(block)
    Lqer(4).run(block)
    with pytest.raises(ConfigError, match=r"lqer: mlp\.up has a low-rank branch already"):
        Lqer(4).run(block)


def test_they_are_registered() -> None:
    assert METHODS["lqer"] is Lqer
    assert METHODS["l2qer"] is L2qer
    assert METHODS["qera"] is Qera
