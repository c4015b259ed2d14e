"""Formats by rule: defaults, overrides, inputs; what is calibrated on what; every refusal."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from mase.errors import ConfigError, GraphError, UnsupportedOp
from mase.formats import Axes, parse
from mase.frontend.module import trace_module
from mase.graph import Graph, Record
from mase.interpreter import run
from mase.ops.linear import Linear
from passes.fuse import fuse
from passes.quantize import NodeFormats, QuantizeConfig, quantize
from tests.emit.designs import with_requantize

X = torch.linspace(-2, 2, 12).reshape(4, 3)
TEXTS = ("int4c", "int4g2", "mxint4b2e4")


def chain(*layers: nn.Module, x: Tensor = X) -> Graph:
    torch.manual_seed(0)
    layers = layers or (nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    return trace_module(nn.Sequential(*layers).eval(), (x,))[0]


def formats(graph: Graph) -> dict[str, str]:
    """Return the format of each produced tensor by path."""
    return {node.path: str(node.record.output.format) for node in graph.nodes() if node.kind != "output"}


def done(config: QuantizeConfig, graph: Graph | None = None, x: Tensor = X) -> Graph:
    return quantize.run(chain() if graph is None else graph, config, [x])[0]


def test_a_default_gives_every_edge_and_weight_a_format() -> None:
    graph = done(QuantizeConfig(NodeFormats("int4", "fixed8.4")))
    assert formats(graph) == dict.fromkeys(("input_1", "0", "1", "2"), "fixed8.4")
    assert [str(graph.node(path).record.operands["weight"].format) for path in ("0", "2")] == ["int4", "int4"]
    assert graph.node("0").record.operands["bias"].format is None


def test_override_beats_default_field_by_field_and_the_first_glob_wins() -> None:
    overrides = {"2": NodeFormats(output="int6"), "*": NodeFormats(weight="int8", output="int5")}
    graph = done(QuantizeConfig(NodeFormats("int4", "fixed8.4", rounding="trunc"), overrides))
    assert formats(graph) == {"input_1": "fixed8.4", "0": "int5", "1": "int5", "2": "int6"}
    weights = [str(graph.node(path).record.operands["weight"].format) for path in ("0", "2")]
    assert weights == ["int8", "int4"]  # the first match replaces the default, later ones do not add to it
    assert graph.node("2").record.attrs["rounding"] == "trunc"


def test_inputs_have_a_field_of_their_own() -> None:
    graph = done(QuantizeConfig(NodeFormats("int4", "fixed8.4"), inputs="int7"))
    assert formats(graph)["input_1"] == "int7"


def test_without_an_activation_format_edges_stay_real() -> None:
    graph, report = quantize.run(chain(), QuantizeConfig(NodeFormats("int4")), [X])
    assert formats(graph) == dict.fromkeys(("input_1", "0", "1", "2"), "None")
    assert report.inexact == ("0", "1", "2")


def test_parameters_come_from_what_the_edge_carries() -> None:
    graph = done(QuantizeConfig(NodeFormats("int4c", "int8")))
    seen = torch.nn.functional.linear(X, graph.tensors["0.weight"], graph.tensors["0.bias"])
    fmt = parse("int8")
    assert torch.equal(graph.params("input_1").scale, fmt.calibrate(X).scale)
    assert torch.equal(graph.params("_0").scale, fmt.calibrate(seen).scale)
    scale = graph.params("0.weight").scale
    assert scale is not None
    assert scale.shape == (4,)  # a channel is an output


def test_batches_count_together() -> None:
    halves, whole = ([X[:2], X[2:]], [X])
    config = QuantizeConfig(NodeFormats("int4", "int8"))
    scales = [quantize.run(chain(), config, batches)[0].params("_2").scale for batches in (halves, whole)]
    assert torch.equal(*scales)


def test_an_open_binary_point_is_fitted() -> None:
    graph = done(QuantizeConfig(NodeFormats("fixed4", "fixed8")))
    fmt = graph.node("input_1").record.output.format
    assert str(fmt) == "fixed8.6"  # 2 becomes 127 / 64, which costs less than a coarser step would


def test_a_reshape_has_the_format_of_what_it_reshapes() -> None:
    x = torch.randn(4, 2, 3)
    graph = done(
        QuantizeConfig(NodeFormats("int4", "int8")), chain(nn.Linear(3, 2), nn.Flatten(), nn.Linear(4, 2), x=x), x
    )
    assert graph.node("1").record.output.format == graph.node("0").record.output.format
    assert graph.params("_1") is graph.params("_0")


def test_a_reshape_at_the_input_is_done_before_the_host_encodes() -> None:
    x = torch.randn(4, 2, 3)
    graph = done(QuantizeConfig(NodeFormats("int4", "int8")), chain(nn.Flatten(), nn.Linear(6, 2), x=x), x)
    assert formats(graph) == {"input_1": "None", "0": "int8", "1": "int8"}


def test_a_requantize_node_gets_its_own_format() -> None:
    graph = with_requantize(fuse(chain())[0], ["0"])
    config = QuantizeConfig(NodeFormats("int4", "fixed8.4"), {"0_requantize": NodeFormats(output="mxint4b2e3")})
    assert formats(done(config, graph)) == {
        "input_1": "fixed8.4",
        "0": "fixed8.4",
        "0_requantize": "mxint4b2e3",
        "2": "fixed8.4",
    }


def test_auto_accumulation_is_settled_and_written_down() -> None:
    x = torch.randn(4, 40)
    graph = chain(nn.Linear(40, 3), x=x)
    settled = []
    for fmt in ("mxint4b8e2", "mxint8b8e8"):
        node = done(QuantizeConfig(NodeFormats(fmt, fmt, accumulation="auto")), graph, x).node("0")
        settled.append(node.record.attrs["accumulation"])
    assert settled == ["exact", "aligned(8)"]


def test_report_lists_formats_and_warnings() -> None:
    graph = chain(nn.Linear(3, 2))
    with torch.no_grad():
        graph.tensors["0.weight"][0] *= 2.0**-12
    _, report = quantize.run(graph, QuantizeConfig(NodeFormats("int4c", "int8")), [X])
    assert report.formats == {"input_1": "int8", "_0": "int8", "0.weight": "int4c"}
    assert report.inexact == ()
    assert len(report.warnings) == 1
    assert "node '0'" in report.warnings[0]


def test_the_graph_that_was_given_stays_as_it_was() -> None:
    graph = chain()
    before = {node.name: node.record for node in graph.nodes()}
    quantized = done(QuantizeConfig(NodeFormats("int4", "fixed8.4")), graph)
    assert {node.name: node.record for node in graph.nodes()} == before
    assert graph.quant == {}
    assert all(quantized.tensors[key].data_ptr() == tensor.data_ptr() for key, tensor in graph.tensors.items())


@pytest.mark.parametrize(
    ("config", "why"),
    [
        (QuantizeConfig(overrides={"O": NodeFormats("int4")}), r"quantize.overrides 'O': matches no node; allowed: "),
        (QuantizeConfig(overrides={"fc*": NodeFormats("int4")}), r"quantize.overrides 'fc\*': matches no node"),
        (QuantizeConfig(NodeFormats("int99", "int8")), r"quantize: 0.weight: .*99.*2..16"),
        (QuantizeConfig(NodeFormats("imt8", "int8")), r"quantize: 0.weight: .*imt8"),
        (QuantizeConfig(NodeFormats("int8", "fixd8.4")), r"quantize: inputs: .*fixd8.4"),
    ],
)
def test_a_wrong_rule_is_refused(config: QuantizeConfig, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        done(config)


def test_data_is_asked_for_where_a_format_needs_it() -> None:
    with pytest.raises(
        ConfigError, match="quantize: inputs: format int8 is calibrated on data; pass calibration batches"
    ):
        quantize.run(chain(), QuantizeConfig(NodeFormats("int4", "int8")), [])
    assert quantize.run(chain(), QuantizeConfig(NodeFormats("int4", "fixed8.4")), [])[0]


def test_an_accumulator_that_cannot_be_built_is_refused_at_once() -> None:
    x = torch.randn(4, 40)
    config = QuantizeConfig(NodeFormats("mxint8b8e8", "mxint8b8e8", accumulation="exact"))
    with pytest.raises(UnsupportedOp, match=r"node '0' .*accumulator takes \d+ bits; allowed are 48"):
        done(config, chain(nn.Linear(40, 3), x=x), x)


def test_exact_scores_are_those_of_the_integers() -> None:
    """What the graph returns is the decoded code of its last edge."""
    graph = done(QuantizeConfig(NodeFormats("int4", "fixed8.4")))
    y = graph(X)
    assert torch.equal(y * 16, (y * 16).round())
    assert float(y.abs().max()) <= 8


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 2)

    def forward(self, x: Tensor, shift: Tensor) -> Tensor:
        found: Tensor = self.fc(x) + shift
        return found


def test_batches_of_several_inputs_come_in_order_or_by_name() -> None:
    shift = X[:, :2]
    graph, _ = trace_module(Pair().eval(), (X, shift))
    config = QuantizeConfig(NodeFormats("int4", "int8"))
    given = ([(X, shift)], [[X, shift]], [{"shift": shift, "x": X}], [(X[:1], shift[:1]), (X[1:], shift[1:])])
    scales = [quantize.run(graph, config, batches)[0].params("add").scale for batches in given]
    assert all(scale == scales[0] for scale in scales)
    with pytest.raises(GraphError, match="found 1 tensors; the graph takes 2"):
        quantize.run(graph, config, [X])


def test_one_tensor_is_one_batch() -> None:
    config = QuantizeConfig(NodeFormats("int4", "int8"))
    found = [quantize.run(chain(), config, given)[0].params("_2").scale for given in (X, [X])]
    assert found[0] == found[1]


@pytest.mark.parametrize("batch", [None, 3, [[1.0]], X.numpy(), {"y": X}])
def test_batches_that_are_no_tensors_are_named(batch: object) -> None:
    with pytest.raises(GraphError, match="input"):
        quantize.run(chain(), QuantizeConfig(NodeFormats("int4", "int8")), [batch])


class Sum(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.transpose(0, 1) * x.sum()


def test_edges_without_a_batch_axis_are_calibrated_too() -> None:
    graph, _ = trace_module(Sum().eval(), X)
    done, _ = quantize.run(graph, QuantizeConfig(NodeFormats("int4", "int8")), [X, X[:3]])
    values = torch.cat([(part * part.sum()).flatten() for part in (X, X[:3])])
    assert done.params("mul").scale == parse("int8").calibrate(values).scale


@pytest.mark.parametrize("text", ["nf4", "int4g4", "fixed8.4_floor"])
def test_formats_without_hardware_act_in_software(text: str) -> None:
    graph, report = quantize.run(chain(), QuantizeConfig(NodeFormats(text, text), inputs=text), [X])
    assert report.inexact == ("0", "1", "2")
    values = run(graph, (X,), keep=True)
    node, source = graph.node("0"), graph.inputs[0]
    fmt = node.record.output.format
    assert fmt is not None
    weight = node.record.operands["weight"].format
    assert weight is not None
    rounded = weight.quantize(node.tensor("weight"), node.params("weight"))
    x = values.real(source.name).to(rounded.dtype)
    bias = graph.tensors.get("0.bias")
    expected = fmt.encode(torch.nn.functional.linear(x, rounded, bias), node.params())
    assert torch.equal(values.codes[node.name].mantissa, expected.mantissa)


@pytest.mark.parametrize(
    "text",
    [
        *("e4m3", "e5m2", "int8a", "bfp8b2e4", "bm6e2b2s4", "mxint4b2e4", "mxint8", "mxfp4", "bfp8"),
        *("mxfp4_xrceil", "mxfp4_xeven", "ternary", "binary", "log4", "bl4", "nvfp4", "nvfp4l1b2"),
    ],
)
def test_formats_with_hardware_are_exact(text: str) -> None:
    _, report = quantize.run(chain(), QuantizeConfig(NodeFormats(text, text), inputs=text), [X])
    assert report.inexact == ()


def test_formats_of_weights_work_along_the_axes_that_the_operator_names(monkeypatch: pytest.MonkeyPatch) -> None:
    def across(record: Record, role: str) -> Axes:
        return Axes(channel=1, sums=0) if role == "weight" else Axes()

    per_output = {text: done(QuantizeConfig(NodeFormats(text))).params("0.weight").axis for text in TEXTS}
    assert per_output == {"int4c": 0, "int4g2": -1, "mxint4b2e4": -1}
    monkeypatch.setattr(Linear, "axes", across)
    turned = {text: done(QuantizeConfig(NodeFormats(text))).params("0.weight").axis for text in TEXTS}
    assert turned == {"int4c": 1, "int4g2": 0, "mxint4b2e4": 0}


def test_what_building_decides_is_written_down() -> None:
    wide = done(QuantizeConfig(NodeFormats("mxint8b1", "fixed8.4"), inputs="mxint8b1"))
    narrow = done(QuantizeConfig(NodeFormats("int4", "fixed8.4")))
    found = [graph.node("0").record.attrs["accumulation"] for graph in (wide, narrow)]
    assert found == ["aligned(8)", "exact"]
    assert "accumulation" not in narrow.node("1").record.attrs
