"""Models of the Hugging Face kind: a local folder, a GGUF file in one, or a name on the hub (needs a network)."""

from __future__ import annotations

import importlib
import io
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from mase.doors import json_text
from mase.doors.file import place
from mase.errors import ConfigError, GraphError, MaseError, ToolError, suggest
from mase.frontend.broken import hide_broken
from mase.models.base import MODELS

HEADS: Mapping[str, str] = {
    "causal_lm": "AutoModelForCausalLM",
    "masked_lm": "AutoModelForMaskedLM",
    "seq2seq_lm": "AutoModelForSeq2SeqLM",
    "sequence_classification": "AutoModelForSequenceClassification",
    "token_classification": "AutoModelForTokenClassification",
    "image_classification": "AutoModelForImageClassification",
    "audio_classification": "AutoModelForAudioClassification",
    "none": "AutoModel",
}  # what stands on the body -> class of transformers; "auto" takes the one that the files name
ATTENTION = ("sdpa", "eager")
DTYPES = ("auto", "float32", "float16", "bfloat16")
HEADER = 8  # bytes of a safetensors file that give the length of its header
PROBE = 5.0  # seconds to wait for the hub


@MODELS.add("huggingface")
def huggingface(
    path: str,
    gguf_file: str | None = None,
    head: str = "auto",
    dtype: str = "auto",
    attention: str = "sdpa",
    offline: bool = False,
) -> nn.Module:
    """Load a transformers model with its weights, in evaluation mode.

    Nothing of the folder is run as code, and weights come from safetensors or GGUF alone. GGUF is decoded: what
    is returned is a float model whose weights lie on the grids of the file.

    Args:
        path: folder with ``config.json`` and safetensors, or with the GGUF file; else a name on the hub (``org/name``).
        gguf_file: name of the GGUF file in the folder; its own header stands for ``config.json``.
        head: ``auto``, the class that the files name (causal language model for GGUF), or one of ``HEADS``.
        dtype: ``auto``, that of the files (float32 for GGUF), or ``float32``, ``float16``, ``bfloat16``.
        attention: implementation, ``sdpa`` or ``eager``.
        offline: take a hub name from the local cache alone.

    Raises:
        ConfigError: an option or a name is wrong, or a file is missing.
        GraphError: a file is damaged or does not hold the model's weights; names file and tensor.
        ToolError: an optional package is missing.
    """
    _one_of("head", head, ("auto", *HEADS))
    _one_of("dtype", dtype, DTYPES)
    _one_of("attention", attention, ATTENTION)
    transformers = optional("transformers", "hf")
    local = _local_files(path, gguf_file)
    if not local:
        _reach(path, offline)
    source = {"gguf_file": gguf_file} if gguf_file else {"use_safetensors": True}
    with quiet(), _one_line(path):
        config = transformers.AutoConfig.from_pretrained(
            path, local_files_only=local or offline, **({"gguf_file": gguf_file} if gguf_file else {})
        )
        model, info = _model_class(transformers, config, head, path).from_pretrained(
            path,
            config=config,
            local_files_only=local or offline,
            dtype="float32" if gguf_file and dtype == "auto" else dtype,
            attn_implementation=attention,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # told by _check_loaded, by name
            **source,
        )
    _check_loaded(info, path)
    module: nn.Module = model.eval()
    return module


def load_config(folder: Path) -> tuple[Any, Any]:
    """Return transformers, and the configuration of the model of a local folder.

    Raises:
        ConfigError: it is missing, or of a model that transformers does not know. ToolError: transformers is missing.
    """
    transformers = optional("transformers", "hf")
    _check_config(_file(folder, "config.json"))
    with quiet(), _one_line(str(folder)):
        return transformers, transformers.AutoConfig.from_pretrained(str(folder), local_files_only=True)


