"""Tracing plain modules: typed nodes, checks against the model, hostile names, clear refusals."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mase.errors import GraphError
from mase.frontend.module import trace_module
from mase.frontend.modules import MODULES
from mase.ops.layout import Layout

X = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class Block(nn.Module):
    """A module of the user's own, which is traced through."""

    def __init__(self, fails: str = "") -> None:
        super().__init__()
        self.fc, self.fails = nn.Linear(3, 3, bias=False), fails

    def forward(self, x: Tensor, unused: Tensor | None = None) -> Tensor:
        if self.fails == "branch" and x.sum() > 0:
            return x
        y = torch.relu(self.fc(x)).reshape(-1, 3, 1)
        return y.flatten(1) * 2


class Two(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x + y


def test_known_modules_and_functions_become_typed_nodes() -> None:
    model = Block().eval()
    graph, report = trace_module(model, (X,))
    assert [node.kind for node in graph.operators()] == ["linear", "activation", "layout", "layout", "mul"]
    assert report.lifted == ("fc", "relu", "reshape", "flatten", "mul")
    assert report.opaque == {}
    assert "5 typed nodes, 0 refused, 0 opaque; equal to the model bit for bit" in str(report)
    assert torch.equal(graph(X), model(X))


class Idioms(nn.Module):
    """Reshapes as people write them."""

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(x).view(x.size(0), 3, 1)
        x = x.reshape(x.shape[0], -1)
        return torch.flatten(x.view((-1, 1, 3)), 1)


def test_reshapes_to_the_sizes_of_a_tensor_are_layouts() -> None:
    model = Idioms().eval()
    graph, report = trace_module(model, (X,))
    assert [node.kind for node in graph.operators()] == ["activation", "layout", "layout", "layout", "layout"]
    assert report.opaque == {}
    assert [node.record.output.shape for node in graph.operators()][1:] == [(4, 3, 1), (4, 3), (4, 1, 3), (4, 3)]
    assert torch.equal(graph(X[:2]), model(X[:2]))


def test_every_record_says_what_its_node_produces() -> None:
    graph, _ = trace_module(Block().eval(), (X,))
    shapes = {node.path: node.record.output.shape for node in graph.nodes()}
    assert shapes == {
        "x": (4, 3),
        "fc": (4, 3),
        "relu": (4, 3),
        "reshape": (4, 3, 1),
        "flatten": (4, 3),
        "mul": (4, 3),
        "output": (4, 3),
    }


def test_a_reshape_that_moves_the_batch_is_a_layout_without_hardware() -> None:
    class Batch(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.reshape(-1)

    graph, _ = trace_module(Batch().eval(), (X,))
    assert graph.node("reshape").record.attrs == {"function": "view", "shape": [-1]}
    assert not Layout.builds(graph.node("reshape").record)
    assert torch.equal(graph(X[:3]), X[:3].reshape(-1))


def test_source_lines_are_the_users() -> None:
    graph, _ = trace_module(Block().eval(), (X,))
    line = Block.forward.__code__.co_firstlineno + 3
    assert graph.node("fc").record.source == f"test_module.py:{line}"
    assert graph.node("fc").where() == f"node 'fc' (linear, test_module.py:{line})"


def test_weights_are_shared_with_the_model() -> None:
    model = Block().eval()
    graph, _ = trace_module(model, (X,))
    assert graph.tensors["fc.weight"].data_ptr() == model.fc.weight.data_ptr()


@pytest.mark.parametrize(
    "name", ['a"b', "line\nbreak", '"); print("x") #', "größe", "a b", "lambda", "x" * 300, "\\", "{0}"]
)
def test_a_module_may_have_any_name(name: str) -> None:
    model = nn.Sequential()
    model.add_module(name, nn.Linear(3, 2))
    model.add_module(f"{name}?", nn.Softmin(1))  # stays opaque
    graph, _ = trace_module(model.eval(), (X,))
    assert [node.path for node in graph.operators()] == [name, f"{name}?"]
    assert torch.equal(graph.replace()(X), model(X))


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.fc(x), x


class Wrong(nn.Module):
    """Computes something else the second time."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.calls = nn.Linear(3, 3), 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.fc(x) * self.calls


def _nan() -> nn.Module:
    model = nn.Linear(3, 2)
    with torch.no_grad():
        model.weight[0, 0] = torch.nan
    return nn.Sequential(model)


@pytest.mark.parametrize(
    ("model", "inputs", "why"),
    [
        (nn.Sequential(nn.Linear(3, 2), nn.Dropout()).train(), (X,), "in training mode; call model.eval"),
        (_nan().eval(), (X,), "parameter '0.weight': holds NaN or infinity"),
        (Block("branch").eval(), (X,), "Block: cannot be traced: .*control flow"),
        (Block().eval(), (torch.randn(4, 5),), r"Block \(test_module.py:[0-9]+: .*\): fails on the example inputs"),
        (Block().eval(), (), "a tuple of tensors with a batch axis is needed"),
        (Block().eval(), (torch.tensor(1.0),), "a tuple of tensors with a batch axis is needed"),
        (Two().eval(), (X,), "found 1; the model takes 2 .'y' is missing"),
        (Twice().eval(), (X,), "returns more than one tensor"),
        (Wrong().eval(), (X,), "Wrong: the traced graph differs from the model on the example"),
    ],
)
def test_refused_with_reason(model: nn.Module, inputs: tuple[Tensor, ...], why: str) -> None:
    with pytest.raises(GraphError, match=why):
        trace_module(model, inputs)


# -- every module of the table ----------------------------------------------------------------------------------------

LINE, IMAGE, VOLUME = (2, 4, 8), (2, 4, 8, 8), (2, 4, 4, 4, 4)
MADE: dict[type[nn.Module], tuple[nn.Module, tuple[int, ...]]] = {
    nn.Linear: (nn.Linear(8, 3, bias=False), LINE),
    nn.Conv1d: (nn.Conv1d(4, 6, 3, padding="same", padding_mode="replicate"), LINE),
    nn.Conv2d: (nn.Conv2d(4, 4, 3, 2, 1, groups=4), IMAGE),
    nn.Conv3d: (nn.Conv3d(4, 2, 2, dilation=2), VOLUME),
    nn.ConvTranspose1d: (nn.ConvTranspose1d(4, 6, 3, 2, output_padding=1), LINE),
    nn.ConvTranspose2d: (nn.ConvTranspose2d(4, 6, 3, 2, 1), IMAGE),
    nn.ConvTranspose3d: (nn.ConvTranspose3d(4, 2, 2), VOLUME),
    nn.BatchNorm1d: (nn.BatchNorm1d(4), LINE),
    nn.BatchNorm2d: (nn.BatchNorm2d(4, affine=False), IMAGE),
    nn.BatchNorm3d: (nn.BatchNorm3d(4), VOLUME),
    nn.LayerNorm: (nn.LayerNorm((4, 8), bias=False), LINE),
    nn.RMSNorm: (nn.RMSNorm(8), LINE),
    nn.GroupNorm: (nn.GroupNorm(2, 4), IMAGE),
    nn.ReLU: (nn.ReLU(inplace=True), LINE),
    nn.ReLU6: (nn.ReLU6(), LINE),
    nn.LeakyReLU: (nn.LeakyReLU(0.3), LINE),
    nn.PReLU: (nn.PReLU(4), LINE),
    nn.ELU: (nn.ELU(0.7), LINE),
    nn.CELU: (nn.CELU(0.7), LINE),
    nn.SELU: (nn.SELU(), LINE),
    nn.GELU: (nn.GELU("tanh"), LINE),
    nn.SiLU: (nn.SiLU(), LINE),
    nn.Mish: (nn.Mish(), LINE),
    nn.Sigmoid: (nn.Sigmoid(), LINE),
    nn.LogSigmoid: (nn.LogSigmoid(), LINE),
    nn.Tanh: (nn.Tanh(), LINE),
    nn.Softplus: (nn.Softplus(2.0, 5.0), LINE),
    nn.Softsign: (nn.Softsign(), LINE),
    nn.Hardsigmoid: (nn.Hardsigmoid(), LINE),
    nn.Hardswish: (nn.Hardswish(), LINE),
    nn.Hardtanh: (nn.Hardtanh(-0.5, 0.7), LINE),
    nn.Softmax: (nn.Softmax(1), LINE),
    nn.LogSoftmax: (nn.LogSoftmax(-1), LINE),
    nn.Embedding: (nn.Embedding(10, 3, padding_idx=2), (2, 5)),
    nn.MaxPool1d: (nn.MaxPool1d(3, 2, 1), LINE),
    nn.MaxPool2d: (nn.MaxPool2d((3, 2), ceil_mode=True, dilation=2), IMAGE),
    nn.MaxPool3d: (nn.MaxPool3d(2), VOLUME),
    nn.AvgPool1d: (nn.AvgPool1d(3, 2, 1, count_include_pad=False), LINE),
    nn.AvgPool2d: (nn.AvgPool2d((3, 2), padding=(1, 0)), IMAGE),
    nn.AvgPool3d: (nn.AvgPool3d(2, 1), VOLUME),
    nn.AdaptiveMaxPool1d: (nn.AdaptiveMaxPool1d(3), LINE),
    nn.AdaptiveMaxPool2d: (nn.AdaptiveMaxPool2d((None, 3)), IMAGE),
    nn.AdaptiveMaxPool3d: (nn.AdaptiveMaxPool3d(2), VOLUME),
    nn.AdaptiveAvgPool1d: (nn.AdaptiveAvgPool1d(3), LINE),
    nn.AdaptiveAvgPool2d: (nn.AdaptiveAvgPool2d(1), IMAGE),
    nn.AdaptiveAvgPool3d: (nn.AdaptiveAvgPool3d((2, 1, 3)), VOLUME),
    nn.Flatten: (nn.Flatten(0, 1), IMAGE),
    nn.Unflatten: (nn.Unflatten(1, (2, 2)), LINE),
    nn.ConstantPad1d: (nn.ConstantPad1d((1, 2), 0.5), LINE),
    nn.ConstantPad2d: (nn.ConstantPad2d(1, 0.5), IMAGE),
    nn.ZeroPad1d: (nn.ZeroPad1d(1), LINE),
    nn.ZeroPad2d: (nn.ZeroPad2d((1, 0, 2, 0)), IMAGE),
    nn.PixelShuffle: (nn.PixelShuffle(2), IMAGE),
    nn.PixelUnshuffle: (nn.PixelUnshuffle(2), IMAGE),
    nn.Upsample: (nn.Upsample(scale_factor=2), IMAGE),
}


def settled(m: nn.Module) -> nn.Module:
    """Give parameters and statistics values that matter."""
    for i, tensor in enumerate([*m.parameters(), *m.buffers()]):
        if tensor.is_floating_point():
            tensor.data = draw(*tensor.shape, seed=i).abs() + 0.5
    return m.eval()


@pytest.mark.parametrize("cls", MODULES, ids=lambda cls: cls.__name__)
def test_every_module_of_the_table_becomes_its_kind_and_any_batch_is_equal(cls: type[nn.Module]) -> None:
    m, shape = MADE[cls]
    x = torch.arange(10).reshape(shape) if cls is nn.Embedding else draw(*shape)
    model = nn.Sequential(nn.Identity(), settled(m), nn.Dropout())
    graph, report = trace_module(model.eval(), x)
    assert (report.opaque, report.worst) == ({}, 0)
    assert [node.path for node in graph.operators()] == ["1"]
    assert torch.equal(graph(x[:1]), model(x[:1].clone()))


@pytest.mark.parametrize(
    "m",
    [
        nn.MaxPool2d(2, return_indices=True),
        nn.AvgPool2d(2, divisor_override=3),
        nn.AdaptiveMaxPool2d(2, return_indices=True),
        nn.BatchNorm2d(4, track_running_stats=False),
        nn.Upsample(scale_factor=2, mode="bilinear"),
        nn.Softmin(1),
    ],
    ids=str,
)
def test_what_a_kind_does_not_cover_stays_opaque(m: nn.Module) -> None:
    class First(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.m = m

        def forward(self, x: Tensor) -> Tensor:
            y = self.m(x)
            result: Tensor = y[0] if isinstance(m, nn.MaxPool2d | nn.AdaptiveMaxPool2d) else y
            return result

    graph, report = trace_module(First().eval(), draw(*IMAGE))
    assert next(iter(report.opaque)) == "m"
    assert torch.equal(graph(draw(*IMAGE)), First()(draw(*IMAGE)))


# -- functions, methods and operators ---------------------------------------------------------------------------------

W = draw(6, 8, seed=7)
CALLS: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {  # how people write it -> the kind
    "torch.relu": (torch.relu, "activation"),
    "relu in place": (lambda x: F.relu_(x * 1), "mul activation"),
    "F.relu(inplace)": (lambda x: F.relu(x * 1, inplace=True), "mul activation"),
    "method in place": (lambda x: (x * 1).clamp_(-1, 1), "mul activation"),
    "F.gelu": (lambda x: F.gelu(x, approximate="tanh"), "activation"),
    "F.silu": (F.silu, "activation"),
    "F.leaky_relu": (lambda x: F.leaky_relu(x, 0.2), "activation"),
    "F.elu": (lambda x: F.elu(x, alpha=0.5), "activation"),
    "F.hardtanh": (lambda x: F.hardtanh(x, -0.5, 0.5), "activation"),
    "F.softplus": (lambda x: F.softplus(x, beta=2), "activation"),
    "clamp": (lambda x: x.clamp(min=0.1), "activation"),
    "power": (lambda x: x**2, "activation"),
    "neg": (lambda x: -x, "activation"),
    "rsqrt": (lambda x: x.abs().rsqrt(), "activation activation"),
    "a - b": (lambda x: x - x * 2, "mul add"),
    "c - x": (lambda x: 1 - x, "add"),
    "c / x": (lambda x: 1 / x, "mul"),
    "x / c": (lambda x: x / 3, "mul"),
    "x + x": (lambda x: x + x, "add"),
    "+=": (lambda x: operator.iadd(x * 1, 2.0), "mul add"),
    "@": (lambda x: x @ x.transpose(-2, -1), "layout matmul"),
    "matmul": (lambda x: torch.matmul(x, x.mT), "layout matmul"),
    "bmm": (lambda x: torch.bmm(x, x.permute(0, 2, 1)), "layout matmul"),
    "F.linear": (lambda x: F.linear(x, W), "linear"),
    "F.conv1d": (lambda x: F.conv1d(x, W[:, :4, None], stride=2), "conv"),
    "softmax": (lambda x: x.softmax(dim=1), "softmax"),
    "F.log_softmax": (lambda x: F.log_softmax(x, dim=-1), "softmax"),
    "attention": (lambda x: F.scaled_dot_product_attention(*[x.unsqueeze(1)] * 3), "layout attention"),
    "F.layer_norm": (lambda x: F.layer_norm(x, (8,), W[0]), "norm"),
    "F.rms_norm": (lambda x: F.rms_norm(x, (8,), eps=1e-5), "norm"),
    "F.group_norm": (lambda x: F.group_norm(x, 2), "norm"),
    "mean": (lambda x: x.mean(1), "pool"),
    "sum": (lambda x: x.sum(dim=(1, 2)), "pool"),
    "amax": (lambda x: torch.amax(x, -1, keepdim=True), "pool"),
    "F.max_pool1d": (lambda x: F.max_pool1d(x, 2), "pool"),
    "F.avg_pool1d": (lambda x: F.avg_pool1d(x, 3, 1, 1), "pool"),
    "F.adaptive_avg_pool1d": (lambda x: F.adaptive_avg_pool1d(x, 2), "pool"),
    "reshape": (lambda x: x.reshape(x.shape[0], -1), "layout"),
    "flatten": (lambda x: x.flatten(1), "layout"),
    "unflatten": (lambda x: x.unflatten(-1, (2, 4)), "layout"),
    "unsqueeze": (lambda x: x.unsqueeze(0), "layout"),
    "permute": (lambda x: x.permute(0, 2, 1), "layout"),
    "T": (lambda x: x[0].t(), "layout layout"),
    "movedim": (lambda x: x.movedim(-1, 1), "layout"),
    "slice": (lambda x: x[:, 1:3], "layout"),
    "select": (lambda x: x[:, -1], "layout"),
    "several": (lambda x: x[..., None, 1:], "layout"),
    "narrow": (lambda x: x.narrow(1, 1, 2), "layout"),
    "chunk": (lambda x: x.chunk(2, -1)[1], "layout"),
    "split": (lambda x: torch.split(x, [1, 3], 1)[1], "layout"),
    "unbind": (lambda x: x.unbind(1)[-1], "layout"),
    "cat": (lambda x: torch.cat((x, x), 1), "layout"),
    "stack": (lambda x: torch.stack([x, x], dim=1), "layout"),
    "expand": (lambda x: x[:, :1].expand(-1, 5, -1), "layout layout"),
    "repeat": (lambda x: x.repeat(1, 2, 1), "layout"),
    "repeat_interleave": (lambda x: x.repeat_interleave(2, dim=1), "layout"),
    "F.pad": (lambda x: F.pad(x, (1, 2)), "layout"),
    "flip": (lambda x: x.flip(1), "layout"),
    "roll": (lambda x: x.roll(1, 2), "layout"),
    "to": (lambda x: x.to(torch.float64), "layout"),
    "half": (lambda x: x.half(), "layout"),
    "same dtype": (lambda x: x.float() * 2, "mul"),
    "contiguous": (lambda x: x.contiguous().detach() * 2, "mul"),
    "dropout": (lambda x: F.dropout(x, 0.5, training=False) * 2, "mul"),
}


class Calling(nn.Module):
    def __init__(self, call: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.call = call

    def forward(self, x: Tensor) -> Tensor:
        return self.call(x)


@pytest.mark.parametrize("name", CALLS)
def test_calls_become_kinds_however_they_are_written(name: str) -> None:
    call, kinds = CALLS[name]
    x = draw(2, 4, 8)
    graph, report = trace_module(Calling(call).eval(), x)
    assert " ".join(node.kind for node in graph.operators()) == kinds
    assert report.worst == 0
    assert torch.equal(graph(x[:1]), call(x[:1].clone()))


class InPlace(nn.Module):
    """Changes a value that it holds under two names."""

    def forward(self, x: Tensor) -> Tensor:
        y = x * 2
        kept = y
        F.relu_(y)
        y.add_(1)
        return kept - y.exp_()


def test_changes_in_place_are_seen_under_every_name() -> None:
    model, x = InPlace().eval(), draw(2, 3)
    graph, _ = trace_module(model, x)
    before = x.clone()
    assert torch.equal(graph(x), model(x))
    assert torch.equal(x, before)


# -- attention layers -------------------------------------------------------------------------------------------------


class Attend(nn.Module):
    def __init__(self, cross: bool, weights: bool, **options: Any) -> None:
        super().__init__()
        self.attention, self.cross, self.weights = nn.MultiheadAttention(16, 4, **options), cross, weights

    def forward(self, x: Tensor) -> Tensor:
        key = x * 2 if self.cross else x
        y: Tensor = self.attention(x, key, key, need_weights=self.weights)[0]
        return y


@pytest.mark.parametrize("cross", [False, True])
@pytest.mark.parametrize("weights", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
def test_multi_head_attention_becomes_projections_and_one_core(cross: bool, weights: bool, batch_first: bool) -> None:
    torch.manual_seed(0)
    model = Attend(cross, weights, batch_first=batch_first).eval()
    graph, report = trace_module(model, draw(2, 5, 16))
    linears = [node.path.removeprefix("attention.") for node in graph.operators() if node.kind == "linear"]
    assert linears == ([*(f"{p}_proj" for p in "qkv"), "out_proj"] if cross else ["in_proj", "out_proj"])
    (core,) = (node for node in graph.operators() if node.kind == "attention")
    assert (core.record.attrs["heads"], core.record.attrs["head_size"]) == (4, 4)
    assert (report.opaque, report.bound) == ({}, 1e-5)
    assert report.worst < 1e-6  # the same sums in another order
    packed = model.attention.in_proj_weight
    start = packed.untyped_storage().data_ptr()
    assert all(
        graph.tensors[node.record.key("weight")].untyped_storage().data_ptr() == start
        for node in graph.operators()
        if node.path.endswith(("in_proj", "q_proj", "k_proj"))
    )


@pytest.mark.parametrize("options", [{}, {"norm_first": True, "activation": "gelu"}])
def test_transformer_layers_are_traced_through(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model = nn.TransformerEncoder(
        nn.TransformerEncoderLayer(16, 4, 32, batch_first=True, **options), 2, enable_nested_tensor=False
    )
    graph, report = trace_module(model.eval(), draw(2, 5, 16))
    assert [node.kind for node in graph.operators()].count("linear") == 8
    assert report.opaque == {}
    assert report.worst < 1e-6  # as above


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.fc = nn.LSTM(8, 6, batch_first=True), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        y, (hidden, _) = self.lstm(x)
        result: Tensor = self.fc(y[:, -1] + hidden[-1])
        return result


def test_modules_with_several_results_stay_opaque_and_run() -> None:
    torch.manual_seed(0)
    model = Recurrent().eval()
    graph, report = trace_module(model, draw(2, 5, 8))
    assert report.opaque["lstm"] == "no typed kind for it"
    changed = graph.replace(tensors={"lstm.bias_ih_l0": torch.ones(24)})
    assert torch.equal(graph(draw(3, 5, 8)), model(draw(3, 5, 8)))
    assert not torch.equal(changed(draw(3, 5, 8)), model(draw(3, 5, 8)))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_precisions_are_equal_bit_for_bit(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8), nn.GELU(), nn.Linear(8, 4)).to(dtype).eval()
    x = draw(3, 8).to(dtype)
    graph, report = trace_module(model, x)
    assert (report.worst, graph(x).dtype) == (0, dtype)
