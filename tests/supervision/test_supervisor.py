"""The supervisor: the first cause is kept, all tasks end, nothing hangs."""

import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from types import FrameType

import pytest

from tspace_core.supervision import Pipeline, PipelineClosed, Supervisor, stop_on_signals

LONG_S = 30.0


class Interrupted(BaseException):
    """What Dagster raises in the main thread on Terminate: no Exception."""


def crash(error: BaseException) -> Callable[[], None]:
    def run() -> None:
        raise error

    return run


def test_a_crash_stops_all_with_its_name_and_message() -> None:
    error = RuntimeError("no such luck")
    with Supervisor("test") as supervisor:
        supervisor.start("patient", lambda: none(supervisor.stopping.wait()))
        supervisor.start("worker", crash(error))
        assert supervisor.wait(LONG_S)
    assert supervisor.cause == "worker: no such luck"
    assert supervisor.error is error
    assert supervisor.unfinished == []
    assert supervisor.alive() == []


def none(_: object) -> None:
    """Make a callable of no result out of one with a result."""


@pytest.mark.parametrize(
    ("error", "text"),
    [(KeyError("x"), "KeyError: 'x'"), (SystemExit(2), "SystemExit: 2"), (OSError(), "OSError")],
)
def test_a_crash_without_a_sentence_names_its_type(error: BaseException, text: str) -> None:
    """Also SystemExit: a CAN library may raise it, and a thread would end by it in silence."""
    with Supervisor("test") as supervisor:
        supervisor.start("worker", crash(error))
        assert supervisor.wait(LONG_S)
    assert supervisor.cause == f"worker: {text}"


def test_the_first_cause_is_kept_whatever_comes_after() -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    for _ in range(20):
        gate = threading.Barrier(6)
        with Supervisor("test") as supervisor:
            errors = [RuntimeError(f"reason {number}") for number in range(5)]

            def task(error: RuntimeError, gate: threading.Barrier = gate) -> Callable[[], None]:
                def run() -> None:
                    gate.wait(LONG_S)
                    raise error

                return run

            for number in rng.sample(range(5), 5):
                supervisor.start(f"task {number}", task(errors[number]))
            gate.wait(LONG_S)
            assert supervisor.wait(LONG_S)
            first, error = supervisor.cause, supervisor.error
        assert isinstance(error, RuntimeError)
        number = errors.index(error)
        assert supervisor.cause == first == f"task {number}: reason {number}"
        supervisor.stop("something else")
        assert supervisor.cause == first


def test_a_task_that_returns_leaves_the_others_running() -> None:
    with Supervisor("test") as supervisor:
        ended = threading.Event()
        supervisor.start("patient", lambda: none(supervisor.stopping.wait()))
        supervisor.start("short", ended.set)
        assert ended.wait(LONG_S)
        assert not supervisor.wait(0.05)
        supervisor._tasks["short"].join(LONG_S)  # the event is not the thread's last act
        assert supervisor.alive() == ["patient"]
    assert supervisor.cause == "finished"


def test_stop_actions_run_once_in_reverse_order_and_a_failing_one_spares_the_rest() -> None:
    ran: list[str] = []
    with Supervisor("test") as supervisor:
        supervisor.on_stop("first", lambda: ran.append("first"))
        supervisor.on_stop("broken", crash(RuntimeError("socket is gone")))
        supervisor.on_stop("last", lambda: ran.append("last"))
        supervisor.stop("enough")
        supervisor.stop("again")
        assert supervisor.join(LONG_S) == []
        assert ran == ["last", "first"]
        supervisor.on_stop("late", lambda: ran.append("late"))
    assert ran == ["last", "first", "late"]


def test_a_stop_action_wakes_a_task_that_waits_on_a_queue() -> None:
    pipeline: Pipeline[int] = Pipeline("test", 1)

    def task() -> None:
        with pytest.raises(PipelineClosed):
            pipeline.get()

    with Supervisor("test") as supervisor:
        supervisor.on_stop("close", pipeline.close)
        supervisor.start("getter", task)
    assert supervisor.unfinished == []
    assert supervisor.error is None


