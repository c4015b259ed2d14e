"""GGUF: one file that llama.cpp and transformers load; blocks of 32 with float16 scales, and MXFP4."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from mase.doors import json_text
from mase.errors import ConfigError, GraphError, said
from mase.formats.mxfp import MXFP
from mase.formats.packed import PackedWeight
from mase.models.huggingface import optional
from passes.ptq.export.affine import Affine, affine, only_piece
from passes.ptq.export.base import EXPORTS, Export, Model, UnheldError, Writer, Written
from passes.ptq.folder import Layer

FILE = "model.gguf"
BLOCK = 32
OCP = 127
ARCHITECTURES: Mapping[str, str] = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}
TURNED = re.compile(r".*\.([qk])_proj\.(weight|bias)")  # of "llama": rows lie in pairs there, in halves with us
FLOATS: Mapping[torch.dtype, str] = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
FLOAT_NAMES = {name: kind for kind, name in FLOATS.items()}
NORMAL, CONTROL = 1, 3  # kinds of tokens
Library = Any  # the module gguf


@dataclass(frozen=True, eq=False)
class Blocks:
    """A matrix as bytes ``[outputs, bytes of a row]`` of a type such as ``Q4_0``."""

    type: str
    data: Tensor


class _File(Writer):
    """Collect tensors, and write the file at the end."""

    def __init__(self, model: Model, folder: Path) -> None:
        self.library: Library = optional("gguf", "hf")
        kind = str(model.config.get("model_type"))
        if kind not in ARCHITECTURES:
            raise ConfigError(f"export to gguf: the model is {kind[:60]!r}; allowed are {', '.join(ARCHITECTURES)}")
        self.model, self.path = model, folder / FILE
        self.architecture = ARCHITECTURES[kind]
        fields = _fields(model)
        places = {name: place for place, name in self.library.MODEL_ARCH_NAMES.items()}
        self.names = self.library.get_tensor_name_map(places[self.architecture], model.blocks)
        self.out = self.library.GGUFWriter(None, self.architecture, use_temp_file=True)
        for key, value in fields.items():
            add = self.out.add_float32 if isinstance(value, float) else self.out.add_uint32
            add(f"{self.architecture}.{key}", value)
        self.out.add_name(kind)
        _add_tokens(self.out, model.folder / "tokenizer.json")

    def layer(self, layer: Layer) -> list[Written]:
        key = f"{layer.path}.weight"
        rows = self._order(key, layer.weight.shape[0])
        found = _encoded(layer.weight, rows)
        self._add(key, found.data.numpy(), found.type)
        kind = self.library.GGMLQuantizationType[found.type]
        values = torch.from_numpy(self.library.dequantize(found.data.numpy(), kind))
        return [Written(self._name(key), rows, values)]

    def plain(self, key: str, x: Tensor) -> dict[str, Tensor]:
        if x.dtype not in FLOATS:
            kinds = ", ".join(str(kind).removeprefix("torch.") for kind in FLOATS)
            raise ConfigError(f"export to gguf: tensor {key!r} is {str(x.dtype)[6:]}; allowed are {kinds}")
        x = x[self._order(key, len(x))]
        x = x.float() if x.ndim == 1 else x  # llama.cpp takes vectors in no other type
        flat = x.contiguous().view(torch.uint8) if x.dtype != torch.float32 else x.contiguous()
        self._add(key, flat.numpy(), FLOATS[x.dtype])
        return {self._name(key): x}

    def spared(self, path: str) -> None:
        """Layers in float are tensors like any other."""

    def flush(self) -> None:
        """Tensors are in a temporary file of the library by now."""

    def finish(self) -> None:
        self.out.write_header_to_file(self.path)
        self.out.write_kv_data_to_file()
        self.out.write_tensors_to_file()
        self.out.close()

    def _add(self, key: str, data: np.ndarray[Any, Any], kind: str) -> None:
        self.out.add_tensor(self._name(key), data, raw_dtype=self.library.GGMLQuantizationType[kind])

    def _name(self, key: str) -> str:
        name: str | None = self.names.get_name(key, try_suffixes=(".weight", ".bias"))
        if name is None:
            raise ConfigError(f"export to gguf: tensor {key!r} has no place in a file of {self.architecture!r}")
        return name

    def _order(self, key: str, rows: int) -> Tensor:
        """Return the rows of a tensor in the order of the file."""
        found, index = TURNED.fullmatch(key), torch.arange(rows)
        if self.architecture != "llama" or found is None:
            return index
        heads = int(self.model.need("num_attention_heads"))
        heads = heads if found[1] == "q" else int(self.model.config.get("num_key_value_heads") or heads)
        return index.view(heads, 2, rows // heads // 2).transpose(1, 2).reshape(-1)


def _fields(model: Model) -> dict[str, int | float]:
    """Return what the file says of the model."""
    rope = model.config.get("rope_parameters") or model.config.get("rope_scaling") or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind != "default":
        raise ConfigError(f"export to gguf: positions are scaled ({kind!r}); allowed is 'default'")
    heads, width = int(model.need("num_attention_heads")), int(model.need("hidden_size"))
    head = int(model.config.get("head_dim") or width // heads)
    return {
        "block_count": model.blocks,
        "context_length": int(model.need("max_position_embeddings")),
        "embedding_length": width,
        "feed_forward_length": int(model.need("intermediate_size")),
        "attention.head_count": heads,
        "attention.head_count_kv": int(model.config.get("num_key_value_heads") or heads),
        "attention.key_length": head,
        "attention.value_length": head,
        "attention.layer_norm_rms_epsilon": float(model.need("rms_norm_eps")),
        "rope.dimension_count": head,
        "rope.freq_base": float(rope.get("rope_theta") or model.config.get("rope_theta") or 10000.0),
        "vocab_size": int(model.need("vocab_size")),
    }


@dataclass(frozen=True)
class _Bpe:
    """What is read of the ``model`` of a tokenizer."""

    vocab: dict[str, int]
    merges: tuple[str | tuple[str, str], ...]


@dataclass(frozen=True)
class _Token:
    id: int
    content: str


def _add_tokens(out: Library, path: Path) -> None:
    """Add the vocabulary of a byte-level BPE tokenizer; others stay out."""
    if not path.is_file():
        return
    data = json_text.read(path, GraphError)
    if not isinstance(data, dict) or not isinstance(data.get("model"), dict):
        raise GraphError(f"{path}: corrupt: this is not a tokenizer: it is not an object whose model is an object")
    if data["model"].get("type") != "BPE" or "ByteLevel" not in str(data.get("pre_tokenizer")):
        return
    inner = json_text.checked(_Bpe, data["model"], f"{path}: model")
    added = json_text.checked(tuple[_Token, ...], data.get("added_tokens") or [], f"{path}: added_tokens")
    special = {token.content: token.id for token in added}
    vocabulary = {**inner.vocab, **special}
    names = sorted(vocabulary, key=lambda name: vocabulary[name])
    if [vocabulary[name] for name in names] != list(range(len(names))):
        raise GraphError(f"{path}: ids of its {len(names)} tokens are not 0 to {len(names) - 1}; GGUF has no holes")
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in inner.merges]
    out.add_tokenizer_model("gpt2")
    out.add_tokenizer_pre("default")
    out.add_token_list(names)
    out.add_token_types([CONTROL if name in special else NORMAL for name in names])
    out.add_token_merges(merges)


@EXPORTS.add("gguf")
class Gguf(Export):
    """Types ``Q4_0``, ``Q4_1``, ``Q5_0``, ``Q5_1``, ``Q8_0`` and ``MXFP4``; all else stays as it is."""

    tool: ClassVar[str] = "GGUF"

    def writer(self, model: Model, folder: Path) -> Writer:
        return _File(model, folder)

    def held(self, weight: PackedWeight) -> str:
        return _encoded(weight, torch.arange(weight.shape[0])).type

    def loader(self) -> str:
        return "gguf"

    def tensors(self, folder: Path) -> Iterator[tuple[str, Tensor]]:
        library = optional("gguf", "hf")
        path = folder / FILE
        try:
            for tensor in library.GGUFReader(path).tensors:
                kind = FLOAT_NAMES.get(tensor.tensor_type.name)
                if kind is not None:
                    yield tensor.name, torch.from_numpy(tensor.data.copy()).view(kind)
                else:
                    yield tensor.name, torch.from_numpy(library.dequantize(tensor.data, tensor.tensor_type).copy())
        except (OSError, ValueError, KeyError, IndexError, OverflowError, RuntimeError, TypeError) as fault:
            raise GraphError(f"{path}: corrupt: this is not a GGUF file: {said(fault)}") from None


# -- layouts -----------------------------------------------------------------------------------------------------------


def _encoded(weight: PackedWeight, rows: Tensor) -> Blocks:
    """Return some rows as blocks.

    Raises:
        UnheldError: no type holds them.
    """
    piece = only_piece(weight)
    if weight.shape[1] % BLOCK:
        raise UnheldError(f"{weight.shape[1]} inputs; a number that {BLOCK} divides is held")
    if isinstance(piece.format, MXFP):
        fmt = piece.format
        if (fmt.exp, fmt.man, fmt.block, fmt.outer) != (2, 1, BLOCK, ()) or piece.columns is not None:
            raise UnheldError(f"format {fmt}; of MXFP, mxfp4 is held")
        assert piece.code.exponent is not None
        scale = (piece.code.exponent[rows] + OCP).to(torch.uint8).unsqueeze(-1)
        return _rows("MXFP4", scale, _halves(piece.code.mantissa[rows].view(len(rows), -1, BLOCK)))
    return _integers(affine(weight).rows(rows))


def _integers(found: Affine) -> Blocks:
    if found.order is not None:
        raise UnheldError("columns out of order; their own order is held (--to gptq)")
    if not found.per_row and found.group % BLOCK:
        raise UnheldError(f"groups of {found.group}; multiples of {BLOCK} are held")
    rows = len(found.code)
    scale, least = _halfs(found, found.scale, "scales"), found.offset
    signed = (found.code - found.spread(found.zero)).view(rows, -1, BLOCK)
    if least is not None:
        if found.width > 5:
            raise UnheldError(f"real offsets with {found.width} bits; up to 5 bits are held")
        head = torch.cat([scale, _halfs(found, least, "offsets")], -1)
        return _short("Q4_1", head, signed) if found.width <= 4 else _long("Q5_1", head, signed)
    low, high = int(signed.min()), int(signed.max())
    if low >= -8 and high < 8:
        return _short("Q4_0", scale, signed + 8)
    if low >= -16 and high < 16:
        return _long("Q5_0", scale, signed + 16)
    if low >= -128 and high < 128:
        return _rows("Q8_0", scale, signed.to(torch.int8).view(torch.uint8))
    raise UnheldError(f"codes less zero points of {low} to {high}; -128 to 127 are held")


def _halfs(found: Affine, shared: Tensor, what: str) -> Tensor:
    """Return what groups share as two bytes a block."""
    stored = shared.to(torch.float16)
    if not torch.equal(stored.double(), shared):
        raise UnheldError(f"{what} in {found.kind}; {what} in fp16 are held (a format that ends in _fp16)")
    rows, columns = found.code.shape
    blocks = stored.repeat_interleave(max(1, found.group // BLOCK), 1)[:, : columns // BLOCK]
    return blocks.contiguous().view(torch.uint8).view(rows, -1, 2)


def _halves(codes: Tensor) -> Tensor:
    """Return codes of four bits two a byte: the first half of a block in the low bits, the second in the high ones."""
    half = BLOCK // 2
    return (codes[..., :half] | codes[..., half:] << 4).to(torch.uint8)


def _short(kind: str, head: Tensor, codes: Tensor) -> Blocks:
    return _rows(kind, head, _halves(codes))


def _long(kind: str, head: Tensor, codes: Tensor) -> Blocks:
    """Return codes of five bits: the highest ones in front."""
    weights = 1 << torch.arange(8)
    high = ((codes >> 4).view(*codes.shape[:-1], 4, 8) * weights).sum(-1).to(torch.uint8)
    return _rows(kind, torch.cat([head, high], -1), _halves(codes & 15))


def _rows(kind: str, head: Tensor, body: Tensor) -> Blocks:
    return Blocks(kind, torch.cat([head, body], -1).flatten(1).contiguous())
