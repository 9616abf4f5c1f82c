"""What other processes do to a catalogue in tests; importable by spawned processes."""

import signal
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Condition, Event
from pathlib import Path
from threading import Event as LocalEvent
from typing import TYPE_CHECKING, Any

from tests.storage.replay_episodes import coded_episode
from tspace_core.config import load_vehicle
from tspace_core.storage import catalogue_build, catalogue_lock
from tspace_core.storage.catalogue import Catalogue
from tspace_core.storage.lake import Lake
from tspace_core.storage.online_episodes import OnlineCounts, online_key, store_online_episode

if TYPE_CHECKING:
    from multiprocessing.sharedctypes import Synchronized

BEGIN_NS = 1_767_600_000 * 10**9
LONGEST_S = 60.0
PIECES, RECORDS = 2, 5
INVARIANT = (
    "SELECT (SELECT refresh FROM about) AS refresh, (SELECT count(*) FROM episodes) AS episodes, "
    "(SELECT count(*) FROM losses) AS losses, (SELECT count(reward) FROM records) AS records"
)


def store(lake: Lake, number: int) -> str:
    """Store an online episode of 2 pieces of 5 records with one reason of loss; its key."""
    key = online_key("twin_truck", BEGIN_NS + number * 10**12, number)
    pieces = []
    for k in range(PIECES):
        piece = coded_episode(
            number * PIECES + k + 1, RECORDS, end_reason="end_valid", log_key=key, vehicle_id="twin_truck",
            episode_id=f"{key}#{k:04d}", action_source="agent", time_source="clock",
            signals=("velocity",), window=9,
        )  # fmt: skip
        pieces.append(replace(piece, times=piece.times + BEGIN_NS + number * 10**12 + k * 10**11))
    counts = OnlineCounts(lost_records={"REFUSED: rate": number + 1})
    store_online_episode(lake, load_vehicle("twin_truck"), key, pieces, counts=counts, training_log={})
    return key


def check(row: tuple[int, ...]) -> None:
    """Whether an answer is of one refresh."""
    _, episodes, losses, records = row
    assert (episodes, records) == (PIECES * losses, RECORDS * episodes), row


def read_in_loop(
    root: Path, path: Path, written: "Synchronized[int]", changed: Condition, stop: Event, say: Connection
) -> None:
    """Open, ask, wait for the next refresh, ask the same connection again; until it is over."""
    answers = 0
    store_ = Catalogue(path, Lake(root))
    try:
        while not stop.is_set():
            with store_.reading() as connection:
                first = connection.sql(INVARIANT).fetchall()
                check(first[0])
                _wait_for_the_next(written, changed, stop)
                assert connection.sql(INVARIANT).fetchall()[0][:3] == first[0][:3], "of the old one"
            check(store_.query(INVARIANT).row(0))
            answers += 3
        say.send(answers)
    except BaseException as error:
        say.send(repr(error))
        raise


def _wait_for_the_next(written: "Synchronized[int]", changed: Condition, stop: Event) -> None:
    with changed:
        seen = written.value
        changed.wait_for(lambda: written.value > seen or stop.is_set(), LONGEST_S)


def hold(path: Path, *, mode: str, ready: Event, go_on: Event, say: Connection) -> None:
    """What a person's shell does: open the file, ask, keep it open, ask again."""
    import duckdb

    if mode == "write":
        path.chmod(0o644)  # a person who insists
    with duckdb.connect(str(path), read_only=mode == "read") as connection:
        first = connection.sql("SELECT count(*) FROM episodes").fetchall()
        ready.set()
        go_on.wait(LONGEST_S)
        say.send((first, connection.sql("SELECT count(*) FROM episodes").fetchall()))


def refresh(root: Path, path: Path, say: Connection, begun: Event | None = None) -> None:
    """Refresh once and tell what came of it."""
    if begun is not None:
        begun.set()
    try:
        say.send(Catalogue(path, Lake(root)).refresh())
    except BaseException as error:
        say.send(error)


def stop_in_refresh(root: Path, path: Path, at: str, reached: Event) -> None:
    """Refresh, and stand still for ever at a point of it."""

    def stand(what: Callable[..., Any]) -> Callable[..., Any]:
        def stopped(*arguments: Any, **named: Any) -> Any:
            found = what(*arguments, **named)
            reached.set()
            LocalEvent().wait()
            return found

        return stopped

    if at == "chmod":
        Path.chmod = stand(Path.chmod)  # type: ignore[method-assign]
    else:
        setattr(catalogue_build, at, stand(getattr(catalogue_build, at)))
    Catalogue(path, Lake(root)).refresh()


def keep_locked(path: Path, ready: Event, go_on: Event) -> None:
    """Be the writer of a catalogue until told to end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with catalogue_lock.only_writer(path.with_name(f".{path.name}.lock"), "it", wait_s=LONGEST_S):
        ready.set()
        go_on.wait(LONGEST_S)
