"""What the benches measure is what they say: the same rows, sizes, formats and lanes in every run."""

from __future__ import annotations

import pytest
import torch

from bench.models import INTERVAL, KINDS, SIZES, formats, layer, quantized, rows, task
from mase.netlist import build
from passes.map import Folding


def test_more_rows_begin_with_the_same_ones() -> None:
    few, many = rows(10), rows(100)
    assert torch.equal(few.x, many.x[:10]) and torch.equal(few.y, many.y[:10])
    assert set(many.y.tolist()) == set(range(SIZES[-1]))


def test_the_perceptron_has_learnt() -> None:
    assert task().accuracy > 0.8  # one class in five by chance
    assert len(task().evaluation) == 512


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_computes_nearly_the_float_model(kind: str) -> None:
    x = task().evaluation.x
    same = quantized(kind)(x).argmax(1) == task().graph(x).argmax(1)
    assert same.double().mean() > 0.95


def test_a_layer_has_the_lanes_it_is_given() -> None:
    (instance,) = build(layer(24, 16, Folding(8, 4), "int")).instances
    assert (instance.block.stream_in.lanes, instance.block.stream_out.lanes) == (8, 4)


def test_searched_formats_are_those_of_the_quickstart() -> None:
    assert {"fixed8", "int8", "mxint8b8e4"} <= set(formats()) and INTERVAL == 64
