"""The header lines of Vector ASC files: number base, kind of stamps, date in its many locales."""

import re
from datetime import UTC, datetime

_BASE = re.compile(r"base\s+(hex|dec)(?:\s+timestamps\s+(absolute|relative))?", re.IGNORECASE)
_DATE = re.compile(r"(?:date|begin\s+trigger\s*block)\s+(.+)", re.IGNORECASE)
_INSTANT = re.compile(
    r"(?:\w+\.?\s+)?(?P<month>[^\W\d]+|\d{1,2})\.?\s+(?P<day>\d{1,2})\s+"
    r"(?P<hour>\d{1,2}):(?P<minute>\d{2}):(?P<second>\d{2})(?:\.(?P<fraction>\d+))?"
    r"(?:\s+(?P<half>[AaPp][Mm]))?\s+(?P<year>\d{4})"
)

MONTHS = {
    name: number
    for number, names in enumerate(
        (
            "jan jän ene gen janv",
            "feb fév févr",
            "mar mär mrz mars",
            "apr avr abr avri",
            "may mai mag",
            "jun juin giu",
            "jul juil lug",
            "aug aoû août ago",
            "sep set sept",
            "oct okt ott",
            "nov",
            "dec dez déc dic",
        ),
        start=1,
    )
    for name in names.split()
}
"""Month names of Vector's tools in English, German, French, Spanish and Italian Windows."""


def parse_base(line: str) -> tuple[int, bool] | None:
    """Number base (10 or 16) and whether stamps count from the line before, of a `base` line."""
    match = _BASE.match(line)
    if match is None:
        return None
    return (16 if match[1].lower() == "hex" else 10), (match[2] or "").lower() == "relative"


def parse_date(line: str) -> datetime | None:
    """The recorder's wall clock, labelled UTC, of a `date` or `Begin Triggerblock` line.

    Returns:
        None for any other line.

    Raises:
        ValueError: it is such a line, but its date cannot be understood.
    """
    line_match = _DATE.match(line)
    if line_match is None:
        return None
    text = line_match[1].strip()
    match = _INSTANT.search(text)
    month = match and (match["month"] if match["month"].isdigit() else MONTHS.get(match["month"].lower()))
    if match is None or month is None:
        message = f"{text!r} is no date that is understood (expected as 'Sat Sep 30 15:06:13.191 2017')"
        raise ValueError(message)
    hour = int(match["hour"])
    if match["half"]:
        hour = hour % 12 + (12 if match["half"].lower() == "pm" else 0)
    fraction = (match["fraction"] or "0")[:6].ljust(6, "0")
    return datetime(
        int(match["year"]),
        int(month),
        int(match["day"]),
        hour,
        int(match["minute"]),
        int(match["second"]),
        int(fraction),
        tzinfo=UTC,
    )
