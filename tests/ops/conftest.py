"""What the laws of operators ask the suite for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from mase.testing import Mapped
from tests.emit import proof


@pytest.fixture
def prove(tmp_path: Path) -> Callable[[Mapping[str, Mapped]], None]:
    """Emit and simulate graphs in one bundle, and compare every edge and every cycle."""

    def check(graphs: Mapping[str, Mapped]) -> None:
        cases = [proof.Case(name, mapped.graph, mapped.code) for name, mapped in graphs.items()]
        proof.prove(cases, tmp_path, (proof.STALLED[2], proof.RESTARTED[1]))

    return check
