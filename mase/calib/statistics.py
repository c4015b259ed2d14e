"""What calibration sees of the inputs of a layer: sums over tokens, each only where a method asks for it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mase.errors import ConfigError

MOST_INPUTS = 4096  # tokens that are kept as they are
SUMS = ("gram", "squares", "absolute", "peak", "mean_peak", "inputs")


@dataclass(eq=False)
class Statistics:
    """Sums over the tokens ``x [tokens, features]`` that a layer was fed with; None where nobody asked.

    Args:
        tokens: how many were seen.
        gram: sum of ``x^T x``, float64 ``[features, features]``. squares: sum of ``x^2``, float64 ``[features]``.
        absolute: sum of ``|x|``, float64. peak: greatest ``|x|``. mean_peak: greatest mean of ``|x|`` of a sample.
        inputs: the tokens themselves, float32: every ``stride``-th, so that there are at most ``MOST_INPUTS``.
        spread: of an expert that no token was sent to: these are all tokens of its layer.
    """

    tokens: int = 0
    gram: Tensor | None = None
    squares: Tensor | None = None
    absolute: Tensor | None = None
    peak: Tensor | None = None
    mean_peak: Tensor | None = None
    inputs: Tensor | None = None
    spread: bool = False
    stride: int = 1

    def need(self, name: str, where: str) -> Tensor:
        """Return a sum that a method asks for.

        Raises:
            ConfigError: it was not collected: the method runs without calibration data.
        """
        found: Tensor | None = getattr(self, name)
        if found is None:
            raise ConfigError(f"{where}: needs calibration data ({name}); pass calibration tokens")
        return found

    def hessian(self, where: str = "layer") -> Tensor:
        """Return ``2 / tokens * sum x^T x`` of the layer's squared output error (E. Frantar et al., GPTQ, 2022)."""
        return self.need("gram", where) * (2 / max(1, self.tokens))

    def autocorrelation(self, where: str = "layer") -> Tensor:
        """Return ``E[x^T x]`` (C. Zhang et al., QERA, 2024)."""
        return self.need("gram", where) / max(1, self.tokens)

    def add(self, x: Tensor, wanted: tuple[str, ...]) -> None:
        """Take in the tokens of one sample ``[..., features]``; products in float32, sums over samples in float64."""
        x = x.reshape(-1, x.shape[-1]).to(torch.float32)
        self.tokens += len(x)
        size = x.abs() if {"absolute", "peak", "mean_peak"} & set(wanted) and len(x) else None
        if "gram" in wanted:
            self.gram = _sum(self.gram, x.T @ x)
        if "squares" in wanted:
            self.squares = _sum(self.squares, x.square().sum(0))
        if size is not None and "absolute" in wanted:
            self.absolute = _sum(self.absolute, size.sum(0))
        if size is not None and "peak" in wanted:
            self.peak = _most(self.peak, size.amax(0))
        if size is not None and "mean_peak" in wanted:
            self.mean_peak = _most(self.mean_peak, size.mean(0))
        if "inputs" in wanted:
            self._keep(x)

    def _keep(self, x: Tensor) -> None:
        """Keep every ``stride``-th of all tokens; where that is too many, every second of these."""
        x = x[-(self.tokens - len(x)) % self.stride :: self.stride]
        self.inputs = x if self.inputs is None else torch.cat([self.inputs, x])
        while len(self.inputs) > MOST_INPUTS:
            self.inputs, self.stride = self.inputs[::2].clone(), 2 * self.stride


def _sum(old: Tensor | None, new: Tensor) -> Tensor:
    return new.to(torch.float64) if old is None else old.add_(new)


def _most(old: Tensor | None, new: Tensor) -> Tensor:
    return new if old is None else torch.maximum(old, new)
