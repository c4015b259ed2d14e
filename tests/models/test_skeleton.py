"""The structure of a model from its configuration: unrolled and filled from the files, it is the model, bit for bit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from mase.errors import ConfigError, GraphError
from mase.models.checkpoint import Checkpoint
from mase.models.skeleton import skeleton
from tests.ptq.folders import KINDS, LENGTH, tokens, write


@pytest.mark.parametrize("kind", KINDS)
def test_an_unrolled_model_is_the_model(kind: str, tmp_path: Path) -> None:
    model = write(tmp_path, kind, torch.bfloat16, "40KB")
    checkpoint, made = Checkpoint(tmp_path), skeleton(tmp_path, LENGTH)
    assert len({entry.file for entry in checkpoint.entries.values()}) > 1  # several shards
    layers = model.config.num_hidden_layers
    assert made.count == layers and made.names[2].endswith(".1") and len(made.names) == made.total == layers + 2
    parts = {}
    for number in range(made.total):
        part = made.part(number)
        made.check(part, checkpoint)
        parts[number] = made.filled(part, checkpoint)
        parts[number].graph.verify()
    x = tokens(3)
    want = model(x).logits
    assert torch.equal(made.whole(parts).verify()(x), want)
    env = {made.inputs[0].name: x}
    for number, part in parts.items():
        found = part.run(env)
        env = {name: value for name, value in {**env, **found}.items() if name in made.later(number)}
    assert torch.equal(found[parts[layers + 1].gives[0]], want)


def test_a_tensor_is_read_in_float32_as_it_is_stored(tmp_path: Path) -> None:
    model = write(tmp_path, "mixtral", torch.bfloat16)
    checkpoint = Checkpoint(tmp_path)
    state = model.state_dict()
    for key in ("model.layers.2.mlp.experts.gate_up_proj", "model.layers.2.mlp.gate.weight", "model.norm.weight"):
        found = checkpoint.read(key, state[key].shape)
        assert torch.equal(found, state[key]) and found.dtype == torch.float32
        assert checkpoint.kind(key, state[key].shape) == torch.bfloat16
    assert checkpoint.kind("model.rotary", (1,)) is None


def test_what_the_files_lack_is_named(tmp_path: Path) -> None:
    write(tmp_path, "llama")
    checkpoint = Checkpoint(tmp_path)
    with pytest.raises(GraphError, match=r"the files hold no tensor 'model\.layers\.9\.mlp\.up_proj\.weight'"):
        checkpoint.check("model.layers.9.mlp.up_proj.weight", (48, 32))
    with pytest.raises(
        GraphError, match=r"up_proj\.weight' has shape \(48, 32\) in the files; config\.json gives \(50, "
    ):
        checkpoint.check("model.layers.1.mlp.up_proj.weight", (50, 32))
    with pytest.raises(ConfigError, match=r"model .*/none: no such folder"):
        Checkpoint(tmp_path / "none")


def test_a_file_cut_short_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "llama")
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(GraphError, match=r"model\.safetensors: truncated: tensor"):
        Checkpoint(tmp_path)


def test_an_unknown_kind_of_model_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "llama")
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "model_type": "lama"}))
    with pytest.raises(ConfigError, match=r"model_type 'lama' is unknown to transformers; did you mean llama\?"):
        skeleton(tmp_path, LENGTH)
