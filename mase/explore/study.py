"""A study: evaluate points that a strategy proposes, keep every finished trial, go on where it stopped."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from mase import secrets
from mase.errors import ConfigError, UnknownName
from mase.explore.evaluator import Evaluate, EvaluatorSpec
from mase.explore.space import Point, Space
from mase.explore.storage import Store, attach, described, find, open_storage, shown, usable
from mase.explore.strategy import Problem, Strategy, build
from mase.explore.trial import Constraint, Objective, Trial, checked_metrics
from mase.explore.workers import Inline, Local, Pool, Ray, Result

SCHEMA = 1
CLUSTERS: dict[str, Callable[[EvaluatorSpec, int], Pool]] = {"local": Local, "ray": Ray}


@dataclass
class _Flight:
    """A point under evaluation, and later trials of the same point that wait for its metrics."""

    point: Point
    followers: list[int] = field(default_factory=list)


class Study:
    """Hold a space, objectives, constraints and all finished trials of a search. Made by ``create`` or ``load``."""

    def __init__(
        self,
        space: Space,
        objectives: tuple[Objective, ...],
        constraints: tuple[Constraint, ...],
        seed: int,
        store: Store,
    ) -> None:
        self.space, self.objectives, self.constraints, self.seed = space, objectives, constraints, seed
        self._store = store
        self._read()

    @classmethod
    def create(
        cls,
        space: Space,
        objectives: Sequence[Objective],
        storage: str | Path | None,
        *,
        name: str = "mase",
        seed: int = 0,
        constraints: Sequence[Constraint] = (),
        origin: str = "",
    ) -> Self:
        """Make a study, or continue the stored one of that name.

        Args:
            space: what is searched.
            objectives: at least one, names distinct.
            storage: a journal file (made if absent), a database URL such as ``sqlite:///s.db``, or None for memory;
                ``${NAME}`` is read from the environment.
            name: of the study in its storage.
            seed: of all randomness, 0 or more.
            constraints: bounds on metrics, in the unit of each.
            origin: digest of all else that metrics depend on, such as weights and data; compared where it is given.

        Raises:
            ConfigError: the storage is unusable, or holds a study of that name with another space, objectives,
                constraints, seed or origin.
        """
        objectives, constraints = tuple(objectives), tuple(constraints)
        _check(objectives, constraints, seed)
        about = {
            "schema": SCHEMA,
            "seed": seed,
            "objectives": [asdict(objective) for objective in objectives],
            "space": space.to_json(),
            **({"origin": origin} if origin else {}),
            "constraints": [asdict(constraint) for constraint in constraints],
        }
        where = shown(storage)
        base, lock = open_storage(storage)
        store = Store(attach(base, lock, where, name, about), lock, where, space, objectives, constraints)
        return cls(space, objectives, constraints, seed, store)

    @classmethod
    def load(cls, storage: str | Path, name: str = "mase") -> Self:
        """Open a stored study to read or to continue; axis values are in their text form.

        Raises:
            ConfigError: there is no such storage or study, or a newer version of this program wrote it.
        """
        where = shown(storage)
        place = secrets.resolved(str(storage))
        if "://" not in place and not Path(place).is_file():
            raise ConfigError(f"storage {where}: no such file")
        base, lock = open_storage(storage)
        found = find(base, where, name)
        about = described(found, where)
        if about.get("schema") != SCHEMA:
            raise ConfigError(f"storage {where}: schema version {about.get('schema')} cannot be read; this is {SCHEMA}")
        with usable(where):
            space = Space.from_json(about["space"])
            objectives = tuple(Objective(**objective) for objective in about["objectives"])
            constraints = tuple(Constraint(**constraint) for constraint in about["constraints"])
            store = Store(found, lock, where, space, objectives, constraints)
            return cls(space, objectives, constraints, about["seed"], store)

    @property
    def trials(self) -> tuple[Trial, ...]:
        """Return all finished trials, in order of number."""
        return tuple(self._trials[number] for number in sorted(self._trials))

    def optimize(
        self,
        evaluate: Evaluate | EvaluatorSpec,
        trials: int,
        *,
        strategy: str = "tpe",
        options: Mapping[str, Any] | None = None,  # each strategy has its own
        workers: int = 1,
        cluster: str = "local",
        enqueue: Sequence[Point] | None = None,
        callback: Callable[[Trial], None] | None = None,
    ) -> tuple[Trial, ...]:
        """Evaluate until the study has ``trials`` trials, or its strategy has no more.

        A point that was evaluated before is not evaluated again: its metrics count as a trial of their own. With one
        worker the points and their order depend on seed and strategy alone, interruptions or not.

        Args:
            evaluate: maps a point to its metrics; a specification where there are several workers.
            trials: in all, those of earlier runs included.
            strategy: registered name.
            options: keyword arguments of the strategy.
            workers: evaluations at a time.
            cluster: where several workers run, ``local`` processes or ``ray``.
            enqueue: points that a sampling strategy proposes first; the uniform designs by default.
            callback: called with each trial once it is stored.

        Returns:
            All finished trials, in order of number.

        Raises:
            ConfigError: an argument is wrong, a metric is missing or NaN, another process writes the study.
            ToolError: a worker died repeatedly on the same trial.
        """
        first = self.space.uniform_points() if enqueue is None else tuple(enqueue)
        for point in first:
            self.space.digits(point)
        problem = Problem(self.space, self.objectives, self.constraints, self.seed, workers, first)
        proposer = build(strategy, problem, options or {})
        limit = proposer.limit()
        target = trials if limit is None else min(trials, limit)
        with self._store.writing(), _pool(evaluate, workers, cluster) as pool:
            self._read()  # another process may have written since
            for trial in self.trials:
                proposer.tell(trial)
            for trial in self._run(proposer, pool, target):
                if callback is not None:
                    callback(trial)
        return self.trials

    def _read(self) -> None:
        self._trials = {trial.number: trial for trial in self._store.trials()}
        self._known: dict[Point, Trial] = {}
        for trial in self._trials.values():
            self._known.setdefault(trial.point, trial)

    def _run(self, proposer: Strategy, pool: Pool, target: int) -> Iterator[Trial]:
        """Yield each new trial once it is stored, until all numbers below ``target`` have one."""
        flights: dict[int, _Flight] = {}
        for number in (n for n in range(target) if n not in self._trials):  # a stream: it may be long
            point = proposer.ask(number)
            same = next((flight for flight in flights.values() if flight.point == point), None)
            if (known := self._known.get(point)) is not None:
                yield self._finish(proposer, Trial(number, point, known.metrics, known.number))
            elif same is not None:
                same.followers.append(number)
            else:
                flights[number] = _Flight(point)
                pool.submit(number, point, self.space.text(point))
            while len(flights) == pool.capacity:
                yield from self._land(proposer, pool.wait(), flights)
        while flights:
            yield from self._land(proposer, pool.wait(), flights)

    def _land(self, proposer: Strategy, result: Result, flights: dict[int, _Flight]) -> Iterator[Trial]:
        flight = flights.pop(result.number)
        metrics = checked_metrics(result.metrics, self._needed(), result.number, flight.point)
        yield self._finish(proposer, Trial(result.number, flight.point, metrics, seconds=result.seconds))
        for number in flight.followers:
            yield self._finish(proposer, Trial(number, flight.point, metrics, result.number))

    def _finish(self, proposer: Strategy, trial: Trial) -> Trial:
        self._store.append(trial)
        self._trials[trial.number] = trial
        self._known.setdefault(trial.point, trial)
        proposer.tell(trial)
        return trial

    def _needed(self) -> tuple[str, ...]:
        """Return the metrics that every trial must have: those asked for, and those that the first trial gave."""
        asked = [objective.name for objective in self.objectives] + [c.metric for c in self.constraints]
        given = next(iter(self._trials.values())).metrics if self._trials else {}
        return tuple(dict.fromkeys([*asked, *given]))


@contextlib.contextmanager
def _pool(evaluate: Evaluate | EvaluatorSpec, workers: int, cluster: str) -> Iterator[Pool]:
    pool = _make_pool(evaluate, workers, cluster)
    try:
        yield pool
    finally:
        pool.close()


def _make_pool(evaluate: Evaluate | EvaluatorSpec, workers: int, cluster: str) -> Pool:
    if cluster not in CLUSTERS:
        raise UnknownName("study: cluster", cluster, CLUSTERS)
    if workers < 1:
        raise ConfigError(f"study: {workers} workers; at least 1 is needed")
    if workers == 1 and cluster == "local":
        return Inline(evaluate)
    if not isinstance(evaluate, EvaluatorSpec):
        raise ConfigError(
            f"study: {workers} workers on {cluster} need an EvaluatorSpec, not a function of this process"
        )
    return CLUSTERS[cluster](evaluate, workers)


def _check(objectives: tuple[Objective, ...], constraints: tuple[Constraint, ...], seed: int) -> None:
    if not objectives:
        raise ConfigError("study: there are no objectives; give at least one")
    for what, names in (("objective", [o.name for o in objectives]), ("constraint", [str(c) for c in constraints])):
        for i, name in enumerate(names):
            if name in names[:i]:
                raise ConfigError(f"study: {what} {name!r} is given twice")
    if seed < 0:
        raise ConfigError(f"study: seed {seed}; allowed: 0 and more")
