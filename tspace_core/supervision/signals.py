"""SIGINT and SIGTERM as a reason to stop."""

import queue
import signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import FrameType

from tspace_core.supervision.supervisor import Supervisor

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def stop_on_signals(
    supervisor: Supervisor, signals: Iterable[signal.Signals] = STOP_SIGNALS
) -> Iterator[None]:
    """Within the block these signals stop the supervisor, with the signal's name as the cause.

    For the main thread only. The handlers that were there before are put back.
    """
    # A handler may interrupt the main thread while it holds any lock, also the supervisor's own. The one
    # thing that is safe there is SimpleQueue.put; a thread of its own then does the work.
    caught: queue.SimpleQueue[int | None] = queue.SimpleQueue()

    def handle(number: int, _: FrameType | None) -> None:
        caught.put(number)

    def watch() -> None:
        while (number := caught.get()) is not None:
            supervisor.stop(f"signal {signal.Signals(number).name}")

    before = {number: signal.signal(number, handle) for number in signals}
    watcher = threading.Thread(target=watch, name=f"{supervisor.name}/signals", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        caught.put(None)
        watcher.join(1.0)