def load_tokenizer(path: str, gguf_file: str | None = None, offline: bool = False) -> Any:  # transformers has no types
    """Return the tokenizer that belongs to a model; arguments and errors as in :func:`huggingface`."""
    transformers = optional("transformers", "hf")
    local = _local_files(path, gguf_file)
    if not local:
        _reach(path, offline)
    with quiet(), _one_line(path):
        return transformers.AutoTokenizer.from_pretrained(
            path, local_files_only=local or offline, **({"gguf_file": gguf_file} if gguf_file else {})
        )


def optional(package: str, extra: str) -> Any:  # a module that may ship without types
    """Import an optional package.

    Raises:
        ToolError: it is missing; names the extra that brings it.
    """
    if package == "transformers":
        hide_broken("torchvision", "timm")
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != package:
            raise
        raise ToolError(f"{package} is not installed; pip install mase-dse[{extra}]") from None


@contextmanager
def quiet() -> Iterator[None]:
    """Keep progress bars and advice off the screen; what matters is checked here. The bar of GGUF has no switch."""
    bars = importlib.import_module("transformers.utils.logging")
    shown, level = bars.is_progress_bar_enabled(), bars.get_verbosity()
    bars.disable_progress_bar()
    bars.set_verbosity(logging.CRITICAL)
    try:
        with redirect_stderr(io.StringIO()):
            yield
    finally:
        bars.set_verbosity(level)
        if shown:
            bars.enable_progress_bar()


@contextmanager
def _one_line(path: str) -> Iterator[None]:
    """Turn whatever transformers raises into one line that names the folder."""
    try:
        yield
    except MaseError:
        raise
    except Exception as error:  # the library and the model's code raise errors of every kind
        text = " ".join(str(error).split())[:300] or type(error).__name__
        raise ConfigError(f"huggingface {path}: cannot be loaded: {text}") from error


def _one_of(what: str, found: str, allowed: tuple[str, ...]) -> None:
    if found not in allowed:
        raise ConfigError(f"huggingface.{what}: found {found!r}{suggest(str(found), allowed)}")


def _local_files(path: str, gguf_file: str | None) -> bool:
    """Check the folder's files and return True; return False where ``path`` can only be a name on the hub."""
    folder = Path(path)
    if not folder.is_dir():
        parts = path.split("/")
        if folder.exists() or len(parts) > 2 or not all(part.strip("~.") for part in parts):
            near = suggest(folder.name, [p.name for p in folder.parent.glob("*/")]) if folder.parent.is_dir() else ""
            raise ConfigError(f"huggingface.path {path}: no such folder{near}")
        return False
    if gguf_file:
        check_gguf(_file(folder, gguf_file))
        return True
    _check_config(_file(folder, "config.json"))
    for file in weight_files(folder):
        check_safetensors(file)
    return True


def _file(folder: Path, name: str) -> Path:
    file = folder / name
    if not file.is_file():
        found = ", ".join(sorted(p.name for p in folder.iterdir())[:8])
        raise ConfigError(f"{file}: no such file; the folder holds {found or 'nothing'}")
    return file


def _check_config(file: Path) -> None:
    """Refuse a configuration that is not JSON, or whose architecture transformers does not know."""
    known = sorted(optional("transformers", "hf").CONFIG_MAPPING)
    data = json_text.read(file, ConfigError, special=True)
    if not isinstance(data, dict):
        raise ConfigError(f"{file}: corrupt: holds {type(data).__name__}, not a JSON object")
    kind = data.get("model_type")
    if kind not in known:
        raise ConfigError(f"{file}: model_type {kind!r} is unknown to transformers{suggest(str(kind), known)}")


@dataclass(frozen=True)
class _Index:
    """What is read of the index of weights."""

    weight_map: dict[str, str]


def weight_files(folder: Path) -> list[Path]:
    """Return the safetensors of a folder: those that its index names, else all."""
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        files = sorted(folder.glob("*.safetensors"))
        if not files:
            raise ConfigError(f"{folder}: holds no *.safetensors; pickled weights are not read")
        return files
    found = json_text.checked(_Index, json_text.read(index), f"{index}: corrupt")
    return [_file(folder, place(name, str(index)).name) for name in sorted(set(found.weight_map.values()))]


