"""Many boxes that upload realistic windows in parallel, without a truck in real time behind each.

A few drives are simulated beforehand; each box goes through one of them, from a place of its own on. What is
uploaded is ready before the first upload is due, so that little but the uploads takes time then.
"""

import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import cycle, islice

import numpy as np
from numpy.typing import NDArray

from tspace_core.config.remote import UNIT_SAMPLES
from tspace_core.config.vehicle import Vehicle
from tspace_core.errors import TwinError
from tspace_core.twin.cloud.truck import CHANNELS, PERIOD_NS, RATE_HZ, Samples
from tspace_core.twin.cloud.windows import BoxWindows, Place, to_bytes, window_key
from tspace_core.twin.fleet import Fleet

DRIVERS = ("tracker", "habitual", "aggressive")
WINDOW_SAMPLES = 4 * UNIT_SAMPLES
_WINDOW_NS = WINDOW_SAMPLES * PERIOD_NS
_STANDING = 10 * RATE_HZ


@dataclass(frozen=True)
class Uploaded:
    """What a fleet uploaded.

    Attributes:
        windows: objects uploaded.
        bytes: their size together.
        seconds: from the first one due to the last one done, s.
        latest_s: the longest that one was done after it was due, s.
        keys: of all objects, below the place's prefix, in order of upload.
        energy_wh: electric energy in all windows of each vin, as uploaded, Wh.
    """

    windows: int
    bytes: int
    seconds: float
    latest_s: float
    keys: tuple[str, ...]
    energy_wh: dict[str, float]


@dataclass(frozen=True)
class _Item:
    """One window, ready to go."""

    due_s: float
    key: str
    body: bytes


class UploadFleet:
    """Boxes of several vehicles of one kind; making it prepares all that they upload.

    Args:
        vehicle: of what kind they are.
        vins: one a box.
        windows: so many each, of 4 s.
        start_ns: when the first windows begin, ns UTC; None: such that the last one has just ended.
        spread: begin at different times within 4 s, as boxes in the field do.
        drives: so many drives are simulated.
        seed: of the first drive.

    Raises:
        TwinError: there is nothing to upload.
    """

    def __init__(
        self,
        vehicle: Vehicle,
        vins: Sequence[str],
        windows: int,
        *,
        start_ns: int | None = None,
        spread: bool = True,
        drives: int = 6,
        seed: int = 0,
    ) -> None:
        if not vins or windows < 1:
            message = f"{len(vins)} boxes with {windows} windows each have nothing to upload; give 1 or more"
            raise TwinError(message)
        self.vins = tuple(vins)
        whole_ns = (windows + 1) * _WINDOW_NS
        begin_ns = time.time_ns() - whole_ns if start_ns is None else start_ns
        begin_ns -= begin_ns % PERIOD_NS
        traces = _traces(vehicle, min(drives, len(vins)), windows, seed)
        coder = BoxWindows(vehicle)
        self.energy_wh: dict[str, float] = {}
        items = []
        for number, vin in enumerate(self.vins):
            trace = traces[number % len(traces)]
            offset_ns = number * _WINDOW_NS // len(vins) if spread else 0
            offset_ns -= offset_ns % PERIOD_NS
            energy = 0.0
            for window in range(windows):
                values = trace[window * WINDOW_SAMPLES :][:WINDOW_SAMPLES]
                at_ns = window * _WINDOW_NS + offset_ns
                samples = Samples(values, begin_ns + at_ns)
                energy += samples.energy_wh
                body = to_bytes(coder.encode(samples))
                key = window_key(vin, samples.start_ns, coder.zone)
                items.append(_Item((at_ns + _WINDOW_NS) / 1e9, key, body))
            self.energy_wh[vin] = energy
        self._items = sorted(items, key=lambda item: item.due_s)

    def upload(
        self,
        place: Place,
        *,
        time_factor: float | None = None,
        workers: int = 8,
        stopping: threading.Event | None = None,
    ) -> Uploaded:
        """Upload all windows.

        Args:
            place: where to.
            time_factor: each when it has ended, so much faster than real time; None: as fast as it goes.
            workers: uploads at once.
            stopping: ends it early, once set.

        Raises:
            ObjectError: an upload failed.
        """
        stopping = stopping or threading.Event()
        began = time.monotonic()
        done: list[tuple[_Item, Future[float]]] = []
        with ThreadPoolExecutor(workers, thread_name_prefix="boxes") as pool:
            try:
                for item in self._items:
                    due = began if time_factor is None else began + item.due_s / time_factor
                    if stopping.wait(max(due - time.monotonic(), 0.0)):
                        break
                    done.append((item, pool.submit(_put, place, item, due)))
                late_s = [future.result() for _, future in done]
            finally:
                pool.shutdown(cancel_futures=True)
        return Uploaded(
            windows=len(done),
            bytes=sum(len(item.body) for item, _ in done),
            seconds=time.monotonic() - began,
            latest_s=max(late_s, default=0.0),
            keys=tuple(item.key for item, _ in done),
            energy_wh=dict(self.energy_wh),
        )


def upload_fleet(
    vehicle: Vehicle, vins: Sequence[str], windows: int, place: Place, *, time_factor: float | None = None
) -> Uploaded:
    """Make an ``UploadFleet`` and upload its windows (arguments and errors as there)."""
    return UploadFleet(vehicle, vins, windows).upload(place, time_factor=time_factor)


def fleet_vins(count: int) -> list[str]:
    """Made-up VINs, one a box."""
    return [f"TWNBOX{number:011d}" for number in range(1, count + 1)]


def _put(place: Place, item: _Item, due: float) -> float:
    place.store.put(place.prefix + item.key, item.body)
    return time.monotonic() - due


def _traces(vehicle: Vehicle, drives: int, windows: int, seed: int) -> list[NDArray[np.float64]]:
    """So many drives, each long enough, shape (samples, 6); without the standing they all begin with."""
    samples = windows * WINDOW_SAMPLES
    seeds = [seed + number for number in range(drives)]
    fleet = Fleet(vehicle, "truck_route", list(islice(cycle(DRIVERS), drives)), seeds, rate_hz=float(RATE_HZ))
    trace = fleet.advance((samples + _STANDING) / RATE_HZ)
    columns = np.stack([np.asarray(trace.signal(name)) for name in CHANNELS], axis=-1)
    return [one[_STANDING:] for one in columns]
