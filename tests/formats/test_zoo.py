"""The format page: up to date, its grammar the one that is parsed, its example runs."""

from __future__ import annotations

import random
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
import torch

from mase.errors import FormatError
from mase.formats import FORMATS, parse
from mase.formats.plots import beside_one, error_curve, grid, plot
from mase.formats.zoo import TABLE, bit_picture, filled, gaussian, laplace, pictures, sqnr, values

DOCS = Path(__file__).resolve().parents[2] / "docs"


def test_the_page_is_up_to_date() -> None:  # else: python -m mase.formats.zoo docs
    page = (DOCS / "formats.md").read_text(encoding="utf-8")
    assert filled(page) == page


def test_the_pictures_are_up_to_date_and_well_formed() -> None:
    made = pictures()
    assert {path.name for path in (DOCS / "formats").glob("*.svg")} == set(made)
    for name, svg in made.items():
        assert (DOCS / "formats" / name).read_text(encoding="utf-8") == svg
        ET.fromstring(svg)


def test_the_example_of_the_page_runs() -> None:
    page = (DOCS / "formats.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    exec(compile(example, "docs/formats.md", "exec"), {})


def test_every_format_has_a_row_in_the_overview() -> None:
    assert {type(parse(text)) for text in TABLE} >= {
        cls for name, cls in FORMATS.items() if name != "codebook" and not cls.chosen
    }


def expand(rule: str, draw: random.Random) -> str:
    """Draw a text from a right-hand side of the grammar: literals, names, [optional], {repeated}, alternatives."""
    tokens = re.findall(r'"[^"]*"|\w+|[\[\]{}|]', rule)

    def sequence(end: str) -> str:
        choices, text = [], ""
        while tokens and tokens[0] != end:
            token = tokens.pop(0)
            if token == "|":
                choices, text = [*choices, text], ""
            elif token in "[{":
                inner = sequence({"[": "]", "{": "}"}[token])
                text += inner if draw.random() < 0.5 else ""
            else:
                text += terminal(token)
        if tokens:
            tokens.pop(0)
        return draw.choice([*choices, text])

    def terminal(token: str) -> str:
        if token.startswith('"'):
            return token[1:-1]
        number = str(draw.randint(1, 6))
        return {"nat": number, "int": draw.choice(["", "-"]) + number, "tile": f"{number}x4", "number": f"-0.{number}"}[
            token
        ]

    return sequence("")


@pytest.mark.parametrize("name", list(FORMATS))
def test_the_printed_grammar_is_the_one_that_is_parsed(name: str) -> None:
    draw = random.Random(0)
    accepted = 0
    for _ in range(200):
        text = expand(FORMATS[name].ebnf, draw)
        assert FORMATS[name].grammar.fullmatch(text), text
        assert [other for other in FORMATS if FORMATS[other].grammar.fullmatch(text)] == [name]
        try:
            accepted += type(parse(text)) is FORMATS[name]
        except FormatError:  # fields may not go together
            continue
    assert accepted >= 10


def test_test_data_have_unit_variance() -> None:
    for x in (gaussian(), laplace()):
        assert abs(float(x.var()) - 1) < 0.02  # four standard errors of the heavier one
    assert float(laplace().abs().max()) > float(gaussian().abs().max())


def test_noise_of_uniform_rounding_is_that_of_theory() -> None:
    top = 8.0
    x = (torch.rand(256, 1024, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 2 - 1) * top
    step = top / 127
    expected = 10 * torch.log10(torch.tensor(top**2 / 3) / (step**2 / 12))
    assert sqnr(parse("int8"), x) == pytest.approx(float(expected), abs=0.05)  # of a sample of 262,144


def test_values_are_listed_once_with_their_mirror() -> None:
    assert values(parse("e2m1")) == "± 0, 0.5, 1, 1.5, 2, 3, 4, 6"
    assert values(parse("fixed3.1")) == "-2, -1.5, -1, -0.5, 0, 0.5, 1, 1.5"


def test_bit_picture_shows_every_field() -> None:
    svg = bit_picture(parse("int4g32a"))
    assert all(f">{label}<" in svg for label in ("code", "scale", "zero point", "32 bits", "one a group of 32"))


def test_plot_writes_one_picture_for_all(tmp_path: Path) -> None:
    path = plot(["int4", parse("mxfp4"), "mxint4b2x4"], tmp_path / "formats.svg")
    root = ET.fromstring(path.read_text(encoding="utf-8"))
    assert root.tag.endswith("svg")
    texts = [element.text for element in root.iter() if element.tag.endswith("text")]
    assert all(texts.count(name) == 2 for name in ("int4", "mxfp4", "mxint4b2x4"))
    assert list(tmp_path.iterdir()) == [path]


def test_grid_and_curve_are_those_of_the_format() -> None:
    assert grid(parse("mxint4")) == [i / 4 for i in range(-4, 5)]  # the greatest is 1: step 1/4
    x, error = error_curve(parse("mxfp4"))
    assert float(error[-1]) == 0  # 1 is a number of the format
    assert bool((error[x < 1 / 16] == 1).all())  # below half the least number all is lost
    assert float(beside_one(parse("ternary"), torch.tensor([0.1], dtype=torch.float64))) == 0


@pytest.mark.parametrize(
    ("formats", "name", "text"),
    [
        ([], "a.svg", "plot: 0 formats; allowed is 1..8"),
        (["int8"] * 9, "a.svg", "plot: 9 formats; allowed is 1..8"),
        (["int8"], "a.png", "plot: the path ends in '.png'; allowed is '.svg'"),
        (["int88x"], "a.svg", "format 'int88x'"),
    ],
)
def test_what_cannot_be_drawn_is_refused(formats: list[str], name: str, text: str, tmp_path: Path) -> None:
    with pytest.raises(FormatError) as caught:
        plot(formats, tmp_path / name)
    assert text in str(caught.value)
    assert list(tmp_path.iterdir()) == []
