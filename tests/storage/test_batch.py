"""Many partitions, each a unit of work."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from threading import Event

import psutil
import pytest

from tests.storage import batch_work
from tspace_core.errors import StorageError
from tspace_core.storage.batch import BATCHES, run_batch
from tspace_core.storage.lake import Lake
from tspace_core.storage.unit_log import UNITS
from tspace_core.storage.unit_of_work import finish_units

MANY = [f"v1/2024-01-{day:02}" for day in range(1, 7)]


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(tmp_path / "lake")


@pytest.fixture(autouse=True)
def _root(lake: Lake) -> None:
    assert isinstance(lake.root, Path)
    lake.root.mkdir()


def results(lake: Lake) -> set[str]:
    return {path.name.removesuffix(".json") for path in (lake.root / "results").glob("*.json")}


def marks(lake: Lake) -> set[str]:
    return {json.loads(path.read_text())["partition"] for path in (lake.root / BATCHES / "b").glob("*.json")}


def metrics(lake: Lake) -> list[dict[str, object]]:
    return [json.loads(path.read_text())["values"] for path in (lake.root / "metrics" / "b").glob("*.json")]


def tries(lake: Lake, partition: str) -> int:
    return len((lake.root / "tries" / partition.replace("/", "_")).read_text().splitlines())


@pytest.mark.parametrize("workers", [1, 2])
def test_what_is_done_is_not_done_again_and_a_failed_partition_costs_only_itself(
    lake: Lake, workers: int
) -> None:
    told: list[str] = []
    wanted = ["bad", *MANY, MANY[0]]
    report = run_batch(lake, "b", wanted, batch_work.count, workers=workers, tell=told.append)
    assert sorted(report.done) == MANY
    assert (list(report.failed), report.skipped) == (["bad"], [])
    assert "no such drive" in report.failed["bad"]
    assert len(told) == 7
    assert any("bad failed" in line for line in told)
    assert results(lake) == {name.replace("/", "_") for name in MANY}
    assert marks(lake) == set(MANY)
    assert {item["partition"] for item in metrics(lake)} == set(MANY)
    if workers > 1:
        assert {item["threads"] for item in metrics(lake)} == {"1"}
    report = run_batch(lake, "b", wanted, batch_work.count, workers=workers)
    assert (report.done, report.skipped, list(report.failed)) == ([], MANY, ["bad"])
    assert [tries(lake, name) for name in MANY] == [1] * len(MANY)
    assert tries(lake, "bad") == 2
    report = run_batch(lake, "b", MANY[:2], batch_work.count, workers=workers, again=True)
    assert sorted(report.done) == MANY[:2]
    assert [tries(lake, name) for name in MANY] == [2, 2, 1, 1, 1, 1]


def test_a_worker_that_is_killed_costs_its_partition(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BATCH_DIES", "1")
    report = run_batch(lake, "b", [*MANY[:3], "dies", *MANY[3:]], batch_work.count, workers=2)
    assert sorted(report.done) == MANY
    assert report.failed == {"dies": "its process was killed by signal 9"}
    assert "dies" not in results(lake)
    monkeypatch.delenv("BATCH_DIES")
    report = run_batch(lake, "b", [*MANY, "dies"], batch_work.count, workers=2)
    assert (report.done, report.skipped, report.failed) == (["dies"], MANY, {})
    assert finish_units(lake) == []
    assert not [path for path in (lake.root / UNITS).iterdir() if path.is_dir()]


def is_waiting(pid: int) -> bool:
    """Whether a process sleeps in a system call."""
    return bool(psutil.Process(pid).status() == psutil.STATUS_SLEEPING)


BATCH = """
import sys
from pathlib import Path
from tests.storage import batch_work
from tspace_core.storage.batch import run_batch
from tspace_core.storage.lake import Lake

