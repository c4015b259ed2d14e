"""Configuration of post-training quantization from disk to disk: typed, closed (docs/config.md)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from mase import config
from mase.config import GLOBS, MANY, Section

LENGTH = 1 << 20  # tokens of a sample
STEPS = 100  # of a recipe


class CalibrationSection(Section):
    """The text that layers are calibrated on: windows of a text, or tokens."""

    text: str | None = Field(None, description="UTF-8 text file; relative to this file")
    tokenizer: str = Field(
        "auto", description="auto: tokenizer.json of the model folder; bytes; or the path of a tokenizer.json"
    )
    tokens: str | None = Field(
        None, description=".npy file of token ids [samples, length], in place of a text; relative to this file"
    )
    samples: int = Field(128, gt=0, le=MANY, description="number of windows that are drawn")
    length: int = Field(512, gt=0, le=LENGTH, description="tokens of a window")


class AllocateSection(Section):
    """Formats of layers that are chosen: of several options, so that the sum of what layers lose is least."""

    options: list[str] = Field(min_length=2, max_length=STEPS, description="formats; each layer gets one of them")
    bits: float = Field(
        gt=0, le=64, description="most stored bits a weight, scales included: the mean of all layers that are quantized"
    )
    sensitivity: Literal["delta_loss", "output", "mse"] = Field(
        "delta_loss",
        description="what a layer loses: gradients times errors; the relative error of its outputs, or of its weights",
    )
    fixed: dict[str, str] = Field(
        default_factory=dict, max_length=GLOBS, description="glob of layers -> the option that they have"
    )
    charged: bool = Field(
        False, description="count bits as AutoScheme does: a zero point also for groups of integers that have none"
    )


class PtqConfig(Section):
    """Post-training quantization: a model folder in, a quantized folder out."""

    version: Literal[1] = Field(1, description="version of this layout")
    name: str = Field("ptq", pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$", description="name of the quantized folder")
    model: str = Field(description="folder with config.json and safetensors; relative to this file")
    recipe: list[Any] = Field(
        min_length=1,
        max_length=STEPS,
        description="methods in order: a name (docs/ptq.md), or a name with its fields, such as {gptq: {damp: 0.02}}",
    )
    calibration: CalibrationSection | None = Field(None, description="without it, only methods that need no data run")
    seed: int = Field(0, ge=0, lt=2**32, description="of the windows, and of methods that have a seed")
    skip: list[str] = Field(default_factory=list, max_length=GLOBS, description="globs of layers that stay in float")
    also: list[str] = Field(
        default_factory=list,
        max_length=GLOBS,
        description="globs of layers outside the blocks, such as lm_head, that are quantized too",
    )
    overrides: dict[str, Any] = Field(
        default_factory=dict,
        max_length=GLOBS,
        description="glob of layers -> another recipe, or fields that replace those of the methods that have them",
    )
    ties: list[list[str]] = Field(
        default_factory=list,
        max_length=GLOBS,
        description="names of layers of one module that must have the same recipe, such as [q_proj, k_proj, v_proj]",
    )
    allocate: AllocateSection | None = Field(
        None, description="choose the format of each layer; tied layers get the same one"
    )


def load(path: str | Path, overrides: Sequence[str] = ()) -> PtqConfig:
    """Read a YAML configuration and lay ``key=value`` overrides over it.

    Raises:
        ConfigError: see :func:`mase.config.load`.
    """
    return config.section(PtqConfig, config.read(path, overrides)[0], str(path))


def schema() -> dict[str, Any]:
    """Return the JSON schema of a configuration."""
    return PtqConfig.model_json_schema()
