"""One way in for every model: which door, which outputs, which axes are free, what is refused and where."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import mase
from mase.errors import ConfigError, GraphError
from mase.frontend import door, trace
from mase.frontend.modules import Lift
from mase.models.llama import llama
from mase.models.mixtral import mixtral
from passes.fuse import fuse
from tests.frontend.asserting import Asserting

IDS = torch.randint(0, 256, (2, 12), generator=torch.Generator().manual_seed(0))


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class Pair(nn.Module):
    """Takes two tensors and a constant, gives three results."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 4)

    def forward(self, x: Tensor, mask: Tensor | None = None, scale: float = 1.0) -> dict[str, Any]:
        hidden = self.fc(x if mask is None else x * mask) * scale
        return {"loss": None, "hidden": hidden, "logits": hidden.relu(), "cache": (x, [hidden.abs()])}


# -- arguments and results --------------------------------------------------------------------------------------------


def test_inputs_by_name_are_the_graphs_inputs_by_name() -> None:
    torch.manual_seed(0)
    model, x, mask = Pair().eval(), draw(2, 3), draw(2, 3, seed=1)
    graph = mase.trace(model, {"mask": mask, "x": x, "scale": 2.0})
    assert [node.path for node in graph.inputs] == ["mask", "x"]
    assert torch.equal(graph(x=x, mask=mask), model(x, mask, 2.0)["logits"])
    with pytest.raises(GraphError, match="input 'masks': the graph has no input of this name; did you mean mask"):
        graph(x=x, masks=mask)


def test_arguments_that_are_not_given_keep_their_default() -> None:
    torch.manual_seed(0)
    model, x = Pair().eval(), draw(2, 3)
    assert torch.equal(mase.trace(model, x)(x), model(x)["logits"])


@pytest.mark.parametrize(
    ("output", "names", "pick"),
    [
        (None, ["logits"], lambda r: [r["logits"]]),
        ("hidden", ["hidden"], lambda r: [r["hidden"]]),
        (("cache.1.0", "hidden"), ["cache.1.0", "hidden"], lambda r: [r["cache"][1][0], r["hidden"]]),
    ],
)
def test_the_wanted_results_are_the_graphs_outputs(
    output: Any, names: list[str], pick: Callable[[Any], list[Tensor]]
) -> None:
    torch.manual_seed(0)
    model, x = Pair().eval(), draw(2, 3)
    fields = mase.trace(model, (x,), output=output).fields(x)
    assert list(fields) == names
    assert all(torch.equal(a, b) for a, b in zip(fields.values(), pick(model(x)), strict=True))


class Three(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, int]:
        return x + 1, x * 2, 3


def test_of_a_tuple_the_place_is_the_name() -> None:
    x = draw(2, 3)
    assert torch.equal(mase.trace(Three().eval(), x, output=1)(x), x * 2)
    with pytest.raises(
        GraphError, match="returns more than one tensor: 0, 1, 2; choose with output=, such as output='0'"
    ):
        mase.trace(Three().eval(), x)
    with pytest.raises(GraphError, match="output '5': the model does not return it; allowed: 0, 1, 2"):
        mase.trace(Three().eval(), x, output=5)
    with pytest.raises(GraphError, match="output '2': is int; a tensor is needed"):
        mase.trace(Three().eval(), x, output=2)


# -- doors ------------------------------------------------------------------------------------------------------------


def test_transformers_models_and_what_holds_them_take_the_other_door() -> None:
    foreign = type("PreTrainedModel", (nn.Module,), {"__module__": "transformers.modeling_utils"})
    assert door(foreign()) == door(nn.Sequential(nn.Linear(1, 1), foreign())) == "export"
    alike = type("PreTrainedModel", (nn.Module,), {"__module__": "mine"})
    assert door(alike()) == door(nn.Sequential()) == "module"


