"""How likely a language model finds an answer, and how often the right answer is the likeliest."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor

from mase.data.tokens import Tokenizer
from mase.errors import ConfigError
from mase.metrics.perplexity import checked_logits

Model = Callable[[Tensor], Tensor]  # ids [batch, length] to logits [batch, length, vocab]
Pair = tuple[Tensor, Tensor]  # ids of a context, ids of what continues it
START = "\n"  # stands before a text that has no context


@dataclass(frozen=True)
class Likelihood:
    """Log-likelihood of a continuation in nats, and whether each of its tokens is the likeliest."""

    nats: float
    greedy: bool


def pair(tokens: Tokenizer, context: str, continuation: str) -> Pair:
    """Return the tokens of a context and of its continuation.

    Both are encoded as one text, since a token may span the border; spaces that end the context go to the continuation.
    An empty context is a line's end.

    Raises:
        ConfigError: the continuation has no token of its own.
    """
    bare = context.rstrip() or START
    whole = tokens.encode(bare + context[len(context.rstrip()) :] + continuation)
    count = len(tokens.encode(bare))
    if len(whole) <= count:
        raise ConfigError(f"likelihood: continuation {continuation[:40]!r} adds no token to its context")
    return whole[:count], whole[count:]


def loglikelihoods(model: Model, pairs: Sequence[Pair], window: int, batch: int = 8) -> list[Likelihood]:
    """Return the likelihood of each continuation; of a context that is too long the end counts.

    Args:
        window: tokens that the model takes at most. batch: pairs of one length that are run at a time.

    Raises:
        ConfigError: a context or a continuation is empty, or a continuation is longer than the window.
    """
    for context, continuation in pairs:
        if not len(context) or not 1 <= len(continuation) <= window:
            sizes = f"context of {len(context)}, continuation of {len(continuation)} tokens"
            raise ConfigError(f"likelihood: {sizes}; allowed are 1 or more, and 1..{window}")
    if batch < 1:
        raise ConfigError(f"likelihood: batch {batch}; allowed is 1 or more")
    rows = [torch.cat(parts)[-window - 1 :] for parts in pairs]
    found: dict[int, Likelihood] = {}
    for _, same in groupby(sorted(range(len(rows)), key=lambda i: len(rows[i])), key=lambda i: len(rows[i])):
        for chosen in torch.tensor(list(same)).split(batch):
            x = torch.stack([rows[i] for i in chosen.tolist()])
            with torch.no_grad():
                logs = checked_logits(model(x[:, :-1]), x[:, :-1]).float().log_softmax(-1)
            for i, log, target in zip(chosen.tolist(), logs, x[:, 1:], strict=True):
                found[i] = _score(log, target, len(pairs[i][1]))
    return [found[i] for i in range(len(rows))]


def _score(log: Tensor, target: Tensor, count: int) -> Likelihood:
    """Score the last ``count`` tokens of a row."""
    log, target = log[-count:], target[-count:]
    nats = log.gather(1, target.unsqueeze(1)).double().sum()
    return Likelihood(float(nats), bool((log.argmax(1) == target).all()))


@dataclass(frozen=True)
class Question:
    """A context, the answers to choose from, and which is right."""

    context: str
    answers: tuple[str, ...]
    right: int


@dataclass(frozen=True)
class Answered:
    """Share of questions whose right answer is the likeliest; and where likelihood is divided by the answer's bytes."""

    accuracy: float
    accuracy_by_length: float
    questions: int


def _likeliest(values: Sequence[float]) -> int | None:
    """Return the place of the greatest number, the first of equals; none where one is NaN."""
    return None if any(math.isnan(value) for value in values) else values.index(max(values))


def answer(model: Model, tokens: Tokenizer, questions: Sequence[Question], window: int, batch: int = 8) -> Answered:
    """Let a model choose the likeliest answer to each question; of equal ones it takes the first.

    Args:
        window, batch: see :func:`loglikelihoods`.

    Raises:
        ConfigError: there are no questions, or one has no right answer among its answers.
    """
    for question in questions:
        if not question.answers:
            raise ConfigError(f"question {question.context[:40]!r}: has no answers; one or more are needed")
        if not 0 <= question.right < len(question.answers):
            text = f"question {question.context[:40]!r}: right answer {question.right}"
            raise ConfigError(f"{text}; allowed are 0..{len(question.answers) - 1}")
    if not questions:
        raise ConfigError("there are no questions; one or more are needed")
    pairs = [pair(tokens, question.context, text) for question in questions for text in question.answers]
    scores = iter(loglikelihoods(model, pairs, window, batch))
    plain = by_length = 0
    for question in questions:
        nats = [next(scores).nats for _ in question.answers]
        scaled = [value / len(text.encode()) for value, text in zip(nats, question.answers, strict=True)]
        plain += _likeliest(nats) == question.right
        by_length += _likeliest(scaled) == question.right
    return Answered(plain / len(questions), by_length / len(questions), len(questions))
