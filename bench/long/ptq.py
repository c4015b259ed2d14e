"""Post-training quantization from disk to disk: a random Llama of 1.1 B parameters in 16 bits, and its peak memory.

``python -m bench.long.ptq [METHOD ...]`` measures some methods alone, such as ``gptq``; ``rtn`` by default. The folder
of the model (2.2 GB) is made in ``MASE_BENCH``, or in the system's folder for temporary files, and kept there.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from bench.common import Figure, main

SIZES: Mapping[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "num_hidden_layers": 22,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "vocab_size": 32000,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-5,
    "dtype": "bfloat16",
}
BARS = {"rtn": (180.0, 4096.0), "gptq": (None, 6144.0)}  # seconds, MiB
SAMPLES, LENGTH = 16, 512  # of what calibrates; GPTQ of 5632 inputs needs as many tokens
FORMATS = {"rtn": "int4g128f_fp16", "gptq": "int4g128a"}


def model(folder: Path) -> None:
    """Write the model, a file for each block, where it is not there yet."""
    if (folder / "config.json").is_file():
        return
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    draw = torch.Generator().manual_seed(0)
    wide, hidden, heads, vocabulary = 2048, 5632, 256, 32000
    shapes = {
        "self_attn.q_proj": (wide, wide),
        "self_attn.k_proj": (heads, wide),
        "self_attn.v_proj": (heads, wide),
        "self_attn.o_proj": (wide, wide),
        "mlp.gate_proj": (hidden, wide),
        "mlp.up_proj": (hidden, wide),
        "mlp.down_proj": (wide, hidden),
    }

    def matrix(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=draw).mul_(shape[-1] ** -0.5).to(torch.bfloat16)

    norm = torch.ones(wide, dtype=torch.bfloat16)
    for i in range(SIZES["num_hidden_layers"]):
        tensors = {f"model.layers.{i}.{name}.weight": matrix(*shape) for name, shape in shapes.items()}
        tensors |= {f"model.layers.{i}.{name}.weight": norm.clone() for name in NORMS}
        save_file(tensors, folder / f"model-{i:02}.safetensors")
    ends = {"model.embed_tokens.weight": matrix(vocabulary, wide), "lm_head.weight": matrix(vocabulary, wide)}
    save_file({**ends, "model.norm.weight": norm}, folder / "model-ends.safetensors")
    (folder / "config.json").write_text(json.dumps(SIZES), encoding="utf-8")


NORMS = ("input_layernorm", "post_attention_layernorm")


def one(method: str, source: Path, room: Path) -> list[Figure]:
    """Quantize with one method in a process of its own, and check the result."""
    import numpy as np

    tokens = torch.randint(0, 32000, (SAMPLES, LENGTH), generator=torch.Generator().manual_seed(0))
    np.save(room / "tokens.npy", tokens.numpy())
    calibration = {"tokens": "tokens.npy", "samples": SAMPLES, "length": LENGTH}
    config: dict[str, Any] = {"model": str(source), "recipe": [{method: {"format": FORMATS[method]}}]}
    config |= {} if method == "rtn" else {"calibration": calibration}
    (room / "ptq.json").write_text(json.dumps(config), encoding="utf-8")
    target = room / method
    shutil.rmtree(target, ignore_errors=True)
    threads = {**os.environ, "OMP_NUM_THREADS": "2"}
    command = [sys.executable, "-m", "mase", "ptq"]
    before = cpu_seconds()
    subprocess.run([*command, str(room / "ptq.json"), "--out", str(target)], check=True, env=threads)
    spent = cpu_seconds() - before
    checked = subprocess.run([*command, "check", str(target)], check=False, env=threads)
    found = json.loads((target / "report.json").read_text(encoding="utf-8"))
    size = sum(file.stat().st_size for file in target.glob("part-*"))
    shutil.rmtree(target)
    seconds, memory = BARS[method]
    return [
        Figure(f"ptq_{method}_1b_seconds", found["seconds"], "s", at_most=seconds),
        Figure(f"ptq_{method}_1b_cpu", spent, "CPU s"),
        Figure(f"ptq_{method}_1b_memory", found["peak_mib"], "MiB", at_most=memory),
        Figure(f"ptq_{method}_1b_bits", found["stored_bits"], "bits a weight"),
        Figure(f"ptq_{method}_1b_size", size / 2**20, "MiB"),
        Figure(f"ptq_{method}_1b_differs", float(checked.returncode != 0), at_most=0.0),
    ]


def cpu_seconds() -> float:
    """Return the CPU time of all programs that this one has started."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def measure(methods: Sequence[str] = ("rtn",)) -> list[Figure]:
    """Return the figures of some methods."""
    room = Path(os.environ.get("MASE_BENCH", tempfile.gettempdir())) / "mase-bench-ptq"
    model(room / "model")
    return [figure for method in methods for figure in one(method, room / "model", room)]


if __name__ == "__main__":
    chosen = [name for name in sys.argv[1:] if name in FORMATS]
    sys.argv = [sys.argv[0], *(name for name in sys.argv[1:] if name not in FORMATS)]
    main(__doc__, lambda: measure(chosen or ("rtn",)))
