"""Tree-structured Parzen estimator: for up to about fifty axes and a thousand trials."""

from __future__ import annotations

from optuna.samplers import TPESampler

from mase.explore.sampler import FixedSpace, OptunaSampling
from mase.explore.strategy import STRATEGIES, Problem


@STRATEGIES.add("tpe")
class Tpe(OptunaSampling):
    """Model good and bad points by multivariate densities and propose where their ratio is largest.

    Args:
        problem: what to search.
        startup: trials, the first points among them, before the model replaces uniform draws.
        candidates: draws from the density of good points that are compared for one proposal.

    Source: Bergstra et al., Algorithms for Hyper-Parameter Optimization, 2011; Optuna's multivariate form.
    """

    def __init__(self, problem: Problem, startup: int = 10, candidates: int = 24) -> None:
        super().__init__(problem)
        self._startup, self._candidates = startup, candidates

    def sampler(self, seed: int) -> FixedSpace:
        """Make the sampler of one trial; with several workers it counts trials in flight as bad ones."""
        return _Sampler(
            seed=seed,
            multivariate=True,
            constant_liar=self.problem.workers > 1,
            n_startup_trials=self._startup,
            n_ei_candidates=self._candidates,
        )


class _Sampler(FixedSpace, TPESampler):
    """Sample from the whole space at once."""
