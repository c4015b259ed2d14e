"""Ratio of the energy of wanted values to the energy of what differs from them, in decibels."""

from __future__ import annotations

import math

from torch import Tensor

from mase.errors import ConfigError

MOST = 300.0  # dB: what equal tensors have, and the least with a sign; float64 resolves no more


def snr(outputs: Tensor, wanted: Tensor) -> float:
    """Return ``10 log10(sum wanted^2 / sum (outputs - wanted)^2)``, between -300 and 300 dB.

    The mean squared error is the mean of ``wanted^2``, divided by ``10^(snr / 10)``.

    Args:
        outputs: values ``[samples, ...]``. wanted: of the same shape.

    Raises:
        ConfigError: shapes differ, there are no values, or what is wanted is not a finite number.
    """
    for name, given in (("outputs", outputs), ("wanted", wanted)):
        if not isinstance(given, Tensor):
            raise ConfigError(f"snr: {name}: found {type(given).__name__}; allowed is a tensor")
    if outputs.shape != wanted.shape or not wanted.numel():
        shapes = f"outputs {list(outputs.shape)}, wanted {list(wanted.shape)}"
        raise ConfigError(f"snr: {shapes}; allowed are two tensors of one shape, with a value or more")
    if not bool(wanted.isfinite().all()):
        raise ConfigError("snr: wanted: found NaN or infinity; allowed are finite numbers")
    signal = float((wanted.double() ** 2).sum())
    noise = float(((outputs.double() - wanted.double()) ** 2).sum())
    if not math.isfinite(noise):  # outputs that are not numbers are as wrong as can be
        return -MOST
    if noise == 0:
        return MOST
    return min(MOST, max(-MOST, 10 * math.log10(signal / noise))) if signal else -MOST
