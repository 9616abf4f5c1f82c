"""From a box's windows to drives: which windows belong together, and when a drive is over."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

NS_PER_S = 1_000_000_000


@dataclass(frozen=True, slots=True, order=True)
class Held:
    """A usable window that is in no log yet.

    Attributes:
        start_ns: its first sample, ns UTC.
        key: of its object.
        end_ns: its last sample, ns UTC.
        uploaded_ns: when it was uploaded, ns UTC, by the server's clock.
        etag: of its object.
        offset: where its line begins in the spool, bytes.
        length: of the line, bytes.
    """

    start_ns: int
    key: str
    end_ns: int
    uploaded_ns: int
    etag: str
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class DriveRules:
    """When a drive is over.

    Attributes:
        gap_s: a longer time without a sample ends it, s.
        quiet_s: a drive is over when nothing has been uploaded for this long, s.
        settle_s: nothing is sealed sooner after its last upload: others may be on their way, s.
        longest_s: a log holds windows that begin within this time of its first one, s.
    """

    gap_s: float
    quiet_s: float
    settle_s: float
    longest_s: float = 1800.0


def split(windows: Iterable[Held], rules: DriveRules) -> list[list[Held]]:
    """Return the windows as drives, each in order of time: cut at gaps, then at ``longest_s``."""
    drives: list[list[Held]] = []
    newest = 0
    for window in sorted(windows):
        begun = drives[-1][0].start_ns if drives else 0
        gap = window.start_ns - newest > rules.gap_s * NS_PER_S
        full = window.start_ns - begun >= rules.longest_s * NS_PER_S
        if not drives or gap or full:
            drives.append([window])
            newest = window.end_ns
        else:
            drives[-1].append(window)
            newest = max(newest, window.end_ns)
    return drives


def over(
    windows: Iterable[Held], rules: DriveRules, now_ns: int, *, all_listed: bool = True
) -> list[list[Held]]:
    """Return the drives that are over, in order of time.

    Args:
        windows: all that a vehicle has in no log.
        rules: when a drive is over.
        now_ns: ns UTC.
        all_listed: whether all that the box has uploaded so far was looked at; if not, the last drive may go
            on however long ago its last window was uploaded.
    """
    drives = split(windows, rules)
    done = []
    for number, drive in enumerate(drives):
        age_s = (now_ns - max(window.uploaded_ns for window in drive)) / NS_PER_S
        followed = number + 1 < len(drives)
        if (followed and age_s >= rules.settle_s) or (all_listed and age_s >= rules.quiet_s):
            done.append(drive)
    return done


def outside(windows: Sequence[Held], spans: Iterable[tuple[int, int]]) -> tuple[list[Held], list[Held]]:
    """Return the windows that touch none of the spans (ns UTC), and those that do."""
    taken = list(spans)
    kept: list[Held] = []
    left: list[Held] = []
    for window in windows:
        touches = any(begin <= window.end_ns and window.start_ns <= end for begin, end in taken)
        (left if touches else kept).append(window)
    return kept, left