def test_stop_does_not_wait_for_a_stop_action_that_blocks() -> None:
    gate = threading.Event()
    with Supervisor("test") as supervisor:
        supervisor.on_stop("stuck", lambda: none(gate.wait(LONG_S)))
        supervisor.stop("enough")
        assert supervisor.join(0.05) == ["stop actions"]
        gate.set()
        assert supervisor.join(LONG_S) == []


def test_join_names_the_tasks_that_did_not_end_instead_of_hanging() -> None:
    gate = threading.Event()
    supervisor = Supervisor("test")
    supervisor.start("deaf", lambda: none(gate.wait(LONG_S)))
    supervisor.start("good", lambda: none(supervisor.stopping.wait()))
    supervisor.stop("enough")
    assert supervisor.join(2.0) == ["deaf"]  # time enough for the other one to end on any machine
    gate.set()
    assert supervisor.join(LONG_S) == []


def test_once_stopping_nothing_is_started_and_a_running_name_is_not_taken_twice() -> None:
    ran: list[str] = []
    with Supervisor("test") as supervisor:
        assert supervisor.start("one", lambda: none(supervisor.stopping.wait()))
        with pytest.raises(ValueError, match="'one' is running already"):
            supervisor.start("one", lambda: None)
        supervisor.stop("enough")
        assert not supervisor.start("late", lambda: ran.append("late"))
    assert ran == []


def test_a_task_may_join_and_stop_its_own_supervisor() -> None:
    with Supervisor("test") as supervisor:
        ended = threading.Event()

        def task() -> None:
            supervisor.stop("from within")
            assert supervisor.join(LONG_S) == []
            ended.set()

        supervisor.start("task", task)
        assert ended.wait(LONG_S)
    assert supervisor.cause == "from within"


def test_a_base_exception_from_a_signal_handler_breaks_the_wait_and_everything_is_joined() -> None:
    """Dagster's Terminate raises a BaseException in the main thread from its signal handler."""

    def handler(number: int, frame: FrameType | None) -> None:
        raise Interrupted("terminated in the UI")

    before = signal.signal(signal.SIGUSR1, handler)
    closed: list[str] = []
    supervisor = Supervisor("test")
    try:
        with pytest.raises(Interrupted), supervisor:
            supervisor.on_stop("close", lambda: closed.append("closed"))
            supervisor.start("patient", lambda: none(supervisor.stopping.wait()))
            supervisor.start("killer", lambda: os.kill(os.getpid(), signal.SIGUSR1))
            supervisor.wait()
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert supervisor.cause == "terminated in the UI"
    assert closed == ["closed"]
    assert supervisor.alive() == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_stop_it_and_the_old_handlers_come_back(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with Supervisor("test") as supervisor, stop_on_signals(supervisor):
        supervisor.start("killer", lambda: os.kill(os.getpid(), number))
        assert supervisor.wait(LONG_S)
    assert supervisor.cause == f"signal {number.name}"
    assert signal.getsignal(number) is before


def test_signals_in_a_storm_never_block_the_main_thread() -> None:
    """A handler may run in the middle of stop() itself."""
    with Supervisor("test") as supervisor, stop_on_signals(supervisor):
        main = threading.main_thread().ident
        assert main is not None

        def storm() -> None:
            for _ in range(200):
                signal.pthread_kill(main, signal.SIGINT)

        supervisor.start("storm", storm)
        for number in range(2000):
            supervisor.stop(f"stop {number}")
        assert supervisor.wait(LONG_S)
        assert supervisor.join(LONG_S) == []


def test_a_process_whose_task_never_ends_still_ends_and_names_it() -> None:
    code = (
        "import threading, logging\n"
        "logging.basicConfig()\n"
        "from tspace_core.supervision import Supervisor\n"
        "supervisor = Supervisor('test')\n"
        "supervisor.start('deaf', threading.Event().wait)\n"
        "supervisor.stop('enough')\n"
        "print(supervisor.join(2.0))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "['deaf']"
    assert "deaf" in done.stderr


def test_what_crashes_while_stopping_is_kept_beside_the_first_cause() -> None:
    with Supervisor("run") as supervisor:

        def late() -> None:
            supervisor.stopping.wait(10.0)
            message = "the disk is full"
            raise OSError(message)

        supervisor.start("keeper", late)
        supervisor.stop("HMI: exit")
    assert (supervisor.cause, supervisor.error) == ("HMI: exit", None)
    assert str(supervisor.errors["keeper"]) == "the disk is full"
