"""Keep finished trials in Optuna storage: a journal file by default, a database by URL. One durable record a trial.

Only finished trials are stored, so a killed study holds nothing half-done: what was in flight is proposed again.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import CategoricalDistribution
from optuna.exceptions import OptunaError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.trial import FrozenTrial, TrialState

from mase import secrets
from mase.doors import file
from mase.errors import ConfigError, MaseError, said
from mase.explore.journal import Journal, KernelLock
from mase.explore.space import Point, Space
from mase.explore.trial import Constraint, Objective, Trial

NUMBER = "mase:number"  # system attributes of a stored trial
REUSED = "mase:reused"
DRIVERS = {"postgresql": "psycopg2-binary", "postgres": "psycopg2-binary", "mysql": "mysqlclient"}


class Store:
    """Hold one study in Optuna storage.

    Args:
        study: the Optuna study.
        lock: the journal's lock; None for databases and memory.
        where: what errors call the storage.
        space: turns stored text into points.
        objectives, constraints: what the Optuna record shows besides the metrics.
    """

    def __init__(
        self,
        study: optuna.Study,
        lock: KernelLock | None,
        where: str,
        space: Space,
        objectives: Sequence[Objective],
        constraints: Sequence[Constraint],
    ) -> None:
        self._study, self._lock, self._where = study, lock, where
        self._space, self._objectives, self._constraints = space, objectives, constraints
        self._distributions = {axis.name: CategoricalDistribution(axis.texts) for axis in space.free}

    def trials(self) -> list[Trial]:
        """Read every finished trial, in order of number."""
        with usable(self._where):
            stored = self._study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
            return sorted((self._load(record) for record in stored), key=lambda trial: trial.number)

    def append(self, trial: Trial) -> None:
        """Write a finished trial; it survives a kill of the process from here on."""
        text = self._space.text(trial.point)
        params = {name: text[name] for name in self._distributions if name in text}
        now = datetime.now()  # noqa: DTZ005 - as those of Optuna, local and without a zone
        record = FrozenTrial(
            number=-1,  # the storage gives it one
            trial_id=-1,
            state=TrialState.COMPLETE,
            value=None,
            values=[trial.metrics[objective.name] for objective in self._objectives],
            datetime_start=now - timedelta(seconds=trial.seconds),
            datetime_complete=now,
            params=params,
            distributions={name: self._distributions[name] for name in params},
            user_attrs=dict(trial.metrics),
            system_attrs={NUMBER: trial.number} | ({} if trial.reused is None else {REUSED: trial.reused}),
            intermediate_values={},
        )
        for constraint in self._constraints:
            record.set_constraint(str(constraint), constraint.violation(trial.metrics))
        with usable(self._where):
            self._study.add_trial(record)

    def writing(self) -> contextlib.AbstractContextManager[object]:
        """Keep every other process from writing to the journal meanwhile; raise ``ConfigError`` where one does."""
        return contextlib.nullcontext() if self._lock is None else self._lock

    def _load(self, record: FrozenTrial) -> Trial:
        if NUMBER not in record.system_attrs:
            raise ConfigError(f"storage {self._where}: trial {record.number} was added by another program")
        seconds = 0.0
        if record.datetime_start and record.datetime_complete:
            seconds = (record.datetime_complete - record.datetime_start).total_seconds()
        return Trial(
            number=record.system_attrs[NUMBER],
            point=self._point(record.params),
            metrics={name: record.user_attrs[name] for name in sorted(record.user_attrs)},
            reused=record.system_attrs.get(REUSED),
            seconds=seconds,
        )

    def _point(self, params: Mapping[str, Any]) -> Point:  # Optuna's params are of any type
        digits = [axis.texts.index(params[axis.name]) if axis.name in params else 0 for axis in self._space.free]
        return self._space.from_digits(digits)


def open_storage(storage: str | Path | None) -> tuple[BaseStorage, KernelLock | None]:
    """Open a journal file, a database URL or, for None, memory; ``${NAME}`` is read from the environment.

    Raises:
        ConfigError: the folder or file is unusable or is not a journal, or the database or its driver is missing.
    """
    if storage is None:
        return optuna.storages.InMemoryStorage(), None
    place = secrets.resolved(str(storage))
    return (_open_database(place), None) if "://" in place else _open_journal(file.place(place, "storage"))


def shown(storage: str | Path | None) -> str:
    """Return what messages call a storage: no password, and ``memory`` for None."""
    return "memory" if storage is None else secrets.shown(storage)


def attach(storage: BaseStorage, lock: KernelLock | None, where: str, name: str, about: dict[str, Any]) -> optuna.Study:
    """Create the Optuna study ``name``, or continue it where the stored description equals ``about``.

    Args:
        storage: what ``open_storage`` returned.
        lock: likewise.
        where: what errors call the storage.
        name: of the study in its storage.
        about: JSON data that describes the study: schema, space, objectives, constraints, seed, perhaps origin.

    Raises:
        ConfigError: the stored study is another one; the text names the field that differs.
    """
    directions = [objective["direction"] for objective in about["objectives"]]
    with quiet(), usable(where):
        if name not in optuna.get_all_study_names(storage):
            with contextlib.nullcontext() if lock is None else lock:
                study = optuna.create_study(storage=storage, study_name=name, directions=directions)
                study.set_user_attr("mase", about)
                return study
        study = optuna.load_study(storage=storage, study_name=name)
    stored = described(study, where)
    for key, value in about.items():
        if stored.get(key) != value and key == "origin":
            raise ConfigError(
                f"storage {where}: study {name!r} was made from other weights or data, with other search "
                "settings, or by another version of this program, so that its metrics do not hold here; "
                "use another name or storage"
            )
        if stored.get(key) != value:
            raise ConfigError(
                f"storage {where}: study {name!r} was made with another {key}: {_short(stored.get(key))}, now "
                f"{_short(value)}; use another name or storage"
            )
    return study


def find(storage: BaseStorage, where: str, name: str) -> optuna.Study:
    """Return the stored Optuna study ``name``; raise ``ConfigError`` where there is none."""
    with quiet(), usable(where):
        names = optuna.get_all_study_names(storage)
        if name not in names:
            raise ConfigError(f"storage {where}: holds no study {name!r}; it has: {', '.join(names) or 'none'}")
        return optuna.load_study(storage=storage, study_name=name)


def described(study: optuna.Study, where: str) -> dict[str, Any]:
    """Return the description that ``attach`` stored with a study."""
    about = study.user_attrs.get("mase")
    if not isinstance(about, dict):
        raise ConfigError(f"storage {where}: study {study.study_name!r} was made by another program")
    return about


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep Optuna from announcing studies on the screen; its warnings still show."""
    logger = logging.getLogger("optuna")
    level = logger.level
    logger.setLevel(max(level, logging.WARNING))
    try:
        yield
    finally:
        logger.setLevel(level)


