"""Fit a format to data: parse its text form, choose an open binary point, calibrate the rest."""

from __future__ import annotations

import re
from dataclasses import replace

import torch
from torch import Tensor

from mase.errors import ConfigError, FormatError
from mase.formats import Axes, Format, QuantParams, parse
from mase.formats.base import check_text, floor_log2
from mase.formats.fixed import Fixed

OPEN_POINT = re.compile(r"(u?)fixed([0-9]+)")  # the fraction is fitted
MOST = 64  # greatest fraction
FINER = 3  # fractions tried above the one that does not clip


def _open_point(text: str) -> re.Match[str] | None:
    check_text(text)
    return OPEN_POINT.fullmatch(text)


def check(text: str, where: str) -> None:
    """Raise ConfigError unless a text form names a format.

    Args:
        where: for the error.
    """
    try:
        match = _open_point(text)
        if match is None:
            parse(text)
        else:
            Fixed(int(match[2]), 0, match[1] == "")
    except FormatError as error:
        raise ConfigError(f"{where}: {error}") from None


def closed(text: str) -> str:
    """Return a text form that needs no data to be a format.

    Raises:
        FormatError: it has an open point; says what to write.
    """
    match = _open_point(text)
    if match is None:
        return text
    example = f"{text}.{int(match[2]) // 2}"
    raise FormatError(f"format {text!r}: its binary point is open until there is data; write one, such as {example}")


def fit(text: str, x: Tensor | None, where: str, axes: Axes | None = None) -> tuple[Format, QuantParams]:
    """Return the format that a text form names, with parameters calibrated on ``x``.

    ``fixed8`` and ``ufixed8``, without a point, get the fraction that gives the least mean squared error.

    Args:
        text: text form. x: real data, or None where there is none. where: for errors.
        axes: of weights (``Op.axes``); else channels, groups and blocks lie along the last axis.

    Raises:
        ConfigError: the text names no format, or the format needs data and there is none.
    """
    try:
        match = _open_point(text)
        if match is None:
            fmt = parse(text)
            if not fmt.calibrated:
                return fmt, QuantParams()
        if x is None:
            raise ConfigError(f"{where}: format {text} is calibrated on data; pass calibration batches")
        if match is not None:
            return fit_point(int(match[2]), match[1] == "", x), QuantParams()
        return fmt, fmt.calibrate(x, -1 if axes is None else fmt.along(axes))
    except FormatError as error:
        raise ConfigError(f"{where}: {error}") from None


def fit_edge(text: str, x: Tensor | None, where: str, axis: int) -> tuple[Format, QuantParams]:
    """Do as :func:`fit` for a tensor that a node produces, whose blocks and channels lie along ``axis``."""
    if axis == -1:
        return fit(text, x, where)
    fmt, params = fit(text, x, where, Axes(axis, axis))
    return fmt, replace(params, axis=axis)


def fit_point(width: int, signed: bool, x: Tensor) -> Fixed:
    """Return the fixed point of ``width`` bits with the least mean squared error on ``x``; of equals the coarsest."""
    top = x.detach().abs().max().double() if x.numel() else torch.tensor(0.0).double()
    high = max(Fixed(width, 0, signed).code_range()[1], 1)
    start = 0 if top == 0 else min(max(int(floor_log2(high / top)), -MOST), MOST - FINER)
    best, least = Fixed(width, start, signed), float("inf")
    for frac in range(start, start + FINER + 1):
        fmt = Fixed(width, frac, signed)
        error = float(((fmt.decode(fmt.encode(x)) - x.double()) ** 2).mean()) if x.numel() else 0.0
        if error < least:
            best, least = fmt, error
    return best
