"""Tiny model folders of the Hugging Face kind, for tests of quantization from disk to disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mase.models.huggingface import optional, quiet

VOCABULARY, LENGTH = 150, 8
SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": VOCABULARY,
}
WIDE = {**SIZES, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}  # 32 divides all
KINDS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "llama": ("LlamaForCausalLM", "LlamaConfig", SIZES),
    "wide": ("LlamaForCausalLM", "LlamaConfig", WIDE),
    "mixtral_wide": ("MixtralForCausalLM", "MixtralConfig", {**WIDE, "num_local_experts": 4}),
    "qwen3": ("Qwen3ForCausalLM", "Qwen3Config", {**WIDE, "head_dim": 16}),
    "tied": ("LlamaForCausalLM", "LlamaConfig", {**SIZES, "tie_word_embeddings": True}),
    "mixtral": ("MixtralForCausalLM", "MixtralConfig", {**SIZES, "num_local_experts": 4}),
    "qwen3_moe": (
        "Qwen3MoeForCausalLM",
        "Qwen3MoeConfig",
        {**SIZES, "head_dim": 8, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16},
    ),
    "gemma2": ("Gemma2ForCausalLM", "Gemma2Config", {**SIZES, "head_dim": 8, "sliding_window": 8}),
    "gpt2": (
        "GPT2LMHeadModel",
        "GPT2Config",
        {
            "n_embd": 32,
            "n_layer": 4,
            "n_head": 4,
            "vocab_size": VOCABULARY,
            "n_positions": 64,
            "bos_token_id": None,
            "eos_token_id": None,
        },
    ),
}


def write(
    folder: Path, kind: str, dtype: torch.dtype = torch.float32, shards: str = "5GB", **changes: int
) -> nn.Module:
    """Write a model with random weights, and return it as the folder has it, in float32."""
    library = optional("transformers", "hf")
    model, config, options = KINDS[kind]
    torch.manual_seed(0)
    made = getattr(library, model)(getattr(library, config)(**{**options, **changes}))
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))  # norms off 1, biases off 0
            parameter.copy_(parameter.to(dtype))
    state = {name: x.to(dtype) for name, x in made.state_dict().items()}
    with quiet():
        made.save_pretrained(folder, state_dict=state, max_shard_size=shards)
    found: nn.Module = made.eval().requires_grad_(False)
    return found


def tokens(count: int = 5, seed: int = 0) -> Tensor:
    return torch.randint(0, VOCABULARY, (count, LENGTH), generator=torch.Generator().manual_seed(seed))
