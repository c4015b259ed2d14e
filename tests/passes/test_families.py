"""Analyses on models of the transformers library, against PyTorch's own counts."""

from __future__ import annotations

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from mase.frontend import trace
from passes.flops import flops
from passes.liveness import liveness
from passes.parameters import parameters
from tests.frontend.families.models import FAMILIES

pytest.importorskip("transformers")
pytestmark = pytest.mark.slow
BY_NAME = {family.name: family for family in FAMILIES}


@pytest.mark.parametrize("name", ["Llama", "GPT-2", "Falcon", "Mamba", "T5 encoder", "Swin", "ConvNeXt", "MobileNetV2"])
def test_operations_are_those_that_pytorch_counts(name: str) -> None:
    model, inputs = BY_NAME[name].build()
    graph, _ = trace(model, inputs)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(**inputs)
    found, batch = flops(graph)[1], len(next(iter(inputs.values())))
    assert found.unknown == ()
    assert 2 * found.macs * batch == counter.get_total_flops()
    assert liveness(graph)[1].peak > 0


@pytest.mark.parametrize("name", ["Llama", "GPT-2", "Falcon", "T5 encoder", "ResNet", "Mixtral", "Qwen3-MoE"])
def test_parameters_are_those_of_the_model(name: str) -> None:
    model, inputs = BY_NAME[name].build()
    assert parameters(trace(model, inputs)[0])[1].parameters == sum(p.numel() for p in model.parameters())


def test_experts_count_as_often_as_tokens_go_through_them() -> None:
    model, inputs = BY_NAME["Mixtral"].build()
    config, (_, length) = model.config, inputs["input_ids"].shape
    dim, kv = config.hidden_size, config.hidden_size * config.num_key_value_heads // config.num_attention_heads
    attention = 2 * dim * dim + 2 * dim * kv + 2 * length * dim  # projections; scores and values of a token
    expert = 3 * dim * config.intermediate_size
    layer = attention + dim * config.num_local_experts + config.num_experts_per_tok * expert
    tokens = length * (config.num_hidden_layers * layer + dim * config.vocab_size)
    assert flops(trace(model, inputs)[0])[1].macs == tokens
