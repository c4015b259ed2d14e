"""NSGA-III: for four objectives and more."""

from __future__ import annotations

import warnings
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import NSGAIIISampler
from optuna.trial import FrozenTrial

from mase.explore.sampler import FixedSpace, Generations, OptunaSampling, by_number
from mase.explore.strategy import STRATEGIES, Problem


@STRATEGIES.add("nsga3")
class Nsga3(OptunaSampling):
    """Breed as NSGA-II does, but keep survivors spread along reference directions.

    Args:
        problem: what to search; its first points belong to the first generation.
        population: trials of a generation, at least 2.
        mutation: probability that an axis is drawn anew; 1/axes by default.
        divisions: reference directions stand on a simplex with this many steps a side.

    Source: Deb and Jain, An Evolutionary Many-Objective Optimization Algorithm, 2014; Optuna's form.
    """

    def __init__(
        self, problem: Problem, population: int = 32, mutation: float | None = None, divisions: int = 3
    ) -> None:
        super().__init__(problem)
        self._settings = {"population_size": population, "mutation_prob": mutation, "dividing_parameter": divisions}
        self.sampler(0)  # impossible options show at once, not after the first points

    def sampler(self, seed: int) -> FixedSpace:
        """Make the sampler of one trial."""
        return _Sampler(self.problem, self._settings, seed)


class _Sampler(Generations, NSGAIIISampler):
    """Select parents in a fixed order, by randomness of the generation and not of the trial that asks first."""

    def __init__(self, problem: Problem, settings: dict[str, Any], seed: int) -> None:  # settings: see Nsga3
        with warnings.catch_warnings():  # no experiment of ours: constraints.txt pins the release that is tested
            warnings.simplefilter("ignore", ExperimentalWarning)
            super().__init__(**settings, seed=seed)
        self._problem, self._settings = problem, settings
        self.population = settings["population_size"]

    def select_parent(self, study: optuna.Study, generation: int) -> list[FrozenTrial]:
        """Select the survivors of a generation."""
        selector = _Sampler(self._problem, self._settings, self._problem.sampler_seed(generation))
        return by_number(super(_Sampler, selector).select_parent(study, generation))
