"""QuIP: turns are orthogonal and follow from a seed, weights stand out no more, the file keeps what is computed."""

from __future__ import annotations

import pytest
import torch

from mase.calib.install import install
from mase.errors import ConfigError, FormatError
from mase.formats.packed_file import from_tensors, to_tensors
from mase.formats.turn import Turn, turned
from passes.ptq.base import METHODS
from passes.ptq.engine import quantize
from passes.ptq.quip import Quip
from passes.ptq.recipe import Plan
from passes.ptq.rtn import Rtn
from tests.ptq.fake import check_laws, layer, relative_error
from tests.ptq.models import graph, tokens


@pytest.mark.parametrize("size", [1, 7, 12, 64, 90])
def test_turns_are_orthogonal_and_seeded(size: int) -> None:
    eye = torch.eye(size, dtype=torch.float64)
    matrix = turned(eye, 3)
    assert torch.allclose(matrix @ matrix.T, eye, atol=1e-12)
    assert torch.allclose(turned(matrix, 3, back=True), eye, atol=1e-12)
    x = torch.randn(5, size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(turned(x, 3), x @ turned(eye, 3), atol=1e-12)
    assert torch.equal(turned(x, 3), turned(x, 3))
    assert size < 12 or not torch.allclose(turned(x, 3), turned(x, 4))


def test_errors_weigh_as_much_as_before() -> None:
    one = layer(24, 36)
    turn = Turn(5, torch.linspace(0.5, 2, 36).half().double())
    error = torch.randn(24, 36, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    gram = one.seen.autocorrelation()
    assert torch.allclose(turn.back(turn.forth(error)), error, rtol=2.0**-12, atol=0)
    stored = turn.forth(error)
    assert float(((stored @ turn.metric(gram)) * stored).sum()) == pytest.approx(float(((error @ gram) * error).sum()))


def test_no_weight_stands_out_any_more() -> None:
    one = layer(48, 64)
    one.weight[3, 5] = 4.0
    turned_weight = Turn(1, torch.ones(64, dtype=torch.float64)).forth(one.weight)

    def peak(w: torch.Tensor) -> float:
        return float(w.abs().max() / w.double().square().mean().sqrt())

    assert peak(turned_weight) < 0.4 * peak(one.weight)


@pytest.mark.parametrize("bits", [2, 3])
def test_laws_bits_and_error(bits: int) -> None:
    one = layer(64, 256)
    found = check_laws(Quip(bits), one)
    assert found.stored_bits() == found.elements * bits + 2 * 32 + 32 + 16 * 256
    assert relative_error(one, found.dense()) < 0.5 * relative_error(
        one, Rtn(f"int{bits}g128a_fp16").layer(one).dense()
    )


def test_outliers_do_less_harm_than_without_turning() -> None:
    one = layer(64, 256)
    one.weight[::9, ::17] *= 20
    assert relative_error(one, Quip(3).layer(one).dense()) < 0.2 * relative_error(one, Rtn("int3c").layer(one).dense())


def test_a_graph_computes_with_it() -> None:
    g = graph()
    built, report = quantize(g, Plan((Quip(3),)), tokens())
    for path, weight in report.packed.items():
        assert torch.equal(built.node(path).tensor("weight"), weight.dense())
        assert built.node(path).record.operands["weight"].format is None or "packed" in str(
            built.node(path).record.operands["weight"].format
        )
    assert torch.equal(built(tokens(2)), install(g, report.packed, formats=False)(tokens(2)))


@pytest.mark.parametrize(("outputs", "features"), [(5, 7), (1, 20), (3, 1)])
def test_odd_sizes_and_unused_features(outputs: int, features: int) -> None:
    one = layer(outputs, features)
    assert one.seen.gram is not None
    one.seen.gram[0] = 0
    one.seen.gram[:, 0] = 0
    check_laws(Quip(), one)


def test_bad_input_is_one_line() -> None:
    with pytest.raises(ConfigError, match=r"quip\.bits: found 0; allowed is a whole number from 1 to 8"):
        Quip(0)
    tensors, told = to_tensors(Quip().layer(layer()))
    with pytest.raises(FormatError, match=r"turn: the seed is -1; allowed is 0\.\.4294967295"):
        from_tensors(tensors, {**told, "turn": -1})
    assert METHODS["quip"] is Quip
