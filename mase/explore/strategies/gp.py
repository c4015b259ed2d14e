"""Gaussian process: for a few dozen axes and expensive evaluations, at most a few hundred trials."""

from __future__ import annotations

import importlib.util

from optuna.samplers import GPSampler

from mase.errors import ToolError
from mase.explore.sampler import FixedSpace, OptunaSampling
from mase.explore.strategy import STRATEGIES, Problem


@STRATEGIES.add("gp")
class Gp(OptunaSampling):
    """Fit a Gaussian process to the trials and propose where improvement is likeliest; cubic in the trials.

    Args:
        problem: what to search.
        startup: trials, the first points among them, before the model replaces uniform draws.

    Raises:
        ToolError: PyTorch or SciPy is missing.
    """

    def __init__(self, problem: Problem, startup: int = 10) -> None:
        missing = [package for package in ("torch", "scipy") if importlib.util.find_spec(package) is None]
        if missing:
            raise ToolError(f"strategy gp: needs {' and '.join(missing)}; pip install {' '.join(missing)}")
        super().__init__(problem)
        self._startup = startup

    def sampler(self, seed: int) -> FixedSpace:
        """Make the sampler of one trial."""
        return _Sampler(seed=seed, n_startup_trials=self._startup, warn_independent_sampling=False)


class _Sampler(FixedSpace, GPSampler):
    """Sample from the whole space at once."""
