"""The likelihood of an answer is the sum over its tokens; contexts are cut at the left; answers are chosen by it."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from mase.data.tokens import Bytes, tokenizer
from mase.errors import ConfigError
from mase.metrics.likelihood import Question, answer, loglikelihoods, pair

TOKENS = Bytes()


@pytest.fixture
def model() -> nn.Module:
    from mase.models.base import build

    torch.manual_seed(0)
    return build("llama", {"layers": 1, "dim": 16, "hidden": 16, "heads": 2, "kv_heads": 1}).eval()


def alphabet(x: Tensor) -> Tensor:
    """Expect after each byte the next one, at odds of e**5 to each other byte."""
    return nn.functional.one_hot((x + 1) % 256, 256) * 5.0


RIGHT, WRONG = (5.0 * hit - math.log(math.exp(5) + 255) for hit in (1, 0))


def test_by_hand() -> None:
    found = loglikelihoods(alphabet, [pair(TOKENS, "ab", "cd"), pair(TOKENS, "ab", "cx"), pair(TOKENS, "ab", "x")], 16)
    assert [one.nats for one in found] == pytest.approx([2 * RIGHT, RIGHT + WRONG, WRONG], rel=1e-6)
    assert [one.greedy for one in found] == [True, False, False]


def test_it_is_the_sum_over_the_tokens_of_the_continuation(model: nn.Module) -> None:
    texts = [("the cat", " sat"), ("x", "yz"), ("the dog", " lay"), ("a longer context than that", "!")]
    found = loglikelihoods(model, [pair(TOKENS, *text) for text in texts], window=40, batch=2)
    for (context, continuation), one in zip(texts, found, strict=True):
        ids = TOKENS.encode(context + continuation)
        with torch.no_grad():
            logs = model(ids[None])[0].log_softmax(-1)
        nats = sum(float(logs[i - 1, ids[i]]) for i in range(len(TOKENS.encode(context)), len(ids)))
        assert one.nats == pytest.approx(nats, rel=1e-5)


def test_the_left_of_a_long_context_is_cut(model: nn.Module) -> None:
    long, short = pair(TOKENS, "0123456789abcdef", "gh"), pair(TOKENS, "9abcdef", "gh")
    first, second = loglikelihoods(model, [long, short], window=8)
    assert first.nats == pytest.approx(second.nats, rel=1e-6)


def test_spaces_that_end_a_context_belong_to_the_continuation() -> None:
    context, continuation = pair(TOKENS, "the cat ", "sat")
    assert (TOKENS.decode(context.tolist()), TOKENS.decode(continuation.tolist())) == ("the cat", " sat")
    context, continuation = pair(TOKENS, "", "sat")
    assert (TOKENS.decode(context.tolist()), TOKENS.decode(continuation.tolist())) == ("\n", "sat")


def test_a_token_that_spans_the_border_is_encoded_as_one_text() -> None:
    pytest.importorskip("tokenizers", reason="needs the extra hf")
    tokens = tokenizer("bpe260", ["ab ab ab ab"])
    whole = tokens.encode("x ab")
    context, continuation = pair(tokens, "x ", "ab")
    assert torch.equal(torch.cat((context, continuation)), whole)


def test_the_likeliest_answer_is_chosen() -> None:
    questions = [
        Question("abc", ("def", "xyz"), 0),
        Question("mno", ("zz", "p"), 1),
        Question("abc", ("dezz", "q"), 0),  # likelier a byte, not in sum
        Question("abc", ("x", "d"), 0),
    ]
    found = answer(alphabet, TOKENS, questions, window=16)
    assert (found.accuracy, found.accuracy_by_length, found.questions) == (0.5, 0.75, 4)


def test_of_equal_answers_the_first_is_chosen() -> None:
    assert answer(alphabet, TOKENS, [Question("abc", ("q", "r"), 0)], 16).accuracy == 1.0
    assert answer(alphabet, TOKENS, [Question("abc", ("q", "r"), 1)], 16).accuracy == 0.0


def test_what_does_not_fit_is_told() -> None:
    with pytest.raises(ConfigError, match=r"right answer 2; allowed are 0\.\.1"):
        answer(alphabet, TOKENS, [Question("abc", ("q", "r"), 2)], 16)
    with pytest.raises(ConfigError, match="no questions"):
        answer(alphabet, TOKENS, [], 16)
    with pytest.raises(ConfigError, match="continuation '' adds no token"):
        pair(TOKENS, "abc", "")
    with pytest.raises(ConfigError, match=r"continuation of 9 tokens; allowed are 1 or more, and 1\.\.8"):
        loglikelihoods(alphabet, [pair(TOKENS, "abc", "d" * 9)], 8)


def test_a_model_that_gives_nan_answers_nothing_right() -> None:
    found = answer(lambda x: torch.full((*x.shape, 256), math.nan), TOKENS, [Question("a", ("b", "c"), 0)], 8)
    assert (found.accuracy, found.accuracy_by_length) == (0.0, 0.0)


def test_questions_and_batches_that_are_none_are_told() -> None:
    with pytest.raises(ConfigError, match="question 'a': has no answers"):
        answer(alphabet, TOKENS, [Question("a", (), 0)], 8)
    with pytest.raises(ConfigError, match="likelihood: batch 0; allowed is 1 or more"):
        answer(alphabet, TOKENS, [Question("a", ("b",), 0)], 8, batch=0)
    with pytest.raises(ConfigError, match=r"language model: gives \[1, 2\] for ids"):
        answer(lambda x: torch.zeros(1, 2), TOKENS, [Question("a", ("b",), 0)], 8)
