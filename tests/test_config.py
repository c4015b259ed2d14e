"""A configuration is closed, typed, and says in one line what is wrong with it."""

from __future__ import annotations

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
        ({"hardware": {"interval": 0}}, "hardware.interval: found 0; input should be greater than 0"),
        ({"name": "../x"}, "name: found '../x'"),
        ({"version": 2}, "version: found 2"),
        ({"model": {}}, "model: give one of name and python"),
        ({"quantize": None}, "neither quantize nor search"),
        ({"model": {"name": "mlp", "python": "a.py:f"}}, "model: give one of name and python"),
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
    with pytest.raises(ConfigError, match="no YAML"):
        config.load(tmp_path / "quick.yaml")
    with pytest.raises(ConfigError, match="holds list"):
        config.load(written(tmp_path, [1]))
    (tmp_path / "tag.yaml").write_text("model: !!python/object/apply:os.system [echo]")
    with pytest.raises(ConfigError, match="no YAML"):
        config.load(tmp_path / "tag.yaml")


def test_overrides_lie_over_the_file_and_make_missing_sections(tmp_path: Path) -> None:
    path = written(tmp_path, LEAST)
    found = config.load(path, ["train.epochs=3", "hardware.clock_mhz=125.5", "quantize.default.weight=int4"])
    assert found.train is not None and found.train.epochs == 3
    assert found.hardware.clock_mhz == 125.5
    assert found.quantize is not None and found.quantize.default.weight == "int4"
    for text, message in (
        ("epochs", "allowed is key=value"),
        ("model.name.x=1", "is not a section"),
        ("seed=[", "no YAML"),
    ):
        with pytest.raises(ConfigError, match=message):
            config.load(path, [text])


def test_schema_names_every_section_with_its_fields() -> None:
    found = config.schema()
    assert set(config.RunConfig.model_fields) == set(found["properties"])
    assert not found["additionalProperties"]
