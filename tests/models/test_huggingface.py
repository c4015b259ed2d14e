"""A model of transformers comes from a folder, whole and checked; every damage is told in one line."""

from __future__ import annotations

import importlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from mase import flow
from mase.errors import ConfigError, GraphError, MaseError, ToolError
from mase.models.base import MODELS
from mase.models.huggingface import check_safetensors, huggingface, load_tokenizer, optional

transformers = pytest.importorskip("transformers", reason="needs pip install mase-dse[hf]")
gguf = pytest.importorskip("gguf", reason="needs pip install mase-dse[hf]")
pytest.importorskip("accelerate", reason="needs pip install mase-dse[hf]")

SIZES = {
    "vocab_size": 32,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "tie_word_embeddings": True,
}
IDS = torch.tensor([[1, 5, 9, 2]])


def write(folder: Path, dtype: torch.dtype = torch.float32, **sizes: int) -> Any:
    """Write a tiny Llama as ``save_pretrained`` does, and return it."""
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**{**SIZES, **sizes})).to(dtype).eval()
    folder.mkdir()
    config = {
        **model.config.to_dict(),
        "architectures": ["LlamaForCausalLM"],
        "dtype": str(dtype).removeprefix("torch."),
    }
    (folder / "config.json").write_text(json.dumps(config, default=str))
    tensors = {name: t.contiguous() for name, t in model.state_dict().items() if name != "lm_head.weight"}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path / "tiny")
    return tmp_path / "tiny"


def change(folder: Path, **values: object) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def test_the_loaded_model_computes_what_the_written_one_did(tmp_path: Path) -> None:
    want = write(tmp_path / "tiny")
    model = MODELS["huggingface"](path=str(tmp_path / "tiny"))
    assert type(model).__name__ == "LlamaForCausalLM" and not model.training
    assert torch.equal(model(IDS).logits, want(IDS).logits)
    assert model.lm_head.weight is model.model.embed_tokens.weight


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_the_files_decide_the_dtype_unless_one_is_asked_for(dtype: str, tmp_path: Path) -> None:
    write(tmp_path / "tiny", getattr(torch, dtype))
    assert huggingface(str(tmp_path / "tiny")).dtype == getattr(torch, dtype)
    assert huggingface(str(tmp_path / "tiny"), dtype="float32").dtype == torch.float32


def test_a_head_is_left_out_on_request(folder: Path) -> None:
    assert type(huggingface(str(folder), head="none")).__name__ == "LlamaModel"


def test_a_configuration_names_a_folder_and_a_change_in_it_is_noticed(tmp_path: Path) -> None:
    write(tmp_path / "tiny", vocab_size=256)
    (tmp_path / "text.txt").write_text("the cat sat on the mat. " * 60)
    config = {
        "model": {"name": "huggingface", "options": {"path": "tiny"}},
        "data": {"name": "text", "options": {"path": "text.txt", "window": 8}},
        "quantize": {"default": {"weight": "int8"}},
    }
    (tmp_path / "run.yaml").write_text(json.dumps(config))  # JSON is YAML
    ids = torch.randint(256, (2, 8))
    found = []
    for _ in range(2):
        done = flow.upto(flow.open_run(tmp_path / "run.yaml", tmp_path / "run"), "trace")
        assert torch.equal(done.graph(ids), done.model(ids).logits)
        found.append(done.graph(ids))
        shutil.rmtree(tmp_path / "tiny")
        torch.manual_seed(1)  # other weights
        write(tmp_path / "tiny", vocab_size=256)
    assert not torch.equal(*found)


