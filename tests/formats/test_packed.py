"""Packed weights: their values, their bits, and as a format of a graph."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from mase.errors import FormatError, GraphError, UnsupportedOp
from mase.formats import FORMATS, parse
from mase.formats.base import Axes
from mase.formats.packed import Held, PackedFormat, PackedWeight, Piece, on_graph
from mase.graph import Graph
from mase.interpreter import is_exact
from mase.ops.linear import Linear
from mase.testing import FormatLaws
from passes.parameters import ParametersConfig, parameters
from passes.quantize import NodeFormats
from tests.emit.designs import Network


class TestLaws(FormatLaws):
    fmt = PackedFormat()
    nearest = False  # numbers are float32, too many to try


ALL = [str(cls()) for _, cls in FORMATS.items() if not cls.chosen]
ALL += [
    "int4g128a",
    "int4g128f",
    "int4g32r",
    "int3g16f_fp16",
    "int2g16a_fp16",
    "int5g16a_bf16",
    "int4g16pf",
    "int4g16p",
]
ALL += ["int8c", "int4ca", "int4cf_fp16", "int7g32r_fp16", "int16g32", "mxint3b16e4", "mxint16", "mxint4b4x8"]
ALL += ["mxfp6e3m2", "mxfp8e5m2", "bfp5b8e3", "bm6e2b16s5", "bl5", "binaryc", "binaryu", "ternaryc", "ternaryu", "nf3"]
ALL += ["nf4b32_fp16", "nf2b16_e4m3", "codebook[-1,-0.25,0.25,1]b16", "e4m3t", "e3m2c", "log6", "fixed9.5", "ufixed5.3"]
ALL += ["nvfp4l1", "nvfp4b8"]


def weights(rows: int = 12, columns: int = 72, seed: int = 0) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def mixed() -> PackedWeight:
    """Return a weight of three widths, with a second plane and a split under a mask."""
    x = weights()
    groups = torch.arange(72).view(9, 8)
    low, mid, high = groups[[1, 4]].flatten(), groups[[0, 2, 5, 8]].flatten(), groups[[3, 6, 7]].flatten()
    small = x[:, low].abs() < 0.5
    pieces = (
        Piece.of(x[:, mid], parse("int3g8a_fp16"), columns=mid),
        Piece.of(x[:, high], parse("int4g8r_fp16"), columns=high),
        Piece.of(x[:, low], parse("binaryc"), columns=low, mask=small),
        Piece.of(x[:, low], parse("binaryc"), columns=low, mask=~small, derived=True),
        Piece.of(x[:, low] / 4, parse("binaryc"), columns=low),
    )
    return PackedWeight((12, 72), pieces)


def test_the_dense_values_are_the_sum_of_the_pieces() -> None:
    found, expected = mixed(), torch.zeros(12, 72, dtype=torch.float64)
    for piece in found.pieces:
        real = piece.format.decode(piece.code, piece.params)
        assert piece.columns is not None
        for j, column in enumerate(piece.columns.tolist()):
            for i in range(12):
                if piece.mask is None or piece.mask[i, j]:
                    expected[i, column] += real[i, j]
    assert torch.equal(found.dense(), expected.to(torch.float32))


def test_stored_bits_by_hand() -> None:
    rows, small = 12, int(mixed().pieces[2].mask.sum())  # type: ignore[union-attr]
    codes = rows * (32 * 3 + 24 * 4 + 16 * 1 + 16 * 1)
    shared = rows * (4 * (16 + 3) + 3 * (16 + 16) + 3 * 32)
    mask, which = rows * 16, 9 * 2  # two bits for each group of 8 columns: one of three sets
    assert mixed().stored_bits() == codes + shared + mask + which
    paper = rows * (32 * 3 + 24 * 4) + small + (rows * 16 - small) + rows * 16
    assert mixed().paper_bits() == paper
    assert replace(mixed(), map_bits=100.0).stored_bits() == codes + shared + mask + 100


def test_a_permutation_and_a_subset_are_counted() -> None:
    x, order = weights(), torch.randperm(72, generator=torch.Generator().manual_seed(1))
    fmt = parse("int4g8f_fp16")
    plain = PackedWeight.of(x, fmt).stored_bits()
    permuted = PackedWeight((12, 72), (Piece.of(x[:, order], fmt, columns=order),))
    assert permuted.stored_bits() == plain + 72 * 7
    half = torch.arange(36)
    over = PackedWeight((12, 72), (Piece.of(x, fmt), Piece.of(x[:, half] / 9, fmt, columns=half)))
    assert over.stored_bits() == plain + 12 * 36 * 4 + 12 * 5 * 16 + 2  # 72 columns are two units of 36


@pytest.mark.parametrize("text", ALL)
def test_rounding_the_values_again_changes_nothing(text: str) -> None:
    fmt = parse(text)
    weight = PackedWeight.of(weights(), fmt)
    (piece,), dense = weight.pieces, weight.dense()
    if text.startswith("bfp"):  # a maximum that rounded to a power of two asks for a lower exponent, which clips it
        assert isinstance(on_graph(Held((weight,), (12, 72)))[0], PackedFormat)
        return
    assert torch.equal(fmt.quantize(dense, piece.params), dense)
    found, params = on_graph(Held((weight,), (12, 72)))
    assert found == fmt and params is piece.params
    turned, params = on_graph(Held((weight,), (72, 12), transposed=True))
    if turned == fmt:
        assert torch.equal(fmt.quantize(dense.t().contiguous(), params), dense.t())
    else:
        assert isinstance(turned, PackedFormat)


@pytest.mark.parametrize("text", ["int4g128f_fp16", "int4g16a", "int3g16r_fp16", "int2g8f", "int8g16"])
def test_codes_that_are_not_the_nearest_come_back(text: str) -> None:
    fmt, x, draw = parse(text), weights(), torch.Generator().manual_seed(3)
    params = fmt.calibrate(x, fmt.along(Axes()))
    low, high = fmt.code_range()
    code = replace(fmt.encode(x, params), mantissa=torch.randint(low, high + 1, x.shape, generator=draw))
    weight = PackedWeight((12, 72), (Piece(fmt, params, code),))
    assert torch.equal(fmt.encode(weight.dense(), params).mantissa, code.mantissa)


def test_codes_under_another_scale_than_the_maximum_gives_stay_in_a_container() -> None:
    x, fmt = weights(4, 16), parse("nf4b16")
    code = fmt.encode(x)
    code = replace(code, mantissa=code.mantissa.clamp(3, 12))
    fmt_on, params = on_graph(Held((PackedWeight((4, 16), (Piece(fmt, fmt.calibrate(x), code),)),), (4, 16)))
    assert isinstance(fmt_on, PackedFormat) and fmt_on.total == 4 * 16 * 4 + 4 * 32
    dense = fmt.decode(code).to(torch.float32)
    assert torch.equal(fmt_on.quantize(dense, params), dense)


def test_experts_share_a_format_with_parameters_of_their_own() -> None:
    parts = tuple(PackedWeight.of(weights(seed=seed), parse("int4g16a")) for seed in range(3))
    held = Held(parts, (3, 12, 72))
    fmt, params = on_graph(held)
    assert str(fmt) == "int4g16a" and params.scale is not None and params.scale.shape == (3, 12, 5)
    assert torch.equal(fmt.quantize(held.dense, params), held.dense)
    other = Held((parts[0], parts[1], mixed()), (3, 12, 72))
    assert str(on_graph(other)[0]) == f"packedb{math.ceil(sum(p.stored_bits() for p in other.parts))}"


def linear(fmt: str, activation: str = "fixed8.4") -> Graph:
    torch.manual_seed(0)
    node = {"0": NodeFormats(fmt, output="fixed16.6")}
    return Network("linear", [nn.Linear(72, 12)], weights(2, 72, 9), activation, node).quantized()


def with_weight(graph: Graph, weight: PackedWeight) -> Graph:
    """Give the only layer of a graph packed weights."""
    (node,) = [n for n in graph.operators() if n.kind == "linear"]
    fmt, params = on_graph(held := Held((weight,), weight.shape))
    operands = {**node.record.operands, "weight": replace(node.record.operands["weight"], format=fmt)}
    key = node.record.key("weight")
    return graph.replace(
        {node.name: replace(node.record, operands=operands)}, {key: held.dense}, {key: params}
    ).verify()


def test_a_graph_computes_with_the_container_and_keeps_it(tmp_path: Path) -> None:
    graph = with_weight(linear("int4"), mixed())
    (node,) = [n for n in graph.operators() if n.kind == "linear"]
    floats = graph.replace({node.name: replace(node.record, output=replace(node.record.output, format=None))})
    x = weights(2, 72, 9)
    shown = parse("fixed8.4").quantize(x)
    assert torch.equal(floats(x), nn.functional.linear(shown, mixed().dense(), node.tensor("bias")))
    floats.save(tmp_path)
    loaded = Graph.load(tmp_path)
    assert torch.equal(loaded(x), floats(x))
    assert torch.equal(loaded.tensors[node.record.key("weight")], mixed().dense())
    _, report = parameters(loaded, ParametersConfig())
    (stored,) = [t for n in report.nodes for t in n.tensors if t.role == "weight"]
    assert stored.bits == mixed().stored_bits()
    size = (tmp_path / "weights.safetensors").stat().st_size
    assert size < 4 * 12 * 72  # the file has the codes alone


def test_a_graph_with_other_weights_than_its_container_is_refused(tmp_path: Path) -> None:
    graph = with_weight(linear("int4"), mixed())
    (node,) = [n for n in graph.operators() if n.kind == "linear"]
    key = node.record.key("weight")
    broken = graph.replace(tensors={key: graph.tensors[key] + 1})
    with pytest.raises(GraphError, match="other values than the container"):
        broken.save(tmp_path)
    with pytest.raises(FormatError, match="other weights than the container holds"):
        PackedFormat(8).quantize(broken.tensors[key], broken.params(key))


def widths() -> PackedWeight:
    x, half = weights(), torch.arange(72) // 24 % 2 == 0
    first, second = half.nonzero().flatten(), (~half).nonzero().flatten()
    one = Piece.of(x[:, first], parse("int2g8f_fp16"), columns=first)
    return PackedWeight((12, 72), (one, Piece.of(x[:, second], parse("int4g8a_fp16"), columns=second)))


def test_integers_of_several_widths_have_hardware() -> None:
    graph = with_weight(linear("int4"), widths())
    (node,) = [n for n in graph.operators() if n.kind == "linear"]
    assert is_exact(node)
    op = Linear.from_node(node)
    x = parse("fixed8.4").encode(weights(2, 72, 9))
    w = widths().pieces
    found = parse("fixed16.6").decode(op.reference(x))
    bias = node.tensor("bias").double()
    exact = parse("fixed8.4").decode(x) @ widths().dense().double().T + bias
    assert (found - exact).abs().max() < 2.0**-6 + 72 * 8 * 2.0**-11 * float(widths().dense().abs().max())
    assert len(w) == 2


def test_pieces_without_a_common_grid_are_refused_on_chip() -> None:
    graph = with_weight(linear("int4"), mixed())
    (node,) = [n for n in graph.operators() if n.kind == "linear"]
    assert not is_exact(node)
    with pytest.raises(UnsupportedOp, match="real offset"):
        node.record.operands["weight"].format.weight_grid(node.params("weight"), node.where())  # type: ignore[union-attr]
    x = weights()
    planes = PackedWeight((12, 72), tuple(Piece.of(x / s, parse("binaryc")) for s in (1, 3)))
    fmt, params = on_graph(Held((planes,), (12, 72)))
    with pytest.raises(UnsupportedOp, match="real scales of their own"):
        fmt.weight_grid(params, "here")
    with pytest.raises(UnsupportedOp, match="no single matrix"):
        PackedFormat().weight_grid(params.__class__(), "here")
