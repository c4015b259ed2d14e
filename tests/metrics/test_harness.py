"""lm-evaluation-harness drives our models: its interface by hand, and one of its tasks from documents made here."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
from torch import nn

from mase.data.tokens import Bytes
from mase.errors import ConfigError, ToolError
from mase.metrics.harness import harness_model, write
from mase.metrics.likelihood import Question, answer, loglikelihoods, pair

TOKENS = Bytes()


def alphabet(x: torch.Tensor) -> torch.Tensor:
    """Expect after each byte the next one."""
    return nn.functional.one_hot((x + 1) % 256, 256) * 5.0


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    monkeypatch.setitem(sys.modules, "lm_eval.api.model", None)
    with pytest.raises(ToolError, match=r"evaluation harness needs .*pip install 'mase-dse\[lmeval\]'"):
        harness_model(alphabet, TOKENS, 16)


@pytest.mark.parametrize(
    ("context", "options", "text"),
    [
        ("abc", {"max_gen_toks": 4}, "defg"),
        ("abc", {"until": ["g"], "max_gen_toks": 9}, "def"),
        ("abc", {"until": "fg", "max_gen_toks": 9}, "de"),
        ("", {"max_gen_toks": 1}, "\x0b"),
        ("0123456789", {"max_gen_toks": 2}, ":;"),  # longer than the window
    ],
)
def test_it_writes_the_likeliest_text_up_to_a_stop(context: str, options: dict[str, Any], text: str) -> None:
    assert write(alphabet, TOKENS, context, options, window=4) == text


def test_sampling_is_refused() -> None:
    with pytest.raises(ConfigError, match="asks for sampling"):
        write(alphabet, TOKENS, "a", {"do_sample": True}, 4)


@pytest.fixture
def lm_eval() -> Any:
    return pytest.importorskip("lm_eval", reason="needs the extra lmeval")


def requests(kind: str, *arguments: tuple[Any, ...]) -> list[Any]:
    from lm_eval.api.instance import Instance

    return [Instance(kind, {}, found, i) for i, found in enumerate(arguments)]


@pytest.mark.filterwarnings("default")
def test_its_requests_are_answered_by_our_likelihoods(lm_eval: Any) -> None:
    model = harness_model(alphabet, TOKENS, window=8, batch=2)
    pairs = [("ab", "cd"), ("x", "a"), ("", "zz")]
    ours = loglikelihoods(alphabet, [pair(TOKENS, *texts) for texts in pairs], 8)
    assert model.loglikelihood(requests("loglikelihood", *pairs)) == [(one.nats, one.greedy) for one in ours]
    assert model.generate_until(requests("generate_until", ("abc", {"until": ["f"]}))) == ["de"]


@pytest.mark.filterwarnings("default")
def test_a_rolling_text_is_scored_token_by_token(lm_eval: Any) -> None:
    model = harness_model(alphabet, TOKENS, window=8)
    text = "abcdefghijklmnopqrstuvwxyz" + "aaa"
    (found,) = model.loglikelihood_rolling(requests("loglikelihood_rolling", (text,)))
    right = float(alphabet(torch.tensor([[97]]))[0, 0].log_softmax(-1)[98])
    wrong = float(alphabet(torch.tensor([[97]]))[0, 0].log_softmax(-1)[97])
    assert found == pytest.approx(
        25 * right + 4 * wrong, rel=1e-6
    )  # the first after a line's end, and the three at the end


@pytest.mark.filterwarnings("default")
def test_one_of_its_tasks_gives_the_accuracy_that_we_count(lm_eval: Any) -> None:
    import datasets
    from lm_eval.api.task import ConfigurableTask

    questions = [Question("abc", ("def", "xyz"), 0), Question("mno", ("z", "p"), 1), Question("abc", ("x", "d"), 0)]
    rows = [{"question": q.context, "choices": list(q.answers), "answer": q.right} for q in questions]
    config = {
        "task": "alphabet",
        "custom_dataset": lambda **_: {"test": datasets.Dataset.from_list(rows)},
        "output_type": "multiple_choice",
        "test_split": "test",
        "doc_to_text": "{{question}}",
        "doc_to_choice": "choices",
        "doc_to_target": "answer",
        "target_delimiter": "",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    }
    task = ConfigurableTask(config=config)
    done = lm_eval.simple_evaluate(harness_model(alphabet, TOKENS, 16), tasks=[task], bootstrap_iters=0)
    ours = answer(alphabet, TOKENS, questions, 16)
    assert done["results"]["alphabet"]["acc,none"] == ours.accuracy == pytest.approx(2 / 3)
    assert done["results"]["alphabet"]["acc_norm,none"] == ours.accuracy_by_length
