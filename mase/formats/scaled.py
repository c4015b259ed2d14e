"""Formats whose codes are weighed by a real scale of the tensor, or of each channel: how parameters meet data."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from mase.errors import FormatError
from mase.formats.base import Axes, Code, Format, Pieces, QuantParams, checked
from mase.formats.chunks import chunks

Per = Literal["none", "tensor", "channel"]
PER: tuple[Per, ...] = ("none", "tensor", "channel")
SHARED = ("scale", "zero_point", "offset", "threshold")  # tensors of QuantParams that scales carry along
FLOAT32 = torch.finfo(torch.float32)  # what scales are stored in at most


class ScaledFormat(Format):
    """Codes times a scale that is a parameter; subclasses say what codes are, given parameters that broadcast."""

    divides: ClassVar[bool] = True  # codes come from x / scale, so that a scale of 0 has none

    @property
    @abstractmethod
    def _sharing(self) -> Per:
        """Return who shares a scale."""

    @abstractmethod
    def _codes(self, x: Tensor, spread: QuantParams) -> Tensor:
        """Return the codes of float64 ``x``; the parameters broadcast against it."""

    @abstractmethod
    def _reals(self, codes: Tensor, spread: QuantParams) -> Tensor:
        """Return the float64 values of codes; the parameters broadcast against them."""

    @abstractmethod
    def _ends(self) -> tuple[int, int]:
        """Return the codes of the least and of the greatest value."""

    def along(self, axes: Axes) -> int:  # a scale a channel is one an output
        return axes.sums if getattr(self, "group", 0) else axes.channel

    def encode(self, x: Tensor, params: QuantParams | None = None) -> Code:
        params = params if params is not None else self.calibrate(x)
        return Code(self._codes(checked(x, self, self._nan), self._spread(params, x)))

    def decode(self, code: Code, params: QuantParams | None = None) -> Tensor:
        if params is None and self._sharing != "none":
            raise FormatError(f"{self}: decode needs the scale; pass the QuantParams that encode used")
        return self._reals(code.mantissa, self._spread(params or QuantParams(), code.mantissa))

    def limits(self, x: Tensor, params: QuantParams) -> tuple[Tensor, Tensor]:
        spread = self._spread(params, x)
        low, high = (self._reals(torch.tensor(code, device=x.device), spread) for code in self._ends())
        return torch.minimum(low, high), torch.maximum(low, high)  # a negative scale swaps them

    def scale(self, params: QuantParams, ndim: int) -> Tensor:
        """Return the scale shaped so that it broadcasts against a tensor of ``ndim`` axes; not for groups."""
        if params.scale is None:
            raise FormatError(f"{self}: the parameters hold no scale; calibrate first")
        return self._along(params.scale, params.axis, ndim)

    def _extremes(self, x: Tensor, axis: int) -> tuple[Tensor, Tensor]:
        """Return the least and the greatest value, float64, for each scale; of an empty tensor 0.

        Raises:
            FormatError: the data hold NaN or infinity.
        """
        if not x.is_floating_point() or x.numel() == 0:
            checked(x, self)
            x = torch.zeros([max(1, size) for size in x.shape], dtype=torch.float64, device=x.device)
        low, high = self._reduce(x.reshape(1) if x.ndim == 0 else x, axis)
        if not bool((torch.isfinite(low) & torch.isfinite(high)).all()):
            checked(x, self)
            raise FormatError(f"{self}: data to calibrate on holds infinity; finite values are needed")
        return low.cpu().to(torch.float64), high.cpu().to(torch.float64)  # so that all devices find the same scale

    def _reduce(self, x: Tensor, axis: int) -> tuple[Tensor, Tensor]:
        if self._sharing != "channel":
            low, high = torch.aminmax(x)
            return low, high
        rows = x.movedim(axis, 0).reshape(x.shape[axis], -1)
        return rows.amin(1), rows.amax(1)

    def _along(self, shared: Tensor, axis: int, ndim: int) -> Tensor:
        if self._sharing != "channel" or shared.ndim == 0:
            return shared
        if ndim == 0:
            return shared.reshape(())
        shape = [1] * ndim
        shape[axis] = -1
        return shared.reshape(shape)

    def _spread(self, params: QuantParams, like: Tensor) -> QuantParams:
        """Return parameters whose tensors broadcast against ``like``, on its device.

        A GPU divides by a number of the CPU through its reciprocal, which is not exact.
        """
        self._check(params)
        spread = [self._spread_one(s.to(like.device), params.axis, like.shape) for _, s in _shared(params)]
        return self._with_shared(params, spread)

    def _check(self, params: QuantParams) -> None:
        """Raise FormatError unless every value that the parameters can give is a number."""
        if params.scale is None and self._sharing != "none":
            raise FormatError(f"{self}: the parameters hold no scale; calibrate first")
        for name, shared in _shared(params):
            lost = shared[~torch.isfinite(shared) | (shared == 0) * (name == "scale" and self.divides)]
            if lost.numel():
                allowed = "finite numbers but 0" if name == "scale" and self.divides else "finite numbers"
                raise FormatError(f"{self}: the parameters hold the {name} {float(lost[0])}; allowed are {allowed}")

    def _spread_one(self, shared: Tensor, axis: int, shape: Sequence[int]) -> Tensor:
        return self._along(shared, axis, len(shape))

    def _with_shared(self, params: QuantParams, tensors: Sequence[Tensor]) -> QuantParams:
        names = [name for name, _ in _shared(params)]
        return replace(params, **dict(zip(names, tensors, strict=True))) if names else params  # type: ignore[arg-type]

    def _pieces(self, x: Tensor, y: Tensor, params: QuantParams, limit: int) -> Pieces:
        if all(tensor.ndim == 0 for _, tensor in _shared(params)):
            yield from super()._pieces(x, y, self._spread(params, x), limit)
            return
        self._check(params)
        for source, target, *parts in self._parts(x, y, params):
            for piece in chunks((source, target, *parts), limit):
                yield piece[0], piece[1], self._with_shared(params, piece[2:])

    def _parts(self, x: Tensor, y: Tensor, params: QuantParams) -> Iterator[tuple[Tensor, ...]]:
        """Yield views of ``x`` and ``y`` beside parameters that broadcast against them."""
        yield x, y, *(self._along(tensor.to(x.device), params.axis, x.ndim) for _, tensor in _shared(params))

    def _exact(self, x: Tensor, params: QuantParams) -> Tensor:
        return self._reals(self._codes(x, params), params)


def _shared(params: QuantParams) -> list[tuple[str, Tensor]]:
    pairs = ((name, getattr(params, name)) for name in SHARED)
    return [(name, tensor) for name, tensor in pairs if tensor is not None]
