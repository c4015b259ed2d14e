"""A configuration is closed, typed, and says in one line what is wrong with it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from mase import config
from mase.errors import ConfigError
from mase.paths import configs_dir

LEAST: dict[str, Any] = {
    "model": {"name": "mlp"},
    "data": {"name": "digits"},
    "quantize": {"default": {"weight": "int8", "activation": "fixed8.4"}},
}


def written(folder: Path, data: Any) -> Path:
    path = folder / "c.yaml"
    path.write_text(yaml.safe_dump(data))
    return path


@pytest.mark.parametrize("path", sorted(configs_dir().glob("*.yaml")), ids=lambda p: p.stem)
def test_every_config_loads_and_its_dump_is_the_same_config(path: Path, tmp_path: Path) -> None:
    first = config.load(path)
    (tmp_path / "again.yaml").write_text(config.dump(first))
    assert config.load(tmp_path / "again.yaml") == first


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"serch": {}}, "serch: unknown field; did you mean search?"),
        ({"hardware": {"intervall": 3}}, "hardware.intervall: unknown field; did you mean interval?"),
        ({"hardware": {"folding": {"fc1": {"sim": 3}}}}, "hardware.folding.fc1.sim: unknown field; did you mean simd?"),
        ({"seed": 1 << 32}, "seed: found 4294967296; input should be less than 4294967296"),
        ({"hardware": {"clock_mhz": float("inf")}}, "hardware.clock_mhz: found inf; input should be a finite number"),
        ({"quantize": {"default": {"rounding": "up"}}}, "quantize.default.rounding: found 'up'; input should be"),
        (
            {"train": {"epochs": 10**20}},
            "train.epochs: found 100000000000000000000; input should be less",
        ),
        (
            {"hardware": {"folding": {"a": {"pe": 1 << 17}}}},
            "hardware.folding.a.pe: found 131072; input should be",
        ),
        ({"hardware": {"interval": 0}}, "hardware.interval: found 0; input should be greater than 0"),
        ({"name": "../x"}, "name: found '../x'"),
        ({"version": 2}, "version: found 2"),
        ({"model": {}}, "model: give either name or python"),
        ({"quantize": None}, "neither a quantize nor a search section"),
        ({"model": {"name": "mlp", "python": "a.py:f"}}, "model: give either name or python"),
    ],
)
def test_what_is_wrong_stands_in_one_line(change: dict[str, Any], text: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        config.load(written(tmp_path, {**LEAST, **change}))
    assert text in str(caught.value)
    assert str(caught.value).count("\n") == 0
    assert "c.yaml" in str(caught.value)


def test_files_that_are_no_configuration_are_refused(tmp_path: Path) -> None:
    (tmp_path / "quick.yaml").write_text("a: [")
    with pytest.raises(ConfigError, match=r"quickk.yaml: no such file; did you mean quick.yaml\?"):
        config.load(tmp_path / "quickk.yaml")
    with pytest.raises(ConfigError, match="not YAML"):
        config.load(tmp_path / "quick.yaml")
    with pytest.raises(ConfigError, match="holds list"):
        config.load(written(tmp_path, [1]))
    (tmp_path / "tag.yaml").write_text("model: !!python/object/apply:os.system [echo]")
    with pytest.raises(ConfigError, match="not YAML"):
        config.load(tmp_path / "tag.yaml")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("model: {name: mlp}\nmodel: {name: lenet}\n", "line 2, column 1: key 'model' is given twice"),
        ("train: {epochs: 1, epochs: 2}\n", "line 1, column 20: key 'epochs' is given twice"),
        ("a: " + "[" * 3000 + "]" * 3000, "nested too deep"),
        ("seed: " + "9" * 5000, "line 1, column 7: value: found a number of 5000 digits; at most 40"),
        ("seed: 2020-13-45", "seed: found '2020-13-45'; input should be a valid integer"),
        ("# " + "x" * config.LONGEST, "bytes; at most 1048576 are read"),
    ],
    ids=["twice", "twice inside", "deep", "long number", "no date", "long file"],
)
def test_hostile_yaml_is_refused_in_one_line(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=re.escape(said)) as caught:
        config.load(path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500 + len(str(path))


def test_a_merged_mapping_may_be_overridden(tmp_path: Path) -> None:
    path = written(tmp_path, LEAST)
    found = config.load(path, ["quantize={<<: {inputs: int4, default: {bias: int3}}, inputs: int5}"])
    assert found.quantize is not None
    assert (found.quantize.inputs, found.quantize.default.bias) == ("int5", "int3")


def test_overrides_lie_over_the_file_and_make_missing_sections(tmp_path: Path) -> None:
    path = written(tmp_path, LEAST)
    found = config.load(path, ["train.epochs=3", "hardware.clock_mhz=125.5", "quantize.default.weight=int4"])
    assert found.train is not None and found.train.epochs == 3
    assert found.hardware.clock_mhz == 125.5
    assert found.quantize is not None and found.quantize.default.weight == "int4"
    for text, message in (
        ("epochs", "allowed is key=value"),
        ("model.name.x=1", "is not a section"),
        ("seed=[", "not YAML"),
        ("name=" + "[" * 5000, "nested too deep"),
        ("x" * 70_000 + "=1", "70002 characters; at most 65536"),
    ):
        with pytest.raises(ConfigError, match=message):
            config.load(path, [text])


def test_schema_names_every_section_with_its_fields() -> None:
    found = config.schema()
    assert set(config.RunConfig.model_fields) == set(found["properties"])
    assert not found["additionalProperties"]


def test_every_number_and_every_list_of_numbers_of_work_has_an_upper_bound() -> None:
    whole = config.schema()
    for part in (whole, *whole["$defs"].values()):
        for name, field in part["properties"].items():
            for form in field.get("anyOf", [field]):
                if form.get("type") in ("integer", "number") and "const" not in form:
                    assert {"maximum", "exclusiveMaximum"} & form.keys(), name
                if form.get("type") == "array" or "$ref" in str(form.get("additionalProperties")):
                    assert {"maxItems", "maxProperties"} & form.keys(), name


def test_a_search_of_10_to_the_20_trials_is_refused_before_any_work(tmp_path: Path) -> None:
    search = {"trials": 10**20, "weight": ["int8"], "activation": ["fixed8"]}
    with pytest.raises(ConfigError, match=r"search\.trials: found 100000000000000000000; .* equal to 1000000"):
        config.load(written(tmp_path, {**LEAST, "search": search}))
