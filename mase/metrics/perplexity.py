"""How well a language model predicts a text: perplexity, and bits per byte, by windows that overlap."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional

from mase.data.base import Passage
from mase.errors import ConfigError

LN2 = math.log(2)


@dataclass(frozen=True)
class Perplexity:
    """What a model lost on a text, and how it was read.

    Args:
        nats: summed over ``tokens`` scored tokens. tokens_a_byte: of the whole text. window, stride: in tokens.
    """

    nats: float
    tokens: int
    tokens_a_byte: float
    window: int
    stride: int

    @property
    def perplexity(self) -> float:
        """Of a token; compares models of one tokenizer only. Infinite where the mean loss is above 709 nats."""
        mean = self.nats / self.tokens
        return math.inf if mean >= 709 else math.exp(mean)

    @property
    def bits_per_byte(self) -> float:
        """Compares models of any tokenizer."""
        return self.nats / self.tokens / LN2 * self.tokens_a_byte

    def __str__(self) -> str:
        read = f"{self.tokens} tokens, window {self.window}, stride {self.stride}"
        return f"perplexity {self.perplexity:.4g} a token, {self.bits_per_byte:.4f} bits per byte ({read})"


def checked_logits(found: object, ids: Tensor) -> Tensor:
    """Return what a language model gave for ``ids [batch, length]``, with a logit for each of them.

    Raises:
        ConfigError: it is not ``[batch, length, vocab]``, or the vocabulary does not hold the ids.
    """
    if not isinstance(found, Tensor) or found.dim() != 3 or found.shape[:2] != ids.shape:
        shape = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise ConfigError(f"language model: gives {shape} for ids {list(ids.shape)}; allowed is [batch, length, vocab]")
    if ids.numel() and int(ids.max()) >= found.shape[2]:
        raise ConfigError(f"language model: found token {int(ids.max())}; its vocabulary has {found.shape[2]}")
    return found


def perplexity(
    model: Callable[[Tensor], Tensor],
    passage: Passage,
    window: int,
    stride: int | None = None,
    batch: int = 8,
    limit: int | None = None,
) -> Perplexity:
    """Read a text through windows of one length and score each token once, where it has most context.

    Windows begin ``stride`` tokens apart and the last one ends with the text. Each scores the tokens that the one
    before did not, which thus have ``window - stride`` tokens of context or more. The first token of a window has no
    context and is never scored: the first of the text, and one a window where ``stride == window``.

    Args:
        model: ids ``[batch, window]`` to logits ``[batch, window, vocab]``. stride: left out: half a window.
        batch: windows at a time. limit: read only so many tokens of the text.

    Raises:
        ConfigError: window, stride or text are too short.

    Source: the sliding window that is usual for models of fixed length, as in Hugging Face's guide to perplexity.
    """
    if not isinstance(passage, Passage):
        raise ConfigError(f"perplexity: found {type(passage).__name__}; allowed is a passage of text")
    if limit is not None and limit < 1:
        raise ConfigError(f"perplexity: limit {limit}; allowed is 1 or more")
    ids = passage.ids[:limit]
    stride = max(1, window // 2) if stride is None else stride
    if window < 2 or not 1 <= stride <= window:
        raise ConfigError(f"perplexity: window {window}, stride {stride}; allowed are 1 <= stride <= window >= 2")
    if batch < 1:
        raise ConfigError(f"perplexity: batch {batch}; allowed is 1 or more")
    if len(ids) < window:
        raise ConfigError(f"perplexity: {len(ids)} tokens; a window of {window} needs as many")
    starts = [*range(0, len(ids) - window, stride), len(ids) - window]
    firsts = [1] + [max(1, before + window - start) for before, start in pairwise(starts)]
    nats = 0.0
    with torch.no_grad():
        for i in range(0, len(starts), batch):
            x = torch.stack([ids[start : start + window] for start in starts[i : i + batch]])
            logits = checked_logits(model(x), x)
            loss = functional.cross_entropy(logits[:, :-1].float().transpose(1, 2), x[:, 1:], reduction="none")
            nats += sum(float(row[first - 1 :].double().sum()) for row, first in zip(loss, firsts[i:], strict=False))
    scored = sum(window - first for first in firsts)
    return Perplexity(nats, scored, len(passage.ids) / passage.bytes, window, stride)