def test_unknown_doors_and_axes_are_named() -> None:
    with pytest.raises(ConfigError, match="front: unknown name 'modul'; did you mean module"):
        mase.trace(nn.ReLU().eval(), draw(1), front="modul")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="dynamic 'length': unknown axis; allowed: batch, seq"):
        mase.trace(nn.ReLU().eval(), draw(1), dynamic=["length"])


# -- free axes --------------------------------------------------------------------------------------------------------


def test_the_sequence_is_free_on_demand() -> None:
    torch.manual_seed(0)
    model = llama().eval()
    fixed, free = mase.trace(model, IDS), mase.trace(model, IDS, dynamic={"batch", "seq"})
    shorter = IDS[:1, :7]
    assert torch.equal(free(shorter), model(shorter))
    assert [node.path for node in free.operators() if node.kind == "opaque"] == []
    with pytest.raises(GraphError, match=r"input 'ids': found \(1, 7\); allowed is \(batch, 12\)"):
        fixed(shorter)


class Fixed(nn.Module):
    """Accepts one batch size alone."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(draw(2, 3))

    def forward(self, x: Tensor) -> Tensor:
        return (x * self.weight).reshape(2, 3)


def test_a_batch_that_the_model_does_not_take_is_not_free() -> None:
    graph, _ = trace(Fixed().eval(), draw(2, 3))
    with pytest.raises(GraphError, match=r"input 'x': found \(4, 3\); allowed is \(2, 3\)"):
        graph(draw(4, 3))
    with pytest.raises(GraphError, match="Fixed: dynamic batch: fails on a second input: "):
        trace(Fixed().eval(), draw(2, 3), dynamic={"batch"})


def test_code_that_decides_by_the_batch_fixes_it() -> None:
    graph, report = trace(Asserting(True).eval(), draw(2, 3))
    (note,) = report.notes
    assert note.startswith("the batch is fixed: Asserting: cannot be traced: module 'the model itself' (asserting.py:")
    with pytest.raises(GraphError, match=r"found \(8, 3\); allowed is \(2, 3\)"):
        graph(draw(8, 3))
    with pytest.raises(GraphError, match="control flow depends on a size that is free"):
        trace(Asserting(True).eval(), draw(2, 3), dynamic="batch")


def test_assertions_on_the_batch_do_not_fix_it() -> None:
    graph, report = trace(Asserting(False).eval(), draw(2, 3))
    assert report.notes == ()
    assert torch.equal(graph(-draw(8, 3)), draw(8, 3).abs())


class Sizes(nn.Module):
    """Reads sizes as people do: some are numbers, the free ones stay in the graph."""

    def __init__(self) -> None:
        super().__init__()
        self.token, self.place = nn.Parameter(draw(1, 1, 4)), nn.Parameter(draw(1, 9, 4, seed=1))

    def forward(self, x: Tensor) -> Tensor:
        b, n, d = x.shape
        if d != 4 or x.dim() != 3:
            raise ValueError("wrong input")
        x = torch.cat((self.token.expand(b, -1, -1), x), dim=1) + self.place[:, : n + 1]
        heads = x.view(b, n + 1, 2, d // 2).transpose(1, 2)
        scores = heads @ heads.mT / math.sqrt(d // 2)
        mask = torch.ones(n + 1, n + 1, dtype=torch.bool).tril()
        scores = scores.masked_fill(~mask, -1e9).softmax(-1)
        mixed = (scores @ heads).transpose(1, 2).reshape(b, n + 1, d)
        return mixed[:, 0] + torch.zeros(b, d, dtype=x.dtype) + len(x.shape)


def test_sizes_that_are_fixed_are_numbers_for_the_models_code() -> None:
    model, x = Sizes().eval(), draw(2, 5, 4)
    graph, report = trace(model, x)
    assert report.worst == 0
    assert torch.equal(graph(draw(3, 5, 4)), model(draw(3, 5, 4)))
    assert set(report.opaque) == {"size", "masked_fill", "zeros"}


# -- identity of tensors ----------------------------------------------------------------------------------------------


def test_tracing_and_a_pass_copy_no_tensor() -> None:
    torch.manual_seed(0)
    model = mixtral(tied=True).eval()
    graph, _ = trace(model, IDS)
    held = {tensor.data_ptr() for tensor in [*model.parameters(), *model.buffers()]}
    for step in (graph, fuse(graph)[0], graph.replace(), graph.overlaid({})):
        used = [step.tensors[key] for node in step.nodes() for key in map(node.record.key, node.record.operands)]
        assert {tensor.data_ptr() for tensor in used} == held
        assert all(body.tensors is step.tensors for body in step.bodies.values())


def test_a_tied_weight_has_one_owner() -> None:
    torch.manual_seed(0)
    model = llama(tied=True).eval()
    graph, _ = trace(model, IDS)
    assert "head.weight" not in graph.tensors
    assert graph.node("head").record.key("weight") == graph.node("embedding").record.key("weight") == "embedding.weight"
    zero = graph.replace(tensors={"embedding.weight": torch.zeros_like(model.embedding.weight)})  # type: ignore[arg-type]
    assert not zero(IDS).any()


def test_every_parameter_is_reached() -> None:
    torch.manual_seed(0)
    for model in (llama(), mixtral()):
        graph, _ = trace(model.eval(), IDS)
        used = {key for node in graph.nodes() for key in map(node.record.key, node.record.operands)}
        assert {name for name, _ in model.named_parameters()} <= used
        linears = {name for name, m in model.named_modules() if type(m) is nn.Linear and "router" not in name}
        assert linears == {node.path for node in graph.operators() if node.kind == "linear"}


# -- outlined modules -------------------------------------------------------------------------------------------------


def test_a_mixture_of_experts_is_one_node_with_its_code_as_body(tmp_path: Any) -> None:
    torch.manual_seed(0)
    model = mixtral().eval()
    graph, report = trace(model, IDS)
    node = graph.node("blocks.0.feed")
    assert (node.kind, node.record.attrs["experts"], len(node.record.ports)) == ("moe", 4, 1)
    assert node.tensor("gate_up") is graph.tensors["blocks.0.feed.experts.gate_up"]
    body = graph.bodies[node.name]
    assert body.node("blocks.0.feed.router").kind == "linear"
    assert [n.kind for n in graph.operators() if n.kind == "opaque"] == []
    assert any(path.startswith("blocks.0.feed.") for path in report.opaque)
    assert torch.equal(graph(IDS[:1]), model(IDS[:1]))


class Gate(nn.Module):
    """Declares itself, but gives two results."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x.sigmoid(), x.tanh()

    def mase_outline(self) -> Lift:
        return Lift("moe")


