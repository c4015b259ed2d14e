"""MC-MoE: significance of experts against a model run, widths against every choice, weights with real offsets."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch.nn import functional

from mase.calib import experts
from mase.calib.cut import cut
from mase.errors import ConfigError
from mase.graph import Graph
from mase.ops.moe import MixtureOfExperts
from passes.ptq.base import METHODS
from passes.ptq.engine import OpenBlock, quantize, samples_of
from passes.ptq.mc_moe import McMoe, fitted, nearest
from passes.ptq.recipe import Plan
from tests.ptq.fake import layer, relative_error
from tests.ptq.models import graph, tokens


def moe() -> Graph:
    return graph("mixtral", experts=4, top=2, layers=2)


def opened(g: Graph) -> OpenBlock:
    """Return the first block with its samples."""
    made, samples = cut(g), samples_of(g, tokens())
    envs = [{**env, **made.parts[0].run(env)} for env in samples]
    return OpenBlock(made.blocks[0], envs, envs, ())


def test_routing_is_that_of_the_model() -> None:
    g = moe()
    block = opened(g)
    (node,) = experts.mixtures(block.graph)
    x = torch.cat(experts.inputs(block.graph, block.samples())[node.name])
    route = experts.Routing.of(node, x)
    shares = functional.softmax(x @ node.tensor("router").T, -1)
    often, much = [0.0] * 4, [0.0] * 4
    ratios = []
    for row in shares:
        first, second = row.topk(2)[1].tolist()
        ratios.append(float(row[second].detach() / row[first].detach()))
        for e in (first, second):
            often[e] += 1 / (2 * len(x))
            much[e] += float(row[e].detach())
    assert route.counts(4)[0] == pytest.approx(often)
    assert route.counts(4)[1] == pytest.approx([m / sum(much) for m in much], rel=1e-5)
    assert route.ratio() == pytest.approx(sorted(ratios)[(len(ratios) - 1) // 2], rel=1e-5)
    assert experts.thresholds(block.graph, block.samples()) == {node.path: pytest.approx(route.ratio())}


def test_errors_are_those_of_the_layer_with_one_expert_rounded() -> None:
    block = opened(moe())
    (node,) = experts.mixtures(block.graph)
    samples = experts.inputs(block.graph, block.samples())[node.name]
    found = experts.errors(node, samples, [lambda w: nearest(w, 1, 16), lambda w: nearest(w, 3, 16)])
    key = {role: node.record.key(role) for role in ("gate_up", "down")}

    def outputs(g: Graph) -> list[torch.Tensor]:
        one = g.node(node.name)
        operands = {role: one.tensor(role) for role in ("router", "gate_up", "down")}
        return [MixtureOfExperts.float(one.record, operands, x) for x in samples]

    plain = outputs(block.graph)
    for expert, bits in itertools.product(range(4), (1, 3)):
        tensors = {k: block.graph.tensors[k].detach().clone() for k in key.values()}
        for tensor in tensors.values():
            tensor[expert] = nearest(tensor[expert], bits, 16)
        changed = outputs(block.graph.replace(tensors=tensors))
        wanted = sum(float((a - b).detach().norm()) for a, b in zip(plain, changed, strict=True))
        assert found[expert][bits // 2] == pytest.approx(wanted, rel=1e-4)


@pytest.mark.filterwarnings("ignore:.*tokens for")  # few tokens: the figures do not matter here
def test_widths_keep_the_average_and_are_stored() -> None:
    g = moe()
    method = McMoe(2.0, others=4, group=16)
    built, report = quantize(g, Plan((method,)), tokens())
    for block in range(2):
        rows = [row for row in report.layers if row.path.startswith(f"blocks.{block}.feed.gate_up")]
        widths = [int(row.formats[0][3]) for row in rows]
        assert sum(widths) <= 8 and {2, 3} <= set(widths)
        assert all(row.formats == (f"int{w}g16r_fp16",) for row, w in zip(rows, widths, strict=True))
    others = [row for row in report.layers if "attention" in row.path]
    assert others and all(row.formats == ("int4g16r_fp16",) for row in others)
    assert bool(torch.isfinite(built(tokens(2))).all())


@pytest.mark.filterwarnings("ignore:.*tokens for")  # few tokens: the figures do not matter here
def test_more_bits_are_nearer_to_the_float_model() -> None:
    g, x = moe(), tokens(4, seed=5)
    built = [quantize(g, Plan((McMoe(bits, group=16),)), tokens())[0] for bits in (1.75, 2.75)]
    errors = [float((one(x) - g(x)).square().mean()) for one in built]
    assert errors[1] < errors[0]


def test_pruning_drops_the_second_expert_of_half_of_the_tokens() -> None:
    block = opened(moe())
    (node,) = experts.mixtures(block.graph)
    x = torch.cat(experts.inputs(block.graph, block.samples())[node.name])
    pruned = experts.pruned(block.graph, block.samples())
    one = pruned.node(node.name)
    assert node.name not in pruned.bodies
    route, cut_off = experts.Routing.of(node, x), one.record.attrs["prune"]
    few = route.shares[:, 1] < cut_off * route.shares[:, 0]
    assert 0.4 < float(few.float().mean()) < 0.6
    operands = {role: one.tensor(role) for role in ("router", "gate_up", "down")}
    y = MixtureOfExperts.float(one.record, operands, x)
    both = MixtureOfExperts.float(node.record, operands, x)
    assert torch.equal(y[~few], both[~few])
    for token in few.nonzero().flatten().tolist()[:5]:
        alone = experts.expert(node, x[token], *(operands[r][route.chosen[token, 0]] for r in experts.MATRICES))
        assert torch.allclose(y[token], alone, atol=1e-6)


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_layers_are_rounded_with_real_offsets(bits: int) -> None:
    one = layer(32, 96)
    found = McMoe(group=32).layer(one, bits)
    assert str(found.pieces[0].format) == f"int{bits}g32r_fp16"
    assert found.stored_bits() == found.elements * (bits + 32 / 32)
    assert relative_error(one, found.dense()) < relative_error(one, nearest(one.weight, bits, 32))


def test_one_bit_is_a_mean_magnitude() -> None:
    w = torch.tensor([[1.0, -3.0, 0.5, 3.5]])
    scale, offset = fitted(w, 1)
    assert (scale.tolist(), offset.tolist()) == ([4.0], [-2.0])
    assert nearest(w, 1, 4).tolist() == [[2.0, -2.0, 2.0, 2.0]]


def test_bad_input_is_one_line() -> None:
    with pytest.raises(ConfigError, match=r"mc_moe\.bits: found 4; allowed is a number from 1 to 3"):
        McMoe(4)
    with pytest.raises(ConfigError, match="allocation of experts: 4 bits for 4 experts are too few; the least is 7"):
        quantize(moe(), Plan((McMoe(1.0, group=16),)), tokens())
    assert METHODS["mc_moe"] is McMoe
