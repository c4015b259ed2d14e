"""ONNX's own node tests: each is right at its own tolerances, or is refused in one line that a check foresaw."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import pytest

pytest.importorskip("onnx", reason="needs pip install mase-dse[onnx]")

import onnx  # after the check that the package is there

from tests.docs.pages import DOCS
from tests.frontend.onnx_nodes import FORMS, Case, Verdict, cases, count, table, verdicts

SHARE = 6  # one in so many runs where slow tests do not
TOLD = "1.23.2"  # the version of onnx whose counts stand in the page
pytestmark = pytest.mark.filterwarnings("ignore")


def bad(found: Sequence[Verdict]) -> list[Verdict]:
    return [verdict for verdict in found if verdict[0] not in ("right", "refused")]


def some(share: int) -> list[Case]:
    every = cases()
    return random.Random(0).sample(every, len(every) // share)


def test_a_share_of_the_node_tests_is_right_or_refused(tmp_path: Path) -> None:
    found = list(verdicts(some(SHARE), tmp_path))
    assert bad(found) == []
    assert all(counts["right"] > 15 for counts in count(found).values())


@pytest.mark.slow
def test_every_node_test_is_right_or_refused_and_the_page_has_the_counts(tmp_path: Path) -> None:
    found = list(verdicts(cases(), tmp_path))
    assert bad(found) == []
    if onnx.__version__ == TOLD:
        page = (DOCS / "model_files.md").read_text(encoding="utf-8")
        assert "\n".join(table(count(found))) in page


def test_all_inputs_but_the_first_become_initializers() -> None:
    case = next(case for case in cases() if case.name == "test_add")
    fixed = case.fixed()
    assert fixed is not None and FORMS[1].startswith("one input")
    assert [value.name for value in fixed.model.graph.input] == ["x"]
    assert [tensor.name for tensor in fixed.model.graph.initializer] == ["y"]
    assert next(case for case in cases() if case.name == "test_relu").fixed() is None
