"""Functions of one real number, evaluated so that every machine gets the same bits: what tables are made of.

A value is cut to 48 bits, and where anything was cut off the last bit is set (rounding to odd). No tie between two
codes of a format has that many bits, so a format that rounds the result rounds the real value itself, once. Functions
with rational values are computed in fractions. The others are computed with more and more digits until the 48 bits are
known; a value that no digits tell from one of fewer bits is that one, such as exp(0). Libraries of C play no part,
because they differ in their last bits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from functools import lru_cache
from math import inf, ldexp
from typing import Any

BITS = 48  # of a value: more than any tie between codes has
DIGITS = (100, 200, 800)  # bits of working precision, one after another
LOST = 20  # bits that a formula below may lose at the end
FARTHEST = 900  # powers of two: beyond them a value is as good as the bound

Attrs = Mapping[str, Any]  # numbers of a record
Number = Any  # a number of mpmath, which ships no types

RATIONAL: Mapping[str, Callable[[Fraction, Attrs], Fraction]] = {
    "relu": lambda x, a: max(x, Fraction(0)),
    "relu6": lambda x, a: min(max(x, Fraction(0)), Fraction(6)),
    "relu_squared": lambda x, a: max(x, Fraction(0)) ** 2,
    "leaky_relu": lambda x, a: x if x > 0 else x * Fraction(a.get("slope", 0.01)),
    "prelu": lambda x, a: x if x > 0 else x * Fraction(a["weight"]),
    "softsign": lambda x, a: x / (1 + abs(x)),
    "hardsigmoid": lambda x, a: _gate(x),
    "hardswish": lambda x, a: x * _gate(x),
    "clamp": lambda x, a: _clamp(x, a.get("low"), a.get("high")),
    "square": lambda x, a: x * x,
    "reciprocal": lambda x, a: 1 / x,
    "abs": lambda x, a: abs(x),
    "neg": lambda x, a: -x,
}
REAL: Mapping[str, Callable[[Number, Number, Attrs], Number]] = {  # of the context of mpmath, x and the attributes
    "elu": lambda m, x, a: x if x > 0 else m.expm1(x) * a.get("alpha", 1.0),
    "celu": lambda m, x, a: x if x > 0 else m.expm1(x / a.get("alpha", 1.0)) * a.get("alpha", 1.0),
    "selu": lambda m, x, a: (
        1.0507009873554804934193349852946 * (x if x > 0 else m.expm1(x) * 1.6732632423543772848170429916717)
    ),
    "gelu": lambda m, x, a: x * m.erfc(-x / m.sqrt(2)) / 2,
    "gelu_tanh": lambda m, x, a: _gelu(m, x, m.sqrt(2 / m.pi)),
    "gelu_new": lambda m, x, a: _gelu(m, x, m.sqrt(2 / m.pi)),
    "gelu_fast": lambda m, x, a: _gelu(m, x, 0.7978845608),
    "gelu_quick": lambda m, x, a: x * _sigmoid(m, m.mpf(1.702) * x),
    "silu": lambda m, x, a: x * _sigmoid(m, x),
    "mish": lambda m, x, a: x * _mish(m.exp(x)),
    "sigmoid": lambda m, x, a: _sigmoid(m, x),
    "logsigmoid": lambda m, x, a: -m.log1p(m.exp(-x)),
    "tanh": lambda m, x, a: m.tanh(x),
    "softplus": lambda m, x, a: _softplus(m, x, m.mpf(a.get("beta", 1.0)), a.get("threshold", 20.0)),
    "exp": lambda m, x, a: m.exp(x),
    "log": lambda m, x, a: m.log(x),
    "sqrt": lambda m, x, a: m.sqrt(x),
    "rsqrt": lambda m, x, a: 1 / m.sqrt(x),
    "power": lambda m, x, a: x ** (int(a["exponent"]) if _whole(a["exponent"]) else m.mpf(a["exponent"])),
    "sin": lambda m, x, a: m.sin(x),
    "cos": lambda m, x, a: m.cos(x),
    "erf": lambda m, x, a: m.erf(x),
}
NAMES = frozenset(RATIONAL) | frozenset(REAL)


def values(function: str, attrs: Attrs, xs: Sequence[float]) -> list[float]:
    """Return f(x) rounded to odd at ``BITS`` bits, for each x within the domain; magnitudes stay within 2**+-900."""
    if function in RATIONAL:
        return [_of_fraction(RATIONAL[function](Fraction(x), attrs)) for x in xs]
    return [_of_real(REAL[function], attrs, x) for x in xs]


def undefined(function: str, attrs: Attrs, x: float) -> str:
    """Say what f(x) is where it is not a finite number: ``infinite`` or ``not a number``; else nothing."""
    if function in ("log", "rsqrt"):
        return "not a number" if x < 0 else "infinite" if x == 0 else ""
    if function == "sqrt":
        return "not a number" if x < 0 else ""
    if function == "reciprocal":
        return "infinite" if x == 0 else ""
    if function != "power":
        return ""
    exponent = attrs["exponent"]
    if x == 0:
        return "infinite" if exponent < 0 else ""
    return "not a number" if x < 0 and not _whole(exponent) else ""


def _gate(x: Fraction) -> Fraction:
    return min(max((x + 3) / 6, Fraction(0)), Fraction(1))


def _clamp(x: Fraction, low: float | None, high: float | None) -> Fraction:
    """Return min(max(x, low), high), as PyTorch has it: the upper bound wins; infinite bounds are none."""
    x = x if low in (None, -inf) else max(x, Fraction(low))
    return x if high in (None, inf) else min(x, Fraction(high))


def _gelu(m: Number, x: Number, slope: Number) -> Number:
    """Return x (1 + tanh(u)) / 2 = x sigmoid(2 u)."""
    return x * _sigmoid(m, 2 * slope * (x + m.mpf(0.044715) * x**3))


def _sigmoid(m: Number, x: Number) -> Number:
    return 1 / (1 + m.exp(-x))


def _mish(n: Number) -> Number:
    """Return tanh(log(1 + n)) without a difference."""
    return (n * n + 2 * n) / (n * n + 2 * n + 2)


def _softplus(m: Number, x: Number, beta: Number, threshold: float) -> Number:
    return x if beta * x > threshold else m.log1p(m.exp(beta * x)) / beta


def _whole(x: float) -> bool:
    return float(x).is_integer()


def _of_fraction(v: Fraction) -> float:
    top, bottom = abs(v.numerator), v.denominator
    up = max(0, BITS + 2 + bottom.bit_length() - top.bit_length())
    whole, rest = divmod(top << up, bottom)
    odd = _odd(2 * whole + (rest > 0), -up - 1)
    return -odd if v < 0 else odd


def _of_real(function: Callable[[Number, Number, Attrs], Number], attrs: Attrs, x: float) -> float:
    """Return a value that is known to the last bit: with so many digits that an error in the last ones is not seen."""
    m = _context()
    for digits in DIGITS:
        m.prec = digits
        sign, man, exp, bits = function(m, m.mpf(x), attrs)._mpf_
        if not man:
            return 0.0
        man, exp = int(man) << max(0, digits - bits), exp - max(0, digits - bits)
        error = 1 << LOST
        low, high = _odd(man - error, exp), _odd(man + error, exp)
        if low == high:
            return -low if sign else low
    exact = _odd((man + error) >> LOST + 1, exp + LOST + 1)
    return -exact if sign else exact


def _odd(man: int, exp: int) -> float:
    """Return man * 2**exp, cut to ``BITS`` bits, the last one set where anything was cut off."""
    drop = max(0, man.bit_length() - BITS)
    cut = (man >> drop) | (man & ((1 << drop) - 1) != 0)
    top = cut.bit_length() + exp + drop
    if abs(top) > FARTHEST:
        return 0.0 if not man else ldexp(1.0, FARTHEST if top > 0 else -FARTHEST)
    return ldexp(cut, exp + drop)


@lru_cache(maxsize=1)
def _context() -> Number:
    """Return arithmetic of our own, whose precision nobody else changes."""
    import mpmath  # takes a tenth of a second, and not every run has a table

    return mpmath.mp.clone()
