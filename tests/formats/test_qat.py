"""Training through the rounding: the example of the documentation recovers what rounding costs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

PAGE = Path(__file__).resolve().parents[2] / "docs" / "qat.md"


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_training_at_3_bits_recovers_3_points_over_rounding(seed: int) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    names: dict[str, Any] = {"__name__": "example"}  # Any: whatever the example defines
    exec(compile(example.replace("manual_seed(0)", f"manual_seed({seed})"), str(PAGE), "exec"), names)
    assert names["in_float"] >= 95
    assert names["trained"] - names["rounded"] >= 3
