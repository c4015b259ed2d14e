"""Perplexity scores every token once, with the context that window and stride promise; by hand and by a slow loop."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

import mase
from mase.data.base import Passage, Split
from mase.errors import ConfigError
from mase.metrics.perplexity import perplexity
from mase.models.base import build

VOCAB = 256


def passage(length: int, size: int | None = None, vocab: int = VOCAB) -> Passage:
    ids = torch.randint(vocab, (length,), generator=torch.Generator().manual_seed(length))
    return Passage(ids[:1].view(1, 1), ids[1:2].view(1, 1), ids, length if size is None else size)


class Recorder:
    """Give each token the same chance, and note which positions were read in which window."""

    def __init__(self) -> None:
        self.windows: list[list[int]] = []

    def __call__(self, x: Tensor) -> Tensor:
        self.windows += x.tolist()
        return torch.zeros(*x.shape, VOCAB)


@pytest.mark.parametrize(("window", "stride"), [(8, 1), (8, 3), (8, 4), (8, 7), (16, 5)])
@pytest.mark.parametrize("length", [16, 17, 40, 41])
def test_each_token_but_the_first_is_scored_once(window: int, stride: int, length: int) -> None:
    found = perplexity(Recorder(), passage(length), window, stride)
    assert found.tokens == length - 1
    assert found.perplexity == pytest.approx(VOCAB, rel=1e-6)
    assert found.bits_per_byte == pytest.approx(8.0, rel=1e-6)


@pytest.mark.parametrize(("window", "stride", "length"), [(8, 3, 30), (6, 5, 23), (10, 2, 40)])
def test_it_is_the_sum_over_tokens_with_their_context(window: int, stride: int, length: int) -> None:
    """Each token is scored in the first window that holds it and some context before it."""
    torch.manual_seed(0)
    model, text = (
        build("llama", {"layers": 1, "dim": 16, "hidden": 16, "heads": 2, "kv_heads": 1}).eval(),
        passage(length),
    )
    starts = [*range(0, length - window, stride), length - window]
    nats = 0.0
    with torch.no_grad():
        for token in range(1, length):
            start = next(s for s in starts if s < token < s + window)
            logits = model(text.ids[None, start:token])[0, -1]
            nats += float(functional.cross_entropy(logits, text.ids[token]))
            assert token - start >= min(token, window - stride)  # the context that is promised
    found = perplexity(model, text, window, stride, batch=3)
    assert found.tokens == length - 1
    assert found.nats == pytest.approx(nats, rel=1e-5)  # float sums of another order


def test_windows_that_do_not_overlap_leave_the_first_token_of_each_out() -> None:
    seen = Recorder()
    text = passage(32)
    found = perplexity(seen, text, window=8, stride=8)
    assert found.tokens == 32 - 4
    assert seen.windows == text.ids.view(4, 8).tolist()


def test_all_windows_are_of_one_length_and_the_last_ends_with_the_text() -> None:
    seen, text = Recorder(), passage(21)
    perplexity(seen, text, window=8, stride=5)
    assert {len(window) for window in seen.windows} == {8}
    assert seen.windows[-1] == text.ids[-8:].tolist()


def test_more_context_is_better_for_a_model_that_uses_it() -> None:
    """A text of period 12 is unknown at the start of each window, and known after a period."""

    def periodic(x: Tensor) -> Tensor:
        logits = torch.zeros(*x.shape, VOCAB)
        for i in range(12, x.shape[1]):  # position i predicts i + 1, which was at i - 11
            logits[:, i].scatter_(1, x[:, i - 11].unsqueeze(1), 20.0)
        return logits

    ids = torch.arange(12).repeat(20)
    text = Passage(ids[:1].view(1, 1), ids[1:2].view(1, 1), ids, 240)
    far, near = (perplexity(periodic, text, 48, stride).bits_per_byte for stride in (48, 12))
    assert near < far / 2


def test_bits_per_byte_counts_the_bytes_of_a_token() -> None:
    found = perplexity(Recorder(), passage(100, size=400), 10)
    assert found.bits_per_byte == pytest.approx(8.0 / 4, rel=1e-6)
    assert (found.window, found.stride) == (10, 5)
    assert "window 10, stride 5" in str(found)


def test_batches_and_limits() -> None:
    torch.manual_seed(0)
    model = build("llama", {"layers": 1, "dim": 16, "hidden": 16, "heads": 2, "kv_heads": 1}).eval()
    one, many = (perplexity(model, passage(60), 16, 4, batch=b).nats for b in (1, 5))
    assert one == pytest.approx(many, rel=1e-6)
    assert perplexity(model, passage(60), 16, 4, limit=20).tokens == 19


def test_a_hopeless_model_has_infinite_perplexity_and_finite_bits() -> None:
    def sure(x: Tensor) -> Tensor:
        return functional.one_hot(torch.full_like(x, 0), VOCAB) * 2000.0

    text = passage(16)
    text.ids.clamp_(1)
    found = perplexity(sure, text, 8)
    assert found.perplexity == math.inf
    assert found.bits_per_byte == pytest.approx(2000 / math.log(2))


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: perplexity(Recorder(), passage(7), 8), "7 tokens; a window of 8 needs as many"),
        (lambda: perplexity(Recorder(), passage(9), 1), "window 1, stride 1"),
        (lambda: perplexity(Recorder(), passage(9), 4, 5), "window 4, stride 5; allowed are 1 <= stride <= window"),
        (lambda: perplexity(Recorder(), passage(9), 4, 0), "stride 0"),
    ],
)
def test_what_does_not_fit_is_told(call: Callable[[], object], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        call()


def test_a_traced_graph_reads_like_its_model() -> None:
    torch.manual_seed(0)
    model, text = build("llama", {"layers": 1, "dim": 16, "hidden": 16, "heads": 2, "kv_heads": 1}).eval(), passage(60)
    graph = mase.trace(model, text.ids[None, :16])
    assert perplexity(graph, text, 16, 4).nats == perplexity(model, text, 16, 4).nats


@pytest.mark.parametrize(
    ("model", "text"),
    [
        (lambda x: {"logits": x}, r"language model: gives dict for ids \[4, 4\]; allowed is \[batch, length, vocab\]"),
        (lambda x: torch.zeros(len(x), VOCAB), r"gives \[4, 256\] for ids \[4, 4\]"),
        (lambda x: torch.zeros(*x.shape, 3), "language model: found token .*; its vocabulary has 3"),
    ],
)
def test_what_is_no_language_model_is_told(model: Callable[[Tensor], Tensor], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        perplexity(model, passage(10), 4, 2)


def test_what_is_no_passage_and_no_limit_is_told() -> None:
    table: Any = Split(torch.zeros(2, 2), torch.zeros(2))
    with pytest.raises(ConfigError, match="perplexity: found Split; allowed is a passage of text"):
        perplexity(Recorder(), table, 4)
    with pytest.raises(ConfigError, match="limit -1; allowed is 1 or more"):
        perplexity(Recorder(), passage(10), 4, limit=-1)


def test_a_model_that_gives_nan_has_no_perplexity() -> None:
    found = perplexity(lambda x: torch.full((*x.shape, VOCAB), math.nan), passage(10), 4)
    assert math.isnan(found.perplexity)
    assert math.isnan(found.bits_per_byte)
