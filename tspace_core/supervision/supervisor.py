"""The one place that starts, watches and stops the threads of a process."""

import logging
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

_log = logging.getLogger(__name__)


def describe(error: BaseException) -> str:
    """Say what an exception is about in one line, also where it has no message or only a bare key."""
    text = " ".join(str(error).split())
    if not text or isinstance(error, LookupError | SystemExit | KeyboardInterrupt):
        return f"{type(error).__name__}: {text}" if text else type(error).__name__
    return text


class Supervisor:
    """Runs named tasks, each in a thread; the first reason to stop stops all of them.

    A task that returns is done and the others go on. A task that raises, whatever it is, stops all. Tasks see
    ``stopping`` or are woken by what was registered with ``on_stop``. As a context manager it stops and joins
    all tasks when it is left, also by a BaseException raised from a signal handler.

    Attributes:
        stopping: set once, when stopping begins.
        cause: why it stopped; the first cause is kept.
        error: what a task crashed with, if that was the first cause.
        errors: what each task crashed with, by its name, also those that did while stopping.
        unfinished: names of tasks that had not ended at the last ``join``.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.stopping = threading.Event()
        self.cause: str | None = None
        self.error: BaseException | None = None
        self.errors: dict[str, BaseException] = {}
        self.unfinished: list[str] = []
        self._lock = threading.Lock()
        self._tasks: dict[str, threading.Thread] = {}
        self._actions: list[tuple[str, Callable[[], None]]] = []
        # Actions run in a thread of their own, so that ``stop`` never waits for one that blocks.
        self._stopper: threading.Thread | None = None

    def start(self, name: str, target: Callable[[], None]) -> bool:
        """Run ``target`` in a thread of that name; False: stopping has begun and nothing is started any more.

        Raises:
            ValueError: a task of that name is running.
        """
        with self._lock:
            if self.stopping.is_set():
                _log.info("%s: %s is not started, it is stopping: %s", self.name, name, self.cause)
                return False
            running = self._tasks.get(name)
            if running is not None and running.is_alive():
                message = f"{self.name}: a task named {name!r} is running already, give this one another name"
                raise ValueError(message)
            self._ensure_stopper()
            thread = threading.Thread(
                target=self._run, args=(name, target), name=f"{self.name}/{name}", daemon=True
            )
            thread.start()
            self._tasks[name] = thread
            return True

    def on_stop(self, name: str, action: Callable[[], None]) -> None:
        """Run ``action`` once when stopping begins, the last registered first; at once if it has begun."""
        with self._lock:
            if not self.stopping.is_set():
                self._actions.append((name, action))
                self._ensure_stopper()
                return
        self._act(name, action)

    def stop(self, cause: str) -> None:
        """Begin to stop; never blocks, from any thread. The first cause is kept.

        A signal handler uses ``stop_on_signals`` instead: it may run in the middle of this very method.
        """
        self._stop(cause, None)

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until stopping begins; signal handlers run meanwhile. Return whether it has begun."""
        return self.stopping.wait(timeout_s)

    def join(self, timeout_s: float = 5.0) -> list[str]:
        """Wait for all tasks to end, for ``timeout_s`` altogether; return the names of those that did not."""
        deadline = time.monotonic() + timeout_s
        with self._lock:
            threads = dict(self._tasks)
            if self._stopper is not None and self.stopping.is_set():
                threads["stop actions"] = self._stopper
        me = threading.current_thread()
        for thread in threads.values():
            if thread is not me:
                thread.join(max(deadline - time.monotonic(), 0.0))
        self.unfinished = [name for name, thread in threads.items() if thread is not me and thread.is_alive()]
        if self.unfinished:
            _log.error("%s: did not end within %g s: %s", self.name, timeout_s, ", ".join(self.unfinished))
        return list(self.unfinished)

    def alive(self) -> list[str]:
        """Names of the tasks that are running."""
        with self._lock:
            return [name for name, thread in self._tasks.items() if thread.is_alive()]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop("finished" if error is None else describe(error))
        self.join()

    def _ensure_stopper(self) -> None:
        if self._stopper is None:
            self._stopper = threading.Thread(
                target=self._run_actions, name=f"{self.name}/stop actions", daemon=True
            )
            self._stopper.start()

    def _stop(self, cause: str, error: BaseException | None) -> None:
        with self._lock:
            if not self.stopping.is_set():
                self.cause, self.error = cause, error
                self.stopping.set()
                _log.info("%s: stopping: %s", self.name, cause)

    def _run(self, name: str, target: Callable[[], None]) -> None:
        try:
            target()
        except BaseException as error:
            self.errors[name] = error
            if self.stopping.is_set():
                _log.warning("%s: task %s ended while stopping: %s", self.name, name, describe(error))
            else:
                _log.exception("%s: task %s crashed", self.name, name)
            self._stop(f"{name}: {describe(error)}", error)

    def _run_actions(self) -> None:
        self.stopping.wait()
        with self._lock:
            actions, self._actions = self._actions, []
        for name, action in reversed(actions):
            self._act(name, action)

    def _act(self, name: str, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception:
            _log.exception("%s: stop action %s failed", self.name, name)
