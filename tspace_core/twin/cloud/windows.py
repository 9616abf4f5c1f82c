"""Windows as the simulated telematics box makes them: the wire contract's JSON, and its place."""

import json
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import numpy as np

from tspace_core.can.box_window import encode_window
from tspace_core.config import load_site
from tspace_core.config.vehicle import Vehicle
from tspace_core.errors import TwinError
from tspace_core.objects.store import ObjectStore
from tspace_core.twin.cloud.truck import CHANNELS, Samples

Window = dict[str, object]
"""The ``result`` of the wire contract."""
SCHEME = "s3://"
DIGITS = 3
"""A box sends so many decimals of each signal."""


class BoxWindows:
    """Turns samples of one vehicle into what its box sends.

    Args:
        vehicle: gives the signs and the site whose local time is stamped.
        as_strings: send numbers as decimal strings.

    Raises:
        ConfigError: the vehicle's site does not exist.
    """

    def __init__(self, vehicle: Vehicle, *, as_strings: bool = False) -> None:
        self.vin = vehicle.vin
        self.zone: ZoneInfo = load_site(vehicle.site).zone
        signs = vehicle.remote.sign if vehicle.remote is not None else {}
        self._signs = np.array([float(signs.get(name, 1)) for name in CHANNELS])
        self._as_strings = as_strings

    def encode(self, samples: Samples) -> Window:
        """The window of whole units, in the box's signs."""
        values = np.round(samples.values, DIGITS) * self._signs
        return encode_window(values, samples.start_ns, self.zone, as_strings=self._as_strings)

    def key(self, start_ns: int) -> str:
        """Where the window that begins then is uploaded to, by the vehicle's local time."""
        return window_key(self.vin, start_ns, self.zone)


def window_key(vin: str, start_ns: int, zone: ZoneInfo) -> str:
    """``<vin>/<yyyy>/<mm>/<dd>/<HHMMSSfff>.json`` by the clock of the box, which shows local time."""
    local = datetime.fromtimestamp(start_ns // 1_000_000_000, UTC).astimezone(zone)
    return f"{vin}/{local:%Y/%m/%d/%H%M%S}{start_ns // 1_000_000 % 1000:03d}.json"


def to_bytes(window: Window) -> bytes:
    """The object's content."""
    return json.dumps(window, separators=(",", ":")).encode()


class Place:
    """Where windows are uploaded to: a bucket and a prefix within it.

    Args:
        url: ``s3://bucket`` or ``s3://bucket/prefix``.

    Raises:
        TwinError: it is none.
    """

    def __init__(self, url: str) -> None:
        bucket, _, prefix = url.removeprefix(SCHEME).partition("/")
        if not url.startswith(SCHEME) or not bucket:
            message = f"storage {url!r} is no place in a bucket; give s3://bucket or s3://bucket/prefix"
            raise TwinError(message)
        self.store = ObjectStore(bucket)
        self.prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""

    def link(self, key: str) -> str:
        """The URL of a key below the prefix."""
        return f"{SCHEME}{self.store.bucket}/{self.prefix}{key}"

    def put(self, key: str, window: Window) -> str:
        """Upload a window and return its URL (errors as ``ObjectStore.put``)."""
        self.store.put(self.prefix + key, to_bytes(window))
        return self.link(key)

    def get(self, link: str) -> Window:
        """Read a window by its URL (errors as ``ObjectStore.get``)."""
        key = link.removeprefix(f"{SCHEME}{self.store.bucket}/")
        return dict(json.loads(self.store.get(key)))
