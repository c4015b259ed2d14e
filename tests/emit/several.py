"""Small designs with several inputs or several outputs, quantized and mapped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from mase.flow import trace
from passes.fuse import fuse
from passes.map import Folding, MapConfig, map_graph
from passes.quantize import NodeFormats, QuantizeConfig, quantize
from tests.emit.designs import fed_all
from tests.emit.proof import Case


class Apart(nn.Module):
    """Two branches that have nothing in common."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(6, 4), nn.Linear(5, 3)

    def forward(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        return {"left": self.one(x), "endmodule": self.two(y)}


class Inner(nn.Module):
    """A hidden edge and the last one both leave."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.first(x).relu()
        return hidden, self.second(hidden)


class Twice(nn.Module):
    """One edge leaves three times."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(5, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        y = self.fc(x)
        return y, y, y


class Joined(nn.Module):
    """Two inputs meet."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(5, 4)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.fc(x) + y


class Early(nn.Module):
    """Windows that leave the last row and column of an image out, so that results need not wait for its end."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 2, stride=2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.conv(x)
        return y, y.relu()


def case(
    name: str,
    model: nn.Module,
    inputs: Sequence[Tensor],
    outputs: Sequence[str | int] | None,
    formats: Mapping[str, NodeFormats],
    folding: Mapping[str, Folding],
) -> Case:
    """Return a mapped model with its inputs: real ones, then corners."""
    graph = fuse(trace(model.eval(), tuple(inputs), output=outputs))[0]
    graph, _ = quantize.run(graph, QuantizeConfig(overrides=formats, inputs="fixed6.3"), [tuple(inputs)])
    graph, _ = map_graph(graph, MapConfig(folding=folding))
    code, *others = fed_all(graph, inputs)
    return Case(name, graph, code, tuple(others))


def cases() -> dict[str, Case]:
    """Return two branches apart, a hidden edge that leaves too, an edge that leaves thrice, two that meet, an image."""
    torch.manual_seed(0)
    plain, blocks = NodeFormats("int4", output="fixed7.3"), NodeFormats("int4", output="mxint4b2e3")
    apart = {"one": plain, "two": blocks}
    made = [
        case("apart", Apart(), (torch.randn(8, 2, 6), torch.randn(8, 5)), ("left", "endmodule"), apart,
             {"one": Folding(2, 2), "two": Folding(2, 1)}),
        case("inner", Inner(), (torch.randn(8, 6),), (0, 1), {"first": blocks, "second": plain},
             {"first": Folding(2, 2), "second": Folding(1, 1)}),
        case("twice", Twice(), (torch.randn(8, 5),), (0, 1, 2), {"fc": plain}, {"fc": Folding(2, 2)}),
        case("joined", Joined(), (torch.randn(8, 5), torch.randn(8, 4)), None, {"fc": plain, "add": blocks},
             {"fc": Folding(2, 2)}),
        case("early", Early(), (torch.randn(8, 2, 3, 3),), (0, 1), {"conv": plain, "relu": plain},
             {"conv": Folding(1, 1)}),
    ]  # fmt: skip
    return {case.name: case for case in made}
