"""Damage for files that were whole: bytes and values that readers stumble over, drawn from a seed."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator
from typing import Any

from mase.errors import MaseError

CODES = (b"\x00", b"\xff", b"\x1b[31m", b"\xed\xa0\x80", b"\\ud800", b"\\u0000", b"\n", b"\r", b"\t", b"\xe2\x80\xae")
MARKS = (b"[", b"]", b"{", b"}", b"(", b'"', b"'", b",", b":", b"-", b"[" * 1500, b'"\\U00110000"')
NUMBERS = (b"NaN", b"Infinity", b"null", b"true", b"1e999", b"-1", b"1_0", b"0x10", b"9" * 500, b"\xd9\xa1")
YAML = (b"!!binary x", b"!!timestamp x", b"!!bool x", b"!!int x", b"!!set {a}", b"&a [*a]", b"<<: *b", b"%YAML 9")
WORDS = (*CODES, *MARKS, *NUMBERS, *YAML)
SCALARS: tuple[Any, ...] = (None, True, -1, 0, 1, 2, 1.5, 1e308, 10**30, -(10**20), "", "x", "1_0", "9" * 50, "../../x")
VALUES = (*SCALARS, "\x00", "\x1b[2J", "é", "\u202e", [], [[]], {}, [None], [1, "a"], {"a": {}})


def bytes_of(whole: bytes, seed: int, count: int) -> Iterator[bytes]:
    """Yield damaged copies: bits flipped, parts cut, doubled and exchanged, words put in."""
    draw = random.Random(seed)
    for _ in range(count):
        raw = bytearray(whole)
        for _ in range(draw.choice((1, 1, 1, 2, 4))):
            at, size = draw.randrange(len(raw) + 1), draw.choice((1, 1, 4, 16, 64))
            kind = draw.randrange(6)
            if kind == 0 and at < len(raw):
                raw[at] ^= 1 << draw.randrange(8)
            elif kind == 1:
                del raw[at : at + size]
            elif kind == 2:
                del raw[at:]
            elif kind == 3:
                raw[at:at] = raw[at : at + size]
            elif kind == 4:
                raw[at : at + draw.choice((0, size))] = draw.choice(WORDS)
            else:
                other = draw.randrange(len(raw) + 1)
                raw[at : at + size] = raw[other : other + size]
        yield bytes(raw)


def values_of(whole: Any, seed: int, count: int) -> Iterator[Any]:
    """Yield copies of JSON data in which a value has become another, or a field is missing, or one too many."""
    draw = random.Random(seed)
    for _ in range(count):
        data = copy.deepcopy(whole)
        places = list(_places(data))
        holder, key = draw.choice(places)
        if draw.randrange(5) == 0:
            del holder[key]
        else:
            holder[key] = draw.choice((*VALUES, *(copy.deepcopy(h[k]) for h, k in draw.sample(places, 3))))
        yield data


def _places(data: Any) -> Iterator[tuple[Any, Any]]:
    for key in list(data) if isinstance(data, dict) else range(len(data)):
        yield data, key
        if isinstance(data[key], dict | list):
            yield from _places(data[key])


def held(read: Callable[[], object]) -> bool:
    """Tell whether a reader takes what it is given; what it refuses is one line without codes, and ours."""
    try:
        read()
    except MaseError as error:
        text = str(error)
        assert text.isprintable() and 0 < len(text) <= 1000, ascii(text)[:300]
        return False
    return True
