"""What every number format is: a frozen description, its parameters, its codes (ARITHMETIC 2)."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from mase.errors import FormatError
from mase.registry import Registry


@dataclass(frozen=True, eq=False)
class QuantParams:
    """Hold what calibration finds for one tensor; a format uses the fields it needs.

    Args:
        scale: real weight of one code, float64; 0-d a tensor, ``[channels]`` on ``axis``.
        zero_point: code of real zero, int64, shaped as ``scale``; None means 0.
        base: least exponent of an exponent window, int64, 0-d.
        axis: axis along which blocks or channels lie.
    """

    scale: Tensor | None = None
    zero_point: Tensor | None = None
    base: Tensor | None = None
    axis: int = -1


@dataclass(frozen=True, eq=False)
class Code:
    """Hold the integers that stand for a tensor.

    Args:
        mantissa: one integer an element, shaped as the tensor.
        exponent: one (true, unbiased) exponent a block, or None; the blocked axis counts blocks.
    """

    mantissa: Tensor
    exponent: Tensor | None = None


class Format(ABC):
    """A number format: static, hashable, with a text form that round-trips.

    Subclasses are frozen dataclasses, one file each, and check their fields in ``__post_init__``.
    """

    grammar: ClassVar[re.Pattern[str]]  # matches the whole text form

    @classmethod
    @abstractmethod
    def from_match(cls, match: re.Match[str]) -> Self:
        """Build the format from a full match of ``grammar``."""

    @abstractmethod
    def __str__(self) -> str:
        """Return the text form, defaults left out."""

    @abstractmethod
    def calibrate(self, x: Tensor, axis: int = -1) -> QuantParams:
        """Choose parameters for data ``x``; ``axis`` carries the blocks or the channels."""

    @abstractmethod
    def encode(self, x: Tensor, params: QuantParams | None = None) -> Code:
        """Return the codes nearest to ``x`` (any float dtype); without ``params`` calibrate on ``x``.

        Raises:
            FormatError: ``x`` is not floating point or holds NaN.
        """

    @abstractmethod
    def decode(self, code: Code, params: QuantParams | None = None) -> Tensor:
        """Return the real values of ``code`` as float64, exactly."""

    @abstractmethod
    def code_range(self) -> tuple[int, int]:
        """Return the least and the greatest mantissa code that ``encode`` gives."""

    @abstractmethod
    def bits(self, shape: Sequence[int]) -> float:
        """Return stored bits an element of a tensor of this shape, shared fields counted."""

    @abstractmethod
    def sv_params(self) -> Mapping[str, int]:
        """Return the parameters under which RTL knows the format."""

    def quantize(self, x: Tensor, params: QuantParams | None = None) -> Tensor:
        """Return ``decode(encode(x))`` in the dtype of ``x``, with a straight-through gradient inside the range."""
        params = params if params is not None else self.calibrate(x.detach())
        y = self.decode(self.encode(x.detach(), params), params).to(x.dtype)
        return x + (y - x).detach() if x.requires_grad else y


FORMATS: Registry[type[Format]] = Registry("format", "mase.formats")


def parse(text: str) -> Format:
    """Return the format that a text form names, such as ``fixed8.4`` or ``mxint8b16e4``.

    Raises:
        FormatError: no format has this form, or a field is impossible.
    """
    for _, cls in FORMATS.items():
        match = cls.grammar.fullmatch(text)
        if match:
            return cls.from_match(match)
    raise FormatError(f"format {str(text)[:60]!r}: not a text form; allowed are forms such as {', '.join(examples())}")


def examples() -> list[str]:
    """Return one text form of each registered format."""
    return [str(cls()) for _, cls in FORMATS.items()]


def checked(x: Tensor, fmt: Format) -> Tensor:
    """Return ``x`` as float64 after refusing integers and NaN."""
    if not x.is_floating_point():
        raise FormatError(f"{fmt}: data is {x.dtype}; a floating-point tensor is needed")
    wide = x.to(torch.float64)
    if bool(torch.isnan(wide).any()):
        raise FormatError(f"{fmt}: data holds NaN at {int(torch.isnan(wide).sum())} of {x.numel()} places; NaN has no code")
    return wide


def within(fmt: str, field: str, value: int, low: int, high: int) -> None:
    """Raise FormatError unless ``low <= value <= high``."""
    if not low <= value <= high:
        raise FormatError(f"{fmt}: {field} is {value}; allowed is {low}..{high}")


def pow2(exponent: Tensor) -> Tensor:
    """Return 2**exponent in float64, exact for -1022 <= exponent <= 1023 (built from bits, not from ``pow``)."""
    return ((exponent.to(torch.int64) + 1023) << 52).view(torch.float64)


def floor_log2(x: Tensor) -> Tensor:
    """Return floor(log2(x)) of positive float64 values as int64, from the bits; subnormals give -1023."""
    return ((x.view(torch.int64) >> 52) & 0x7FF) - 1023