def check_safetensors(file: Path) -> None:
    """Check that a file holds every byte that its header promises.

    Raises:
        GraphError: it does not; names the first tensor that is cut.
    """
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(HEADER), "little")
        if size < HEADER or HEADER + length > size:
            raise GraphError(f"{file}: truncated: {size} bytes, the header alone needs {HEADER + length}")
        try:
            header = json_text.parse(stream.read(length), f"{file}: header of safetensors")
            ends = {name: int(entry["data_offsets"][1]) for name, entry in header.items() if name != "__metadata__"}
        except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            raise GraphError(
                f"{file}: the safetensors header cannot be read: {' '.join(str(error).split())[:120]}"
            ) from None
    for name, end in sorted(ends.items(), key=lambda entry: entry[1]):
        if HEADER + length + end > size:
            raise GraphError(f"{file}: truncated: tensor {name!r} ends at byte {HEADER + length + end} of {size}")


def check_gguf(file: Path) -> None:
    """Check that every tensor of a GGUF file is there and of a type that can be decoded.

    Raises:
        GraphError: it is not; names the tensor.
    """
    gguf = optional("gguf", "hf")
    optional("accelerate", "hf")  # transformers needs it for GGUF
    try:
        tensors = gguf.GGUFReader(str(file)).tensors
    except Exception as error:  # the reader checks little: a damaged file ends in errors of every kind
        raise GraphError(
            f"{file}: this file is damaged, or is not a GGUF file: {' '.join(str(error).split())[:120]}"
        ) from error
    for tensor in tensors:
        try:
            gguf.dequantize(tensor.data[:1], tensor.tensor_type)
        except NotImplementedError:
            kind = tensor.tensor_type.name
            raise GraphError(f"{file}: tensor {tensor.name!r} has type {kind}, which gguf cannot decode") from None


def _reach(path: str, offline: bool) -> None:
    """Refuse a hub name at once where there is no network; the hub's own client would try for half a minute."""
    hub = optional("huggingface_hub", "hf")
    try:
        held = hub.try_to_load_from_cache(path, "config.json")
    except ValueError as error:  # the hub's own rules for names
        raise ConfigError(f"huggingface.path {path}: no such folder, nor a name on the hub: {error}") from None
    if isinstance(held, str):
        return
    if offline:
        raise ConfigError(f"huggingface.path {path}: no such folder, nor in the hub's local cache (offline is true)")
    try:
        hub.HfApi().model_info(path, timeout=PROBE)
    except Exception as error:  # the HTTP library's own classes change between releases
        text = " ".join(str(error).split())[:120] or type(error).__name__
        raise ConfigError(
            f"huggingface.path {path}: no such folder, and the hub does not answer for it: {text}"
        ) from error


def _model_class(transformers: Any, config: Any, head: str, path: str) -> Any:
    """Return the class that builds the model."""
    if head != "auto":
        return getattr(transformers, HEADS[head])
    names = config.architectures or []
    if not names:
        return transformers.AutoModelForCausalLM
    cls = getattr(transformers, names[0], None)
    if cls is None:
        raise ConfigError(
            f"{path}: architecture {names[0]!r} is unknown to transformers; give one of head: {', '.join(HEADS)}"
        )
    return cls


def _check_loaded(info: Mapping[str, Any], path: str) -> None:
    """Refuse a model of which a part kept its random start, or whose shapes differ from the files'."""
    wrong = sorted(str(name[0] if isinstance(name, tuple) else name) for name in info["mismatched_keys"])
    if wrong:
        raise GraphError(
            f"huggingface {path}: tensor {wrong[0]!r} has another shape in the files than config.json gives it"
        )
    missing = sorted(info["missing_keys"])
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise GraphError(f"huggingface {path}: the files hold no tensor {missing[0]!r}{more}; choose another head")
