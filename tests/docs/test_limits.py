"""What docs/limits.md says is refused is refused, in one line that says what; what stops being a limit fails here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import mase
from mase.dataflow.grid import stream_grid
from mase.errors import MaseError
from mase.formats import QuantParams, parse
from passes.map import MapConfig, map_graph
from tests.docs.pages import DOCS

X = torch.randn(4, 64)
FIXED = {"weight": "int8", "activation": "fixed8.4"}
STACK = nn.Sequential(nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 4))


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(64, 64)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x) + x


class TwoIn(Residual):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:  # type: ignore[override]
        return self.fc(x) + y


class TwoOut(Residual):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        return self.fc(x), x


class Moved(Residual):
    def __init__(self, move: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.move = move

    def forward(self, x: Tensor) -> Tensor:
        return self.move(self.fc(x))


class Logarithm(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.log()


class Sorted(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.sort(-1).values


def refusal(model: nn.Module, x: tuple[Tensor, ...], formats: dict[str, str], folder: Path) -> str:
    """Return what the road from a model to RTL says."""
    with pytest.raises(MaseError) as caught:
        mase.emit(mase.quantize(mase.trace(model.eval(), x), {"default": formats}, x[:1]), folder / "rtl")
    assert not (folder / "rtl").exists()
    return str(caught.value)


@pytest.mark.parametrize(
    ("model", "x", "text"),
    [
        (nn.Sequential(nn.ConvTranspose2d(1, 2, 3)), (X.reshape(4, 1, 8, 8),), "node '0' (conv): is transposed"),
        (nn.Sequential(nn.Conv3d(1, 2, 2)), (X.reshape(4, 1, 4, 4, 4),), "(conv): runs over 3 axes"),
        (nn.Sequential(nn.Conv1d(8, 2, 3, padding=1, padding_mode="circular")), (X.reshape(4, 8, 8),), "padding_mode"),
        (nn.Sequential(nn.Linear(64, 4), nn.Softmax(-1)), (X,), "node '1' (softmax): has no hardware"),
        (
            nn.Sequential(nn.AdaptiveAvgPool2d(3)),
            (X.reshape(4, 1, 8, 8),),
            "(3, 3) windows of (8, 8) elements differ in size",
        ),
        (Moved(lambda x: x.roll(1, 0)), (X,), "roll moves elements between samples"),
        (Moved(lambda x: x[:, [3, 1]]), (X,), "has no hardware"),
        (Moved(lambda x: F.pad(x.unflatten(1, (8, 8)), (0, 0, 1, 0), value=0.3)), (X,), "that the grid cannot code"),
        (Moved(lambda x: x / (x * x + 1)), (X,), "div: has no hardware"),
        (
            nn.Sequential(nn.Unflatten(1, (8, 8)), nn.Linear(8, 3), nn.Conv1d(8, 2, 1)),
            (X,),
            "its result is to travel with axis 1 fastest",
        ),
        (nn.Sequential(nn.Linear(64, 4), Logarithm()), (X,), "a table of an infinite range"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else None,
)
def test_models_beyond_the_limits_are_refused_by_name(
    model: nn.Module, x: tuple[Tensor, ...], text: str, tmp_path: Path
) -> None:
    assert text in refusal(model, x, FIXED, tmp_path)


class Unread(Residual):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:  # type: ignore[override]
        return self.fc(x)


@pytest.mark.parametrize(
    ("model", "x", "output", "text"),
    [
        (TwoOut(), (X,), (0, 1), "node 'x' (input): leaves as it came"),
        (Unread(), (X, X), None, "node 'y' (input): no output depends on it"),
    ],
)
def test_inputs_and_outputs_beyond_the_limits_are_refused_by_name(
    model: nn.Module, x: tuple[Tensor, ...], output: tuple[int, ...] | None, text: str, tmp_path: Path
) -> None:
    graph = mase.quantize(mase.trace(model.eval(), x, output=output), {"default": FIXED}, [x])
    with pytest.raises(MaseError) as caught:
        mase.emit(graph, tmp_path / "rtl")
    assert text in str(caught.value)
    assert not (tmp_path / "rtl").exists()


@pytest.mark.parametrize("model", [TwoIn(), Residual()])
def test_what_is_no_limit_any_more_is_built(model: nn.Module, tmp_path: Path) -> None:
    x = (X,) * (2 if isinstance(model, TwoIn) else 1)
    graph = mase.quantize(mase.trace(model.eval(), x), {"default": FIXED}, [x])
    design = mase.emit(graph, tmp_path / "rtl")
    assert (len(design.inputs), len(design.outputs)) == (len(x), 1)


NOT_ON_CHIP = {
    "nf4": "has no hardware",
    "int8r": "has a real offset",
    "fixed8.4_wrap": "wraps",
    "mxint8b4x4": "several axes",
    "mxint8_nan": "encodes NaN",
}


@pytest.mark.parametrize("role", ["weight", "activation"])
@pytest.mark.parametrize("text", NOT_ON_CHIP)
def test_formats_beyond_the_limits_are_refused(text: str, role: str, tmp_path: Path) -> None:
    said = refusal(STACK, (X,), {**FIXED, role: text}, tmp_path)
    assert text in said
    assert NOT_ON_CHIP[text] in said


FOR_WEIGHTS = {
    "int8c": "a scale a channel",
    "int8ca": "a zero point a channel",
    "int4g32": "groups",
    "int8f": "a scale below 0",
    "fixed8.4_floor": "rounding",
}


@pytest.mark.parametrize(("text", "why"), FOR_WEIGHTS.items())
def test_activations_have_limits_that_weights_have_not(text: str, why: str, tmp_path: Path) -> None:
    assert why in refusal(STACK, (X,), {**FIXED, "activation": text}, tmp_path)
    mase.emit(mase.quantize(mase.trace(STACK.eval(), X), {"default": {**FIXED, "weight": text}}, [X]), tmp_path / "w")


def test_norms_of_rows_take_no_nvfp4_and_give_it(tmp_path: Path) -> None:
    norm, formats = nn.LayerNorm(64), {"weight": "int8", "activation": "nvfp4b4"}
    assert "use an input without blocks, such as int8" in refusal(norm, (X,), formats, tmp_path)
    graph = mase.quantize(mase.trace(norm.eval(), X), {"default": formats, "inputs": "int8"}, [X])
    mase.emit(graph, tmp_path / "rtl")


def test_a_tensor_scale_of_nvfp4_on_a_stream_is_a_float32() -> None:
    params = QuantParams(scale=torch.tensor(0.1, dtype=torch.float64))
    with pytest.raises(MaseError, match=r"here: .* 0.1 on a stream; allowed are float32 numbers .* nearest is 0.1000"):
        stream_grid(parse("nvfp4b4"), params, "here")


def test_blocks_do_not_cross_a_reshape_that_they_do_not_tile(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Unflatten(1, (8, 8)), nn.Linear(8, 3), nn.Flatten(), nn.Linear(24, 2))
    assert "do not tile" in refusal(model, (X,), {"weight": "int8", "activation": "mxint8b8e4"}, tmp_path)


def test_a_folding_beyond_a_layer_is_refused() -> None:
    graph = mase.quantize(mase.trace(STACK.eval(), X), {"default": FIXED}, [X])
    with pytest.raises(MaseError, match=r"node '2' \(linear\): .*it has at most simd 8, pe 4; the nearest is simd 8"):
        map_graph(graph, MapConfig(folding={"2": {"simd": 16}}))


def test_a_graph_with_an_opaque_node_runs_but_is_not_saved(tmp_path: Path) -> None:
    graph = mase.quantize(mase.trace(nn.Sequential(nn.Linear(64, 4), Sorted()).eval(), X), {"default": FIXED}, [X])
    assert mase.emulate(graph, X).shape == (4, 4)
    with pytest.raises(MaseError, match="cannot save: opaque node"):
        graph.save(tmp_path)


def test_the_page_marks_what_is_tested_here() -> None:
    assert (DOCS / "limits.md").read_text(encoding="utf-8").count("(*)") >= 16
