"""A backend in a process of its own, so that no call outlasts its time, whatever happens to the cluster behind it.

Ray's calls may wait for minutes for a head that is gone, and then Ray ends its whole process. Here that costs a child
process: it is ended and started again until the cluster is back, and what still runs there is adopted.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

import structlog

from worker.contracts import Backend, Failed, FailureKind, Node, Place, Resources, Task, Update

__all__ = ["BackendProcess", "Unreachable"]

log = structlog.get_logger(__name__)


class Unreachable(ConnectionError):
    """What a backend stands for does not answer."""


@dataclass(slots=True)
class BackendProcess:
    """Passes every call on to a backend in a child process.

    While that cannot be reached nothing can be started. What was running is waited for, then given up as an outage.

    Attributes:
        make: Makes the backend, in the child; a function that can be pickled, with its arguments.
        place: Where it is, for a person.
        call_seconds: How long a call may take.
        start_seconds: How long the child may take to make the backend.
        outage_seconds: How long attempts are waited for when it cannot be reached.
        retry_seconds: Pause between two tries to reach it again.
        clock: Seconds that only grow.
    """

    make: Callable[[], Backend]
    place: str
    call_seconds: float = 10.0
    start_seconds: float = 40.0
    outage_seconds: float = 20.0
    retry_seconds: float = 2.0
    clock: Callable[[], float] = time.monotonic
    _child: BaseProcess | None = field(default=None, init=False)
    _pipe: Connection | None = field(default=None, init=False)
    _is_ready: bool = field(default=False, init=False)
    _started_at: float = field(default=0.0, init=False)
    _lost_at: float = field(default=0.0, init=False)
    _since: str = field(default="", init=False)
    _trouble: str | None = field(default=None, init=False)
    _term: int = field(default=0, init=False)
    _nodes: Sequence[Node] = field(default=(), init=False)
    _places: Mapping[str, Place] = field(default_factory=dict, init=False)
    _attempts: set[str] = field(default_factory=set, init=False)
    _stopping: set[str] = field(default_factory=set, init=False)
    _news: list[Update] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        """Waits until the backend is made.

        Raises:
            Unreachable: If it cannot be, or not in time.
        """
        atexit.register(self._end_child)  # else the interpreter would wait for it
        self._start_child()
        while not self._is_ready:
            assert self._pipe is not None
            self._pipe.poll(max(0.0, self._started_at + self.start_seconds - self.clock()))
            self._look_at_child()
            if self._trouble is not None:
                raise Unreachable(self._trouble)

    def adopt(self, term: int) -> Mapping[str, Resources]:
        """As the backend does; nothing while it cannot be reached, and what is found later is ended."""
        self._term = term
        self._forget_all()
        try:
            found: Mapping[str, Resources] = self._call("adopt", term, seconds=2 * self.call_seconds)
        except Unreachable:
            return {}
        self._attempts.update(found)
        return found

    def trouble(self) -> str | None:
        """Since when, and why, it cannot be reached."""
        return self._trouble

    def capacity(self) -> Resources:
        """As the backend says, or last said."""
        return Resources.together(node.total for node in self.nodes())

    def nodes(self) -> Sequence[Node]:
        """As the backend says, or last said."""
        with suppress(Unreachable):
            self._nodes = self._call("nodes")
        return self._nodes

    def places(self) -> Mapping[str, Place]:
        """As the backend says, or last said."""
        with suppress(Unreachable):
            self._places = self._call("places")
        return self._places

    def start(self, task: Task, resources: Resources, nodes: Sequence[str] = ()) -> None:
        """As the backend does.

        Raises:
            Unreachable: If it cannot be reached.
        """
        self._call("start", task, resources, nodes)
        self._attempts.add(task.attempt_id)

    def poll(self) -> Sequence[Update]:
        """As the backend does; while it cannot be reached, tries to reach it again."""
        if not self._is_ready:
            self._reach()
        if self._is_ready:
            try:
                updates: Sequence[Update] = self._call("poll")
                self._news.extend(updates)
            except Unreachable:
                pass
        elif self.clock() >= self._lost_at + self.outage_seconds:
            self._give_up(set(self._attempts))
        news, self._news = self._news, []
        return news

    def wait(self, seconds: float) -> None:
        """As the backend does, or sleeps."""
        try:
            self._call("wait", seconds, seconds=self.call_seconds + seconds)
        except Unreachable:
            time.sleep(seconds)

    def acknowledge(self, update: Update) -> None:
        """As the backend does. What it does not hear of now it tells again, and that changes nothing."""
        if update.outcome is not None:
            self._attempts.discard(update.attempt_id)
            self._stopping.discard(update.attempt_id)
        self._tell("acknowledge", update)

    def cancel(self, attempt_id: str) -> None:
        """As the backend does, or when it is reached again."""
        self._attempts.discard(attempt_id)
        self._tell("cancel", attempt_id)

    def stop(self, attempt_id: str) -> None:
        """As the backend does, or when it is reached again."""
        self._stopping.add(attempt_id)
        self._tell("stop", attempt_id)

    def release(self) -> None:
        """As the backend does."""
        self._forget_all()
        self._tell("release")

    def close(self) -> None:
        """As the backend does, and ends the child."""
        self._tell("close")
        self._end_child()
        atexit.unregister(self._end_child)

    def _forget_all(self) -> None:
        self._attempts.clear()
        self._stopping.clear()
        self._news.clear()

    def _give_up(self, attempts: set[str]) -> None:
        failed = Failed(FailureKind.OUTAGE, self._trouble or f"{self.place} has lost it")
        self._news.extend(Update(attempt_id, outcome=failed) for attempt_id in sorted(attempts))
        self._attempts -= attempts

    def _tell(self, name: str, *args: Any) -> None:
        with suppress(Unreachable):
            self._call(name, *args)

    def _call(self, name: str, *args: Any, seconds: float | None = None) -> Any:
        if not self._is_ready:
            raise Unreachable(self._trouble or f"{self.place} is not there yet")
        assert self._pipe is not None
        seconds = seconds or self.call_seconds
        try:
            self._pipe.send((name, args))
            if not self._pipe.poll(seconds):
                raise Unreachable(f"a call ({name}) was not answered within {seconds:g} s")
            kind, answer = self._pipe.recv()
        except (OSError, EOFError) as error:
            self._lose(str(error) or "its driver has ended")
            raise Unreachable(self._trouble) from error
        if kind == "error":
            raise RuntimeError(answer)
        return answer

    def _start_child(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._child = context.Process(target=_serve, args=(theirs, self.make), name="backend", daemon=True)
        self._child.start()
        theirs.close()
        self._started_at = self.clock()

    def _look_at_child(self) -> None:
        """Whether the child that was started has made the backend by now, or cannot."""
        assert self._pipe is not None
        if not self._pipe.poll(0):
            if self.clock() >= self._started_at + self.start_seconds:
                self._lose(f"it has let nobody in for {self.start_seconds:g} s")
            return
        try:
            kind, answer = self._pipe.recv()
        except (OSError, EOFError):
            kind, answer = "error", "its driver has ended"
        if kind == "error":
            self._lose(answer)
            return
        self._is_ready = True

    def _reach(self) -> None:
        """Goes a step on towards a backend that was lost."""
        if self._child is None:
            if self.clock() >= self._started_at + self.retry_seconds:
                self._start_child()
            return
        self._look_at_child()
        if not self._is_ready:
            return
        try:
            found: Mapping[str, Resources] = self._call("adopt", self._term, seconds=2 * self.call_seconds)
            for attempt_id in found.keys() - self._attempts:
                self._call("cancel", attempt_id)
            for attempt_id in self._stopping & found.keys():
                self._call("stop", attempt_id)
        except Unreachable:
            return
        except RuntimeError as error:
            self._lose(str(error))
            return
        self._give_up(self._attempts - found.keys())
        log.info("backend.reached", place=self.place, running=len(found))
        self._trouble = None

    def _lose(self, why: str) -> None:
        if self._trouble is None:
            self._lost_at = self.clock()
            self._since = f"{datetime.now(UTC):%H:%M:%S} UTC"
            log.warning("backend.lost", place=self.place, why=why)
        self._trouble = f"{self.place} has not answered since {self._since}: {why}"
        self._end_child()

    def _end_child(self) -> None:
        child, self._child, self._is_ready = self._child, None, False
        if child is not None and self._pipe is not None:
            child.kill()
            child.join()
            self._pipe.close()


def _serve(pipe: Connection, make: Callable[[], Backend]) -> None:
    """The child: answers calls until its parent closes the pipe or dies."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group, and is the parent's to answer
    threading.Thread(target=_end_with_parent, daemon=True).start()
    for name in [name for name in os.environ if name.startswith("MLFLOW_")]:  # credentials that are the parent's alone
        del os.environ[name]
    try:
        backend = make()
    except BaseException as error:  # the boundary: whatever the start runs into
        pipe.send(("error", _words(error)))
        return
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # likewise, from a service manager; Ray has set its own
    pipe.send(("value", None))
    while True:
        try:
            name, args = pipe.recv()
        except (EOFError, OSError):
            os._exit(0)
        try:
            answer = ("value", getattr(backend, name)(*args))
        except Exception as error:
            answer = ("error", _words(error))
        pipe.send(answer)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(0)


def _words(error: BaseException) -> str:
    """The beginning of an error, and the end of what caused it: Ray puts whole tracebacks into its messages."""
    first = str(error).strip().splitlines() or [type(error).__name__]
    last = str(error.__cause__ or "").strip().splitlines()
    return f"{first[0]} ({last[-1]})" if last else first[0]
