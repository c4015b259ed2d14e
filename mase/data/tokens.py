"""Text to tokens and back: bytes, or a small byte-level BPE."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from mase.errors import ConfigError, ToolError

FORM = re.compile(r"bpe([1-9][0-9]{2,4})")  # bpe512: trained on the text itself


class Tokenizer(Protocol):
    """What turns text into token ids."""

    @property
    def size(self) -> int:
        """Number of different tokens."""

    def encode(self, text: str) -> Tensor:
        """Return the ids ``[tokens]`` int64 of a text."""

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids; bytes that are not UTF-8 are replaced."""


@dataclass(frozen=True)
class Bytes:
    """A token is a byte of the text in UTF-8."""

    size: int = 256

    def encode(self, text: str) -> Tensor:
        raw = bytearray(text.encode())
        return torch.frombuffer(raw, dtype=torch.uint8).long() if raw else torch.zeros(0, dtype=torch.int64)

    def decode(self, ids: Sequence[int]) -> str:
        return bytes(ids).decode(errors="replace")


@dataclass(frozen=True)
class Subwords:
    """A tokenizer of the package ``tokenizers``, such as ``load_tokenizer(...).backend_tokenizer`` of transformers.

    Args:
        model: a ``tokenizers.Tokenizer``.
    """

    model: Any  # the package is optional

    @property
    def size(self) -> int:
        return int(self.model.get_vocab_size())

    def encode(self, text: str) -> Tensor:
        return torch.tensor(self.model.encode(text, add_special_tokens=False).ids, dtype=torch.int64)

    def decode(self, ids: Sequence[int]) -> str:
        return str(self.model.decode(list(ids), skip_special_tokens=False))


def tokenizer(form: str, text: Iterable[str]) -> Tokenizer:
    """Return a tokenizer by its text form.

    Args:
        form: ``bytes``; ``bpe512``, that many tokens trained on ``text``; or the path of a ``tokenizer.json``.

    Raises:
        ConfigError: another form, or an unreadable file. ToolError: the package ``tokenizers`` is missing.
    """
    if form == "bytes":
        return Bytes()
    wanted = FORM.fullmatch(form)
    if wanted is None and not form.endswith(".json"):
        raise ConfigError(
            f"tokens {form[:60]!r}; allowed are bytes, bpeN such as bpe1024, or the path of a tokenizer.json"
        )
    try:
        import tokenizers
    except ImportError as error:
        raise ToolError(f"tokens {form} needs the package tokenizers ({error}); pip install 'mase-dse[hf]'") from None
    if wanted is None:
        if not Path(form).is_file():
            raise ConfigError(f"tokens: {form}: no such file")
        try:
            return Subwords(tokenizers.Tokenizer.from_file(form))
        except Exception as error:  # noqa: BLE001 - the package raises plain Exception
            raise ConfigError(
                f"tokens: {form}: this is not a tokenizer: {' '.join(str(error).split())[:120]}"
            ) from None
    return _train(tokenizers, int(wanted[1]), text)


def _train(tokenizers: Any, size: int, text: Iterable[str]) -> Subwords:
    """Train on a text; every byte is a token, so every text can be encoded."""
    if size < 256:
        raise ConfigError(f"tokens bpe{size}; allowed are 256 tokens or more, for every byte is one")
    level = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    model = tokenizers.Tokenizer(tokenizers.models.BPE())
    model.pre_tokenizer, model.decoder = level, tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=size, show_progress=False, initial_alphabet=level.alphabet(), special_tokens=[]
    )
    model.train_from_iterator(text, trainer)
    return Subwords(model)
