"""Terminate, heard by a step that waits.

Terminate reaches a step as SIGINT, for which Dagster has set a handler. Polars, imported after that,
hooks the signal so that system calls are restarted: a main thread that waits for a lock without a time-out is
not woken, and the handler is never called.
"""

import signal
import threading


def hear_interrupts() -> None:
    """Import polars now, and put the handlers of the main thread back in front of its hook."""
    import polars  # noqa: F401 - a later import would hook the signals again

    if threading.current_thread() is not threading.main_thread():
        return
    for number in (signal.SIGINT, signal.SIGTERM):
        handler = signal.getsignal(number)
        if handler is not None:
            signal.signal(number, handler)
