"""The search of ``configs/llama_stdlib.yaml`` beside uniform designs: what each loses of the perplexity, by its bits.

All designs read the same 256 windows of the test text, which no choice has seen. Beside the search stand the uniform
designs that read the validation text best: of those that fit in its bits (``fitting``), and of those with at most 0.05
bits more (``uniform``). The run lies in ``MASE_BENCH``, or in the folder for temporary files, and is kept there.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import replace
from pathlib import Path

from bench.common import ROOT, Figure, main
from mase import flow
from mase.data.base import Passage
from mase.density import DensityScorer
from mase.explore.space import Point
from mase.metrics.scores import Reading

CONFIG = ROOT / "configs" / "llama_stdlib.yaml"
WINDOWS = 256  # of the test text
KINDS = ("bits", "weight_bits", "activation_bits")
SPARE = 0.05  # bits that the uniform design may have more


def measure() -> list[Figure]:
    """Search, or take the run that is there; return the losses of the chosen design and of a uniform one."""
    room = Path(os.environ.get("MASE_BENCH", tempfile.gettempdir())) / "mase-bench-lm"
    made = flow.open_run(CONFIG, room)
    done = flow.upto(made, "search")
    section = made.config.search
    assert section is not None and section.bits is not None and done.study is not None and done.chosen is not None
    test = made.data.test
    assert isinstance(test, Passage) and isinstance(made.metric, Reading)
    scorer = DensityScorer(done.graph, replace(test, x=test.x[:WINDOWS], y=test.y[:WINDOWS]), done.samples, made.metric)
    best = made.metric.score(done.graph, scorer.split)
    uniform = {done.study.space.index(point) for point in done.study.space.uniform_points()}
    trials = [t for t in done.study.trials if done.study.space.index(t.point) in uniform and t.reused is None]
    designs = {"search": done.chosen}
    for name, most in (("uniform", section.bits + SPARE), ("fitting", section.bits)):
        designs[name] = min((t for t in trials if t.metrics["bits"] <= most), key=lambda t: t.metrics[made.metric.name])
    found = {name: scorer(Point(trial.point)) for name, trial in designs.items()}
    lost = {name: figures[made.metric.name] - best for name, figures in found.items()}
    return [
        Figure("lm_float_perplexity", best, "a token"),
        *(Figure(f"lm_{name}_{kind}", found[name][kind], "bits") for name in found for kind in KINDS),
        *(Figure(f"lm_{name}_loss", lost[name], "of perplexity") for name in found),
        Figure("lm_search_bits_most", found["search"]["bits"], "bits a value", at_most=section.bits),
        Figure("lm_search_of_fitting", lost["search"] / lost["fitting"], "x its loss", at_most=0.6),
        Figure("lm_search_of_uniform", lost["search"] / lost["uniform"], "x the uniform loss", at_most=0.6),
    ]


if __name__ == "__main__":
    main(__doc__, measure)
