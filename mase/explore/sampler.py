"""Let an Optuna sampler propose points from a study in memory, so that asking costs no storage."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from mase.explore.space import Axis, Point
from mase.explore.storage import quiet
from mase.explore.strategy import Problem, Sampling
from mase.explore.trial import Trial


class OptunaSampling(Sampling):
    """Wrap one Optuna sampler; parameters are value indices, whole numbers where the axis holds rising numbers.

    Each ask has a fresh sampler seeded by the trial's number: samplers carry hidden state, which a resumed study would
    lack.
    """

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.distributions = {axis.name: _distribution(axis) for axis in problem.space.free}
        self._storage = optuna.storages.InMemoryStorage()
        with quiet():
            self._study = optuna.create_study(
                storage=self._storage, directions=[o.direction for o in problem.objectives]
            )
        self._study_id = self._storage.get_study_id_from_name(self._study.study_name)
        self._asked: dict[int, optuna.Trial] = {}

    @abstractmethod
    def sampler(self, seed: int) -> FixedSpace:
        """Make the sampler of one trial."""

    def propose(self, number: int) -> Point:
        """Ask the sampler."""
        sampler = self.sampler(self.problem.sampler_seed(number))
        sampler.distributions = self.distributions
        self._study.sampler = sampler
        trial = self._study.ask(self.distributions)
        self._asked[number] = trial
        point = self.problem.space.from_digits([trial.params[name] for name in self.distributions])
        self._clear_inactive(trial, point)
        return point

    def _clear_inactive(self, trial: optuna.Trial, point: Point) -> None:
        """Forget what was drawn for inactive axes, so that the sampler learns what a resumed study would know."""
        trial_id = self._storage.get_trial_id_from_study_id_trial_number(self._study_id, trial.number)
        for name, distribution in self.distributions.items():
            if name not in point:
                self._storage.set_trial_param(trial_id, name, distribution.to_internal_repr(0), distribution)

    def tell(self, trial: Trial) -> None:
        """Add a finished trial to the study in memory."""
        values = [trial.metrics[objective.name] for objective in self.problem.objectives]
        violations = {str(c): c.violation(trial.metrics) for c in self.problem.constraints}
        asked = self._asked.pop(trial.number, None)
        if asked is None:
            params = dict(zip(self.distributions, self.problem.space.digits(trial.point), strict=True))
            self._study.add_trial(
                optuna.trial.create_trial(
                    params=params, distributions=self.distributions, values=values, constraints=violations
                )
            )
            return
        for name, violation in violations.items():
            asked.set_constraint(name, violation)
        self._study.tell(asked, values)


class FixedSpace(BaseSampler):
    """Know the search space instead of deriving it from all trials at each ask. To be mixed in before a sampler."""

    distributions: Mapping[str, BaseDistribution]

    def infer_relative_search_space(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
    ) -> dict[str, BaseDistribution]:
        """Return every parameter that has a choice."""
        return {name: found for name, found in self.distributions.items() if not found.single()}


class Generations(FixedSpace):
    """Count generations by finished trials. To be mixed in before a genetic sampler.

    Optuna marks generations on the trials that it asked for; a resumed study would lack the marks, and points that were
    proposed first would belong to no generation.
    """

    population: int

    def get_trial_generation(self, study: optuna.Study, trial: FrozenTrial) -> int:
        """Return how many whole populations have finished."""
        return len(_finished(study)) // self.population

    def get_population(self, study: optuna.Study, generation: int) -> list[FrozenTrial]:
        """Return the trials of one generation."""
        start = generation * self.population
        return _finished(study)[start : start + self.population]


def _distribution(axis: Axis) -> BaseDistribution:
    count = len(axis.values)
    return IntDistribution(0, count - 1) if axis.ordinal else CategoricalDistribution(tuple(range(count)))


def _finished(study: optuna.Study) -> list[FrozenTrial]:
    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))


def by_number(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Sort parents as Optuna returns a selection from its cache; it returns a fresh one in another order."""
    return sorted(trials, key=lambda trial: trial.number)
