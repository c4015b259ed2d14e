"""Families of models at tiny size, built from their configuration: what the export door is tested with.

Each builder returns a model with random weights and example inputs by keyword. transformers is imported when one is
built, so that collecting the tests is quick.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from mase.models.huggingface import optional

VOCABULARY, LENGTH = 64, 12
DECODER = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 64,
}
SHARED = {**DECODER, "num_key_value_heads": 2, "pad_token_id": None, "bos_token_id": None, "eos_token_id": None}
VISION = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "image_size": 16,
    "patch_size": 4,
}


def ids() -> dict[str, Tensor]:
    return {"input_ids": torch.randint(0, VOCABULARY, (2, LENGTH))}


def image(size: int = 16) -> dict[str, Tensor]:
    return {"pixel_values": torch.randn(2, 3, size, size)}


Inputs = Callable[[], dict[str, Tensor]]


@dataclass(frozen=True)
class Family:
    """One family: its class in transformers, or a builder of our own.

    Args:
        name: in the table. model, config: names of classes. options: of the configuration. inputs: makes the example.
        weights: number of linear units, convolutions and expert tensors, all of which must be found.
        dynamic: axes that may be free. opaque: operations that have no typed kind, and stay as they are.
        output: field of the result, where it is not the usual one: the one that reaches every weight.
        refused: modules whose weights an opaque node reads.
    """

    name: str
    model: str
    config: str
    options: Mapping[str, Any]
    inputs: Inputs
    dynamic: tuple[str, ...] = ("batch",)
    opaque: tuple[str, ...] = ()
    output: str | None = None
    refused: tuple[str, ...] = ()
    weights: int = field(kw_only=True)

    def build(self) -> tuple[nn.Module, dict[str, Tensor]]:
        torch.manual_seed(0)
        if self.name in OWN:
            return OWN[self.name]().eval().requires_grad_(False), self.inputs()
        library = optional("transformers", "hf")
        config = getattr(library, self.config)(**self.options)
        if self.model == "WhisperEncoder":  # is not among the library's public names
            library = importlib.import_module("transformers.models.whisper.modeling_whisper")
        return _shaken(getattr(library, self.model)(config)).eval().requires_grad_(False), self.inputs()


def _shaken(model: nn.Module) -> nn.Module:
    """Move norms, biases and tables off 1 and 0, so that a graph that loses one of them is another function."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1 or bool((parameter == parameter.flatten()[0]).all()):
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))


def cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 8, 3, groups=2, bias=False),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(8 * 36, 4),
    )


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(8, 16, batch_first=True), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x)[0][:, -1])