class Gated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate = Gate()

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.gate(x)
        return a * b


def test_a_region_that_is_no_kind_is_refused_with_the_reason_and_traced_in_pieces() -> None:
    graph, report = trace(Gated().eval(), draw(2, 3))
    assert report.refused == {"gate": "it has 2 results; a kind has one tensor"}
    assert [node.path for node in graph.operators()] == ["gate.sigmoid", "gate.tanh", "mul"]


def test_rotary_embedding_is_one_node() -> None:
    torch.manual_seed(0)
    graph, _ = trace(llama(layers=1).eval(), IDS)
    (query, key) = (node for node in graph.operators() if node.kind == "rotary")
    assert (query.record.ports, query.record.attrs) == (("x", "cos", "sin"), {"head_size": 32})
    assert [source.path for source in query.inputs[1:]] == [source.path for source in key.inputs[1:]]


# -- refusals ---------------------------------------------------------------------------------------------------------


class Faulty(nn.Module):
    """Does what a graph cannot."""

    def __init__(self, fault: str) -> None:
        super().__init__()
        self.fault, self.fc = fault, nn.Linear(3, 3)
        self.register_buffer("count", torch.zeros(3))

    def forward(self, x: Tensor) -> Tensor:
        y = self.fc(x)
        if self.fault == "branch" and y.sum() > 0:
            return x
        if self.fault == "item":
            return y * y.max().item()
        if self.fault == "loop":
            return y * sum(range(int(y.abs().sum())))
        if self.fault == "assign":
            y[:, 0] = 0
        if self.fault == "buffer":
            self.count = self.count + y.mean(0)
        if self.fault == "buffer in place":
            self.count.add_(1)
        if self.fault == "view in place":
            first = y[:, 0]
            y.mul_(2)
            return y + first[:, None]
        if self.fault == "out":
            return torch.add(y, 1, out=y)
        return y