def test_nothing_is_printed(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_gguf(folder / "m.gguf")
    huggingface(str(folder))
    huggingface(str(folder), gguf_file="m.gguf")
    assert "".join(capfd.readouterr()) == ""


def fails(error: type[MaseError], folder: Path | str, **options: str | bool) -> str:
    """Return the text of the error that loading raises, which is one line."""
    with pytest.raises(error) as caught:
        huggingface(str(folder), **options)  # type: ignore[arg-type]  # options of both types
    assert "\n" not in str(caught.value)
    return str(caught.value)


DAMAGE: dict[str, tuple[Callable[[Path], object], type[MaseError], str]] = {
    "no configuration": (
        lambda f: (f / "config.json").unlink(),
        ConfigError,
        "config.json: no such file; the folder holds",
    ),
    "no JSON": (lambda f: (f / "config.json").write_text("{"), ConfigError, "config.json: corrupt: this is not JSON"),
    "unknown model": (lambda f: change(f, model_type="lama"), ConfigError, "model_type 'lama' is unknown"),
    "unknown class": (lambda f: change(f, architectures=["Lama"]), ConfigError, "architecture 'Lama' is unknown"),
    "wrong field": (lambda f: change(f, hidden_size="a"), ConfigError, "hidden_size"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), ConfigError, "holds no *.safetensors"),
    "missing tensor": (lambda f: change(f, num_hidden_layers=2), GraphError, "'model.layers.1.input_layernorm.weight'"),
    "other shape": (
        lambda f: change(f, intermediate_size=128),
        GraphError,
        "tensor 'model.layers.0.mlp.down_proj.weight' has another shape",
    ),
    "missing shard": (
        lambda f: (f / "model.safetensors.index.json").write_text('{"weight_map": {"a": "b.safetensors"}}'),
        ConfigError,
        "b.safetensors: no such file",
    ),
    "corrupt index": (
        lambda f: (f / "model.safetensors.index.json").write_text("[]"),
        GraphError,
        "index.json: corrupt",
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_folder_is_told_in_one_line(name: str, folder: Path) -> None:
    damage, error, text = DAMAGE[name]
    damage(folder)
    assert text in fails(error, folder)


@pytest.mark.parametrize(
    ("kept", "text"),
    [(-100, "truncated: tensor 'model.norm.weight'"), (100, "the header alone needs"), (0, "truncated: 0 bytes")],
)
def test_a_truncated_file_names_the_tensor(kept: int, text: str, folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:kept])
    message = fails(GraphError, folder)
    assert str(file) in message and text in message


def test_a_file_that_is_no_safetensors_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes((9).to_bytes(8, "little") + b"not json!")
    with pytest.raises(GraphError, match="header of safetensors: corrupt"):
        check_safetensors(tmp_path / "a.safetensors")


def test_wrong_options_say_what_is_allowed(folder: Path) -> None:
    assert "did you mean causal_lm?" in fails(ConfigError, folder, head="causal")
    assert "did you mean float16?" in fails(ConfigError, folder, dtype="float61")
    assert "allowed: eager, sdpa" in fails(ConfigError, folder, attention="x")
    assert "did you mean tiny?" in fails(ConfigError, folder.with_name("tyny"))
    assert "'score.weight'; choose another head" in fails(GraphError, folder, head="sequence_classification")


def test_a_hub_name_without_a_network_fails_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(self: object, name: str, timeout: float) -> None:
        raise OSError("Name or service not known")

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", unreachable)
    text = fails(ConfigError, "nobody/nothing")
    assert text == (
        "huggingface.path nobody/nothing: no such folder, and the hub does not answer for it: Name or service not known"
    )
    assert "nor in the hub's local cache" in fails(ConfigError, "nobody/nothing", offline=True)


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(ToolError, match=r"^transformers is not installed; pip install mase-dse\[hf\]$"):
        optional("transformers", "hf")


def write_gguf(file: Path, arch: str = "llama", up: np.ndarray[Any, Any] | None = None) -> dict[str, torch.Tensor]:
    """Write a tiny Llama in Q8_0 and return its weights; ``up`` are raw bytes of a type that only llama.cpp decodes."""
    writer = gguf.GGUFWriter(file, arch)
    writer.add_vocab_size(32)
    writer.add_context_length(64)
    writer.add_embedding_length(32)
    writer.add_feed_forward_length(64)
    writer.add_block_count(1)
    writer.add_head_count(2)
    writer.add_head_count_kv(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(1e4)
    writer.add_name("tiny")
    shapes = {"token_embd": (32, 32), "output_norm": (32,), "blk.0.attn_norm": (32,), "blk.0.ffn_norm": (32,)}
    shapes |= {
        "blk.0.attn_q": (32, 32),
        "blk.0.attn_k": (16, 32),
        "blk.0.attn_v": (16, 32),
        "blk.0.attn_output": (32, 32),
    }
    shapes |= {"blk.0.ffn_gate": (64, 32), "blk.0.ffn_up": (64, 32), "blk.0.ffn_down": (32, 64)}
    rng, weights = np.random.default_rng(0), {}
    for name, shape in shapes.items():
        x = rng.standard_normal(shape).astype(np.float32)
        if up is not None and name.endswith("ffn_up"):
            writer.add_tensor(f"{name}.weight", up, raw_dtype=gguf.GGMLQuantizationType.Q8_K)
            continue
        kind = gguf.GGMLQuantizationType.F32 if len(shape) == 1 else gguf.GGMLQuantizationType.Q8_0
        codes = x if len(shape) == 1 else gguf.quantize(x, kind)
        writer.add_tensor(f"{name}.weight", codes, raw_dtype=kind)
        weights[name] = torch.from_numpy(np.array(gguf.dequantize(codes, kind)))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return weights


def test_gguf_weights_are_the_decoded_ones(tmp_path: Path) -> None:
    weights = write_gguf(tmp_path / "m.gguf")
    model = huggingface(str(tmp_path), gguf_file="m.gguf")
    layer = model.model.layers[0]
    assert model.dtype == torch.float32 and model.config.rms_norm_eps == pytest.approx(1e-5)
    assert torch.equal(layer.mlp.up_proj.weight, weights["blk.0.ffn_up"])
    assert torch.equal(model.lm_head.weight, weights["token_embd"])
    # rotary pairs lie side by side in GGUF, in two halves in transformers
    interleaved = weights["blk.0.attn_k"].reshape(1, 8, 2, 32).transpose(1, 2).reshape(16, 32)
    assert torch.equal(layer.self_attn.k_proj.weight, interleaved)


def test_a_gguf_type_that_cannot_be_decoded_names_file_and_tensor(tmp_path: Path) -> None:
    write_gguf(tmp_path / "m.gguf", up=np.zeros((64, 292), np.uint8))
    text = fails(GraphError, tmp_path, gguf_file="m.gguf")
    assert text == f"{tmp_path / 'm.gguf'}: tensor 'blk.0.ffn_up.weight' has type Q8_K, which gguf cannot decode"


def test_a_damaged_or_unknown_gguf_is_told_in_one_line(tmp_path: Path) -> None:
    write_gguf(tmp_path / "m.gguf")
    write_gguf(tmp_path / "x.gguf", arch="lama")
    (tmp_path / "cut.gguf").write_bytes((tmp_path / "m.gguf").read_bytes()[:-1000])
    (tmp_path / "text.gguf").write_bytes(b"no gguf at all " * 10)
    assert "cut.gguf: this file is damaged, or is not a GGUF file" in fails(GraphError, tmp_path, gguf_file="cut.gguf")
    assert "text.gguf: this file is damaged, or is not a GGUF file" in fails(
        GraphError, tmp_path, gguf_file="text.gguf"
    )
    assert "architecture lama is not supported" in fails(ConfigError, tmp_path, gguf_file="x.gguf")
    assert "none.gguf: no such file; the folder holds cut.gguf" in fails(ConfigError, tmp_path, gguf_file="none.gguf")


def test_a_folder_without_a_tokenizer_says_so(folder: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be loaded"):
        load_tokenizer(str(folder))


def test_what_is_no_name_on_the_hub_is_told() -> None:
    with pytest.raises(ConfigError, match=r"huggingface\.path org/na me: no such folder, nor a name on the hub"):
        huggingface("org/na me")
