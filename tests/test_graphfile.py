"""A saved graph may come from anyone: damage is refused, and nothing in it can reach beyond its own arithmetic."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor, nn

import mase
from mase import aten
from mase.errors import GraphError, MaseError
from mase.frontend.export import trace_export
from mase.graph import Graph
from passes.map import Folding, MapConfig, map_graph

X = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
FORMATS = {"default": {"weight": "int4c", "activation": "fixed6"}}
ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    folder = tmp_path_factory.mktemp("saved")
    mase.quantize(mase.trace(model, X), FORMATS, [X]).save(folder)
    return folder


class Recurrent(nn.Module):
    """A model with opaque nodes: an LSTM, an entry of its results, and a running sum."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(6, 5, 2, bidirectional=True, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.lstm(x)[0].cumsum(1)


@pytest.fixture(scope="module")
def opaque(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    graph, _ = trace_export(Recurrent().eval(), (torch.randn(2, 3, 6),))
    folder = tmp_path_factory.mktemp("opaque")
    graph.save(folder)
    return folder


def changed(folder: Path, to: Path, change: Callable[[dict[str, Any]], None], schema: int = 4) -> Path:
    """Copy a saved graph with another document; of an older schema it has no digest."""
    document = json.loads((folder / "graph.json").read_text())
    change(document)
    document["schema"] = schema
    if schema < 3:
        del document["weights"]
    to.mkdir(exist_ok=True)
    (to / "weights.safetensors").write_bytes((folder / "weights.safetensors").read_bytes())
    (to / "graph.json").write_text(json.dumps(document))
    return to


def call(document: dict[str, Any], target: str) -> dict[str, Any]:
    """Return the call of the first opaque node with a target."""
    found: dict[str, Any] = next(n["call"] for n in document["nodes"] if n.get("call", {}).get("target") == target)
    return found


# -- weights ----------------------------------------------------------------------------------------------------------


def damage(rng: random.Random, whole: bytes) -> bytes:
    """Flip bits, cut, lengthen, exchange or wipe a part."""
    out, place = bytearray(whole), rng.randrange(len(whole))
    length = rng.randrange(1, 40)
    kind = rng.randrange(5)
    if kind == 0:
        out[place] ^= 1 << rng.randrange(8)
    elif kind == 1:
        del out[place:]
    elif kind == 2:
        out[place:place] = rng.randbytes(length)
    elif kind == 3:
        out[place : place + length] = rng.randbytes(len(out[place : place + length]))
    else:
        del out[place : place + length]
    return bytes(out)


def test_300_damaged_files_of_weights_are_all_refused(saved: Path, tmp_path: Path) -> None:
    rng, whole = random.Random(0), (saved / "weights.safetensors").read_bytes()
    (tmp_path / "graph.json").write_bytes((saved / "graph.json").read_bytes())
    for _ in range(300):
        broken = damage(rng, whole)
        if broken == whole:
            continue
        (tmp_path / "weights.safetensors").write_bytes(broken)
        with pytest.raises(GraphError, match=r"weights\.safetensors: damaged, or of another graph"):
            Graph.load(tmp_path)


def test_the_weights_of_another_graph_are_refused(saved: Path, tmp_path: Path) -> None:
    changed(saved, tmp_path, lambda document: None)
    tensors = load((saved / "weights.safetensors").read_bytes())
    (tmp_path / "weights.safetensors").write_bytes(save({k: v + v for k, v in tensors.items()}))
    with pytest.raises(GraphError, match="of another graph"):
        Graph.load(tmp_path)


def test_a_file_without_its_digest_is_refused(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(GraphError, match="corrupt: KeyError"):
        Graph.load(changed(saved, tmp_path, lambda document: document.pop("weights")))


def test_foldings_are_saved_by_name_and_those_of_earlier_files_are_read(tmp_path: Path) -> None:
    """Until schema 3 every node had two numbers of lanes, those of one number too."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Sigmoid(), nn.Linear(8, 3)).eval()
    graph = mase.quantize(mase.trace(model, X), FORMATS, [X])
    mapped, _ = map_graph(graph, MapConfig(folding={"0": Folding(3, 4), "1": {"lanes": 4}, "2": {"pe": 3}}))
    mapped.save(tmp_path / "new")
    document = json.loads((tmp_path / "new" / "graph.json").read_text())
    folds = [node["hw"]["fold"] for node in document["nodes"] if node["hw"]]
    assert folds == [{"simd": 3, "pe": 4}, {"lanes": 4}, {"simd": 1, "pe": 3}]

    def earlier(document: dict[str, Any]) -> None:
        for node in document["nodes"]:
            if (hw := node["hw"]) is not None:
                simd, pe = (hw["fold"].get(name, hw["fold"].get("lanes")) for name in ("simd", "pe"))
                node["hw"] = {"simd": simd, "pe": pe, "fifos": hw["fifos"]}

    old = Graph.load(changed(tmp_path / "new", tmp_path / "old", earlier, 3))
    assert [node.record.hw and node.record.hw.fold for node in old.operators()][1] == {"simd": 4, "pe": 4}
    assert emitted(old, tmp_path / "a") == emitted(mapped, tmp_path / "b")


def emitted(graph: Graph, folder: Path) -> str:
    """Return the digests of all files of a design."""
    mase.emit(graph, folder)
    return (folder / "SHA256SUMS").read_text()


@pytest.mark.parametrize(
    ("hw", "why"),
    [
        ({"fold": {"simd": "x"}, "fifos": {}}, "hw.fold.simd: found 'x'; input should be a valid integer"),
        ({"simd": 1, "pe": None, "fifos": {}}, "hw.fold.pe: found None; input should be a valid integer"),
        ({"simd": 1, "fifos": {}}, "hw.fold: is missing"),
    ],
)
def test_a_folding_of_another_shape_is_refused(hw: dict[str, Any], why: str, saved: Path, tmp_path: Path) -> None:
    def wrong(document: dict[str, Any]) -> None:
        next(node for node in document["nodes"] if node["kind"] == "linear")["hw"] = hw

    with pytest.raises(GraphError, match=f"corrupt: node '_0': ({why})"):
        Graph.load(changed(saved, tmp_path, wrong))


def test_files_of_earlier_schemas_load_without_a_digest(saved: Path, opaque: Path, tmp_path: Path) -> None:
    old = Graph.load(changed(saved, tmp_path / "plain", lambda document: None, 2))
    assert torch.equal(old(X), Graph.load(saved)(X))
    again = Graph.load(changed(opaque, tmp_path / "opaque", lambda document: None, 2))
    assert torch.equal(again(torch.ones(2, 3, 6)), Graph.load(opaque)(torch.ones(2, 3, 6)))


@pytest.mark.parametrize(
    ("key", "change", "why"),
    [
        (
            "0.weight",
            lambda x: x.to(torch.int8),
            "'0.weight': .*weight is int8; its record says float32|weight is int8",
        ),
        ("0.weight", lambda x: x.to(torch.complex64), "'0.weight': is complex64; allowed are bool"),
        ("0.weight", lambda x: x.double(), "weight is float64; its record says float32"),
        ("0.weight", lambda x: x[:, :-1].contiguous(), r"weight has shape \(8, 5\); its record says \(8, 6\)"),
        ("0.more", lambda x: torch.zeros(2), "tensor '0.more': no node reads it"),
        ("0.weight::scale", lambda x: x.long(), "scale of '0.weight': is int64; allowed is float32"),
        ("0.weight::scale", lambda x: x * torch.inf, "scale of '0.weight': holds a number that is not finite"),
    ],
)
def test_tensors_that_do_not_fit_are_refused_without_a_digest_too(
    key: str, change: Callable[[Any], Tensor], why: str, saved: Path, tmp_path: Path
) -> None:
    changed(saved, tmp_path, lambda document: None, 2)
    tensors = load((saved / "weights.safetensors").read_bytes())
    tensors[key] = change(tensors.get(key))
    (tmp_path / "weights.safetensors").write_bytes(save(tensors))
    with pytest.raises(GraphError, match=why):
        Graph.load(tmp_path)


def test_weights_of_whole_numbers_are_refused_even_where_the_record_says_so(saved: Path, tmp_path: Path) -> None:
    def whole(document: dict[str, Any]) -> None:
        next(n for n in document["nodes"] if n["kind"] == "linear")["operands"]["weight"]["dtype"] = "int8"

    changed(saved, tmp_path, whole, 2)
    tensors = load((saved / "weights.safetensors").read_bytes())
    tensors["0.weight"] = tensors["0.weight"].to(torch.int8)
    (tmp_path / "weights.safetensors").write_bytes(save(tensors))
    with pytest.raises(GraphError, match=r"weight is int8; allowed are float32, float64, float16, bfloat16"):
        Graph.load(tmp_path)


# -- calls ------------------------------------------------------------------------------------------------------------


def test_a_recurrent_graph_comes_back(opaque: Path) -> None:
    torch.manual_seed(0)
    model, x = Recurrent().eval(), torch.randn(2, 3, 6, generator=torch.Generator().manual_seed(1))
    loaded = Graph.load(opaque)
    assert "aten.lstm.input" in {str(node.node.target) for node in loaded.nodes()}
    with torch.no_grad():
        assert torch.equal(loaded(x), model(x))


def test_random_operations_are_taken_only_from_the_list(opaque: Path, tmp_path: Path) -> None:
    everything = sorted({s.name.removeprefix("aten::") + "." + (s.overload_name or "default") for s in schemas()})
    rng = random.Random(0)
    for name in rng.sample(everything, 200):
        target = f"aten.{name}"
        try:
            Graph.load(
                changed(opaque, tmp_path, lambda d, target=target: call(d, "aten.cumsum.default").update(target=target))
            )  # type: ignore[misc]
        except MaseError:
            continue
        assert target in aten.names()


def schemas() -> list[Any]:
    return [s for s in torch._C._jit_get_all_schemas() if s.name.startswith("aten::")]


@pytest.mark.parametrize(
    "target",
    [
        "aten._print.default",
        "aten.as_strided.default",
        "aten.set_.source_Tensor",
        "aten.resize_.default",
        "aten.from_file.default",
        "aten._embedding_bag.default",
        "aten.embedding_dense_backward.default",
        "aten.max_unpool2d.default",
        "aten._fft_c2r.default",
        "aten._unsafe_view.default",
        "aten._unsafe_index.Tensor",
        "aten.to.prim_Device",
        "aten.add_.Tensor",
        "aten.abs.out",
        "aten.rand.default",
        "aten.native_dropout.default",
        "aten.linalg_svd.default",
        "aten.item.default",
        "aten.lstm.data",
        "aten.repeat_interleave.Tensor",
        "aten.__class__.default",
        "aten.add.__class__",
        "operator.__import__",
        "os.system",
        "\x1b[31mred",
    ],
)
def test_operations_that_reach_further_are_refused(target: str, opaque: Path, tmp_path: Path) -> None:
    changed(opaque, tmp_path, lambda document: call(document, "aten.cumsum.default").update(target=target))
    with pytest.raises(GraphError, match="is not among those that a saved graph may call") as caught:
        Graph.load(tmp_path)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("target", "change", "why"),
    [
        ("aten.cumsum.default", {"args": [{"node": "getitem"}, 9]}, "does not fit its inputs: "),
        (
            "aten.cumsum.default",
            {"target": "aten.repeat.default", "args": [{"node": "getitem"}, [9**9, 9, 9]]},
            "elements",
        ),
        (
            "aten.cumsum.default",
            {"target": "aten.full.default", "args": [[10**9, 10**4], 1]},
            "gives 10000000000000 elem",
        ),
        ("aten.cumsum.default", {"target": "aten.flip.default", "args": [{"node": "getitem"}, [0, 0]]}, "does not fit"),
        ("aten.cumsum.default", {"target": "aten.abs.default"}, "does not fit|corrupt"),
        (
            "aten.cumsum.default",
            {"target": "aten.sum.default", "args": [{"node": "getitem"}]},
            r"gives shape \(\); its rec",
        ),
        (
            "aten.cumsum.default",
            {"target": "operator.mul", "args": [["x"], 10**9]},
            "found list; a number or a tensor|does not fit|corrupt",
        ),
        (
            "aten.cumsum.default",
            {"target": "operator.mod", "args": ["%9999999999d", 1]},
            "found str; a number or a tensor",
        ),
        ("aten.cumsum.default", {"kwargs": {"dict": {"dtype": {"dtype": "quint8"}}}}, "dtype 'quint8' is not one that"),
        ("aten.cumsum.default", {"kwargs": {"dict": {"dtype": 13}}}, "dtype is int; a dtype is needed"),
        ("aten.cumsum.default", {"kwargs": {"dict": {"dtype": {"device": "meta"}}}}, "device 'meta' is not one that"),
        (
            "aten.cumsum.default",
            {"kwargs": {"dict": {"dtype": {"layout": "sparse_coo"}}}},
            "layout 'sparse_coo' is not one that",
        ),
        ("aten.lstm.input", {"train": True}, "train is True; a saved graph does not train"),
        ("aten.lstm.input", {"layers": 3}, "lstm: 16 weights for 3 layers; 4 a layer and direction are needed"),
        ("aten.lstm.input", {"drop": 1}, "lstm: 15 weights for 2 layers"),
        ("aten.lstm.input", {"swap": (0, 1)}, r"lstm: state or weight 2 is \(20, 5\)"),
    ],
)
def test_calls_that_do_not_fit_are_refused(
    target: str, change: dict[str, Any], why: str, opaque: Path, tmp_path: Path
) -> None:
    def edit(document: dict[str, Any]) -> None:
        found = call(document, target)
        args = found["args"]
        if "train" in change:
            args[6] = True
        elif "layers" in change:
            args[4] = change["layers"]
        elif "drop" in change:
            del args[2][-1]
        elif "swap" in change:
            args[2][0], args[2][1] = args[2][1], args[2][0]
        else:
            found.update(change)

    with pytest.raises(GraphError, match=why):
        Graph.load(changed(opaque, tmp_path, edit))


def test_pytorch_prints_no_traceback_of_a_call_that_does_not_fit(opaque: Path, tmp_path: Path) -> None:
    def change(document: dict[str, Any]) -> None:
        found = call(document, "aten.cumsum.default")
        found["target"], found["args"] = "aten.glu.default", [found["args"][0], 1]  # 3 rows have no halves

    path = changed(opaque, tmp_path / "odd", change)
    code = f"import mase; from mase.graph import Graph; Graph.load({str(path)!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert "does not fit its inputs: Halving dimension must be even" in done.stderr
    assert "fake_tensor" not in done.stderr and "failed while attempting" not in done.stderr


def test_states_of_another_batch_than_the_input_are_refused_when_the_graph_runs(opaque: Path) -> None:
    def free(document: dict[str, Any]) -> None:
        next(n for n in document["nodes"] if n["kind"] == "input")["attrs"]["axes"] = ["batch", "", ""]

    graph = Graph.load(changed(opaque, opaque.parent / "free", free))
    with pytest.raises(GraphError, match=r"cannot run on these values: lstm: state or weight 0 is \(4, 2, 5\)"):
        graph(torch.ones(3, 3, 6))


@pytest.mark.parametrize("field", ["name", "path", "source", "kind"])
def test_names_that_would_move_the_cursor_are_refused(field: str, saved: Path, tmp_path: Path) -> None:
    def paint(document: dict[str, Any]) -> None:
        document["nodes"][1][field] = "\x1b[2J\x07"

    with pytest.raises(GraphError, match="has a character that cannot be printed") as caught:
        Graph.load(changed(saved, tmp_path, paint))
    assert str(caught.value).isprintable()


def test_what_a_saved_graph_may_not_call_is_not_saved(tmp_path: Path) -> None:
    class Drawing(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.linalg.svdvals(x).cumsum(-1)

    graph, _ = trace_export(Drawing().eval(), (torch.randn(2, 3, 3),))
    with pytest.raises(GraphError, match=r"cannot save: opaque node .* calls aten\.linalg_svd"):
        graph.save(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


# -- the list ---------------------------------------------------------------------------------------------------------


def test_no_operation_of_the_list_writes_or_gives_anything_but_tensors_and_sizes() -> None:
    for name in aten.names():
        schema = aten.find(name)._schema
        assert not schema.is_mutable
        assert all(str(r.type) in ("Tensor", "List[Tensor]", "int") for r in schema.returns), name


@pytest.mark.slow
def test_no_operation_of_the_list_crashes_on_arguments_that_do_not_fit() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.aten_child", "1"], cwd=ROOT, capture_output=True, text=True, errors="replace"
    )
    assert done.stdout.splitlines()[-1] == "done", f"{done.stdout.splitlines()[-1]}: {done.stderr[-300:]}"
    assert len(done.stdout.splitlines()) == len(aten.names()) + 1
