"""Evaluators and spaces that several tests share; the factories are built by name in worker processes."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mase.errors import ConfigError
from mase.explore.space import Axis, Condition, Point, Space
from mase.explore.trial import Objective

WIDTHS = (2, 3, 4, 6, 8)
SMALL = Space(
    (
        Axis("a.width", WIDTHS),
        Axis("b.width", WIDTHS),
        Axis("c.width", WIDTHS),
        Axis("kind", ("fixed", "int", "block")),
        Axis("block", (4, 8, 16)),
    ),
    ties=(("b.width", "c.width"),),
    conditions=(Condition("block", "kind", ("block",)),),
)
OBJECTIVES = (Objective("loss"), Objective("bits"))


def bowl(point: Point) -> dict[str, float]:
    """Loss falls with each width, bits grow; the kind and its block shift both a little."""
    widths = [float(str(point[name])) for name in ("a.width", "b.width", "c.width")]
    kind = {"fixed": 0.3, "int": 0.1, "block": 0.01 * float(str(point.get("block", 0)))}[str(point["kind"])]
    return {"loss": sum(2.0**-w for w in widths) + kind, "bits": sum(widths), "unused": 1.0}


def make_bowl(config: Mapping[str, Any]) -> Callable[[Point], Mapping[str, float]]:
    return bowl


def make_refusing(config: Mapping[str, Any]) -> Callable[[Point], Mapping[str, float]]:
    def evaluate(point: Point) -> Mapping[str, float]:
        raise ConfigError("layer fc1: no such layer")

    return evaluate


def make_buggy(config: Mapping[str, Any]) -> Callable[[Point], Mapping[str, float]]:
    def evaluate(point: Point) -> Mapping[str, float]:
        raise ZeroDivisionError("planted")

    return evaluate


def make_wordy(config: Mapping[str, Any]) -> Callable[[Point], Mapping[str, Any]]:
    return lambda point: {**bowl(point), "loss": "low"}


def make_sleepy(config: Mapping[str, Any]) -> Callable[[Point], Mapping[str, float]]:
    """Note that an evaluation has begun, and take a minute for it."""

    def evaluate(point: Point) -> Mapping[str, float]:
        Path(config["log"]).touch()
        time.sleep(60)
        return bowl(point)

    return evaluate


def make_suicidal(config: Mapping[str, Any]) -> Callable[[Point], Mapping[str, float]]:
    """Die by ``kill -9`` on a point, ``times`` times in all processes together; log each evaluation that starts."""
    log = Path(config["log"])

    def evaluate(point: Point) -> Mapping[str, float]:
        line = f"{point['a.width']} {point['b.width']} {point['kind']} {point.get('block')}\n"
        with log.open("a") as file:
            file.write(line)
        deadly = point["a.width"] == config["deadly"]
        if deadly and log.read_text().splitlines().count(line.strip()) <= config["times"]:
            os.kill(os.getpid(), signal.SIGKILL)
        return bowl(point)

    return evaluate