class Holder(nn.Module):
    def __init__(self, fault: str) -> None:
        super().__init__()
        self.inner = Faulty(fault)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)


@pytest.mark.parametrize(
    ("fault", "line", "why"),
    [
        ("branch", 'if self.fault == "branch"', r"data-dependent control flow: bool\(\) of a tensor that depends on"),
        ("item", "y.max().item()", "data-dependent control flow: item of a tensor that depends on the inputs"),
        ("loop", "sum(range(", r"data-dependent control flow: int\(\) of a tensor"),
        ("assign", "y[:, 0] = 0", "unsupported mutation: elements are assigned"),
        ("buffer", "", "unsupported mutation: forward changes 'inner.count'"),
        ("buffer in place", "self.count.add_", "unsupported mutation: forward changes 'inner.count'"),
        ("view in place", "y.mul_(2)", "unsupported mutation: a tensor that another one views is changed in place"),
        ("out", "out=y", "unsupported mutation: out= writes into a tensor"),
    ],
)
def test_what_a_graph_cannot_do_is_named_with_module_and_line(fault: str, line: str, why: str) -> None:
    import inspect

    lines, first = inspect.getsourcelines(Faulty)
    at = f" \\(test_trace.py:{first + next(i for i, text in enumerate(lines) if line in text)}\\)" if line else ""
    with pytest.raises(GraphError, match=f"Holder: cannot be traced: module 'inner'{at}: {why}"):
        trace(Holder(fault).eval(), draw(2, 3))


def test_a_refused_model_is_as_it_was() -> None:
    model = Holder("buffer").eval()
    with pytest.raises(GraphError):
        trace(model, draw(2, 3))
    assert type(model.inner.count) is Tensor
    assert torch.zeros(1).shape == (1,)  # PyTorch's functions are back


class Remembers(nn.Module):
    """Keeps its last attention for plots, which the result does not depend on."""

    def forward(self, x: Tensor) -> Tensor:
        self.last = x.softmax(-1)
        return self.last * x


def test_what_forward_keeps_for_itself_is_noted() -> None:
    model, x = Remembers().eval(), draw(2, 3)
    graph, report = trace(model, x)
    assert report.notes == ("last: is set by forward; the graph does not keep it",)
    assert type(model.last) is Tensor
    assert torch.equal(graph(x), model(x))


@pytest.mark.parametrize(
    ("inputs", "why"),
    [
        ((), "a tuple of tensors with a batch axis is needed"),
        ({"x": 3}, "a tuple of tensors with a batch axis is needed"),
        (3, "found int; allowed are tensors in a tuple or a dict"),
        ((draw(2, 3), draw(2, 3), 1.0, 2), "found 4; the model takes 3: x, mask, scale"),
        ({"y": draw(2, 3)}, "found 'y', which the model does not take|missing"),
        ((draw(2, 3), [draw(2)]), "example input 'mask': found list; allowed are tensors and plain constants"),
        ((draw(2, 5),), r"Pair \(.*\): fails on the example inputs: mat1 and mat2 shapes cannot be multiplied"),
    ],
)
def test_wrong_example_inputs_are_named(inputs: Any, why: str) -> None:
    with pytest.raises(GraphError, match=why):
        trace(Pair().eval(), inputs)


