import math
import xml.etree.ElementTree as ET

import pytest

from mase.report import text


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0, "0"),
        (1234567, "1,234,567"),
        (64.0, "64"),
        (3.98123, "3.981"),
        (-2.5, "\N{MINUS SIGN}2.5"),
        (1234.5, "1,234"),
        (0.00001234, "1.23e\N{MINUS SIGN}05"),
        (math.inf, "\N{INFINITY}"),
    ],
)
def test_number_has_thousands_and_four_digits(value: float, shown: str) -> None:
    assert text.number(value) == shown


def test_compact_has_a_unit_from_its_bound_on() -> None:
    assert [text.compact(v) for v in (99_999, 125_000, 3e6, 2.5e9)] == ["99,999", "125k", "3M", "2.5G"]
    assert [text.compact(v, above=1000) for v in (999, 4000, 2500)] == ["999", "4k", "2.5k"]


def test_accuracy_is_in_percent_and_its_change_in_points() -> None:
    assert text.score(0.96944, "accuracy") == "96.94 %"
    assert text.score_change(0.9694, 0.975, "accuracy") == "\N{MINUS SIGN}0.56 points"
    assert (text.score(12.3456, "perplexity"), text.score_change(12.5, 12.0, "perplexity")) == ("12.35", "+0.5")


def test_tolerance_lies_on_the_worse_side() -> None:
    assert text.limit(0.97, 0.01, "accuracy") == pytest.approx(0.96)
    assert text.limit(12.0, 0.5, "perplexity") == 12.5


@pytest.mark.parametrize(
    ("predicted", "measured", "shown"), [(64, 64.0, "exact"), (110, 100, "+10.0 %"), (3, 0, "measured 0")]
)
def test_relative_error_is_against_what_was_measured(predicted: float, measured: float, shown: str) -> None:
    assert text.relative(predicted, measured) == shown


def test_seconds_grow_to_minutes_and_hours() -> None:
    assert [text.seconds(v) for v in (0.214, 18.44, 125.2, 11_530)] == ["0.21 s", "18.4 s", "2 min 05 s", "3 h 12 min"]


def test_short_keeps_both_ends_and_its_bound() -> None:
    assert text.short("model.layers.12.self_attn.q_proj", 20) == "model.l\N{HORIZONTAL ELLIPSIS}_attn.q_proj"
    assert all(len(text.short("x" * 300, most)) == most for most in (5, 40))
    assert text.short("a\n  b\t c", 40) == "a b c"


def test_ending_keeps_whole_parts() -> None:
    assert text.ending("model.layers.12.q_proj", 14) == "\N{HORIZONTAL ELLIPSIS}12.q_proj"
    assert text.ending("fc1", 14) == "fc1"
    assert text.ending("x" * 300, 14) == "\N{HORIZONTAL ELLIPSIS}" + "x" * 13


def test_clean_leaves_nothing_that_cannot_be_seen_or_stored() -> None:
    every = "".join(map(chr, range(0x3000))) + "\ud800\udfff\ufeff\ufffe\uffff"
    cleaned = text.clean(every)
    cleaned.encode()
    for mark in "\x00\x1b\x7f\x85\u200b\u202e\u2066\ud800\uffff":
        assert mark not in cleaned
        assert f"\\u{ord(mark):04x}" in cleaned
    element = ET.Element("t")
    element.text = cleaned
    assert ET.fromstring(ET.tostring(element, "unicode")).text == cleaned


def test_clean_keeps_letters_of_any_script() -> None:
    for name in ("слой", "层", "طبقة", "שכבה", "😀", "\u0645\u06cc\u200c\u062e"):
        assert text.clean(name) == name


def test_share_of_nothing_is_nothing() -> None:
    assert (text.share(0, 0), text.share(1, 4)) == ("0%", "25.00%")
