"""Terminate is heard by a step that imports what it needs when it runs."""

import signal
import subprocess
import sys

WAITS = """
import threading
from dagster._utils.interrupts import capture_interrupts, raise_interrupts_as
from tspace_pipelines.interrupts import hear_interrupts

class Terminated(BaseException):
    pass

with capture_interrupts(), raise_interrupts_as(Terminated):
    try:
        hear_interrupts()
        import polars
        polars.DataFrame({"a": [1, 2]}).lazy().filter(polars.col("a") > 1).collect()
        print("waiting", flush=True)
        threading.Event().wait()
    except Terminated:
        print("heard", flush=True)
"""


def test_a_step_that_waits_hears_it() -> None:
    with subprocess.Popen([sys.executable, "-c", WAITS], stdout=subprocess.PIPE, text=True) as step:
        assert step.stdout is not None
        assert step.stdout.readline() == "waiting\n"
        step.send_signal(signal.SIGINT)
        try:
            told, _ = step.communicate(timeout=60)
        finally:
            step.kill()
        assert told == "heard\n"
