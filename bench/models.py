"""What the benches measure: one multilayer perceptron on seeded data, and single linear layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import torch
from sklearn.datasets import make_classification
from torch import Tensor, nn

from mase import config
from mase.config import TrainConfig
from mase.data.base import Data, Split
from mase.frontend.module import trace_module
from mase.graph import Graph
from mase.models.mlp import mlp
from mase.paths import configs_dir
from mase.training import score, train
from passes.fuse import fuse
from passes.map import Folding, MapConfig, map_graph
from passes.quantize import NodeFormats, QuantizeConfig, apply, ranges

SIZES = (16, 64, 32, 32, 5)
TRAINING, EVALUATION = 1024, 512  # rows
INTERVAL = 64  # cycles a sample that designs are built for
# Kinds of arithmetic: a binary point; a scale, for weights one a channel; block exponents, summed exactly or aligned.
KINDS: Mapping[str, NodeFormats] = {
    "fixed": NodeFormats(weight="fixed8", activation="fixed8", accumulation="auto"),
    "int": NodeFormats(weight="int8c", activation="int8", accumulation="auto"),
    "mxint": NodeFormats(weight="mxint8b8e4", activation="mxint8b8e4", accumulation="exact"),
    "aligned": NodeFormats(weight="mxint8b8e4", activation="mxint8b8e4", accumulation="aligned(8)"),
}


@dataclass(frozen=True, eq=False)
class Task:
    """A trained model as a float graph.

    Args:
        samples: values of every edge on calibration data, by edge name.
        evaluation: rows that are scored. accuracy: of the float model on them.
    """

    graph: Graph
    samples: Mapping[str, Tensor]
    evaluation: Split
    accuracy: float


def rows(count: int) -> Split:
    """Return rows of 16 features in 5 classes; the same first rows for any count."""
    x, y = make_classification(
        1 << 16, SIZES[0], n_informative=10, n_classes=SIZES[-1], class_sep=2.0, flip_y=0.0, random_state=0
    )
    return Split(torch.tensor(x[:count], dtype=torch.float32), torch.tensor(y[:count]))


@cache
def task() -> Task:
    """Train the perceptron in half a second and trace it."""
    every = rows(TRAINING + EVALUATION)
    x, y = every.x.split([TRAINING, EVALUATION]), every.y.split([TRAINING, EVALUATION])
    training, evaluation = Split(x[0], y[0]), Split(x[1], y[1])
    torch.manual_seed(0)
    model = mlp(SIZES)
    train(model, Data("rows", training, evaluation, evaluation), TrainConfig(epochs=20), 0, lambda epoch, loss: None)
    graph = fuse(trace_module(model, (evaluation.x[:2],))[0])[0]
    return Task(graph, ranges(graph, [training.x]), evaluation, score(model, evaluation))


def formats() -> tuple[str, ...]:
    """Return the formats that the quickstart searches."""
    section = config.load(configs_dir() / "quickstart.yaml").search
    assert section is not None
    return tuple(section.weight)


def quantized(kind: str) -> Graph:
    """Return the perceptron in one of ``KINDS``."""
    given = KINDS[kind]
    return apply(task().graph, QuantizeConfig(default=given, inputs=given.activation), task().samples)[0]


def layer(inputs: int, outputs: int, folding: Folding, kind: str) -> Graph:
    """Return one linear layer in one of ``KINDS``, mapped to these lanes; its weights are random."""
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(inputs, outputs)).eval(), torch.randn(64, inputs)
    graph = trace_module(model, (x[:2],))[0]
    given = KINDS[kind]
    found = apply(graph, QuantizeConfig(default=given, inputs=given.activation), ranges(graph, [x]))[0]
    return map_graph(found, MapConfig(folding={"*": folding}))[0]
