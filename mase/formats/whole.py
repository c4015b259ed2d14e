"""The one way from floats to integers, so that NaN, infinity and what int64 cannot hold never become a code."""

from __future__ import annotations

import torch
from torch import Tensor

from mase.errors import InternalError

LIMIT = 2.0**63  # int64 holds -LIMIT .. LIMIT - 1


def whole(x: Tensor) -> Tensor:
    """Return whole numbers that floats hold as int64; int64 passes.

    One pass over the data decides, because the least and the greatest of data that hold NaN are NaN. Code that is being
    compiled has no branch on data: what formats compile is finite by what they check before.

    Raises:
        InternalError: a number is NaN, infinite or beyond int64; a bare conversion would give some other integer.
    """
    if x.dtype == torch.int64:
        return x
    if x.numel() and not torch.compiler.is_compiling():
        low, high = (float(bound) for bound in torch.aminmax(x.detach()))
        if not -LIMIT <= low <= high < LIMIT:  # also where one is NaN
            raise InternalError(f"a whole number is needed; found values from {low} to {high}")
    return x.to(torch.int64)
