"""When a run repeats itself: from some window on, all times are those of an earlier window plus a distance.

A window is one tensor of every actor. The times of a window follow from those of the window before it and, through
credits, of the ``reach`` windows before it. So once as many windows as that are later than the ones ``lag`` before them
by one distance, every later window is too. Actors joined by channels that never fill up may have distances of their
own, as long as no producer falls behind its consumer: a wait for a producer that runs ahead never came last.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

Times = npt.NDArray[np.int64]
LAGS = 6  # a credit loop of d slots repeats after at most d windows; longer periods are run through


class Period:
    """Watch the windows of a run.

    Args:
        reach: windows that a credit can come from, at most.
        equal: pairs of actors whose distances are equal. ahead: producers and consumers of channels that never fill.
    """

    def __init__(self, reach: int, equal: Iterable[tuple[int, int]], ahead: Iterable[tuple[int, int]]) -> None:
        self._reach, self._equal, self._ahead = reach, tuple(equal), tuple(ahead)
        self._windows: list[list[Times]] = []
        self._found: dict[int, tuple[list[int], int]] = {}
        self._count = 0

    def add(self, window: Sequence[Times]) -> tuple[int, list[int]] | None:
        """Add the times of the next window, by actor; return the lag and the actors' distances once they settle."""
        self._windows = [*self._windows[-LAGS:], list(window)]
        self._count += 1
        for lag in range(1, min(LAGS, len(self._windows) - 1) + 1):
            distances = self._distances(lag)
            before, times = self._found.get(lag, ([], 0))
            if distances is None:
                self._found.pop(lag, None)
                continue
            times = times + 1 if before == distances else 1
            self._found[lag] = distances, times
            if times >= max(self._reach, lag) and self._count >= self._reach + 2 * lag:
                return lag, distances
        return None

    def _distances(self, lag: int) -> list[int] | None:
        new, old = self._windows[-1], self._windows[-1 - lag]
        out = [int(a[0] - b[0]) for a, b in zip(new, old, strict=True)]
        if any(out[a] != out[b] for a, b in self._equal) or any(out[a] > out[b] for a, b in self._ahead):
            return None
        ends = (a[-1] - b[-1] == d for a, b, d in zip(new, old, out, strict=True))
        same = all(ends) and all((a - b == d).all() for a, b, d in zip(new, old, out, strict=True))
        return out if same else None


def continued(leaving: Sequence[Times], lag: int, distance: int, windows: int) -> Times:
    """Return the times of all windows from those that were run, the last ``lag`` of which repeat."""
    known, rounds = np.concatenate(leaving), -(-(windows - len(leaving)) // lag)
    later = np.arange(1, rounds + 1)[:, None] * distance + np.concatenate(leaving[-lag:])
    return np.concatenate([known, later.reshape(-1)])[: windows * len(leaving[0])]
