"""A report says what became of a model, as text and as data."""

from __future__ import annotations

import json

from mase.frontend.report import TraceReport


def test_text_says_all_that_matters() -> None:
    report = TraceReport(("fc", "relu"), {"gate": "two results"}, {"topk": "no kind"}, ("the batch is fixed",))
    assert str(report).splitlines() == [
        "2 typed nodes, 1 refused, 1 opaque; equal to the model bit for bit",
        "  refused gate: two results",
        "  opaque topk: no kind",
        "  the batch is fixed",
    ]


def test_a_difference_is_stated() -> None:
    assert str(TraceReport(bound=1e-5, worst=3.2e-7)).endswith("; 3.2e-07 from the model")


def test_it_is_json() -> None:
    report = TraceReport(("fc",), {"gate": "two results"}, {"topk": "no kind"}, ("note",), 1e-5, 1e-7)
    assert json.loads(json.dumps(report.to_json())) == {
        "lifted": ["fc"],
        "refused": {"gate": "two results"},
        "opaque": {"topk": "no kind"},
        "notes": ["note"],
        "bound": 1e-5,
        "worst": 1e-7,
    }
