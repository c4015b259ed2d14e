"""Are the data whole, does the model fit them, can its graph be searched: asked before the work that needs it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mase.data.base import Data, Split
from mase.errors import ConfigError, UnsupportedOp
from mase.frontend.check import Output, choices, fields
from mase.graph import Graph
from mase.metrics.perplexity import checked_logits
from mase.netlist import listed, region
from mase.ops.base import builds


def check_data(data: Data) -> None:
    """Refuse data that would train or score something else than what is meant.

    Raises:
        ConfigError: a split has no samples, no tensors, fewer labels than inputs, another shape than the train split,
            NaN or infinity, or classes that are not numbers from 0 on; names the split.
    """
    for name in ("train", "validation", "test"):
        split: Split = getattr(data, name)
        where = f"data {data.name[:60]}: {name}"
        _check_shapes(split, data.train, where)
        for x in split.inputs:
            _check_values(x, f"{where}: inputs")
        _check_values(split.y, f"{where}: labels")
        if data.task == "classes" and (split.y.dtype != torch.int64 or int(split.y.min()) < 0):
            found = split.y.dtype if split.y.dtype != torch.int64 else f"class {int(split.y.min())}"
            raise ConfigError(f"{where}: labels: found {found}; allowed are classes 0, 1, ... in torch.int64")


def check_fit(model: nn.Module, data: Data, outputs: Output = None) -> Any:  # what the model returned
    """Run two samples through a model and compare what comes out with the labels.

    Args:
        outputs: of a model with several results: those that are built, of which the first is compared.

    Raises:
        ConfigError: the model fails on the data, has fewer outputs than there are classes, or gives other values than
            the labels are. GraphError: it does not return such an output.
    """
    few, before = data.train.at(slice(2)), model.training
    try:
        with torch.no_grad():
            result = model.eval()(*few.inputs)
    except Exception as error:  # whatever the model's own code raises
        text = " ".join(str(error).split())[:200]
        given = ", ".join(f"{x.dtype} {list(x.shape)}" for x in few.inputs)
        raise ConfigError(f"model: fails on inputs {given}: {text}") from error
    finally:
        model.train(before)
    found = next(iter(fields(result, outputs or choices(result) or None).values()))
    if isinstance(found, Tensor):
        _check_result(found, few, data)
    return result


def _check_result(found: Tensor, few: Split, data: Data) -> None:
    """Compare what a model gives for a few samples with what the labels are."""
    if data.task == "values" and found.shape != few.y.shape:
        raise ConfigError(
            f"model: gives {list(found.shape)} for {len(few)} samples; the labels are values {list(few.y.shape)}"
        )
    if data.task == "tokens":
        checked_logits(found, few.x)
        most = max(int(split.y.max()) for split in (data.train, data.validation, data.test))
        if most >= found.shape[2]:
            raise ConfigError(f"model: its vocabulary has {found.shape[2]} tokens; data {data.name} has token {most}")
    if data.task != "classes":
        return
    classes = 1 + max(int(split.y.max()) for split in (data.train, data.validation, data.test))
    if found.dim() != 2 or found.shape[1] < classes:
        raise ConfigError(
            f"model: gives {list(found.shape)} for {len(few)} samples of {classes} classes; allowed is "
            f"[samples, {classes} or more]"
        )


def check_hardware(graph: Graph) -> None:
    """Refuse a graph of which no design could be built, whatever its formats.

    Raises:
        UnsupportedOp: the graph has operators without hardware, or none; names the first of them.
    """
    nodes = region(graph)
    if not nodes:
        raise UnsupportedOp("graph: there is nothing to build between input and output")
    missing = [node for node in nodes if not builds(node)]
    if missing:
        raise UnsupportedOp(f"graph: no design could be built: no hardware for {listed(missing)}")


def _check_shapes(split: Split, first: Split, where: str) -> None:
    for tensor in (split.y, *split.inputs):
        if not isinstance(tensor, Tensor):
            raise ConfigError(f"{where}: found {type(tensor).__name__}; a torch.Tensor is needed")
    inputs, labels = len(split.x), len(split.y)
    if not inputs or inputs != labels:
        raise ConfigError(f"{where}: {inputs} inputs, {labels} labels; allowed is one label an input, one or more")
    uneven = [len(x) for x in split.others if len(x) != inputs]
    if uneven:
        raise ConfigError(f"{where}: {inputs} of the first input, {uneven[0]} of another; allowed is one a sample")
    here, there = (", ".join(f"{x.dtype} {list(x.shape[1:])}" for x in s.inputs) for s in (split, first))
    if here != there:
        raise ConfigError(f"{where}: a sample is {here}, but {there} in the train split")


def _check_values(x: Tensor, where: str) -> None:
    if x.dtype == torch.float64:
        raise ConfigError(f"{where}: found torch.float64; models compute in torch.float32: convert with .float()")
    if not x.is_floating_point() or bool(x.isfinite().all()):
        return
    bad = (~x.isfinite()).flatten(1) if x.dim() > 1 else ~x.isfinite().unsqueeze(1)
    samples = bad.any(1).nonzero().flatten()
    raise ConfigError(f"{where}: NaN or infinity in {len(samples)} samples, the first of them {int(samples[0])}")
