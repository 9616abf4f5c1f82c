"""When a vehicle was in an online run: what its telematics box uploaded then is no raw log.

One JSON object a run in the lake, ``online_runs/vehicle=<id>/<begun, ns>-<run id>.json``. A run that goes on
says so by ``touch_run``, at least once a minute. A run that was never closed (its process died) ends
``GRACE_S`` after it last said so, at the latest when the vehicle's next run begins; so a dead run swallows no
later drives.
"""

import json
import re
from dataclasses import dataclass, replace

from tspace_core.errors import StorageError
from tspace_core.objects.path import AnyPath
from tspace_core.storage.files import write_text
from tspace_core.storage.lake import Lake, read_json

GRACE_S = 180.0
"""How long after its last sign of life an unclosed run is taken to have lasted."""
_SAFE = re.compile(r"[\w.\-]{1,100}")
_DIGITS = 20


@dataclass(frozen=True, order=True)
class OnlineRun:
    """An online run of one vehicle; instants in ns UTC.

    Attributes:
        begun_ns: before the first window that the run used.
        run_id: unique for the vehicle.
        seen_ns: last sign of life.
        ended_ns: when it was closed; None where it was not.
    """

    begun_ns: int
    run_id: str
    seen_ns: int
    ended_ns: int | None = None

    def until_ns(self, next_begun_ns: int | None = None) -> int:
        """When it ended, as far as is known; ``next_begun_ns`` is the begin of the vehicle's next run."""
        if self.ended_ns is not None:
            return self.ended_ns
        presumed = self.seen_ns + round(GRACE_S * 1e9)
        return presumed if next_begun_ns is None else min(presumed, next_begun_ns)


def open_run(lake: Lake, vehicle_id: str, run_id: str, begun_ns: int) -> OnlineRun:
    """Note that a run begins: before anything of it uses a window.

    Args:
        lake: of the vehicle.
        vehicle_id: which vehicle.
        run_id: letters, digits, ``_ . -``, at most 100.
        begun_ns: now, ns UTC.

    Raises:
        StorageError: the run's id has another form, or the lake cannot be written.
    """
    run = OnlineRun(begun_ns, run_id, begun_ns)
    _write(lake, vehicle_id, run)
    return run


def touch_run(lake: Lake, vehicle_id: str, run: OnlineRun, now_ns: int) -> OnlineRun:
    """Note that a run goes on; to be called at least once a minute."""
    seen = replace(run, seen_ns=max(run.seen_ns, now_ns))
    _write(lake, vehicle_id, seen)
    return seen


def close_run(lake: Lake, vehicle_id: str, run: OnlineRun, ended_ns: int) -> OnlineRun:
    """Note that a run is over: the windows that it used began before ``ended_ns``."""
    closed = replace(run, seen_ns=max(run.seen_ns, ended_ns), ended_ns=max(run.begun_ns, ended_ns))
    _write(lake, vehicle_id, closed)
    return closed


def runs_between(lake: Lake, vehicle_id: str, begin_ns: int, end_ns: int) -> list[tuple[int, int]]:
    """Return begin and end (ns UTC) of the vehicle's runs that touch the time from begin to end, in order."""
    folder = _folder(lake, vehicle_id)
    if not folder.is_dir():
        return []
    begun = sorted((int(path.name[:_DIGITS]), path) for path in folder.iterdir() if _is_run(path.name))
    spans = []
    for number, (start, path) in enumerate(begun):
        following = begun[number + 1][0] if number + 1 < len(begun) else None
        # What began later cannot touch; what was followed by a run before the span cannot either.
        if start > end_ns or (following is not None and following < begin_ns):
            continue
        run = _read(path)
        until = run.until_ns(following)
        if until >= begin_ns:
            spans.append((run.begun_ns, until))
    return spans


def _folder(lake: Lake, vehicle_id: str) -> AnyPath:
    return lake.root / "online_runs" / f"vehicle={vehicle_id}"


def _is_run(name: str) -> bool:
    return name.endswith(".json") and not name.startswith(".") and name[:_DIGITS].isdigit()


def _write(lake: Lake, vehicle_id: str, run: OnlineRun) -> None:
    if not _SAFE.fullmatch(run.run_id):
        message = f"run id {run.run_id!r} must be letters, digits, `_`, `.` or `-`, at most 100"
        raise StorageError(message)
    content = {
        "vehicle": vehicle_id,
        "run_id": run.run_id,
        "begun_ns": run.begun_ns,
        "seen_ns": run.seen_ns,
        "ended_ns": run.ended_ns,
    }
    name = f"{run.begun_ns:0{_DIGITS}d}-{run.run_id}.json"
    write_text(_folder(lake, vehicle_id) / name, json.dumps(content))


def _read(path: AnyPath) -> OnlineRun:
    content = read_json(path)
    try:
        ended = content["ended_ns"]
        return OnlineRun(
            int(content["begun_ns"]),
            str(content["run_id"]),
            int(content["seen_ns"]),
            None if ended is None else int(ended),
        )
    except (KeyError, TypeError, ValueError) as error:
        message = f"{path} is no online run ({error!r}): delete it, then its windows count as driven offline"
        raise StorageError(message) from error
