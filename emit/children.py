"""Programs that we start, and all that those start, end with us: however we end, and however deep they are.

A compiler starts a compiler proper, an assembler and a linker; what stops a child, such as the kernel's signal to
orphans, does not reach those. So every program gets a process group of its own, and in it a shell that reads from a
pipe whose other end only we hold. Nothing is ever written there: the read ends when our end is closed, by us or by the
system after our death, and then the shell kills its group.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from subprocess import CompletedProcess
from types import TracebackType
from typing import Self

WATCHED = """
exec 3<&0 </dev/null
{ read -r _ <&3; kill -KILL 0; } >/dev/null 2>&1 &
watcher=$!
"$@" 3<&-
status=$?
kill "$watcher"
exit "$status"
"""
SIGNALLED = 128  # a shell says so much, and the number of the signal that ended its program


class Family:
    """Run programs, from several threads if need be; leaving it ends those that still run, and no others start.

    Threads that wait for a program are free once this is left: enter a pool of threads first, and this inside it.
    """

    def __enter__(self) -> Self:
        self._theirs, self._ours = os.pipe()  # not inherited by other programs
        self._lock, self._open = threading.Lock(), True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self._open = False
            os.close(self._theirs)
            os.close(self._ours)

    def run(
        self,
        command: Sequence[str | Path],
        folder: Path | None = None,
        env: Mapping[str, str] | None = None,
        timeout_seconds: float | None = None,
        joined: bool = False,
    ) -> CompletedProcess[str]:
        """Run a program and return its status and what it said.

        The status is below 0 where a signal ended it, 126 or 127 where the system could not start it.

        Args:
            folder: to run in; left out: the current one. env: the whole environment; left out: ours.
            timeout_seconds: after which the family is killed. joined: what it says as an error stands in its output.

        Raises:
            subprocess.TimeoutExpired: it took too long. InterruptedError: the family has ended already.
        """
        words = list(map(str, command))
        with self._lock:
            if not self._open:
                raise InterruptedError(f"{words[0]}: not started, because its caller has ended")
            process = subprocess.Popen(
                ["/bin/sh", "-c", WATCHED, "mase", *words],
                cwd=folder,
                env=None if env is None else dict(env),
                stdin=self._theirs,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT if joined else subprocess.PIPE,
                text=True,
                errors="replace",
                start_new_session=True,
            )
        with process:
            try:
                out, err = process.communicate(timeout=timeout_seconds)
            except BaseException:  # a timeout or Ctrl-C: both would leave the family behind
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                raise
        status = process.returncode
        return CompletedProcess(words, SIGNALLED - status if status > SIGNALLED else status, out, err or "")


def run(
    command: Sequence[str | Path],
    folder: Path | None = None,
    env: Mapping[str, str] | None = None,
    timeout_seconds: float | None = None,
    joined: bool = False,
) -> CompletedProcess[str]:
    """Run one program with its whole family: see :meth:`Family.run`."""
    with Family() as family:
        return family.run(command, folder, env, timeout_seconds, joined)
