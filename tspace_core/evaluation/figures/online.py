"""Figures of an online episode: what the driver did, when maps took effect, what it cost."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tspace_core.evaluation.figures.style import (
    INK,
    PRIMARY,
    SECONDARY,
    TERTIARY,
    Picture,
    new_figure,
    picture,
    style,
)

Float = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Course:
    """One episode over time.

    Attributes:
        time_s: of each sample, s since the episode's first; NaN breaks the curves.
        velocity_kmh, thrust_percent: as long as ``time_s``.
        flash_s: instants of decisions.
        flash_result: what became of each.
        record_s, reward: of each record.
    """

    time_s: Float
    velocity_kmh: Float
    thrust_percent: Float
    flash_s: Float
    flash_result: list[str]
    record_s: Float
    reward: Float


def episode_course(title: str, course: Course) -> Picture:
    """Speed and pedal, decisions as vertical lines by their result, reward below."""
    applied = np.array([result == "APPLIED" for result in course.flash_result], np.bool_)
    lost = np.array([result not in ("APPLIED", "HELD") for result in course.flash_result], np.bool_)
    with style():
        figure = new_figure(8.0, 3.6)
        speed, pedal, reward = figure.subplots(3, 1, sharex=True, height_ratios=(3, 2, 2))
        speed.plot(course.time_s, course.velocity_kmh, color=PRIMARY)
        speed.set_ylabel("speed\nkm/h", fontsize=8.5)
        speed.set_title(title)
        pedal.plot(course.time_s, course.thrust_percent, color=TERTIARY)
        pedal.set_ylabel("pedal\n%", fontsize=8.5)
        for axes in (speed, pedal):
            for instant in course.flash_s[applied]:
                axes.axvline(instant, color=INK, linewidth=0.7, alpha=0.6)
            for instant in course.flash_s[lost]:
                axes.axvline(instant, color=SECONDARY, linewidth=1.2, linestyle=":")
        reward.bar(course.record_s, course.reward, width=1.0, color=SECONDARY)
        reward.set_ylabel("reward", fontsize=8.5)
        reward.set_xlabel("time in s")
        return picture(
            figure,
            "episode_course",
            f"{title}: speed, accelerator pedal and reward of each record. Thin lines: flashes that were "
            "applied; dotted lines: those that were not.",
        )
