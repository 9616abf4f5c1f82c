"""Raw logs from what telematics boxes uploaded outside online runs.

Boxes write ``<box_url>/<vin>/<yyyy>/<mm>/<dd>/<HHMMSSfff>.json``. ``BoxCollector.collect`` looks for new
windows of all vehicles with a box, fetches them, and writes each drive that is over as a raw log of the lake,
``raw/<vehicle>/<date>/box-<HHMMSS>.windows.jsonl.gz``; from there on the stages take it as any other log.

Per vin, keys are listed from a cursor on; keys uploaded late, under a name before it, are found by looking
back ``Rules.look_back_s`` at some vehicles in turn. A window that an online run used is left out: the run
stores its own episodes. What cannot be used goes to the quarantine with the reason and holds nothing up. One
collector at a time works on a spool; one machine must do so for a lake.
"""

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from tspace_core.config import Vehicle, load_vehicle, settings, vehicle_ids
from tspace_core.errors import (
    ConfigError,
    ObjectAccessError,
    ObjectError,
    ObjectServerError,
    WriterBusyError,
)
from tspace_core.objects.path import S3Path, any_path
from tspace_core.objects.store import ObjectInfo
from tspace_core.storage.box_drives import outside, over, split
from tspace_core.storage.box_keys import FARTHEST_ZONE, is_after, time_of
from tspace_core.storage.box_vehicle import BoxVehicle
from tspace_core.storage.lake import Lake, RawLog
from tspace_core.storage.online_runs import runs_between
from tspace_core.storage.only_one import only_one


@dataclass(frozen=True, slots=True)
class Rules:
    """Bounds of one look.

    Attributes:
        keys: keys listed of a vehicle in a look, at most; 1000 cost one request.
        look_back_s: how late a window may be uploaded, s; an hour and what a clock set back needs.
        quiet_s: a drive is over when nothing has been uploaded for this long, s.
        look_back_requests: list requests a look spends on looking back.
        threads: objects fetched at once.
        budget_s: nothing more is fetched or sealed after this time, s; the next look goes on.
    """

    keys: int = 1000
    look_back_s: float = 3900.0
    quiet_s: float = 60.0
    look_back_requests: int = 20
    threads: int = 8
    budget_s: float = 20.0


@dataclass
class Collected:
    """What one look brought.

    Attributes:
        logs: raw logs that were sealed.
        earlier: keys of the newest logs that were there already, once for each vehicle.
        windows: windows fetched.
        bytes: their size.
        left_out: windows of online runs.
        refused: address of what cannot be used, and why; each is told once.
        waiting: windows whose drive is not over.
        behind: vehicles with windows that there was no time for.
    """

    logs: list[RawLog] = field(default_factory=list)
    earlier: list[str] = field(default_factory=list)
    windows: int = 0
    bytes: int = 0
    left_out: int = 0
    refused: dict[str, str] = field(default_factory=dict)
    waiting: int = 0
    behind: list[str] = field(default_factory=list)


def vehicles_with_box() -> list[Vehicle]:
    """All vehicles of conf/vehicles that have a telematics box.

    Raises:
        ConfigError: two of them have the same vin.
    """
    found = [vehicle for vehicle in map(load_vehicle, vehicle_ids()) if vehicle.remote is not None]
    by_vin: dict[str, str] = {}
    for vehicle in found:
        other = by_vin.setdefault(vehicle.vin, vehicle.id)
        if other != vehicle.id:
            message = (
                f"vehicles {other} and {vehicle.id} have the same vin {vehicle.vin}: correct one of them"
            )
            raise ConfigError(message)
    return found


