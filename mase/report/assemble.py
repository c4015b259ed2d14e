"""Join what the stages of a run found into one report."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mase import config as configuration
from mase.calib.assign import weights
from mase.config import RunConfig
from mase.cost.device import device
from mase.cost.resources import Resources
from mase.data.base import Data
from mase.explore.pareto import front
from mase.explore.study import Study
from mase.explore.trial import Trial
from mase.graph import Graph, OpNode
from mase.netlist import region
from mase.report import summary

if TYPE_CHECKING:
    from mase.cost.estimate import Cost


def assemble(
    config: RunConfig,
    data: Data,
    built: Graph,
    *,
    cost: Cost,
    facts: Mapping[str, Any],
    snr: Mapping[str, float],
    accuracy: summary.Accuracy,
    rtl: summary.Rtl | None,
    search: tuple[Study, Trial] | None,
    synthesised: tuple[Resources, str] | None,
    seconds: Mapping[str, float],
    versions: Mapping[str, str],
    warnings: Sequence[str],
) -> summary.Report:
    """Return the content of ``report.json``.

    Args:
        facts: MACs, parameters and stored bits by node name, as the ``shapes`` pass gives them in JSON.
        snr: signal-to-noise ratio in dB by edge name. synthesised: counts of the tool, and its name and version.
    """
    nodes = {entry["name"]: entry for entry in facts["nodes"]}
    total = facts["parameters"]
    model = config.model.name or str(config.model.python)
    return summary.Report(
        name=config.name,
        model=summary.Model(model, total, sum(entry["macs"] for entry in nodes.values())),
        data=summary.Data(data.name, len(data.train), len(data.validation), len(data.test)),
        accuracy=accuracy,
        resources=_resources(cost, config.hardware.target, synthesised),
        layers=tuple(_layer(node, cost, nodes[node.name], snr) for node in region(built)),
        graph=_dataflow(built),
        seconds=dict(seconds),
        versions=dict(versions),
        seed=config.seed,
        reproduce=summary.Reproduce(f"mase run {shlex.quote(config.name + '.yaml')}", configuration.dump(config)),
        rtl=rtl,
        search=None if search is None else _search(config, *search, _weight_count(built), seconds),
        warnings=tuple(warnings),
    )


def _weight_count(built: Graph) -> int:
    """Return how many weights the metric ``bits`` counts: biases live on the accumulator's grid."""
    sizes = {
        node.record.key(role): math.prod(node.record.operands[role].shape)
        for node in region(built)
        for role in weights(node)
        if role != "bias"
    }
    return sum(sizes.values())


def _resources(cost: Cost, target: str, synthesised: tuple[Resources, str] | None) -> summary.Resources:
    part, predicted = device(target), cost.resources
    found = None if synthesised is None else synthesised[0]
    figures = {
        name: summary.Figure(round(getattr(predicted, name), 1), None if found is None else getattr(found, name))
        for name in ("lut", "ff", "dsp", "bram")
    }
    worth = summary.Figure(round(predicted.equivalent(part), 1), None if found is None else found.equivalent(part))
    tool = None if synthesised is None else synthesised[1]
    return summary.Resources(**figures, lut_equivalents=worth, target=target, synthesised_by=tool)


def _layer(node: OpNode, cost: Cost, facts: Mapping[str, Any], snr: Mapping[str, float]) -> summary.Layer:
    record, weight = node.record, node.record.operands.get("weight")
    items = [item for item in cost.instances.values() if item.node == node.name]
    total = sum((item.resources for item in items), Resources())
    cycles = max((item.cycles for item in items), default=0)
    return summary.Layer(
        path=node.path,
        kind=node.kind + (f" + {record.attrs['activation']}" if "activation" in record.attrs else ""),
        weight_format=None if weight is None else str(weight.format),
        input_format=", ".join(dict.fromkeys(str(source.record.output.format) for source in node.inputs)),
        output_format=str(record.output.format),
        accumulation=record.attrs.get("accumulation"),
        fold=dict(record.hw.fold) if record.hw else {},
        cycles=cycles,
        macs=facts["macs"],
        parameters=facts["parameters"],
        weight_bits=facts["weight_bits"],
        resources=summary.LayerResources(*(round(x, 1) for x in (total.lut, total.ff, total.dsp, total.bram))),
        snr_db=snr.get(node.name),
        bottleneck=cycles == max(item.cycles for item in cost.instances.values()),
    )


def _dataflow(built: Graph) -> summary.Dataflow:
    nodes = tuple(summary.Node(node.name, node.path, node.kind) for node in built.nodes())
    edges = []
    for node in built.nodes():
        for source in node.inputs:
            kind = source.record.output
            fmt = None if kind.format is None else str(kind.format)
            edges.append(summary.Edge(source.name, node.name, tuple(kind.shape[1:]), fmt))
    return summary.Dataflow(nodes, tuple(edges))


def _search(
    config: RunConfig, study: Study, chosen: Trial, weights: int, seconds: Mapping[str, float]
) -> summary.Search:
    assert config.search is not None
    points = {trial.number: _point(trial, study, weights) for trial in study.trials}
    best = front(study.trials, study.objectives, study.constraints)
    return summary.Search(
        strategy=config.search.strategy,
        trials=len(points),
        seconds=seconds.get("search", 0.0),
        pareto=tuple(points[trial.number] for trial in best),
        points=tuple(points.values()),
        chosen=chosen.number,
    )


def _point(trial: Trial, study: Study, weights: int) -> summary.SearchPoint:
    metrics = trial.metrics
    return summary.SearchPoint(
        trial.number,
        metrics[study.objectives[0].name],
        metrics["cost"],
        metrics["bits"] / max(1, weights),
        metrics["interval"],
        trial.feasible(study.constraints),
        {name: str(value) for name, value in study.space.text(trial.point).items()},
    )