if __name__ == "__main__":
    names = ["a", "b", "waits 1", "waits 2", "c"]
    run_batch(
        Lake(Path(sys.argv[1])), "b", names, batch_work.count, workers=int(sys.argv[2]),
        tell=lambda line: print(line, flush=True),
    )
"""


@pytest.mark.parametrize(("how", "workers"), [(signal.SIGKILL, 2), (signal.SIGINT, 2), (signal.SIGINT, 1)])
def test_a_batch_that_was_stopped_in_the_middle_goes_on(
    lake: Lake, tmp_path: Path, how: signal.Signals, workers: int
) -> None:
    assert isinstance(lake.root, Path)
    fifo, script = lake.root / "go", tmp_path / "batch.py"
    os.mkfifo(fifo)
    script.write_text(BATCH)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    child = subprocess.Popen(
        [sys.executable, str(script), str(lake.root), str(workers)], env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    assert child.stdout is not None
    ended = [child.stdout.readline(), child.stdout.readline()]
    assert all(" done" in line for line in ended), ended
    # Both others are in the middle of their units, and wait for the fifo: so it is opened for writing as soon
    # as one of them reads it.
    begun, pause = [lake.root / f"waits {number}.waiting" for number in range(1, workers + 1)], Event()
    while not all(path.exists() for path in begun):
        assert child.poll() is None
        pause.wait(0.01)
    writer = os.open(fifo, os.O_WRONLY)
    for number in range(1, workers + 1):
        # Not before it waits: a signal as the system call begins is overlooked by Python.
        while not is_waiting(int((lake.root / "tries" / f"waits {number}").read_text())):
            pause.wait(0.01)
    child.send_signal(how)
    if how == signal.SIGKILL:
        child.wait(60)
        os.killpg(child.pid, signal.SIGKILL)  # their parent's end alone would let them end their partitions
    out, err = child.communicate(timeout=60)
    os.close(writer)
    assert child.returncode == -how, err
    if how == signal.SIGINT:
        assert "run it again to go on" in out
        assert [path for path in (lake.root / UNITS).iterdir() if path.is_dir()] == []
    assert marks(lake) == results(lake) == {"a", "b"}
    fifo.unlink()
    names = ["a", "b", "waits 1", "waits 2", "c"]
    report = run_batch(lake, "b", names, batch_work.count)
    assert (report.done, report.skipped, report.failed) == (names[2:], ["a", "b"], {})
    assert [tries(lake, name) for name in ("a", "b", "c")] == [1, 1, 1]
    assert len(metrics(lake)) == 5


def test_of_two_runs_of_one_batch_each_partition_is_stored_once(lake: Lake) -> None:
    def work(lake: Lake, partition: str, writer: object) -> dict[str, object]:
        if partition == MANY[0] and not marks(lake):
            from threading import Thread  # another run, meanwhile

            other = Thread(target=run_batch, args=(lake, "b", MANY, batch_work.count))
            other.start()
            other.join(60)
        return batch_work.count(lake, partition, writer)  # type: ignore[return-value, arg-type]

    report = run_batch(lake, "b", MANY, work)
    assert (report.done, report.skipped) == ([], MANY)
    assert len(metrics(lake)) == len(MANY)


def test_what_cannot_be_run_is_refused_first(lake: Lake) -> None:
    with pytest.raises(StorageError, match="one word"):
        run_batch(lake, "../b", MANY, batch_work.count)
    with pytest.raises(StorageError, match="at the top of a module"):
        run_batch(lake, "b", MANY, lambda *_: {}, workers=2)


def test_a_batch_in_a_bucket(s3_folder: str) -> None:
    lake = Lake(s3_folder)
    report = run_batch(lake, "b", ["one", "two"], batch_work.in_bucket, workers=2)
    assert sorted(report.done) == ["one", "two"]
    assert [(lake.root / "results" / name).read_text() for name in ("one", "two")] == ["one", "two"]
    assert run_batch(lake, "b", ["one", "two"], batch_work.in_bucket).skipped == ["one", "two"]
