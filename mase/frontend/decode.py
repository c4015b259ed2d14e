"""One step of generation as a module: a token and the keys and values so far go in, logits and longer ones come out.

Tracing it gives a graph whose cache is explicit: ``trace_export(step, inputs, output=step.fields)``.
"""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor, nn

from mase.errors import GraphError


class DecodeStep(nn.Module):
    """Run a causal language model of transformers on one token a sequence, after ``length`` earlier ones.

    Args:
        model: in evaluation mode; its cache holds a key and a value a layer.
        length: earlier tokens, at least 1.
        batch: sequences in the example inputs.

    Raises:
        GraphError: the model keeps no keys and values, or keeps something else.
    """

    def __init__(self, model: nn.Module, length: int, batch: int = 1) -> None:
        super().__init__()
        self.model = model
        vocabulary = int(model.config.vocab_size)  # type: ignore[union-attr, arg-type]  # of every model of transformers
        ids = torch.randint(vocabulary, (batch, length + 1), generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            cache = self.model(input_ids=ids[:, :-1], use_cache=True).get("past_key_values")
        self.inputs: dict[str, Tensor] = {"input_ids": ids[:, -1:], **_tensors(cache, type(model).__name__)}

    @property
    def fields(self) -> tuple[str, ...]:
        """Names of what a step returns: the logits, and the keys and values for the next step."""
        return ("logits", *(name for name in self.inputs if name != "input_ids"))

    def forward(self, input_ids: Tensor, **cache: Tensor) -> dict[str, Tensor]:
        """Return the logits ``[batch, 1, vocabulary]`` and the keys and values, one longer than those given."""
        held = importlib.import_module("transformers").DynamicCache(config=self.model.config)
        for layer in range(len(cache) // 2):
            held.update(cache[f"key_{layer}"], cache[f"value_{layer}"], layer)
        result = self.model(input_ids=input_ids, past_key_values=held, use_cache=True)
        return {"logits": result.logits, **_tensors(held, type(self.model).__name__)}


def _tensors(cache: Any, name: str) -> dict[str, Tensor]:
    """Return the keys and values of a cache by name, in order of layers."""
    layers = getattr(cache, "layers", None) or []
    found = {}
    for place, layer in enumerate(layers):
        for role, part in (("key", "keys"), ("value", "values")):
            tensor = getattr(layer, part, None)
            if not isinstance(tensor, Tensor):
                raise GraphError(f"{name}: layer {place} keeps {type(layer).__name__}; allowed are keys and values")
            found[f"{role}_{place}"] = tensor
    if not found:
        raise GraphError(f"{name}: keeps no keys and values; allowed are causal language models that keep them")
    return found
