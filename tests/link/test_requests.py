"""The spool: a request is there whole, once, in order, and settled once."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tspace_core.errors import LinkError
from tspace_core.link.requests import RequestOptions, Spool

WRITER = """
import sys
from pathlib import Path
from tspace_core.link.requests import RequestOptions, Spool
spool = Spool(Path(sys.argv[1]), "twin_truck")
while True:
    spool.write("hmi", "begin", RequestOptions())
    print("written", flush=True)
"""


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path, "twin_truck")


def test_what_is_written_is_pending_in_order(spool: Spool, tmp_path: Path) -> None:
    wanted = [spool.write("command", "start", RequestOptions(episodes=n)) for n in (1, 2, 3)]
    assert Spool(tmp_path, "twin_truck").pending() == wanted


def test_vehicles_have_spools_of_their_own(spool: Spool, tmp_path: Path) -> None:
    spool.write("hmi", "begin", RequestOptions())
    assert Spool(tmp_path, "twin_mule").pending() == []


def test_a_request_is_settled_once_and_kept_with_its_outcome(spool: Spool) -> None:
    request = spool.write("hmi", "begin", RequestOptions())
    spool.finish(request, "done by run 1")
    spool.finish(request, "done by run 2")
    assert spool.pending() == []
    assert [found.outcome for found in spool.done()] == ["done by run 1"]


def test_withdrawing_settles_all_that_wait(spool: Spool) -> None:
    for _ in range(3):
        spool.write("hmi", "begin", RequestOptions())
    assert len(spool.withdraw("the HMI said exit")) == 3
    assert {found.outcome for found in spool.done()} == {"withdrawn: the HMI said exit"}


def test_a_damaged_file_is_set_aside_and_costs_only_itself(spool: Spool) -> None:
    request = spool.write("hmi", "begin", RequestOptions())
    folder = spool.folder / "requests" / "pending"
    (folder / "00000000000000000000-aaaaaaaa.json").write_text('{"id": 3')
    assert spool.pending() == [request]
    assert [path.name for path in folder.glob("*.damaged")] == ["00000000000000000000-aaaaaaaa.damaged"]


def test_a_folder_that_cannot_be_written_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "twin_truck").write_text("a file where the folder should be")
    with pytest.raises(LinkError, match="the request of twin_truck could not be stored"):
        Spool(tmp_path, "twin_truck").write("hmi", "begin", RequestOptions())


def test_a_killed_writer_leaves_whole_requests_only(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    for _ in range(20):
        assert process.stdout.readline() == "written\n"
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    spool = Spool(tmp_path, "twin_truck")
    assert len(spool.pending()) >= 20
    assert not list((spool.folder / "requests" / "pending").glob("*.damaged"))