OWN: Mapping[str, Callable[[], nn.Module]] = {"MLP": mlp, "CNN": cnn, "LSTM": Recurrent}
BOTH = ("batch", "seq")
FAMILIES = (
    Family("MLP", "", "", {}, lambda: {"input": torch.randn(2, 8)}, weights=2),
    Family("CNN", "", "", {}, lambda: {"input": torch.randn(2, 3, 16, 16)}, weights=3),
    Family(
        "LSTM",
        "",
        "",
        {},
        lambda: {"x": torch.randn(2, 6, 8)},
        (),
        ("aten.lstm", "getitem"),
        refused=("lstm",),
        weights=1,
    ),
    Family("Llama", "LlamaForCausalLM", "LlamaConfig", SHARED, ids, BOTH, weights=15),
    Family("Mistral", "MistralForCausalLM", "MistralConfig", {**SHARED, "sliding_window": 8}, ids, BOTH, weights=15),
    Family("Qwen2", "Qwen2ForCausalLM", "Qwen2Config", SHARED, ids, BOTH, weights=15),
    Family("Qwen3", "Qwen3ForCausalLM", "Qwen3Config", {**SHARED, "head_dim": 8}, ids, BOTH, weights=15),
    Family(
        "Qwen3-MoE",
        "Qwen3MoeForCausalLM",
        "Qwen3MoeConfig",
        {**SHARED, "head_dim": 8, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24},
        ids,
        BOTH,
        weights=13,
    ),
    Family(
        "Gemma2",
        "Gemma2ForCausalLM",
        "Gemma2Config",
        {**SHARED, "head_dim": 8, "sliding_window": 8},
        ids,
        BOTH,
        weights=15,
    ),
    Family("Phi-3", "Phi3ForCausalLM", "Phi3Config", SHARED, ids, BOTH, weights=9),
    Family("Mixtral", "MixtralForCausalLM", "MixtralConfig", {**SHARED, "num_local_experts": 4}, ids, BOTH, weights=13),
    Family(
        "Falcon",
        "FalconForCausalLM",
        "FalconConfig",
        {
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "vocab_size": VOCABULARY,
            "alibi": False,
            "bos_token_id": None,
            "eos_token_id": None,
        },
        ids,
        BOTH,
        weights=9,
    ),
    Family(
        "GPT-NeoX",
        "GPTNeoXForCausalLM",
        "GPTNeoXConfig",
        {**DECODER, "bos_token_id": None, "eos_token_id": None},
        ids,
        BOTH,
        weights=9,
    ),
    Family(
        "OPT",
        "OPTForCausalLM",
        "OPTConfig",
        {
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "ffn_dim": 48,
            "vocab_size": VOCABULARY,
            "max_position_embeddings": 64,
            "word_embed_proj_dim": 32,
            "bos_token_id": None,
            "eos_token_id": None,
        },
        ids,
        BOTH,
        weights=13,
    ),
    Family(
        "GPT-2",
        "GPT2LMHeadModel",
        "GPT2Config",
        {
            "n_embd": 32,
            "n_layer": 2,
            "n_head": 4,
            "vocab_size": VOCABULARY,
            "n_positions": 64,
            "bos_token_id": None,
            "eos_token_id": None,
        },
        ids,
        BOTH,
        weights=9,
    ),
    Family(
        "Mamba",
        "MambaForCausalLM",
        "MambaConfig",
        {"hidden_size": 32, "num_hidden_layers": 2, "vocab_size": VOCABULARY, "state_size": 8},
        ids,
        ("batch",),
        weights=11,
    ),
    Family("BERT", "BertModel", "BertConfig", DECODER, ids, BOTH, output="pooler_output", weights=13),
    Family(
        "T5 encoder",
        "T5EncoderModel",
        "T5Config",
        {"d_model": 32, "num_layers": 2, "num_heads": 4, "d_kv": 8, "d_ff": 48, "vocab_size": VOCABULARY},
        ids,
        BOTH,
        weights=12,
    ),
    Family("ViT", "ViTForImageClassification", "ViTConfig", VISION, image, weights=14),
    Family("DeiT", "DeiTForImageClassification", "DeiTConfig", VISION, image, weights=14),
    Family(
        "Swin",
        "SwinForImageClassification",
        "SwinConfig",
        {"image_size": 16, "patch_size": 2, "embed_dim": 8, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4},
        image,
        (),
        weights=27,
    ),
    Family(
        "SigLIP vision", "SiglipVisionModel", "SiglipVisionConfig", VISION, image, output="pooler_output", weights=16
    ),
    Family("CLIP vision", "CLIPVisionModel", "CLIPVisionConfig", VISION, image, weights=13),
    Family(
        "ResNet",
        "ResNetForImageClassification",
        "ResNetConfig",
        {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"},
        lambda: image(32),
        weights=7,
    ),
    Family(
        "MobileNetV2",
        "MobileNetV2ForImageClassification",
        "MobileNetV2Config",
        {"image_size": 32, "depth_multiplier": 0.35},
        lambda: image(32),
        weights=53,
    ),
    Family(
        "ConvNeXt",
        "ConvNextForImageClassification",
        "ConvNextConfig",
        {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2},
        lambda: image(32),
        weights=9,
    ),
    Family(
        "Whisper encoder",
        "WhisperEncoder",
        "WhisperConfig",
        {
            "d_model": 32,
            "encoder_layers": 2,
            "encoder_attention_heads": 4,
            "encoder_ffn_dim": 48,
            "num_mel_bins": 8,
            "max_source_positions": 12,
        },
        lambda: {"input_features": torch.randn(2, 8, 24)},
        weights=14,
    ),
    Family(
        "Wav2Vec2 encoder",
        "Wav2Vec2Model",
        "Wav2Vec2Config",
        {
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 48,
            "conv_dim": [8, 8],
            "conv_kernel": [10, 3],
            "conv_stride": [5, 2],
            "num_feat_extract_layers": 2,
            "num_conv_pos_embeddings": 16,
            "num_conv_pos_embedding_groups": 4,
        },
        lambda: {"input_values": torch.randn(2, 400)},
        weights=16,
    ),
)
