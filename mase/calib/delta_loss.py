"""What the loss of a model feels of each layer's rounding: gradients times errors (docs/ptq/delta_loss.md)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from mase.errors import ConfigError
from mase.formats import Format
from mase.formats.base import Axes
from mase.formats.int import Int
from mase.graph import Graph
from mase.interpreter import Batch, train, unpacked
from mase.metrics.perplexity import checked_logits

Loss = Callable[[Tensor, tuple[Tensor, ...]], Tensor]  # of what the graph gave for its inputs


def next_token(logits: Tensor, inputs: tuple[Tensor, ...]) -> Tensor:
    """Return the mean cross entropy of each token but the first, given those before it."""
    ids = inputs[0]
    found = checked_logits(logits, ids)
    return functional.cross_entropy(found[:, :-1].flatten(0, 1), ids[:, 1:].flatten())


def delta_loss(
    graph: Graph, batches: Iterable[Batch], keys: Sequence[str], schemes: Sequence[Format], loss: Loss = next_token
) -> dict[str, tuple[float, ...]]:
    """Return for each tensor and scheme the sum of ``|g * (W - W')|``, W' all tensors rounded at once, g at W'.

    One run forward and backward for each scheme and batch, not for each layer. An expert that no token of the batches
    reached has no gradient; it gets the mean of the other experts of its tensor.

    Args:
        graph: in float; a language model unless ``loss`` says otherwise. batches: its inputs.
        keys: tensors of the graph's table that are scored, summed along their last axis: ``[outputs, inputs]``, or
            ``[experts, outputs, inputs]``.

    Raises:
        ConfigError: a key is not in the table, there are no batches, or a loss is not a number.
    """
    samples = [unpacked(graph, batch) for batch in batches]
    if not samples:
        raise ConfigError("delta loss: needs calibration data; pass calibration tokens")
    scores = [_scores(graph, samples, keys, scheme, loss) for scheme in schemes]
    return {key: tuple(score[key] for score in scores) for key in keys}


def stored_bits(shape: Sequence[int], scheme: Format, charged: bool = False) -> int:
    """Return the bits of a tensor of weights in a format, scales and zero points included.

    Args:
        charged: add a zero point, as wide as an element, to groups of integers that have none, as AutoScheme does.
    """
    matrix = (torch.Size(shape[:-1]).numel(), shape[-1])
    found = round(scheme.bits(matrix, scheme.along(Axes())) * matrix[0] * matrix[1])
    if charged and isinstance(scheme, Int) and scheme.zero == "none":
        scales = matrix[0] * -(-matrix[1] // scheme.group) if scheme.group else matrix[0] if scheme.channel else 1
        found += scales * sum(bits for _, bits in scheme.layout().element)
    return found


def _scores(
    graph: Graph, samples: Sequence[tuple[Tensor, ...]], keys: Sequence[str], scheme: Format, loss: Loss
) -> dict[str, float]:
    """Return the score of each tensor under one scheme."""
    weights = {key: _weight(graph, key) for key in keys}
    tables = {key: rounded(weight, scheme).requires_grad_() for key, weight in weights.items()}
    errors = {key: weights[key] - tables[key].detach() for key in keys}
    frozen = {key: tensor.detach() for key, tensor in graph.tensors.items()}
    felt = {key: torch.zeros(weight.shape[:-2], dtype=torch.float64) for key, weight in weights.items()}
    reached = {key: torch.zeros(weight.shape[:-2], dtype=torch.bool) for key, weight in weights.items()}
    quantized = graph.on({**frozen, **tables})
    for inputs in samples:
        value = loss(train(quantized, inputs), inputs)
        if not bool(torch.isfinite(value)):
            raise ConfigError(f"delta loss: the loss under {scheme} is {float(value.detach())}; allowed are numbers")
        found = torch.autograd.grad(value, list(tables.values()), allow_unused=True)
        for key, gradient in zip(keys, found, strict=True):
            if gradient is not None:
                felt[key] += (gradient * errors[key]).abs().sum((-2, -1), dtype=torch.float64).cpu()
                reached[key] |= is_reached(gradient).cpu()
    return {key: float(with_means(score, reached[key]).sum()) for key, score in felt.items()}


def _weight(graph: Graph, key: str) -> Tensor:
    if key not in graph.tensors:
        raise ConfigError(f"delta loss: the graph has no tensor {key!r}")
    return graph.tensors[key].detach().to(torch.float32)


def rounded(weight: Tensor, scheme: Format) -> Tensor:
    """Round a matrix, or each of several, on its own."""
    if weight.ndim == 2:
        return scheme.quantize(weight, scheme.calibrate(weight, scheme.along(Axes())))
    return torch.stack([rounded(part, scheme) for part in weight])


def is_reached(gradient: Tensor) -> Tensor:
    """Tell of a matrix, or of each of several, whether a token reached it: its gradient is not zero all over."""
    return (gradient != 0).flatten(-2).any(-1)


def with_means(score: Tensor, reached: Tensor) -> Tensor:
    """Give the experts of a stack that no token reached the mean of the others; one that loses nothing keeps that."""
    if score.ndim == 0 or not bool(reached.any()):
        return score
    return torch.where(reached, score, score[reached].mean())
