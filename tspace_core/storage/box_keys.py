"""Keys of a telematics box's windows: ``<vin>/<yyyy>/<mm>/<dd>/<HHMMSSfff>.json``.

Their order is that of the box's clock. Whether that shows the site's time or UTC is the box's affair: here it
is only compared with itself, and looked back on.
"""

import re
from datetime import UTC, datetime, timedelta

_FORM = re.compile(r"(\d{4})/(\d{2})/(\d{2})/(\d{2})(\d{2})(\d{2})(\d{3})\.json")
FARTHEST_ZONE = timedelta(hours=26)
"""No zone's clock is further ahead of another's; a key beyond it is of a clock that is set wrongly."""
NO_ZONE = timedelta(0)


def time_of(name: str) -> datetime | None:
    """The clock's time in a key below its vin's folder, labelled UTC; None: the key has another form."""
    found = _FORM.fullmatch(name)
    if found is None:
        return None
    year, month, day, hour, minute, second, millisecond = map(int, found.groups())
    try:
        return datetime(year, month, day, hour, minute, second, millisecond * 1000, tzinfo=UTC)
    except ValueError:
        return None


def name_at(time: datetime) -> str:
    """The key of that time, below its vin's folder."""
    return f"{time:%Y/%m/%d/%H%M%S}{time.microsecond // 1000:03d}.json"


def earlier(name: str, seconds: float) -> str:
    """The key so many seconds before; the empty one before all where there is none."""
    time = time_of(name)
    if time is None:
        return ""
    try:
        return name_at(time - timedelta(seconds=seconds))
    except OverflowError:
        return ""


def is_after(name: str, now_ns: int, ahead: timedelta = NO_ZONE) -> bool:
    """Whether a key's time lies more than ``ahead`` after now, ns UTC."""
    time = time_of(name)
    return time is not None and time > datetime.fromtimestamp(now_ns / 1e9, UTC) + ahead