def test_the_report_is_data(tmp_path: Any) -> None:
    _, report = trace(Gated().eval(), draw(2, 3))
    assert json.loads(json.dumps(report.to_json()))["refused"] == dict(report.refused)


class Positions(nn.Module):
    """Embeds positions that its code makes, and fills a list for plots."""

    def __init__(self) -> None:
        super().__init__()
        self.token, self.place = nn.Embedding(9, 4), nn.Embedding(8, 4)
        self.seen: list[Tensor] = []

    def forward(self, ids: Tensor) -> Tensor:
        for _ in range(3):
            ids = ids + torch.ones(1, dtype=torch.int64) - torch.ones(1, dtype=torch.int64)  # short-lived constants
        x = self.token(ids) + self.place(torch.arange(ids.shape[1]))
        self.seen.append(x)
        return x


def test_parameters_on_constant_inputs_stay_in_the_graph() -> None:
    torch.manual_seed(0)
    model, ids = Positions().eval(), torch.randint(0, 9, (2, 5))
    graph, _ = trace(model, ids)
    assert [node.path for node in graph.operators() if node.kind == "embedding"] == ["token", "place"]
    assert graph.node("place").inputs[0].kind == "constant"
    assert "parameter" not in graph.node("place").inputs[0].record.attrs
    assert torch.equal(graph(ids[:1]), model(ids[:1]))


def test_lists_that_forward_fills_hold_no_traced_values_afterwards() -> None:
    model = Positions().eval()
    trace(model, torch.randint(0, 9, (2, 5)))
    assert all(type(x) is Tensor for x in model.seen)


class OwnNorm(nn.Module):
    """A root-mean-square norm as model files write it."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.weight, self.form = nn.Parameter(draw(8).abs()), form

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        square = wide.pow(2) if self.form == "pow" else wide * wide if self.form == "product" else wide.square()
        y = wide * torch.rsqrt(square.mean(-1, keepdim=True) + 1e-6)
        y = y if self.form != "first" else y / 2
        return y.to(x.dtype) * self.weight if self.form == "product" else self.weight * y.to(x.dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("form", ["pow", "product", "square"])
def test_a_norm_that_is_written_out_is_one_node(form: str, dtype: torch.dtype) -> None:
    model, x = nn.Sequential(OwnNorm(form), nn.Linear(8, 2)).to(dtype).eval(), draw(3, 8).to(dtype)
    graph, report = trace(model, x)
    assert [(node.path, node.kind) for node in graph.operators()] == [("0", "norm"), ("1", "linear")]
    assert graph.node("0").tensor("weight").data_ptr() == model[0].weight.data_ptr()  # type: ignore[union-attr]
    assert report.worst == 0


def test_what_only_resembles_a_norm_stays_in_pieces() -> None:
    graph, _ = trace(OwnNorm("first").eval(), draw(3, 8))
    assert "norm" not in {node.kind for node in graph.operators()}


class FromTheLeft(nn.Module):
    """PyTorch multiplies in another way where the matrix asks for a gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.matrix = nn.Parameter(draw(5, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.matrix @ x


def test_parameters_that_ask_for_a_gradient_do_not_disturb_the_comparison() -> None:
    model, x = FromTheLeft().eval(), draw(3, 4, 6)
    graph, report = trace(model, x)
    assert report.worst == 0
    assert model.matrix.requires_grad
    assert torch.equal(graph(x), model.matrix.detach() @ x)


def test_a_wrong_example_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(GraphError, match="Linear: fails on the example inputs: "):
        trace(nn.Linear(3, 2).eval(), draw(2, 3).long())
    assert capfd.readouterr() == ("", "")


class Masked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(draw(3))
        self.register_buffer("mask", torch.ones(3))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale + self.mask


def test_operands_that_are_no_parameters_say_so() -> None:
    graph, _ = trace(Masked().eval(), draw(2, 3))
    assert [node.record.attrs for node in graph.operators()] == [{}, {"parameter": False}]