def _open_journal(path: Path) -> tuple[BaseStorage, KernelLock]:
    with usable(str(path)):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = KernelLock(path)
        return JournalStorage(Journal(path, lock)), lock


def _open_database(url: str) -> BaseStorage:
    scheme, where = url.split("://", 1)[0], shown(url)
    try:
        return RDBStorage(url)
    except ImportError:
        driver = DRIVERS.get(scheme, scheme.rsplit("+", 1)[-1])
        raise ConfigError(f"storage {where}: the driver for {scheme} is not installed; pip install {driver}") from None
    except Exception as error:  # noqa: BLE001 - each driver has errors of its own; what it says goes to the user
        said = secrets.hidden(_first_line(error), url)
        raise ConfigError(f"storage {where}: cannot be opened: {said}") from None  # the cause may show a password


@contextlib.contextmanager
def usable(where: str) -> Iterator[None]:
    """Turn into one line what happens on a full disk, a lost database, or a file that is not a journal."""
    try:
        yield
    except OSError as error:
        named = f" ({error.filename})" if error.filename not in (None, where) else ""
        raise ConfigError(f"storage {where}: {error.strerror or error}{named}") from error
    except OptunaError as error:
        raise ConfigError(f"storage {where}: {_first_line(error.__cause__ or error)}") from error
    except MaseError:
        raise
    except Exception as error:  # Optuna trusts what it reads: damage can break anything that it makes of it
        raise ConfigError(f"storage {where}: this is not a study, or it is damaged ({said(error)})") from error


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."
