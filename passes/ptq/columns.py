"""Quantize a matrix column by column, each error made good by the columns not yet done (the loop of GPTQ and its kin).

How to use it::

    factor = Factor.seen(layer.seen, damp=0.01, where=layer.path)  # warns of too few tokens
    weight = factor.cleaned(layer.weight, layer.path)       # dead columns are 0
    dense = propagate(weight, factor, begin, group=128)     # float32, columns in the order of the matrix

``begin(rest, columns)`` is called at the start of each group: ``rest [outputs, n]`` are the weights of this column and
all later ones, ``columns`` (int64 ``[n]``) says which columns of the matrix they are. The first ``group`` of them (or
fewer at the end) are those of the group, as they are by then. It chooses the parameters of the group and returns

* a function ``(weights [outputs], column) -> values [outputs]`` that rounds one column with these parameters, or
* a tensor ``[outputs, columns of the group]``, the values of the whole group at once (BiLLM): no feedback inside it;
  all later columns make good for the group by least squares, or with ``solve=False`` by each column's error over the
  diagonal, which is what a loop does that corrects inside the group too.

What it returns are real values, float32, that the codes stand for exactly, so that ``Piece.of(dense, format, params)``
finds the same codes again. Parameters that are fixed before (static groups, one scale a row) are simply closed over.
``order`` of the factor is the order in which columns are quantized (act-order); groups are then runs of that order,
unless ``begin`` looks parameters up by ``column // group``.

Source: E. Frantar et al., GPTQ, 2022; the factor is that of the damped inverse Hessian.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from mase.calib.statistics import Statistics
from mase.errors import ConfigError

CHUNK = 128  # columns whose errors wait for one product with all later columns
RETRIES = 6  # each with ten times the damping, where the Hessian is not positive

Rounder = Callable[[Tensor, int], Tensor]
Begin = Callable[[Tensor, Tensor], Rounder | Tensor]


@dataclass(frozen=True, eq=False)
class Factor:
    """Hold the upper Cholesky factor of the inverse of a damped Hessian.

    Args:
        upper: float32 ``[inputs, inputs]``, rows and columns in ``order``.
        dead: bool ``[inputs]``, columns that no token ever used. order: int64 ``[inputs]``, or None: as they stand.
    """

    upper: Tensor
    dead: Tensor
    order: Tensor | None = None

    @classmethod
    def seen(cls, seen: Statistics, damp: float = 0.01, act_order: bool = False, where: str = "layer") -> Factor:
        """Factor the Hessian of what a layer has seen; see :meth:`of` and :func:`hessian_of`."""
        return cls.of(hessian_of(seen, where), damp, act_order, where)

    @classmethod
    def of(cls, hessian: Tensor, damp: float = 0.01, act_order: bool = False, where: str = "layer") -> Factor:
        """Factor ``(H + damp * mean(diag H) * I)^-1``.

        Args:
            act_order: quantize the columns of the greatest diagonal first. where: for errors.

        Raises:
            ConfigError: the Hessian holds what is not a number, or stays singular whatever the damping.
        """
        if not bool(torch.isfinite(hessian).all()):
            raise ConfigError(
                f"{where}: the Hessian of its inputs holds NaN or infinity; the calibration data are broken"
            )
        h = hessian.to(torch.float64, copy=True)
        dead = h.diagonal() <= 0
        h.diagonal()[dead] = 1.0
        order = torch.argsort(h.diagonal(), descending=True, stable=True) if act_order else None
        h = h if order is None else h[order][:, order]
        return cls(_upper(h, damp, where).to(torch.float32), dead, order)

    def cleaned(self, weight: Tensor, where: str = "layer") -> Tensor:
        """Return float32 weights with 0 in the columns that no token used.

        Raises:
            ConfigError: the weights hold NaN or infinity.
        """
        return cleaned(weight, self.dead, where)

    @property
    def diagonal(self) -> Tensor:
        """Diagonal of the factor by column of the matrix, float32."""
        if self.order is None:
            return self.upper.diagonal()
        return torch.empty_like(self.upper[0]).scatter_(0, self.order, self.upper.diagonal())

    def salience(self, weight: Tensor) -> Tensor:
        """Return ``w^2 / U_jj^2``: twice the loss that setting a weight to zero adds, later columns making it good."""
        return (weight / self.diagonal).square_()


def hessian_of(seen: Statistics, where: str) -> Tensor:
    """Return the Hessian of what a layer has seen; warns where that is fewer tokens than it has inputs.

    Raises:
        ConfigError: no data was seen.
    """
    hessian = seen.hessian(where)
    if seen.tokens < len(hessian):
        text = f"{where}: {seen.tokens} tokens for {len(hessian)} inputs; pass at least {len(hessian)}"
        warnings.warn(text, stacklevel=3)
    return hessian


def cleaned(weight: Tensor, dead: Tensor, where: str) -> Tensor:
    """Return float32 weights with 0 in dead columns.

    Raises:
        ConfigError: the weights hold NaN or infinity.
    """
    if not bool(torch.isfinite(weight).all()):
        raise ConfigError(f"{where}: weights hold NaN or infinity; finite values are needed")
    return weight.to(torch.float32).masked_fill(dead, 0.0)


def propagate(
    weight: Tensor, factor: Factor, begin: Begin, group: int = CHUNK, block: int = 0, solve: bool = True
) -> Tensor:
    """Return the quantized values of ``weight [outputs, inputs]``; see the file's text.

    Args:
        group: columns from one call of ``begin`` to the next; 0: one call for all.
        block: columns whose errors wait for one product with all later ones, whole groups; 0: those of a group, at most
            ``CHUNK``. solve: how later columns make good for a group whose values are chosen at once.
    """
    inputs = weight.shape[1]
    columns = torch.arange(inputs) if factor.order is None else factor.order
    w = weight.to(torch.float32).T[columns.to(weight.device)]  # a copy: one row a column, so that it is contiguous
    size, names = group or inputs, columns.tolist()
    rounder: Rounder | Tensor = w
    for start in range(0, inputs, block or size):
        stop = min(start + (block or size), inputs)
        if start % size == 0:
            rounder = begin(w[start:].T, columns[start:])
        if isinstance(rounder, Tensor):
            _at_once(w, factor.upper, rounder, start, stop, solve)
            continue
        for low in range(start, stop, block or CHUNK):
            high = min(low + (block or CHUNK), stop)
            errors = torch.empty_like(w[low:high])
            for i in range(low, high):
                if i > start and i % size == 0:
                    found = begin(w[i:].T, columns[i:])
                    assert not isinstance(found, Tensor)
                    rounder = found
                _column(w, factor.upper, rounder(w[i], names[i]), i, high, errors[i - low])
            w[high:].addmm_(factor.upper[low:high, high:].T, errors, alpha=-1)
    out = torch.empty_like(w)
    out[columns.to(weight.device)] = w
    return out.T.contiguous()


def _column(w: Tensor, upper: Tensor, value: Tensor, i: int, high: int, error: Tensor) -> None:
    """Replace a row of ``w`` by its value, correct those up to ``high``, and note the error."""
    torch.sub(w[i], value, out=error).div_(upper[i, i])
    w[i] = value
    w[i + 1 : high].addr_(upper[i, i + 1 : high], error, alpha=-1)


def _at_once(w: Tensor, upper: Tensor, values: Tensor, start: int, stop: int, solve: bool) -> None:
    """Replace the rows ``start..stop`` of ``w`` by values, and correct all later ones."""
    errors, own = w[start:stop] - values.T, upper[start:stop, start:stop]
    errors = (
        torch.linalg.solve_triangular(own.T, errors, upper=False) if solve else errors / own.diagonal().unsqueeze(1)
    )
    w[start:stop] = values.T
    w[stop:].addmm_(upper[start:stop, stop:].T, errors, alpha=-1)


def _upper(h: Tensor, damp: float, where: str) -> Tensor:
    """Return U, upper and with a positive diagonal, of ``U^T U = (h + damping)^-1``; consumes ``h``.

    With P the reversal of rows and P h P = L L^T, U is P L^-1 P: one Cholesky factor and one triangular inverse.
    """
    mean, flipped = float(h.diagonal().mean()), h.flip(0, 1)
    flipped.diagonal().add_(damp * mean)
    for attempt in range(RETRIES):
        lower, failed = torch.linalg.cholesky_ex(flipped)
        if not int(failed):
            eye = torch.eye(len(h), dtype=h.dtype, device=h.device)
            inverse: Tensor = torch.linalg.solve_triangular(lower, eye, upper=False)
            return inverse.flip(0, 1)
        flipped.diagonal().add_(max(damp, 1e-4) * mean * 10**attempt * 9)
    raise ConfigError(f"{where}: the Hessian of its inputs is singular; more calibration tokens or a greater damp help")
