"""Recipes as plain data: what is read, and what is refused in one line."""

from __future__ import annotations

import pytest

from mase.errors import ConfigError
from passes.ptq.base import METHODS
from passes.ptq.recipe import Plan, recipe, told
from passes.ptq.rtn import Rtn


def test_methods_have_the_names_of_their_files() -> None:
    assert "rtn" in METHODS
    assert all(cls.__module__ == f"passes.ptq.{name}" for name, cls in METHODS.items())


def test_a_recipe_is_read_and_told() -> None:
    assert recipe("rtn") == recipe(["rtn"]) == recipe([{"rtn": None}]) == recipe(Rtn()) == (Rtn(),)
    assert recipe([{"rtn": {"format": "mxint4b32"}}]) == (Rtn("mxint4b32"),)
    assert told(recipe([{"rtn": {"format": "mxint4b32"}}])) == [{"rtn": {"format": "mxint4b32"}}]


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ([], r"recipe: found an empty list"),
        (["rtm"], r"recipe\[0\]: unknown method 'rtm'; did you mean rtn\?"),
        ([{"rtn": {"fromat": "int4"}}], r"recipe\[0\]\.rtn\.fromat: unknown field; did you mean format\?"),
        ([{"rtn": {"format": 4}}], r"recipe\[0\]\.rtn\.format: found 4; input should be a valid string"),
        (["rtn", 3], r"recipe\[1\]: found 3; allowed is a method's name, or one name with its fields"),
    ],
)
def test_bad_recipes(data: object, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        recipe(data)


def test_an_override_without_a_known_field_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"overrides '\*\.down'\.fromat: no method of the recipe has this field"):
        Plan.of("rtn", {"*.down": {"fromat": "int8"}})
    assert Plan.of("rtn", {"*.down": "rtn"}).overrides == (("*.down", (Rtn(),)),)
    assert Plan.of("rtn", {"*.down": {"format": "int8"}}).methods("a.down") == (Rtn("int8"),)
