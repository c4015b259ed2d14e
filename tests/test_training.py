"""Training follows from its seed; weights go to files and back; what was trained is kept by content."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load as read
from safetensors.torch import save
from torch import nn

import mase
from mase.config import TrainConfig
from mase.data.base import Data, Passage, Split, load
from mase.errors import GraphError
from mase.metrics.likelihood import Question, answer
from mase.metrics.perplexity import perplexity
from mase.models.base import build
from mase.training import _schedule, loss, pack, score, train, trained, unpack

QUICK = TrainConfig(epochs=2, batch=16, rate=0.01)
SMALL = {"layers": 1, "dim": 16, "hidden": 16, "heads": 2, "kv_heads": 1}


def quiet(number: int, mean: float) -> None:
    pass


def network(sizes: tuple[int, ...] = (4, 8, 3)) -> nn.Module:
    torch.manual_seed(0)
    return build("mlp", {"sizes": sizes})


def text(length: int = 600) -> Data:
    ids = torch.arange(length) % 7
    part = Passage(ids[: length - 8].view(-1, 8), ids[1 : length - 7].view(-1, 8), ids, length)
    return Data("seven", part, part, part, task="tokens")


def test_the_same_seed_gives_the_same_weights() -> None:
    found = []
    for seed in (1, 1, 2):
        model = network()
        train(model, load("iris"), QUICK, seed, quiet)
        found.append(pack(model))
    assert found[0] == found[1] != found[2]


def test_steps_count_batches_and_go_through_all_samples_first() -> None:
    seen: list[torch.Tensor] = []
    model = network()
    model.register_forward_hook(lambda _, args, __: seen.append(args[0]))
    data = load("iris")  # 96 to train on: six batches a pass
    passes: list[int] = []
    train(model, data, TrainConfig(steps=8, batch=16), 0, lambda number, mean: passes.append(number))
    assert len(seen) == 8 and passes == [0, 1]
    assert torch.equal(torch.cat(seen[:6]).sort(0).values, data.train.x.sort(0).values)
    assert TrainConfig(steps=8).updates(1000) == 8
    assert TrainConfig(epochs=3, batch=64).updates(130) == 9


def test_the_rate_of_steps_rises_then_falls_to_nothing() -> None:
    optimiser = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    schedule = _schedule(optimiser, TrainConfig(steps=100, warmup=0.1))
    rates = []
    for _ in range(100):
        rates.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        schedule.step()
    assert rates[0] == pytest.approx(0.1) and max(rates) > 0.97 and rates[-1] < 1e-3
    assert rates.index(max(rates)) == 9
    assert rates[9:] == sorted(rates[9:], reverse=True)


def test_a_gradient_is_cut_to_its_longest(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths: list[float] = []

    def step(self: torch.optim.Adam) -> None:
        grads = [p.grad.flatten() for p in self.param_groups[0]["params"]]
        lengths.append(float(torch.cat(grads).norm()))

    monkeypatch.setattr(torch.optim.Adam, "step", step)
    train(network(), load("iris"), TrainConfig(steps=1), 0, quiet)
    train(network(), load("iris"), TrainConfig(steps=1, clip=0.01), 0, quiet)
    assert lengths[0] > 0.02
    assert lengths[1] == pytest.approx(0.01, rel=1e-3)


def test_each_task_has_its_loss() -> None:
    logits = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    classes = float(loss("classes", logits, torch.tensor([0, 0])))
    assert classes == pytest.approx(float(nn.functional.cross_entropy(logits, torch.tensor([0, 0]))))
    assert float(loss("tokens", logits.view(1, 2, 2), torch.tensor([[0, 0]]))) == pytest.approx(classes)
    assert float(loss("values", logits, torch.zeros(2, 2))) == pytest.approx(5 / 4)


def test_a_language_model_learns_a_simple_text_and_its_seed_decides_all() -> None:
    found = []
    for _ in range(2):
        torch.manual_seed(0)
        model = build("llama", {**SMALL, "vocab": 7})
        train(model, text(), TrainConfig(steps=60, batch=8, rate=0.02, warmup=0.1, clip=1.0), 0, quiet)
        found.append(pack(model))
    assert found[0] == found[1]
    test = text().test
    assert isinstance(test, Passage)
    assert perplexity(model, test, 8).perplexity < 1.3


def test_score_is_the_accuracy() -> None:
    split = Split(torch.eye(3), torch.tensor([0, 1, 0]))
    assert score(lambda x: x, split) == pytest.approx(2 / 3)


def test_weights_go_there_and_back() -> None:
    for name, options in (("resnet", {}), ("llama", SMALL), ("llama", {**SMALL, "tied": True})):
        torch.manual_seed(0)
        first = build(name, options)
        second = build(name, options)
        unpack(second, pack(first), "here")
        assert all(
            torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
        )


def test_a_tied_tensor_is_kept_once_and_buffers_that_follow_are_not() -> None:
    model = build("llama", {**SMALL, "tied": True})
    names = set(read(pack(model)))
    assert "embedding.weight" in names and not {"head.weight", "cos", "sin"} & names
    unpack(model, save({name: t.clone() for name, t in model.state_dict().items()}), "here")  # under every name
    assert model.get_parameter("head.weight") is model.get_parameter("embedding.weight")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda found: found.pop("fc1.weight"), "here: weights do not fit the model: 'fc1.weight' is missing"),
        (
            lambda found: found.update(extra=torch.zeros(1)),
            "here: weights do not fit the model: the model has no 'extra'",
        ),
        (
            lambda found: found.update({"fc1.bias": torch.zeros(9)}),
            "here: weights do not fit the model: .*size mismatch",
        ),
    ],
)
def test_weights_that_do_not_fit_are_told(change: Callable[[dict[str, torch.Tensor]], object], text: str) -> None:
    found = read(pack(network()))
    change(found)
    with pytest.raises(GraphError, match=text) as caught:
        unpack(network(), save(found), "here")
    assert "\n" not in str(caught.value)
    with pytest.raises(GraphError, match="here: weights do not fit"):
        unpack(network(), pack(network())[:-3], "here")


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[int]:
    """Keep models in a folder of the test; note every training."""
    from mase import training

    done: list[int] = []

    def noted(*args: object) -> None:
        done.append(1)
        train(*args)  # type: ignore[arg-type]

    monkeypatch.setenv("MASE_CACHE", str(tmp_path))
    monkeypatch.setattr(training, "train", noted)
    return done


def test_what_was_trained_is_kept_by_content(counted: list[int], tmp_path: Path) -> None:
    data = load("iris")
    before = torch.random.get_rng_state()
    first = trained(lambda: build("mlp", {"sizes": [4, 8, 3]}), data, QUICK)
    again = trained(lambda: build("mlp", {"sizes": [4, 8, 3]}), data, QUICK)
    assert len(counted) == 1 and pack(first) == pack(again) and not again.training
    assert torch.equal(torch.random.get_rng_state(), before)
    others: list[tuple[tuple[int, ...], str, TrainConfig, int]] = [
        ((4, 9, 3), "iris", QUICK, 0),
        ((4, 8, 3), "iris", QUICK.model_copy(update={"rate": 0.02}), 0),
        ((4, 8, 3), "iris", QUICK, 1),
    ]
    for sizes, name, config, seed in others:
        trained(lambda: build("mlp", {"sizes": sizes}), load(name), config, seed)  # noqa: B023 - called at once
    assert len(counted) == 4
    trained(lambda: build("mlp", {"sizes": [4, 8, 3]}), Data("d", data.train, data.train, data.train), QUICK)
    assert len(counted) == 5


def test_a_damaged_file_is_trained_again(counted: list[int], tmp_path: Path) -> None:
    first = trained(network, load("iris"), QUICK)
    (file,) = (tmp_path / "models").iterdir()
    file.write_bytes(file.read_bytes()[:-7])
    assert pack(trained(network, load("iris"), QUICK)) == pack(first)
    assert len(counted) == 2


@pytest.mark.slow
def test_the_tiny_llama_reads_source_text(tiny_llama: tuple[nn.Module, Data]) -> None:
    """The text is the standard library's source; whole files are held out. 2.6 is the bar; 2.35 was measured."""
    model, data = tiny_llama
    assert isinstance(data.test, Passage)
    found = perplexity(model, data.test, window=128, stride=64, limit=100_000)
    assert found.bits_per_byte <= 2.6, str(found)
    assert found.bits_per_byte > 1.0  # less would mean that what is held out was seen


@pytest.mark.slow
def test_the_graph_of_the_tiny_llama_reads_and_answers_like_it(tiny_llama: tuple[nn.Module, Data]) -> None:
    model, data = tiny_llama
    assert isinstance(data.test, Passage) and data.tokenizer is not None
    graph = mase.trace(model, data.test.x[:2])
    one, other = (perplexity(m, data.test, 128, 64, limit=8192) for m in (model, graph))
    assert other.nats == one.nats
    questions = [
        Question("from __future__ import ", ("annotations\n", "qzxjvkwpyhu\n"), 0),
        Question("def __in", ("q", "i"), 1),
    ]
    assert answer(model, data.tokenizer, questions, 128).accuracy == 1.0
