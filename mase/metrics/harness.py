"""Let lm-evaluation-harness score our models: its interface, filled from our likelihoods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from mase.data.base import needs
from mase.data.tokens import Tokenizer
from mase.errors import ConfigError
from mase.metrics.likelihood import START, Model, loglikelihoods, pair

MOST = 256  # tokens that are written where a request says nothing


def harness_model(model: Model, tokens: Tokenizer, window: int, batch: int = 8) -> Any:
    """Return an ``lm_eval.api.model.LM`` for ``lm_eval.simple_evaluate(model=..., tasks=...)``.

    Args:
        model: a module or a graph: ids ``[batch, length]`` to logits. window: tokens that it takes at most.
        batch: requests of one length that are run at a time.

    Raises:
        ToolError: the package ``lm_eval`` is not installed.
    """
    api = needs("lm_eval.api.model", "lmeval", "the evaluation harness")
    windows = needs("lm_eval.utils", "lmeval", "the evaluation harness").get_rolling_token_windows

    class HarnessModel(api.LM):  # type: ignore[misc, name-defined]  # its base class is known at run time only
        """Answer the harness's requests, each of which holds its texts in ``args``."""

        def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
            found = loglikelihoods(model, [pair(tokens, *request.args) for request in requests], window, batch)
            return [(one.nats, one.greedy) for one in found]

        def loglikelihood_rolling(self, requests: Sequence[Any]) -> list[float]:
            return [rolling(request.args[0]) for request in requests]

        def generate_until(self, requests: Sequence[Any]) -> list[str]:
            return [write(model, tokens, context, options, window) for context, options in (r.args for r in requests)]

    def rolling(text: str) -> float:
        """Score a whole text by the harness's own windows, which do not overlap but for one token."""
        ids, start = tokens.encode(text).tolist(), int(tokens.encode(START)[-1])
        parts = list(windows(ids, start, window, 1))
        pairs = [(x + y[-1:], len(y)) for x, y in parts]
        found = loglikelihoods(
            model, [(torch.tensor(row[:-count]), torch.tensor(row[-count:])) for row, count in pairs], window, batch
        )
        return sum(one.nats for one in found)

    return HarnessModel()


def write(model: Model, tokens: Tokenizer, context: str, options: Mapping[str, Any], window: int) -> str:
    """Continue a text by the likeliest tokens, up to the first of the stop texts.

    Args:
        options: ``until`` and ``max_gen_toks`` count; ``do_sample`` is refused.
    """
    if options.get("do_sample"):
        raise ConfigError("the evaluation harness asks for sampling; allowed is greedy decoding, do_sample: false")
    until = options.get("until", [])
    stops = [until] if isinstance(until, str) else list(until)
    ids, written = tokens.encode(context or START), ""
    start = len(ids)
    for _ in range(int(options.get("max_gen_toks", MOST))):
        with torch.no_grad():
            ids = torch.cat((ids, model(ids[-window:].unsqueeze(0))[0, -1].argmax().unsqueeze(0)))
        written = tokens.decode(ids[start:].tolist())
        found = [written.index(stop) for stop in stops if stop and stop in written]
        if found:
            return written[: min(found)]
    return written