class BoxCollector:
    """Collects the windows of all boxes; keeps between looks what it knows, and finds it again after a crash.

    Args:
        lake: where raw logs go.
        box: folder of the vins; by default that of ``settings().box_url``.
        vehicles: whose boxes; by default ``vehicles_with_box()``.
        spool: folder on this machine; by default below the data folder.
        rules: bounds of a look.
        now_ns: clock, ns UTC.

    Raises:
        ConfigError: no box_url is set, or two vehicles have the same vin.
    """

    def __init__(
        self,
        lake: Lake,
        box: S3Path | None = None,
        vehicles: Sequence[Vehicle] | None = None,
        *,
        spool: Path | None = None,
        rules: Rules | None = None,
        now_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self.rules = rules or Rules()
        self._lake, self._now_ns = lake, now_ns
        self._box = box if box is not None else _box()
        self._store = self._box.store
        self._prefix = f"{self._box.key}/" if self._box.key else ""
        self._spool = spool or lake.local / "box"
        chosen = vehicles_with_box() if vehicles is None else vehicles
        self._vehicles = {vehicle.vin: vehicle for vehicle in chosen}
        self._known: dict[str, BoxVehicle] = {}
        self._unknown_vins: set[str] = set()
        self._turn = 0
        self._untold = Collected()

    def collect(self) -> Collected:
        """Look once: fetch what is new, seal what is over.

        Raises:
            ObjectError: the bucket cannot be listed.
            StorageError: the lake cannot be written, or another collector is at work.
        """
        deadline = time.monotonic() + self.rules.budget_s
        # Logs of a look that broke off are told by the next one.
        found = Collected(logs=self._untold.logs, earlier=self._untold.earlier)
        with only_one(self._spool / "lock", _busy), ThreadPoolExecutor(self.rules.threads) as pool:
            self._meet(found, pool)
            order = self._in_turn()
            for one, infos in zip(order, pool.map(self._list, order), strict=True):
                self._sort_out(one, infos, found)
                self._advance(one, infos)
            back = order[: self.rules.look_back_requests]
            for one, late in zip(back, pool.map(self._list_back, back), strict=True):
                self._sort_out(one, late, found)
            self._turn += len(back)
            self._fetch(order, found, pool, deadline)
            for one in order:
                self._seal(one, found, deadline)
                one.follow()
        found.waiting = sum(len(one.waiting) for one in self._known.values())
        found.behind = sorted(
            one.vehicle.id for one in self._known.values() if one.todo or not one.all_listed
        )
        self._untold = Collected()
        return found

    def _meet(self, found: Collected, pool: ThreadPoolExecutor) -> None:
        """Begin with vehicles whose vin has come up; name vins that are nobody's once."""
        new = []
        for folder in self._store.folders(self._prefix):
            vin = folder.removeprefix(self._prefix).rstrip("/")
            if vin in self._vehicles:
                if vin not in self._known:
                    new.append(vin)
            elif vin not in self._unknown_vins:
                self._unknown_vins.add(vin)
                found.refused[f"{self._box}/{vin}"] = (
                    f"no vehicle with a telematics box has vin {vin!r}: add it to conf/vehicles, with "
                    "`remote:`, and start again"
                )
        for vin, one in zip(new, pool.map(self._begin, new), strict=True):
            self._known[vin] = one
            found.earlier += one.earlier

    def _begin(self, vin: str) -> BoxVehicle:
        source = f"{self._box}/{vin}/"
        return BoxVehicle(
            self._lake,
            self._vehicles[vin],
            self._spool,
            source,
            look_back_s=self.rules.look_back_s,
            quiet_s=self.rules.quiet_s,
        )

    def _in_turn(self) -> list[BoxVehicle]:
        """All vehicles, another one first each time: a short budget holds none up for ever."""
        order = [self._known[vin] for vin in sorted(self._known)]
        start = self._turn % max(1, len(order))
        return order[start:] + order[:start]

    def _folder(self, one: BoxVehicle) -> str:
        return f"{self._prefix}{one.vehicle.vin}/"

    def _list(self, one: BoxVehicle) -> list[ObjectInfo]:
        folder = self._folder(one)
        return list(self._store.list(folder, after=folder + one.seen_to, limit=self.rules.keys))

    def _advance(self, one: BoxVehicle, infos: list[ObjectInfo]) -> None:
        one.all_listed = len(infos) < self.rules.keys
        folder, now_ns = self._folder(one), self._now_ns()
        # A key of another form, or of a clock that is set wrongly, must not carry the cursor away: what comes
        # after now (a zone's clock may) carries it only once its content has proved usable.
        names = [info.key.removeprefix(folder) for info in infos]
        past = [name for name in names if time_of(name) is not None and not is_after(name, now_ns)]
        one.seen_to = max(past, default=one.seen_to)

    def _list_back(self, one: BoxVehicle) -> list[ObjectInfo]:
        if not one.seen_to:
            return []
        folder = self._folder(one)
        after, until = folder + one.look_back_from(), folder + one.seen_to
        found = []
        for info in self._store.list(folder, after=after):
            if info.key > until:
                break
            found.append(info)
        return found

    def _sort_out(self, one: BoxVehicle, infos: list[ObjectInfo], found: Collected) -> None:
        """What of a listing is to be fetched, and what is refused without."""
        folder, now_ns = self._folder(one), self._now_ns()
        limit = one.vehicle.remote.answer_bytes if one.vehicle.remote else 0
        for info in infos:
            name = info.key.removeprefix(folder)
            if time_of(name) is None:
                if name not in one.foreign and not name.endswith("/"):
                    one.foreign.add(name)
                    reason = "its name is not <yyyy>/<mm>/<dd>/<HHMMSSfff>.json: it is no window and is left"
                    found.refused[self._url(info)] = reason
            elif not one.is_new(name, info.etag):
                continue
            elif info.size > limit:
                reason = f"it has {info.size} bytes, at most {limit} are read (remote.answer_bytes)"
                self._refuse(one, info, b"", reason, found)
            elif is_after(name, now_ns, FARTHEST_ZONE):
                self._refuse(one, info, b"", "its name lies in the future: correct the box's clock", found)
            else:
                one.todo[name] = info

    def _fetch(
        self, order: list[BoxVehicle], found: Collected, pool: ThreadPoolExecutor, deadline: float
    ) -> None:
        # A piece of each vehicle in turn, so that one with a long backlog holds up no other.
        step = max(16, 2 * self.rules.threads)
        while time.monotonic() < deadline:
            piece = [(one, name) for one in order for name in sorted(one.todo)[:step]]
            if not piece:
                return
            for start in range(0, len(piece), 256):
                if time.monotonic() > deadline:
                    return
                part = piece[start : start + 256]
                bodies = pool.map(lambda item: self._get(item[0].todo[item[1]]), part)
                for (one, name), body in zip(part, bodies, strict=True):
                    self._took(one, name, body, found)

    def _get(self, info: ObjectInfo) -> bytes | ObjectError:
        try:
            return self._store.get(info.key, limit=info.size)
        except ObjectError as error:
            return error

    def _took(self, one: BoxVehicle, name: str, body: bytes | ObjectError, found: Collected) -> None:
        info = one.todo[name]
        if isinstance(body, ObjectAccessError | ObjectServerError):
            raise body  # nothing is wrong with the window: it is tried again at the next look
        del one.todo[name]
        if isinstance(body, ObjectError):
            return  # gone, or replaced since it was listed: looking back finds what is there now
        reason = one.take(name, info, body)
        found.windows += 1
        found.bytes += len(body)
        if reason:
            self._refuse(one, info, body, reason, found)
        else:
            one.seen_to = max(one.seen_to, name)

    def _seal(self, one: BoxVehicle, found: Collected, deadline: float) -> None:
        rules = one.rules
        all_listed = one.all_listed and not one.todo
        # What is not fetched yet may belong in between: sealing waits for it.
        if one.todo:
            return
        for drive in over(one.waiting.values(), rules, self._now_ns(), all_listed=all_listed):
            if time.monotonic() > deadline:
                return
            begin, end = drive[0].start_ns, max(window.end_ns for window in drive)
            spans = runs_between(self._lake, one.vehicle.id, begin, end)
            kept, left = outside(drive, spans)
            found.left_out += len(left)
            one.settle([window.key for window in left], [window.etag for window in left])
            for part in split(kept, rules):
                try:
                    found.logs.append(one.seal(part))
                except BaseException:
                    # It may be in the lake although the answer was lost: the next look begins from there.
                    del self._known[one.vehicle.vin]
                    raise

    def _refuse(self, one: BoxVehicle, info: ObjectInfo, body: bytes, reason: str, found: Collected) -> None:
        url = self._url(info)
        name = info.key.removeprefix(self._folder(one))
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"{one.vehicle.id}-{name.replace('/', '')}"
            # Without its content, at least the name tells which it was.
            path.write_bytes(body or url.encode())
            self._lake.quarantine("windows", path, f"{url}: {reason}")
        found.refused[url] = reason
        one.settle([name], [info.etag])

    def _url(self, info: ObjectInfo) -> str:
        return f"s3://{self._store.bucket}/{info.key}"


def _busy(holder: str) -> WriterBusyError:
    return WriterBusyError(
        f"process {holder} collects the boxes' windows already: one collector a lake; let it end, or end it"
    )


def collect_until_settled(
    collector: BoxCollector, wait: Callable[[float], object], *, looks: int = 1000
) -> Mapping[str, int]:
    """Look until nothing waits any more; for benchmarks and for the end of a day.

    Args:
        collector: that looks.
        wait: is called with the seconds to wait where there was nothing to do.
        looks: at most so many.

    Returns:
        Sums over all looks: ``windows``, ``bytes``, ``logs``, ``left_out``, ``refused``.
    """
    sums = dict.fromkeys(("windows", "bytes", "logs", "left_out", "refused"), 0)
    for _ in range(looks):
        found = collector.collect()
        for name in sums:
            value = getattr(found, name)
            sums[name] += value if isinstance(value, int) else len(value)
        if not found.waiting and not found.behind:
            return sums
        if not found.windows and not found.logs:
            wait(1.0)
    return sums


def _box() -> S3Path:
    url = settings().box_url
    found = any_path(url) if url else None
    if not isinstance(found, S3Path):
        message = "no place of telematics boxes is known: set TSPACE_BOX_URL=s3://bucket/prefix"
        raise ConfigError(message)
    return found
