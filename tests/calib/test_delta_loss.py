"""DeltaLoss: the sum of gradients times errors, against a model in torch; what it is for, in a mixed model."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from mase.calib.allocate import Options, allocate
from mase.calib.delta_loss import delta_loss, next_token, rounded, stored_bits
from mase.errors import ConfigError
from mase.formats import parse
from mase.frontend.module import trace_module
from mase.graph import Graph
from mase.models.base import MODELS

SCHEMES = ("int2g16a", "int4g16a", "int8g16a")


class Two(nn.Module):
    """Embed, mix and score tokens: two matrices that are scored, of different weight for the loss."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(24, 32)
        self.mix = nn.Linear(32, 32, bias=False)
        self.head = nn.Linear(32, 24, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        logits: Tensor = self.head(torch.relu(self.mix(self.embed(ids))))
        return logits


def ids(seed: int = 0, vocab: int = 24) -> Tensor:
    return torch.randint(0, vocab, (3, 10), generator=torch.Generator().manual_seed(seed))


def traced() -> tuple[Two, Graph]:
    model = Two().eval()
    return model, trace_module(model, ids())[0]


def test_equal_to_autograd_on_the_model_itself() -> None:
    model, graph = traced()
    keys = ["mix.weight", "head.weight"]
    found = delta_loss(graph, [ids(0), ids(1)], keys, [parse(s) for s in SCHEMES])
    for number, text in enumerate(SCHEMES):
        fmt, expected = parse(text), dict.fromkeys(keys, 0.0)
        rounded = {key: fmt.quantize(model.get_parameter(key).detach()).requires_grad_() for key in keys}
        for batch in (ids(0), ids(1)):
            logits = torch.func.functional_call(model, rounded, (batch,))
            loss = functional.cross_entropy(logits[:, :-1].reshape(-1, 24), batch[:, 1:].reshape(-1))
            for key, g in zip(keys, torch.autograd.grad(loss, list(rounded.values())), strict=True):
                expected[key] += float((g * (model.get_parameter(key) - rounded[key])).abs().sum().detach())
        for key in keys:
            assert found[key][number] == pytest.approx(expected[key], rel=1e-5)


def test_the_graph_is_left_as_it_was() -> None:
    _, graph = traced()
    before = {key: tensor.clone() for key, tensor in graph.tensors.items()}
    delta_loss(graph, [ids()], ["head.weight"], [parse("int2g16a")])
    assert all(torch.equal(before[key], graph.tensors[key]) for key in before)
    assert all(tensor.grad is None for tensor in graph.tensors.values())


def test_fewer_bits_lose_more() -> None:
    _, graph = traced()
    for row in delta_loss(graph, [ids()], ["mix.weight", "head.weight"], [parse(s) for s in SCHEMES]).values():
        assert row[0] > row[1] > row[2] > 0


def test_experts_have_gradients_and_one_that_is_never_reached_counts_as_the_mean() -> None:
    torch.manual_seed(0)
    sizes = {"vocab": 24, "dim": 16, "layers": 1, "heads": 2, "kv_heads": 1, "hidden": 16, "length": 10}
    model = MODELS["mixtral"](**sizes, experts=4, top=1).eval()
    with torch.no_grad():
        model.get_parameter("blocks.0.feed.router.weight")[2:] = 0  # experts 2 and 3 never have the greatest score
        model.get_parameter("blocks.0.feed.router.weight")[0] = 1
        model.get_parameter("blocks.0.feed.router.weight")[1] = -1
    graph = trace_module(model, ids())[0]
    key = "blocks.0.feed.experts.down"
    (whole,) = delta_loss(graph, [ids()], [key], [parse("int2g16a")])[key]
    two = graph.tensors[key].clone()
    two[2:] = 0  # no error, so nothing is felt: these two are the experts that count as the mean of the others
    (reached,) = delta_loss(graph.replace(tensors={key: two}), [ids()], [key], [parse("int2g16a")])[key]
    assert whole > 0
    assert whole == pytest.approx(reached, rel=1e-6)


def test_an_expert_that_tokens_reach_and_that_loses_nothing_keeps_that() -> None:
    torch.manual_seed(0)
    sizes = {"vocab": 24, "dim": 16, "layers": 1, "heads": 2, "kv_heads": 1, "hidden": 16, "length": 10}
    graph = trace_module(MODELS["mixtral"](**sizes, experts=4, top=4).eval(), ids())[0]
    key, fmt = "blocks.0.feed.experts.down", parse("int4g16")
    exact = rounded(graph.tensors[key], fmt)
    assert torch.equal(rounded(exact, fmt), exact)
    for lossless in (0, 3):
        some = graph.tensors[key].clone()
        some[lossless] = exact[lossless]
        ones = [graph.replace(tensors={key: torch.where(_only(e), some, exact)}) for e in range(4) if e != lossless]
        # all experts are rounded at once in each, so gradients are equal and scores add up
        parts = [delta_loss(one, [ids()], [key], [fmt])[key][0] for one in ones]
        (whole,) = delta_loss(graph.replace(tensors={key: some}), [ids()], [key], [fmt])[key]
        assert all(part > 0 for part in parts)
        assert whole == pytest.approx(sum(parts), rel=1e-4)


def _only(expert: int) -> Tensor:
    return (torch.arange(4) == expert)[:, None, None]


def test_bits_are_those_that_are_stored() -> None:
    assert stored_bits((8, 128), parse("int4g128a_fp16")) == 8 * (128 * 4 + 16 + 4)
    assert stored_bits((3, 8, 128), parse("mxint4")) == 3 * 8 * 128 * 4.25


class Branches(nn.Module):
    """Add two mixtures to what is embedded, one of them weakly."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.embed, self.head = nn.Embedding(24, 32), nn.Linear(32, 24, bias=False)
        self.weak, self.strong = nn.Linear(32, 32, bias=False), nn.Linear(32, 32, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        logits: Tensor = self.head(x + 0.1 * self.weak(x) + self.strong(x))
        return logits


def test_the_layer_that_matters_gets_the_bits() -> None:
    graph = trace_module(Branches().eval(), ids())[0]
    keys, schemes = ["weak.weight", "strong.weight"], SCHEMES[:2]
    scores = delta_loss(graph, [ids(i) for i in range(4)], keys, [parse(s) for s in schemes])
    bits = tuple(stored_bits((32, 32), parse(s)) for s in schemes)
    found = allocate({key: Options(scores[key], bits) for key in keys}, sum(bits))
    assert found == {"weak.weight": 0, "strong.weight": 1}


def test_bad_input_is_one_line() -> None:
    _, graph = traced()
    with pytest.raises(ConfigError, match="needs calibration data"):
        delta_loss(graph, [], ["head.weight"], [parse("int4")])
    with pytest.raises(ConfigError, match=r"the graph has no tensor 'tail\.weight'"):
        delta_loss(graph, [ids()], ["tail.weight"], [parse("int4")])
    broken = graph.replace(tensors={"mix.weight": graph.tensors["mix.weight"] * 1e38})
    with pytest.raises(ConfigError, match="the loss under int4 is nan"):
        delta_loss(broken, [ids()], ["head.weight"], [parse("int4")], lambda y, x: next_token(y * torch.inf, x))


@pytest.mark.parametrize(
    ("text", "bits", "charged"),
    [("int4g128f_fp16", 4 + 16 / 128, 4.15625), ("int4g128a_fp16", 4 + 20 / 128, 4.15625), ("mxfp4", 4.25, 4.25)],
)
def test_bits_may_be_charged_as_autoscheme_does(text: str, bits: float, charged: float) -> None:
    found = [stored_bits((8, 256), parse(text), flag) / (8 * 256) for flag in (False, True)]
    assert found == [bits, charged]
