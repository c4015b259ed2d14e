"""Fine-tuning of branches: where it starts, published starts, what it reaches on a block and on a model."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from mase import interpreter
from mase.calib.delta_loss import next_token
from mase.calib.install import install
from mase.errors import ConfigError
from mase.formats import parse
from passes.ptq.base import METHODS
from passes.ptq.engine import quantize
from passes.ptq.ir_qlora import IrQlora
from passes.ptq.qera import Qera
from passes.ptq.qlora import Qlora
from passes.ptq.qpeft import Qpeft, _Branch, finetune, merged
from passes.ptq.recipe import Plan
from passes.ptq.rtn import Rtn
from tests.ptq.blocks import OneBlock, llama_block
from tests.ptq.fake import applied, layer
from tests.ptq.models import graph, tokens
from tests.ptq.test_qera import golden, golden_layer


@pytest.mark.parametrize("fmt", ["mxint4", "mxint2b16"])
@pytest.mark.parametrize("rounds", [1, 5])
def test_published_starts_of_loftq(fmt: str, rounds: int) -> None:
    data, name = golden("qpeft_init"), fmt if "b" in fmt else f"{fmt}b32"
    key = f"loftq_it{rounds}__{name.replace('b', '_b')}__"
    one = golden_layer(data)
    found = Qlora(fmt, 8, "e8m23ieee", "loftq", rounds).layer(one)
    wanted = torch.from_numpy(data[f"{key}BA_rank8"])
    assert (found.dense() - torch.from_numpy(data[f"{key}Wq"])).norm() <= 1e-4 * one.weight.norm()
    assert (applied(found).float() - found.dense() - wanted).norm() <= 1e-3 * wanted.norm()


def test_zero_leaves_the_layer_as_it_was_rounded_and_is_drawn_by_seed() -> None:
    one = layer()
    found = Qlora(rank=8).layer(one)
    assert torch.equal(applied(found).float(), parse("nfq4").quantize(one.weight))
    again, other = Qlora(rank=8).layer(one), Qlora(rank=8, seed=1).layer(one)
    assert found.branch and again.branch and other.branch
    assert torch.equal(found.branch[0].dense(), again.branch[0].dense())
    assert not torch.equal(found.branch[0].dense(), other.branch[0].dense())


def test_better_starts_have_less_output_error() -> None:
    one = layer()
    errors = {
        start: one.output_error(applied(Qlora("nfq2", 16, start=start).layer(one)))  # type: ignore[arg-type]
        for start in ("zero", "lqer", "l2qer", "qera")
    }
    assert errors["qera"] < errors["l2qer"] < errors["lqer"] < errors["zero"]


def test_shifted_blocks_and_bits() -> None:
    one = layer(64, 256)
    plain, shifted = Qlora(rank=1).layer(one), IrQlora(rank=1).layer(one)
    bits = [found.stored_bits() - 16 * (64 + 256) for found in (plain, shifted)]
    assert bits == [64 * 256 * (4 + 8 / 64) + 32, 64 * 256 * (4 + 16 / 64) + 32]
    assert not torch.equal(plain.dense(), shifted.dense())


def test_a_block_comes_nearer_to_the_float_one() -> None:
    block = llama_block()

    def error(one: OneBlock) -> float:
        return replace(one, done={path: merged(w, "e8m23ieee") for path, w in one.done.items()}).error()

    Rtn("int2g16a").run(block)
    Qera(4, "e8m23ieee").run(block)
    before, weights = error(block), {path: w.dense() for path, w in block.done.items()}
    Qpeft(steps=40, rate=2e-3, batch=4).run(block)
    assert error(block) < 0.8 * before
    assert all(torch.equal(w.dense(), weights[path]) for path, w in block.done.items())


def test_a_language_model_learns_through_branches_alone() -> None:
    g, batch = graph(), tokens(6)
    _, report = quantize(g, Plan((Qlora("nfq2b32", 4, "e8m23ieee", "qera"),)), batch)
    start = float(next_token(install(g, report.packed)(batch), (batch,)))
    trained = finetune(g, report.packed, [batch], steps=30, rate=5e-3)
    built = install(g, trained)
    assert float(next_token(built(batch), (batch,))) < 0.8 * start
    for path, weight in trained.items():
        assert torch.equal(weight.dense(), report.packed[path].dense())
    again = finetune(g, report.packed, [batch], steps=30, rate=5e-3)
    assert all(torch.equal(applied(again[path]), applied(trained[path])) for path in trained)


def test_packed_weights_belong_to_the_folded_graph() -> None:
    g, batch = graph(), tokens(6)
    built, report = quantize(g, Plan.of(["smoothquant", {"qlora": {"rank": 4, "start": "qera"}}]), batch)
    folded = g.replace(tensors=report.folded)
    assert "blocks.0.norm1.weight" in report.folded and torch.allclose(folded(batch), g(batch), atol=1e-4)
    assert torch.equal(install(folded, report.packed)(batch), built(batch))
    start = float(next_token(built(batch), (batch,)))
    trained = finetune(folded, report.packed, [batch], steps=10, rate=2e-3)
    assert float(next_token(install(folded, trained)(batch), (batch,))) < start


def test_fine_tuning_runs_on_the_experts_as_they_are_packed() -> None:
    g, batch, losses = graph("mixtral"), tokens(2), list[float]()
    plan = Plan.of(
        [{"rtn": {"format": "int2g16a"}}], {"*.attention.*": [{"qlora": {"rank": 4, "branch": "e8m23ieee"}}]}
    )
    built, report = quantize(g, plan, batch)

    def loss(logits: Tensor, inputs: tuple[Tensor, ...]) -> Tensor:
        value = next_token(logits, inputs)
        losses.append(float(value.detach()))
        return value

    finetune(g, report.packed, [batch], 1, loss=loss)
    assert losses == [pytest.approx(float(next_token(built(batch), (batch,))), rel=1e-5)]


def test_a_branch_is_merged_into_a_format() -> None:
    found = Qlora(rank=8, start="qera").layer(layer())
    one = merged(found, "int8c")
    assert one.branch is None
    assert float((one.dense() - applied(found)).norm() / applied(found).norm()) < 0.01
    assert merged(one, "int2") is one


def with_branches(block: OneBlock) -> float:
    """Return the error of a block whose layers multiply with weights and branches."""
    keys = {block.graph.node(path).record.key("weight"): applied(w).float() for path, w in block.done.items()}
    graph = block.graph.replace(tensors=keys)
    pairs = zip(block.given, block.wanted, strict=True)
    return float(torch.stack([(interpreter.train(graph, x) - y).square().mean() for x, y in pairs]).mean())


def test_shortcuts_are_pooled_means_and_copies_that_end_in_the_branch() -> None:
    draw = torch.Generator().manual_seed(0)
    a, b, x = (torch.randn(shape, generator=draw) for shape in ((4, 12), (8, 4), (5, 12)))
    part = _Branch(a.clone(), b.clone(), elastic=True)
    assert torch.equal(part.product(), b @ a) and len(part.leaves) == 4
    with torch.no_grad():
        part.leaves[2].fill_(0.5)
        part.leaves[3].fill_(-2.0)
    middle = x @ a.T + 0.5 * x.reshape(5, 4, 3).mean(-1)
    y = middle @ b.T - 2.0 * middle.repeat_interleave(2, -1)
    assert torch.allclose(x @ part.product().T, y, atol=1e-5)
    assert _Branch(torch.zeros(3, 7), torch.zeros(5, 3), elastic=True).means.sum(1).tolist() == pytest.approx([1, 1, 1])


def test_training_with_shortcuts_moves_them_and_lowers_the_error() -> None:
    found = {}
    for elastic in (False, True):
        block = llama_block()
        IrQlora("nfq2b32", rank=4).run(block)
        before = with_branches(block)
        Qpeft(steps=30, rate=1e-2, elastic=elastic).run(block)
        found[elastic] = with_branches(block)
        assert found[elastic] < 0.9 * before
    assert found[True] != found[False]


def test_bad_input_is_one_line() -> None:
    with pytest.raises(ConfigError, match=r"ir_qlora\.start: found 'zeros'; did you mean zero"):
        IrQlora(start="zeros")  # type: ignore[arg-type]
    block = llama_block()
    Rtn().run(block)
    with pytest.raises(ConfigError, match=r"qpeft: block blocks\.0: no layer has a low-rank branch; put a step"):
        Qpeft().run(block)
    with pytest.raises(ConfigError, match="finetune: needs training data"):
        finetune(graph(), {}, [], 1)
    Qlora(rank=2).run(block)
    block.wanted = [y * torch.nan for y in block.wanted]
    with pytest.raises(ConfigError, match=r"qpeft: block blocks\.0: the loss is (nan|inf) at step"):
        Qpeft(steps=5).run(block)
    assert (METHODS["qlora"], METHODS["ir_qlora"], METHODS["qpeft"]) == (Qlora, IrQlora, Qpeft)
