"""One honest sentence on a candidate: does it save energy at equal distance and trip time?"""

from enum import StrEnum

from tspace_core.evaluation.pairs import TRIP_TIME_TOLERANCE
from tspace_core.evaluation.statistics import Interval, signed

_LIMIT = f"{TRIP_TIME_TOLERANCE:.0%}".replace("%", " %")


class Verdict(StrEnum):
    """What the paired drives say about a candidate."""

    REFERENCE = "reference"
    """The default map itself."""
    SAVES = "saves"
    """The interval of the counted saving is above zero, and the mean trip time is equal."""
    COSTS = "costs"
    """The interval of the counted saving is below zero."""
    UNDECIDED = "undecided"
    """The interval of the counted saving holds zero, or there is none."""
    OTHER_TRIP_TIME = "other_trip_time"
    """It uses less energy, but not at equal trip time."""
    SAME = "same"
    """Every pair is equal to the last digit."""
    INCOMPLETE = "incomplete"
    """Some drives cannot be compared, so that the others would be a choice."""


def judge(
    *,
    saving: Interval | None,
    counted: Interval | None,
    trip_time: Interval | None,
    expected_pairs: int,
    identical: bool,
) -> Verdict:
    """The verdict on one candidate.

    Args:
        saving: of energy per distance, whatever the trip time, over the comparable pairs.
        counted: the same with savings at another trip time set to zero.
        trip_time: change of the trip time in % over the comparable pairs.
        expected_pairs: pairs that were driven, comparable or not.
        identical: whether every pair shows no difference at all.
    """
    if saving is None or counted is None or trip_time is None or saving.count < expected_pairs:
        return Verdict.INCOMPLETE
    if identical:
        return Verdict.SAME
    if counted.below_zero:
        return Verdict.COSTS
    if counted.above_zero and abs(trip_time.mean) <= TRIP_TIME_TOLERANCE * 100:
        return Verdict.SAVES
    return Verdict.OTHER_TRIP_TIME if saving.above_zero else Verdict.UNDECIDED


def sentence(
    name: str,
    verdict: Verdict,
    *,
    saving: Interval | None,
    counted: Interval | None,
    trip_time: Interval | None,
    unequal_time_pairs: int,
    expected_pairs: int,
) -> str:
    """The verdict in one sentence, with its interval and with what speaks against it."""
    if verdict is Verdict.REFERENCE:
        return f"{name} is the reference that the others are measured against."
    if saving is None or counted is None or trip_time is None:
        return f"{name} cannot be judged: none of its {_drives(expected_pairs)} can be compared."
    if verdict is Verdict.INCOMPLETE:
        missing = expected_pairs - saving.count
        return (
            f"{name} cannot be judged: {missing} of {_drives(expected_pairs)} did not finish or cannot be "
            f"compared; the other {saving.count} show {saving.text('%')} of energy per distance."
        )
    if verdict is Verdict.SAME:
        return f"{name} drives exactly as the default map does in all {_drives(expected_pairs)}."
    unequal = (
        f"in {unequal_time_pairs} of {_drives(expected_pairs)} the trip time differs by more than {_LIMIT} "
        f"(mean over all {signed(trip_time.mean)} %)"
    )
    if verdict is Verdict.OTHER_TRIP_TIME:
        return (
            f"{name} is not shown to save energy at equal trip time: it uses {_size(saving)} % less per "
            f"distance {_bounds(saving)}, but {unequal}, and a saving bought with trip time is not counted."
        )
    tail = f"; {unequal}, where no saving is counted." if unequal_time_pairs else "."
    if verdict is Verdict.SAVES:
        return (
            f"{name} saves {_size(counted)} % energy at equal distance and trip time "
            f"{_bounds(counted)} over {_drives(expected_pairs, paired=True)}{tail}"
        )
    if verdict is Verdict.COSTS:
        return (
            f"{name} does not save energy: it uses {_size(counted)} % more at equal distance "
            f"{_bounds(counted)} over {_drives(expected_pairs, paired=True)}{tail}"
        )
    if counted.low is None:
        return f"{name} cannot be judged: {_drives(expected_pairs, paired=True)} gives no interval."
    return (
        f"{name} is not shown to save energy: {_mean(counted)} % {_bounds(counted)} over "
        f"{_drives(expected_pairs, paired=True)}, and that interval holds zero{tail}"
    )


def static_sentence(
    name: str, static: str, *, share: float | None, difference: Interval | None, static_saves: bool
) -> str:
    """Whether a candidate beats the best static map, in one sentence.

    Args:
        name: of the candidate.
        static: name of the best static map.
        share: the candidate's counted saving as a share of the static map's; None: the static map saves none.
        difference: counted saving of the candidate less that of the static map, paired, in % of energy.
        static_saves: whether the static map is shown to save at all.
    """
    if difference is None:
        return f"{name} cannot be compared with {static}: no pair of drives is comparable."
    shown = f"{_mean(difference)} % of energy {difference.bounds_text()} against {static}"
    of = "" if share is None else f", {100 * share:.0f} % of its saving"
    tail = "" if static_saves else f"; {static} itself is not shown to save energy"
    if difference.above_zero:
        return f"{name} beats the best static map: {shown}{of}{tail}."
    if difference.below_zero:
        return f"{name} does not beat the best static map: {shown}{of}{tail}."
    return f"{name} is not shown to beat the best static map: {shown}{of}{tail}."


def _size(interval: Interval) -> str:
    return f"{abs(interval.mean):.{interval.decimals}f}"


def _mean(interval: Interval) -> str:
    return signed(interval.mean, interval.decimals)


def _bounds(interval: Interval) -> str:
    if interval.low is None or interval.high is None:
        return "(no interval)"
    low, high = (signed(value, interval.decimals) for value in (interval.low, interval.high))
    return f"({100 * interval.level:g} % interval of the saving {low} % to {high} %)"


def _drives(count: int, *, paired: bool = False) -> str:
    kind = "paired drive" if paired else "drive"
    return f"{count} {kind}" if count == 1 else f"{count} {kind}s"
