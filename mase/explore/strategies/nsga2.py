"""NSGA-II: for two or three objectives and evaluations by the hundred."""

from __future__ import annotations

import optuna
from optuna.samplers import NSGAIISampler
from optuna.trial import FrozenTrial

from mase.explore.sampler import FixedSpace, Generations, OptunaSampling, by_number
from mase.explore.strategy import STRATEGIES, Problem


@STRATEGIES.add("nsga2")
class Nsga2(OptunaSampling):
    """Breed points from the non-dominated, least crowded ones of the generation before.

    Args:
        problem: what to search; its first points belong to the first generation.
        population: trials of a generation, at least 2.
        mutation: probability that an axis is drawn anew; 1/axes by default.

    Source: Deb et al., A Fast and Elitist Multiobjective Genetic Algorithm, 2002; Optuna's form, uniform crossover.
    """

    def __init__(self, problem: Problem, population: int = 32, mutation: float | None = None) -> None:
        super().__init__(problem)
        self._population, self._mutation = population, mutation
        self.sampler(0)  # impossible options show at once, not after the first points

    def sampler(self, seed: int) -> FixedSpace:
        """Make the sampler of one trial."""
        made = _Sampler(population_size=self._population, mutation_prob=self._mutation, seed=seed)
        made.population = self._population
        return made


class _Sampler(Generations, NSGAIISampler):
    """Select parents in a fixed order."""

    def select_parent(self, study: optuna.Study, generation: int) -> list[FrozenTrial]:
        """Select the survivors of a generation."""
        return by_number(super().select_parent(study, generation))
