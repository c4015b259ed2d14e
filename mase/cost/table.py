"""What was fitted to synthesis, as data: one JSON file a target, written by ``python -m bench.calibration``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from mase.errors import GraphError

FOLDER = Path(__file__).resolve().parent / "tables"
SCHEMA = 1
Curve = tuple[tuple[float, ...], tuple[float, ...]]


@dataclass(frozen=True)
class Error:
    """Relative error of a prediction: median and greatest absolute value."""

    median: float
    worst: float

    def __str__(self) -> str:
        return f"median {self.median:.1%}, worst {self.worst:.1%}"


@dataclass(frozen=True)
class Table:
    """LUTs of what has no rule, for one target.

    Args:
        target: device. tool: name and version. script: of the synthesis. part: the family that it was for.
        points: blocks of the fit. blocks_error: on these, by resource. designs: other, whole designs.
        designs_error: on these, by resource.
        luts: LUTs of one unit of each feature (mase/cost/features.py).
        rom: words, and LUTs of one column of a ROM of so many words in logic; straight lines between them.
        products: LUTs of one product, by its operands' bits, wider first.
        shares: words, and the share of these where the second operand comes from a ROM of so many words; likewise.
    """

    target: str
    tool: str
    script: str
    part: str
    points: int
    blocks_error: Mapping[str, Error]
    designs: int
    designs_error: Mapping[str, Error]
    luts: Mapping[str, float]
    rom: Curve
    products: Mapping[tuple[int, int], float]
    shares: Curve

    def product(self, a: int, b: int) -> float:
        """Return the LUTs of one product; one LUT for each pair of bits where it was not measured."""
        return self.products.get((max(a, b), min(a, b)), float(a * b))

    def text(self) -> str:
        """Return the file's text; the same table gives the same text."""
        data = asdict(self) | {"schema": SCHEMA, "products": {f"{a}x{b}": n for (a, b), n in self.products.items()}}
        return json.dumps(data, indent=1, sort_keys=True) + "\n"

    @classmethod
    def parse(cls, data: Mapping[str, Any]) -> Table:
        """Read what :meth:`text` wrote.

        Raises:
            GraphError: it is of another schema, or lacks a field.
        """
        fields = dict(data)
        if fields.pop("schema", None) != SCHEMA:
            raise GraphError(f"table of costs: it has another schema; this version reads schema {SCHEMA}")
        try:
            for name in ("blocks_error", "designs_error"):
                fields[name] = {what: Error(**error) for what, error in fields[name].items()}
            sizes = {tuple(int(n) for n in name.split("x")): luts for name, luts in fields.pop("products").items()}
            for name in ("rom", "shares"):
                fields[name] = tuple(tuple(float(x) for x in axis) for axis in fields[name])
            return cls(**fields, products=sizes)  # type: ignore[arg-type]  # two numbers each, as written
        except (KeyError, TypeError, ValueError) as error:
            raise GraphError(f"table of costs: corrupt: {error!r}") from None


@lru_cache(maxsize=16)
def load(target: str) -> Table | None:
    """Return the table of a target; None where nothing was fitted for it.

    Raises:
        GraphError: the file is damaged.
    """
    path = FOLDER / f"{target}.json"
    if not path.is_file():
        return None
    try:
        return Table.parse(json.loads(path.read_text()))
    except ValueError as error:
        raise GraphError(f"{path}: corrupt: {error}") from None
