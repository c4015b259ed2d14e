"""Units of ``mase_reduce`` for the least of a column, for the bench of all blocks, and mutants."""

from __future__ import annotations

import torch

from mase.blocks.output import Output
from mase.blocks.reduce import Reduce, Reduction
from mase.formats import QuantParams, parse
from tests.hw.operators import Unit


def least(shape: tuple[int, int, int], lanes: int, source: str, target: str, fifo: int) -> Unit:
    """Return the least of the columns of (groups, taps, cols)."""
    groups, taps, cols = shape
    params = QuantParams(base=torch.tensor(-3))
    x, y = (parse(text).grid(params, "unit") for text in (source, target))
    reduction = Reduction(x, x.low, taps, cols, maximum=True, least=True)
    out = Output.of(y, None, None, x.unit, reduction.bound, False, "even", "unit")
    scope = "_".join(map(str, ("reduce_least", *shape, lanes, source, target, fifo)))
    return Unit.of(scope, Reduce(groups, lanes, reduction, out, fifo=fifo))


def units() -> tuple[Unit, ...]:
    """Return rows of one beat and of several, codes of either sign and without one, exponents."""
    return (
        least((2, 3, 1), 1, "fixed5.2", "fixed5.2", 3),
        least((2, 4, 7), 3, "fixed5.2", "fixed4.1", 5),
        least((3, 2, 4), 4, "mxint5b2e3", "fixed8.1", 4),
        least((2, 3, 3), 2, "ufixed4.2", "ufixed4.2", 2),
    )


MUTANTS = (
    ("mase_reduce", "(Least ? t < old : t > old)", "t > old", "reduce_least_2_4_7", "cycles"),
    ("mase_reduce", "(Least ? t < old :", "(Least ? t > '0 :", "reduce_least_3_2_4", "cycles"),
    ("mase_reduce", "(first || (Least ?", "((Least ?", "reduce_least_2_3_3", "cycles"),
    ("mase_reduce", "if (valid) bank[place] <= next;", "bank[place] <= next;", "reduce_least_2_4_7", "stalls"),
    ("mase_reduce", "push_data_i({y_last, y})", "push_data_i({1'b0, y})", "reduce_least_2_3_1", "cycles"),
)
