"""The engine: two streams, statistics, folds, overrides, experts, branches; graph(x) is what was scored."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn import functional

import mase
from mase.calib.cut import cut
from mase.calib.install import install
from mase.calib.layers import places
from mase.errors import ConfigError, GraphError
from mase.formats import parse
from mase.formats.packed import PackedWeight
from mase.frontend.export import trace_export
from mase.graph import Graph
from mase.interpreter import run
from passes.ptq.engine import OpenBlock, quantize, samples_of
from passes.ptq.recipe import Plan
from passes.ptq.rtn import Rtn
from tests.ptq.models import Branch, Halve, Streams, Watched, conv1d, graph, tokens

RTN = Plan((Rtn("int4g16"),))
X = tokens(3, seed=9)
FLOAT32 = {"rtol": 1e-5, "atol": 1e-5}  # the engine multiplies in float32, and sums of 48 terms lose a few of 24 bits


def by_hand(g: Graph, fmt: str) -> Graph:
    """Round every linear node of the blocks to nearest, without the engine."""
    changed = {}
    for node in g.operators():
        if node.kind == "linear" and node.path.startswith("blocks."):
            weight = node.tensor("weight")
            changed[node.record.key("weight")] = parse(fmt).quantize(weight, parse(fmt).calibrate(weight, -1))
    return g.replace(tensors=changed)


def test_a_graph_computes_with_its_packed_weights() -> None:
    g = graph()
    built, report = quantize(g, RTN)
    assert torch.equal(built(X), by_hand(g, "int4g16")(X))
    assert not torch.equal(built(X), g(X))
    assert [row.path for row in report.layers] == [n.path for n in g.operators() if n.kind == "linear"][:-1]  # no head
    for row in report.layers:
        record = built.node(row.path).record
        assert str(record.operands["weight"].format) == "int4g16"
        assert torch.equal(built.tensors[record.key("weight")], report.packed[row.path].dense())
        assert row.stored_bits == 4 + 32 / 16
        assert row.paper_bits == 4 and row.output_error is None and 0 < row.weight_error < 0.1
    assert (report.stored_bits, report.paper_bits) == (6, 4)
    assert torch.equal(g(X), graph()(X))  # the float graph is as it was


def test_the_quantized_prefix_gives_the_samples_and_the_float_one_the_targets() -> None:
    Streams.seen.clear()
    g, x = graph(), tokens()
    built, _ = quantize(g, Plan((Streams(),)), x)
    assert len(Streams.seen) == 3
    for number, (samples, targets) in enumerate(Streams.seen):
        assert len(samples) == len(targets) == len(x)
        for row, (sample, target) in enumerate(zip(samples, targets, strict=True)):
            edges: dict[str, torch.Tensor] = {}
            for which in (built, g):
                part = cut(which).blocks[number]
                found = cut(which)
                env = {"ids": x[row : row + 1]}
                for before in found.parts[: 1 + number]:
                    env |= before.run(env)
                edges["in" if which is built else "out"] = (
                    env[part.takes[0]] if which is built else part.run(env)[part.gives[0]]
                )
            assert torch.equal(sample[0], edges["in"])
            assert torch.equal(target, edges["out"])


def test_statistics_are_those_of_the_quantized_prefix_and_shared_by_layers_of_one_input() -> None:
    Watched.seen.clear()
    g, x = graph(), tokens()
    built, report = quantize(g, Plan((Watched(),)), x)
    layers = {layer.path: layer for layer in Watched.seen}
    assert layers["blocks.1.attention.query"].seen is layers["blocks.1.attention.value"].seen
    assert all(layer.seen.tokens == x.numel() for layer in layers.values())
    part = cut(built).blocks[1]  # the blocks before are quantized, this one is in float
    env = {"ids": x}
    for before in cut(built).parts[:2]:
        env |= before.run(env)
    source = cut(g).blocks[1].on(cut(g).blocks[1].graph)
    values: dict[str, torch.Tensor] = {}
    wanted = source.graph.node("blocks.1.feed.down").inputs[0].name
    run(source.graph, part.inputs(env), observe=lambda n, v: values.update({n.name: v}) if n.name == wanted else None)
    rows = values[wanted].reshape(-1, values[wanted].shape[-1]).double()
    torch.testing.assert_close(layers["blocks.1.feed.down"].seen.gram, rows.T @ rows, **FLOAT32)
    down = next(row for row in report.layers if row.path == "blocks.1.feed.down")
    weight, dense = g.tensors["blocks.1.feed.down.weight"].double(), report.packed[down.path].dense().double()
    want = ((rows @ (dense - weight).T).square().sum() / (rows @ weight.T).square().sum()).item()
    assert down.output_error == pytest.approx(want, rel=1e-4)  # products of the sums are float32


def test_a_fold_comes_before_the_quantizer_and_is_seen_by_it() -> None:
    g, x = graph(), tokens()
    built, report = quantize(g, Plan((Halve(), Watched("int8g16"))), x)
    assert torch.equal(built.tensors["blocks.0.norm2.weight"], g.tensors["blocks.0.norm2.weight"] / 2)
    plain, _ = quantize(g, Plan((Watched("int8g16"),)), x)
    assert torch.equal(built(X), plain(X))  # a power of two changes no code and no rounding
    assert torch.equal(report.packed["blocks.0.feed.up"].dense(), 2 * plain.tensors["blocks.0.feed.up.weight"])
    with pytest.raises(
        ConfigError, match=r"layer blocks\.0\.feed\.gate: is quantized already; a fold must come before"
    ):
        quantize(g, Plan((Watched(), Halve())), x)


def test_overrides_change_fields_or_the_recipe_and_globs_skip() -> None:
    plan = Plan.of(
        [{"rtn": {"format": "int4g16"}}],
        overrides={"*.down": {"format": "int8g16"}, "*.attention.output": [{"rtn": {"format": "mxint4b16"}}]},
        skip=["blocks.1.*"],
        also=["head"],
    )
    built, report = quantize(graph(), plan)
    formats = {row.path: row.formats for row in report.layers}
    assert formats["blocks.0.feed.down"] == ("int8g16",)
    assert formats["blocks.2.attention.output"] == ("mxint4b16",)
    assert formats["head"] == formats["blocks.0.feed.up"] == ("int4g16",)
    assert not any(path.startswith("blocks.1.") for path in formats)
    assert built.node("blocks.1.feed.up").record.operands["weight"].format is None


def test_folds_of_an_override_come_before_all_quantizers() -> None:
    g, x = graph(), tokens()
    other = (("blocks.*.feed.*", (Halve(), Rtn("int8g16"))),)
    built, report = quantize(g, Plan((Rtn("int8g16"),), other), x)
    assert torch.equal(built(X), quantize(g, Plan((Rtn("int8g16"),)), x)[0](X))
    assert len(report.layers) == 21


def test_experts_see_the_tokens_that_are_sent_to_them() -> None:
    Watched.seen.clear()
    g, x = graph("mixtral"), tokens()
    built, report = quantize(g, Plan((Watched(),)), x)
    layers = {layer.path: layer for layer in Watched.seen}
    seen = [layers[f"blocks.0.feed.gate_up[{k}]"].seen.tokens for k in range(4)]
    assert sum(seen) == 2 * x.numel()  # two experts a token
    assert all(layer.expert == ("[" in layer.path) for layer in layers.values())
    values: dict[str, torch.Tensor] = {}
    run(g, (x,), observe=lambda n, v: values.update({n.name: v}))  # the first block's input is in float
    node = g.node("blocks.0.feed")
    rows = values[node.inputs[0].name].reshape(-1, 32)
    # attention before it is quantized only after this block's statistics were taken, so both streams agree here
    chosen = (rows @ node.tensor("router").T).topk(2, -1).indices
    mine = rows[(chosen == 3).any(-1)]
    torch.testing.assert_close(layers["blocks.0.feed.gate_up[3]"].seen.gram, mine.double().T @ mine.double(), **FLOAT32)
    gate, up = (mine @ node.tensor("gate_up")[3].T).chunk(2, -1)
    inner = (functional.silu(gate) * up).double()
    torch.testing.assert_close(layers["blocks.0.feed.down[3]"].seen.gram, inner.T @ inner, **FLOAT32)
    fmt = built.node("blocks.0.feed").record.operands["gate_up"].format
    assert str(fmt) == "int4g16f"  # all experts are in one format, so the fused weight is
    assert torch.equal(built.tensors[node.record.key("down")][2], report.packed["blocks.0.feed.down[2]"].dense())
    assert torch.isfinite(built(X)).all()


def test_an_expert_without_tokens_is_calibrated_on_all_and_reported() -> None:
    Watched.seen.clear()
    same = [row.repeat(1, 8) for row in tokens(1)[:, :1].split(1)]  # eight times one token: two of four experts get it
    _, report = quantize(graph("mixtral"), Plan((Watched(),)), same)
    layers = {layer.path: layer for layer in Watched.seen}
    lonely = [k for k in range(4) if layers[f"blocks.0.feed.down[{k}]"].seen.spread]
    assert len(lonely) == 2
    assert all(layers[f"blocks.0.feed.gate_up[{k}]"].seen.tokens == 8 for k in range(4))
    assert f"blocks.0.feed.down[{lonely[0]}]: no token reached this expert" in "\n".join(report.notes)


def test_a_branch_becomes_two_layers_and_a_sum() -> None:
    built, report = quantize(graph(), Plan((Rtn("int2g16f"), Branch())))
    kinds = [built.node(f"blocks.0.feed.up.{name}").kind for name in ("branch_a", "branch_b", "branch")]
    assert kinds == ["linear", "linear", "add"]
    assert str(built.node("blocks.0.feed.up.branch_a").record.operands["weight"].format) == "mxint8"
    plain, without = quantize(graph(), Plan((Rtn("int2g16f"),)))
    want = graph()(X)
    assert (built(X) - want).square().mean() < (plain(X) - want).square().mean()
    up, alone = (next(r for r in found.layers if r.path == "blocks.0.feed.up") for found in (report, without))
    assert up.formats == ("int2g16f", "mxint8")
    branch = report.packed[up.path].branch
    assert branch is not None and up.stored_bits == alone.stored_bits + sum(p.stored_bits() for p in branch) / 48 / 32
    assert up.weight_error < alone.weight_error


def test_transposed_weights_keep_their_layout() -> None:
    g, _ = trace_export(conv1d(), {"input_ids": tokens(2)})
    built, report = quantize(g, RTN)
    assert len(report.layers) == 8
    key = built.node("transformer.h.0.mlp.c_fc").record.key("weight")
    assert g.tensors[key].stride() == built.tensors[key].stride()
    assert torch.equal(built.tensors[key], report.packed["transformer.h.0.mlp.c_fc"].dense())
    assert torch.isfinite(built(tokens(2))).all()


def test_weights_of_several_pieces_have_the_format_of_a_container() -> None:
    g = graph()
    weight = g.tensors["blocks.0.feed.up.weight"]
    half = torch.arange(32) % 2 == 0
    pieces = [
        PackedWeight.of(weight[:, own].contiguous(), parse(f"int{b}g16")).pieces[0]
        for own, b in ((half, 4), (~half, 3))
    ]
    columns = [half.nonzero().flatten(), (~half).nonzero().flatten()]
    mixed = PackedWeight((48, 32), tuple(replace(p, columns=c) for p, c in zip(pieces, columns, strict=True)))
    built = install(g, {"blocks.0.feed.up": mixed}).verify()
    assert str(built.node("blocks.0.feed.up").record.operands["weight"].format).startswith("packed")
    assert torch.equal(built.tensors["blocks.0.feed.up.weight"], mixed.dense())
    assert torch.equal(built(X), install(g, {"blocks.0.feed.up": mixed}, formats=False)(X))


def test_ties_name_the_layers_of_one_module() -> None:
    found = []

    class Tied(Rtn):
        def run(self, block: object) -> None:
            found.append(block.ties)  # type: ignore[attr-defined]

    plan = Plan((Tied(),), ties=(("query", "key", "value"), ("gate", "up")), skip=("blocks.1.attention.key",))
    quantize(graph(), plan)
    assert found[0][0] == ["blocks.0.attention.query", "blocks.0.attention.key", "blocks.0.attention.value"]
    assert found[1][0] == ["blocks.1.attention.query", "blocks.1.attention.value"]
    assert found[2][1] == ["blocks.2.feed.gate", "blocks.2.feed.up"]


def test_progress_says_how_far_and_how_long() -> None:
    seen: list[tuple[int, int, str, float | None]] = []
    quantize(graph(), RTN, told=lambda *told: seen.append(told))
    assert [name for _, _, name, _ in seen] == ["prologue", "blocks.0", "blocks.1", "blocks.2", "epilogue"]
    assert [done for done, *_ in seen] == [1, 2, 3, 4, 5]
    assert all(total == 5 for _, total, *_ in seen) and seen[-1][3] == 0


def test_bad_input_is_one_line() -> None:
    g = graph()
    with pytest.raises(ConfigError, match=r"method watched: needs calibration data; pass calibration tokens"):
        quantize(g, Plan((Watched(),)))
    with pytest.raises(ConfigError, match=r"skip '\*\.dwn': matches no layer"):
        quantize(g, Plan((Rtn(),), skip=("*.dwn",)))
    with pytest.raises(ConfigError, match=r"ties 'qery': no layer has this name; did you mean query\?"):
        quantize(g, Plan((Rtn(),), ties=(("qery", "key"),)))
    tied = graph(tied=True)
    with pytest.raises(ConfigError, match=r"layer head: shares its weights with prologue; skip it"):
        quantize(tied, Plan((Rtn(),), also=("head",)))
    with pytest.raises(GraphError, match=r"input 'ids': found \(1, 9\)"):
        quantize(g, Plan((Watched(),)), torch.zeros(1, 9, dtype=torch.int64))
    broken = g.replace(tensors={"blocks.1.norm1.weight": torch.full((32,), float("inf"))})
    with pytest.raises(GraphError, match=r"blocks\.1: gives numbers that are not finite"):
        quantize(broken, Plan((Streams(),)), tokens())
    block = OpenBlock(cut(g).blocks[0], [], [], places(cut(g).blocks[0].graph))
    with pytest.raises(ConfigError, match=r"block blocks\.0: has no layer 'blocks\.0\.feed\.upp'; did you mean"):
        block.write("blocks.0.feed.upp", PackedWeight((1, 1), ()))
    with pytest.raises(ConfigError, match=r"layer blocks\.0\.feed\.up: quantized weights are \(1, 1\); the layer's"):
        block.write("blocks.0.feed.up", PackedWeight((1, 1), ()))


def test_what_a_model_is_not_for_is_refused_before_any_work() -> None:
    g, told = graph(layers=2), list[object]()

    def tell(*args: object) -> None:
        told.append(args)

    mixture = graph("mixtral", layers=2)
    cases: tuple[tuple[Graph, Plan, str], ...] = (
        (g, Plan.of("rtn", skip=["*"]), "^skip: all layers stay in float; leave one to quantize"),
        (g, Plan.of("mc_moe"), "^mc_moe: none of its layers is an expert; allowed are mixtures of experts"),
        (
            mixture,
            Plan.of(["rtn", "lqer"]),
            r"^layer .*\[0\]: is an expert, and lqer gives a low-rank branch; allowed on",
        ),
        (mixture, Plan.of("qlora"), r"^layer .*\[0\]: is an expert, and qlora gives a low-rank branch"),
        (
            mixture,
            Plan.of({"mc_moe": {"bits": 1}}),
            "^allocation of experts: 4 bits for 4 experts are too few; the least",
        ),
    )
    for model, plan, text in cases:
        with pytest.raises(ConfigError, match=text):
            quantize(model, plan, tokens(), tell)
    assert told == []
    quantize(mixture, Plan.of(["rtn", "lqer"], {"*[[]*": "rtn"}))  # experts have a recipe of their own
    with pytest.raises(ConfigError, match=r"^the model has no linear layers and no experts in its blocks"):
        quantize(mase.trace(torch.nn.ReLU().eval(), torch.zeros(1, 3)), Plan.of("rtn"))


def test_ranges_that_omniquant_learns_may_have_several_formats() -> None:
    step = {"omniquant": {"format": "int4g16a", "epochs": 1}}
    _, report = mase.ptq(graph(layers=1), [step], tokens(), overrides={"*.down": {"format": "int8g16a"}})
    assert {row.formats for row in report.layers} == {("int4g16a",), ("int8g16a",)}


def test_samples_are_rows() -> None:
    assert [tuple(env["ids"].shape) for env in samples_of(graph(), [tokens(2), tokens(1)])] == [(1, 8)] * 3


def test_the_public_function_reads_plain_data() -> None:
    built, report = mase.ptq(graph(), ["rtn"], skip=["*.down"], overrides={"*.up": {"format": "int8g16"}})
    assert len(report.layers) == 18
    assert {row.formats for row in report.layers if row.path.endswith(".up")} == {("int8g16",)}
    assert torch.isfinite(built(X)).all()


@pytest.mark.parametrize("name", ["rtn", "awq", "teq", "qlora"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_layer_whose_weights_are_not_finite_is_named(name: str, value: float) -> None:
    g = graph()
    key = "blocks.1.feed.up.weight"
    broken = g.tensors[key].detach().clone()
    broken[3, 3] = value
    with pytest.raises(ConfigError, match=r"^layer blocks\.1\.feed\.up: weights hold NaN or infinity"):
        quantize(
            g.replace(tensors={key: broken}), Plan.of([name] if name in ("rtn", "qlora") else [name, "rtn"]), tokens()
        )


@pytest.mark.parametrize("fold", ["smoothquant", "awq", "equalize", "teq", "hadamard"])
def test_folds_come_before_the_quantizers_of_longer_recipes(fold: str) -> None:
    fields = {"teq": {"iters": 2}, "awq": {"points": 2}}.get(fold, {})
    own = ["rtn", {"lqer": {"rank": 2}}, {"qpeft": {"steps": 1}}]
    plan = Plan.of([{fold: fields}, "rtn"], {"*.query": own, "*.value": own})
    built, report = quantize(graph(), plan, tokens())
    assert torch.isfinite(built(X)).all()
    assert all(
        (weight.branch is not None) == path.endswith(("query", "value")) for path, weight in report.packed.items()
    )
