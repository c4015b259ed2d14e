"""Recipes as plain data: what is read, and what is refused in one line."""

from __future__ import annotations

import re

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
        ([{"gptq": {"format": "int4g128q"}}], r"recipe\[0\]\.gptq: format 'int4g128q': "),
        (["rtn", {"qera": {"format": "mxinf8"}}], r"recipe\[1\]\.qera: format 'mxinf8': "),
        ([{"qlora": {"branch": "fixed8"}}], r"recipe\[0\]\.qlora: format 'fixed8': "),
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
    with pytest.raises(ConfigError, match=r"overrides '\*\.down': format 'int4g128q'"):
        Plan.of("rtn", {"*.down": {"format": "int4g128q"}})


def test_the_path_of_an_expert_means_itself() -> None:
    plan = Plan.of("rtn", {"a.down[5]": {"format": "int8"}}, skip=["a.down[6]"])
    plan.check(["a.down[5]", "a.down[6]"])
    assert plan.methods("a.down[5]") == (Rtn("int8"),)
    assert plan.methods("a.down[6]") == () and plan.methods("a.down[4]") == (Rtn(),)


def test_tied_layers_have_one_recipe() -> None:
    paths = ["0.q", "0.k", "0.up", "1.q", "1.k"]
    Plan.of("rtn", {"*.up": {"format": "int8"}, "1.[qk]": {"format": "int3"}}, ties=[["q", "k"]]).check(paths)
    with pytest.raises(ConfigError, match=r"^ties: 1\.q and 1\.k are tied, and have different recipes$"):
        Plan.of("rtn", {"1.q": {"format": "int8"}}, ties=[["q", "k"]]).check(paths)
    Plan.of("rtn", skip=["0.k"], ties=[["q", "k"]]).check(paths)  # what stays in float is not tied


@pytest.mark.parametrize(
    ("steps", "text"),
    [
        (["gptq", "gptq"], "gptq and gptq both quantize; allowed is one quantizer"),
        (["rtn", "signround"], "rtn and signround both quantize"),
        (["awq"], "awq leaves all weights in float; add a quantizer, such as rtn"),
        (["equalize", "hadamard"], "equalize, hadamard leaves all weights in float"),
        (["rtn", "smoothquant"], "smoothquant comes behind rtn; a fold must come before it"),
        (["awq", "teq", "rtn"], "teq comes behind awq, which lowers ranges; put it before, or say clip: false"),
        (["lqer"], "lqer corrects what a quantizer leaves; put a step such as rtn before it"),
        (["rtn", "lqer", "qera"], "lqer and qera both give a low-rank branch; allowed is one"),
        (["qlora", "lqer"], "qlora and lqer both give a low-rank branch"),
        (["rtn", "qpeft"], "qpeft trains low-rank branches; put a step such as qlora or qera before it"),
    ],
)
def test_steps_that_make_no_sense_together_are_refused(steps: list[str], text: str) -> None:
    with pytest.raises(ConfigError, match=f"^recipe: {text}"):
        Plan.of(steps)
    with pytest.raises(ConfigError, match=rf"^overrides '\*\.up': {text}"):
        Plan.of("rtn", {"*.up": steps})


def test_every_method_says_where_it_stands() -> None:
    assert all(cls.stage for _, cls in METHODS.items())
    Plan.of(["equalize", {"awq": {"clip": False}}, "teq", "gptq", "qera", "qpeft"])


FORMATS_REFUSED = {"gptq": "fixed8.4", "opt_rtn": "int8", "signround": "nf4", "signround_v2": "int4g16r", "awq": "e4m3"}


@pytest.mark.parametrize("name", [*FORMATS_REFUSED, "omniquant"])
def test_formats_that_a_method_cannot_serve_are_refused_when_the_recipe_is_read(name: str) -> None:
    text = FORMATS_REFUSED.get(name, "mxfp4")
    with pytest.raises(ConfigError, match=rf"{name}\.format: format {re.escape(text)} has no"):
        recipe([{name: {"format": text}}])


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"quip": {"range": 1e9}}, r"quip\.range: found 1000000000\.0; allowed is a number from 0\.1 to 100"),
        ({"mc_moe": {"error": 99}}, r"mc_moe\.error: found 99"),
        ({"qpeft": {"rate": 0}}, r"qpeft\.rate: found 0(\.0)?; allowed is a number above 0, at most 1"),
        (
            {"slim_llm": {"tokens": 1 << 20}},
            r"slim_llm\.tokens: found 1048576; allowed is a whole number from 1 to 4096",
        ),
    ],
)
def test_numbers_have_bounds(fields: dict[str, object], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        recipe([fields])


NUMBERS = {"alpha": float("nan"), "batch": 0, "seed": 1 << 64}


@pytest.mark.parametrize("name", list(METHODS))
def test_impossible_numbers_are_refused_by_every_method(name: str) -> None:
    fields = METHODS[name].__dataclass_fields__  # type: ignore[attr-defined]
    for field, value in NUMBERS.items():
        if field in fields:
            with pytest.raises(ConfigError, match=field):
                recipe([{name: {field: value}}])
