"""Configurations are YAML of plain data."""

from __future__ import annotations

import math
import time

import pytest

from mase.doors.yaml_text import dump, parse
from mase.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("12", 12),
        ("-3", -3),
        ("+3", 3),
        ("0", 0),
        ("010", "010"),
        ("1_0", "1_0"),
        ("0x1f", "0x1f"),
        ("1:30", "1:30"),
        ("\u0661", "\u0661"),
        ("1.5", 1.5),
        ("4e-3", 4e-3),
        (".5", 0.5),
        ("1e5", 1e5),
        ("-.inf", -math.inf),
        ("1e5x", "1e5x"),
        ("yes", True),
        ("Off", False),
        ("~", None),
        ("", None),
        ("2020-01-01", "2020-01-01"),
        ("=", "="),
        ("'12'", "12"),
        ("!!str 12", "12"),
        ("!!float 3", 3.0),
        ("{a: [1, {b: null}]}", {"a": [1, {"b": None}]}),
        ("[&a {x: 1}, {<<: *a, y: 2}, *a]", [{"x": 1}, {"x": 1, "y": 2}, {"x": 1}]),
        ("|\n  two\n  lines\n", "two\nlines\n"),
    ],
)
def test_plain_data(text: str, value: object) -> None:
    found = parse(text, "here")
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("!!binary x", "line 1, column 1: could not determine a constructor for the tag"),
        ("!!timestamp x", "could not determine a constructor"),
        ("a: !!bool x", "line 1, column 4: found 'x'; true or false is needed"),
        ("!!int 1_0", "found '1_0'; an integer in the digits 0..9 is needed"),
        ("!!float [1]", "expected a scalar node"),
        ("&a [*a]", "an alias refers to a value that contains it"),
        ("&a {b: {c: *a}}", "an alias refers to a value that contains it"),
        ("9" * 41, "found a number of 41 digits; at most 40"),
        ("1." + "9" * 5000, "found a number of 5002 characters; at most 400"),
        ("1e400", "value: found '1e400'; the greatest number is 1.8e308"),
        ('"\\0"', "line 1, column 1: found the character '\\x00' in a text"),
        ('"\\ud800"', "found the character '\\ud800' in a text"),
        ('"\\U00110000"', "not YAML: "),
        ("a: 1\na: 2", "line 2, column 1: key 'a' is given twice"),
        ("[" * 65_000, "nested too deep; at most 100"),
        ("- " * 200 + "1", "nested too deep; at most 100"),
        ("{[1]: 2}", "found unhashable key"),
    ],
)
def test_what_is_not_plain_data(text: str, said: str) -> None:
    start = time.process_time()
    with pytest.raises(ConfigError) as caught:
        parse(text, "here")
    assert said in str(caught.value) and str(caught.value).startswith("here: this is not YAML: ")
    assert time.process_time() - start < 5  # half a minute without a bound


def test_aliases_cannot_stand_for_more_than_a_file_could_hold() -> None:
    text = "a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1]\n"
    for above, below in zip("abcdefgh", "bcdefghi", strict=True):
        text += f"{below}: &{below} [{', '.join([f'*{above}'] * 9)}]\n"
    with pytest.raises(ConfigError, match="its aliases stand for more than 100000 values"):
        parse(text, "here")


@pytest.mark.parametrize(
    "value", ["12", "1e5", "4e-3", "010", "1_0", "yes", "2020-01-01", "", "~", "<<", "=", "é", 1e-5, 2.0, "a\nb"]
)
def test_what_is_written_is_read_back(value: object) -> None:
    assert parse(dump({"a": [value]}), "here") == {"a": [value]}
