"""Configuration of a study of post-training quantization: typed, closed (docs/study.md)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from mase import config
from mase.config import FORMATS, GLOBS, MANY, WORKERS, Section, TrainConfig
from mase.errors import ConfigError
from mase.ptqconfig import LENGTH, STEPS

SEEDS = 1000
FLOAT = "float"  # stands where a recipe does: the model as it is
NAME = r"^[A-Za-z0-9][A-Za-z0-9_.+ -]{0,63}$"
Name = Annotated[str, StringConstraints(pattern=NAME)]
Steps = Annotated[list[Any], Field(min_length=1, max_length=STEPS)]


class StudyModel(Section):
    """A model: one of the product's own, which is trained once and kept, or a folder as `mase ptq` takes it."""

    name: str | None = Field(None, description="a name from `mase list models`")
    options: dict[str, Any] = Field(default_factory=dict, description="keyword arguments of the model")
    train: TrainConfig | None = Field(None, description="how it is trained; without it, it stays as it is built")
    folder: str | None = Field(
        None, description="folder with config.json and safetensors, in place of a name; relative to this file"
    )
    tokens: str = Field(
        "auto",
        description="bytes, bpeN (learnt from the text), or the path of a tokenizer.json; auto: that of the folder, "
        "else bytes",
    )


class StudyData(Section):
    """The text: models are trained and calibrated on its train split, and scored on its test split."""

    name: str = Field("stdlib", description="a name from `mase list data` whose labels are tokens")
    options: dict[str, Any] = Field(
        default_factory=dict, description="keyword arguments, but for tokens; path: relative to this file"
    )


class StudyCalibration(Section):
    """Windows of the train split that layers are calibrated on, drawn by the seed."""

    samples: int = Field(128, gt=0, le=MANY, description="number of windows")
    length: int = Field(128, gt=0, le=LENGTH, description="tokens of a window")


class StudyEvaluation(Section):
    """How a model is scored: by windows over the test split."""

    window: int = Field(128, gt=1, le=LENGTH, description="tokens of a window")
    stride: int | None = Field(None, gt=0, le=LENGTH, description="tokens between windows; without it, half a window")
    tokens: int = Field(32768, gt=1, le=MANY, description="tokens of the text that are read, from its beginning")
    batch: int = Field(8, gt=0, le=MANY, description="windows at a time")


class StudyBaseline(Section):
    """What every recipe is held against, at as many stored bits: linear between its formats."""

    name: Name = Field("rtn", description="what the table calls it")
    steps: Steps = Field(default_factory=lambda: ["rtn"], description="a recipe whose steps take a format")
    formats: list[str] = Field(
        default_factory=list, max_length=FORMATS, description="formats that it has beside those of the study"
    )


class StudyConfig(Section):
    """A study: recipes x formats x models x seeds, a cell each."""

    version: Literal[1] = Field(1, description="version of this layout")
    name: str = Field("study", pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$", description="name of the study's folder")
    models: dict[Name, StudyModel] = Field(min_length=1, max_length=GLOBS, description="the models, by a name")
    seeds: list[Annotated[int, Field(ge=0, lt=2**32)]] = Field(
        default_factory=lambda: [0],
        min_length=1,
        max_length=SEEDS,
        description="of training, of the calibration windows, and of methods that have a seed",
    )
    data: StudyData = StudyData()
    recipes: dict[Name, Steps] = Field(
        min_length=1, max_length=GLOBS, description="recipes by a name, each as `recipe` of `mase ptq`"
    )
    formats: list[str] = Field(
        default_factory=list,
        max_length=FORMATS,
        description="formats of the weights: steps that have a format and are not told one get each of these; "
        "a recipe without such a step is run once",
    )
    baseline: StudyBaseline | None = StudyBaseline()
    calibration: StudyCalibration = StudyCalibration()
    evaluation: StudyEvaluation = StudyEvaluation()
    skip: list[str] = Field(default_factory=list, max_length=GLOBS, description="globs of layers that stay in float")
    also: list[str] = Field(
        default_factory=list, max_length=GLOBS, description="globs of layers outside the blocks that are quantized too"
    )
    workers: int = Field(1, gt=0, le=WORKERS, description="processes at a time")
    threads: int = Field(1, gt=0, le=1 << 16, description="threads of each process")


def load(path: str | Path, overrides: Sequence[str] = ()) -> StudyConfig:
    """Read a YAML configuration and lay ``key=value`` overrides over it.

    Raises:
        ConfigError: see :func:`mase.config.load`; or fields do not go together: a model has neither name nor folder,
            a recipe has a taken name, a seed stands there twice, a window is longer than the text.
    """
    found = config.section(StudyConfig, config.read(path, overrides)[0], str(path))
    for name, model in found.models.items():
        if (model.name is None) == (model.folder is None):
            raise ConfigError(f"{path}: models.{name}: give either name or folder")
        if model.folder is not None and (model.train is not None or model.options):
            raise ConfigError(f"{path}: models.{name}: options and train belong to a name; a folder has weights")
    _check_evaluation(found.evaluation, str(path))
    if twice := [seed for seed in dict.fromkeys(found.seeds) if found.seeds.count(seed) > 1]:
        raise ConfigError(f"{path}: seeds: {twice[0]} stands there twice")
    if found.baseline is not None and found.baseline.name == FLOAT:
        raise ConfigError(f"{path}: baseline.name: {FLOAT} is what the model is before; allowed is another name")
    taken = {FLOAT} if found.baseline is None else {FLOAT, found.baseline.name}
    for name in taken & found.recipes.keys():
        raise ConfigError(f"{path}: recipes.{name}: this name is taken; allowed is another one")
    if "tokens" in found.data.options:
        raise ConfigError(f"{path}: data.options.tokens: found one for all; give tokens of each model")
    return found


def _check_evaluation(asked: StudyEvaluation, path: str) -> None:
    """Refuse windows that leave tokens out, or are longer than what is read."""
    if asked.stride is not None and asked.stride > asked.window:
        raise ConfigError(f"{path}: evaluation.stride: found {asked.stride}; allowed is at most window, {asked.window}")
    if asked.tokens < asked.window:
        raise ConfigError(
            f"{path}: evaluation.tokens: found {asked.tokens}; allowed is window, {asked.window}, or more"
        )


def schema() -> dict[str, Any]:
    """Return the JSON schema of a configuration."""
    return StudyConfig.model_json_schema()
