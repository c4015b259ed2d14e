"""Print the table of families in ``docs/families.md``: ``python -m tests.frontend.families``."""

from __future__ import annotations

import sys
import time

import torch

from mase.frontend.export import trace_export
from mase.frontend.report import TraceReport
from mase.graph import Graph
from tests.frontend.families.models import FAMILIES, Family

HEAD = "| family | weights | nodes | typed | opaque | free axes | typed | opaque | seconds |"
RULE = "| --- | --- | --- | --- | --- | --- | --- | --- | --- |"


def row(family: Family) -> str:
    """Trace a family as it is and with free axes; seconds are those of the processor for the first of the two."""
    model, inputs = family.build()
    begin = time.process_time()
    graph, report = trace_export(model, inputs, family.output)
    seconds = time.process_time() - begin
    fixed = cells(graph, report)
    free = "- | - | -"
    if family.dynamic:
        _, loose = trace_export(model, inputs, family.output, dynamic=family.dynamic)
        free = f"{', '.join(family.dynamic)} | {len(loose.lifted)} | {len(loose.opaque)}"
    return f"| {family.name} | {family.weights} | {fixed} | {free} | {seconds:.2f} |"


def cells(graph: Graph, report: TraceReport) -> str:
    """Return nodes, typed and opaque ones; constants, inputs and outputs are nodes that are neither."""
    return f"{len(list(graph.nodes()))} | {len(report.lifted)} | {len(report.opaque)}"


def main() -> None:
    """Print one row a family."""
    torch.set_num_threads(1)
    FAMILIES[0].build()
    trace_export(torch.nn.Linear(1, 1).eval(), (torch.ones(1, 1),))  # what torch imports at first use is nobody's time
    sys.stdout.write("\n".join([HEAD, RULE, *map(row, FAMILIES), ""]))


if __name__ == "__main__":
    main()
