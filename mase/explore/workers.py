"""Where evaluations run: in this process, in local processes, or on a Ray cluster.

A pool takes trials with ``submit`` and hands back whichever finishes first with ``wait``. A worker that dies loses
nothing: its trial runs again on a new one.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from queue import SimpleQueue
from typing import Any, Protocol

from mase.errors import ConfigError, MaseError, ToolError
from mase.explore.evaluator import Evaluate, EvaluatorSpec
from mase.explore.space import Point, Text

ATTEMPTS = 3  # deaths of a worker on one trial before the trial itself is blamed
# A worker listens before it imports anything of weight, and goes on listening while it works: when the process that
# started it is gone, however that ended, the worker is gone too, in the middle of whatever it did and without a word.
WORKER = """
import os, queue, sys, threading
from multiprocessing.connection import Connection
connection, jobs = Connection(int(sys.argv[1])), queue.SimpleQueue()
def listen():
    try:
        while True:
            jobs.put(connection.recv_bytes())
    except (EOFError, OSError):
        os._exit(0)
threading.Thread(target=listen, daemon=True).start()
import json
sys.path[:], *spec = json.loads(jobs.get())
from mase.explore.workers import serve
serve(connection, jobs, *spec)
"""


@dataclass(frozen=True)
class Result:
    """Hold what one evaluation gave."""

    number: int
    metrics: Mapping[str, float]
    seconds: float


class Pool(Protocol):
    """Run evaluations."""

    capacity: int

    def submit(self, number: int, point: Point, text: Mapping[str, Text]) -> None:
        """Start the evaluation of a point, given as it is and as text; at most ``capacity`` at a time."""

    def wait(self) -> Result:
        """Return the next evaluation that finishes."""

    def close(self) -> None:
        """Stop the workers."""


class Inline:
    """Evaluate in this process, one trial at a time."""

    capacity = 1

    def __init__(self, evaluate: Evaluate | EvaluatorSpec) -> None:
        self._as_text = isinstance(evaluate, EvaluatorSpec)
        self._evaluate = evaluate.build() if isinstance(evaluate, EvaluatorSpec) else evaluate

    def submit(self, number: int, point: Point, text: Mapping[str, Text]) -> None:
        """Keep the point for ``wait``."""
        self._job = number, Point(text) if self._as_text else point

    def wait(self) -> Result:
        """Evaluate the point."""
        number, point = self._job
        start = time.perf_counter()
        metrics = self._evaluate(point)
        return Result(number, metrics, time.perf_counter() - start)

    def close(self) -> None:
        """Do nothing: there are no workers."""


@dataclass
class Worker:
    """Hold a process, the pipe to it, and what it is at."""

    process: subprocess.Popen[bytes]
    connection: Connection[bytes, bytes]
    job: bytes | None = None
    number: int = -1
    deaths: int = field(default=0)  # of workers on this job


class Local:
    """Evaluate in processes of this machine, each with an evaluator of its own.

    Args:
        spec: how a worker builds its evaluator.
        workers: processes, at least one.
    """

    def __init__(self, spec: EvaluatorSpec, workers: int) -> None:
        self.capacity = workers
        self._spec = spec
        self._workers = [spawn(spec) for _ in range(workers)]

    def submit(self, number: int, point: Point, text: Mapping[str, Text]) -> None:
        """Send the point to an idle worker."""
        worker = next(w for w in self._workers if w.job is None)
        worker.job, worker.number, worker.deaths = json.dumps(dict(text)).encode(), number, 0
        self._send(worker)

    def wait(self) -> Result:
        """Return the next result; start dead workers anew and repeat what they were at."""
        while True:
            ready = wait([w.connection for w in self._workers if w.job is not None])
            for worker in [w for w in self._workers if w.connection in ready]:
                try:
                    answer = worker.connection.recv_bytes()
                except (EOFError, OSError):
                    self._revive(worker)
                    continue
                worker.job = None
                return parse_answer(worker.number, answer)

    def close(self) -> None:
        """Kill the workers: whatever they are at is not wanted any more."""
        for worker in self._workers:
            worker.process.kill()
            worker.process.wait()
            worker.connection.close()

    def _send(self, worker: Worker) -> None:
        assert worker.job is not None
        try:
            worker.connection.send_bytes(worker.job)
        except OSError:  # dead already; wait sees the closed connection
            return

    def _revive(self, worker: Worker) -> None:
        worker.process.wait()
        worker.connection.close()
        worker.deaths += 1
        if worker.deaths == ATTEMPTS:
            code = worker.process.returncode
            worker.job = None
            raise ToolError(f"trial {worker.number}: its worker died {ATTEMPTS} times (exit code {code})")
        fresh = spawn(self._spec)
        worker.process, worker.connection = fresh.process, fresh.connection
        self._send(worker)


class Ray:
    """Evaluate on a Ray cluster: the one that ``RAY_ADDRESS`` names, or this machine.

    Args:
        spec: how an actor builds its evaluator; its module must be importable there.
        workers: actors, at least one.

    Raises:
        ConfigError: Ray is not installed.
    """

    def __init__(self, spec: EvaluatorSpec, workers: int) -> None:
        try:
            import ray
        except ImportError as error:
            raise ConfigError("workers on Ray: Ray is not installed; pip install mase-dse[ray]") from error
        self.capacity = workers
        self._ray = ray
        if not ray.is_initialized():
            ray.init(log_to_driver=False, include_dashboard=False)
        self._actor = ray.remote(max_restarts=-1, max_task_retries=ATTEMPTS - 1)(Server)
        self._idle = [self._actor.remote(spec.factory, dict(spec.config)) for _ in range(workers)]
        self._busy: dict[Any, tuple[int, Any]] = {}  # Ray ships no types: object reference -> trial, actor

    def submit(self, number: int, point: Point, text: Mapping[str, Text]) -> None:
        """Send the point to an idle actor."""
        actor = self._idle.pop()
        self._busy[actor.answer.remote(json.dumps(dict(text)).encode())] = number, actor

    def wait(self) -> Result:
        """Return the next result; Ray itself restarts dead actors and repeats their tasks."""
        (done,), _ = self._ray.wait(list(self._busy), num_returns=1)
        number, actor = self._busy.pop(done)
        self._idle.append(actor)
        try:
            answer = self._ray.get(done)
        except self._ray.exceptions.RayActorError as error:
            raise ToolError(f"trial {number}: its worker died {ATTEMPTS} times") from error
        return parse_answer(number, answer)

    def close(self) -> None:
        """Release the actors."""
        for actor in self._idle + [actor for _, actor in self._busy.values()]:
            self._ray.kill(actor)


class Server:
    """Answer evaluations in a worker: a point as JSON in, metrics or an error as JSON out."""

    def __init__(self, factory: str, config: Mapping[str, Any]) -> None:  # config: JSON, see EvaluatorSpec
        self._spec = EvaluatorSpec(factory, config)
        self._evaluate: Evaluate | None = None

    def answer(self, job: bytes) -> bytes:
        """Evaluate one point; an error is an answer too."""
        start = time.perf_counter()
        try:
            if self._evaluate is None:
                self._evaluate = self._spec.build()
            metrics = dict(self._evaluate(Point(json.loads(job))))
            return json.dumps({"metrics": metrics, "seconds": time.perf_counter() - start}, default=float).encode()
        except MaseError as error:
            return json.dumps({"refused": str(error)}).encode()
        except Exception:  # noqa: BLE001 - the text crosses to the process that raises it
            return json.dumps({"failed": traceback.format_exc()}).encode()


def parse_answer(number: int, answer: bytes) -> Result:
    """Read what ``Server.answer`` wrote; raise here what was raised there."""
    data = json.loads(answer)
    if "refused" in data:
        raise ConfigError(f"trial {number}: {data['refused']}")
    if "failed" in data:
        raise RuntimeError(f"trial {number}: the evaluator failed in a worker\n{data['failed']}")
    return Result(number, data["metrics"], data["seconds"])


def spawn(spec: EvaluatorSpec) -> Worker:
    """Start a process that answers what its connection gets, and that dies with this one."""
    ours, theirs = Pipe()
    with theirs:  # closed here, so that the death of the worker closes the pipe
        process = subprocess.Popen(
            [sys.executable, "-c", WORKER, str(theirs.fileno())],
            stdin=subprocess.DEVNULL,
            pass_fds=(theirs.fileno(),),
            start_new_session=True,  # Ctrl-C reaches a whole group; the parent stops its workers itself
        )
    with contextlib.suppress(OSError):  # dead already; wait sees the closed connection
        ours.send_bytes(json.dumps([sys.path, spec.factory, dict(spec.config)]).encode())
    return Worker(process, ours)


def serve(
    connection: Connection[bytes, bytes],
    jobs: SimpleQueue[bytes],
    factory: str,
    config: Mapping[str, Any],  # JSON, see EvaluatorSpec
) -> None:
    """Answer jobs for as long as somebody takes the answers; runs in a worker."""
    server = Server(factory, config)
    with contextlib.suppress(OSError):
        while True:
            connection.send_bytes(server.answer(jobs.get()))
