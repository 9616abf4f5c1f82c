"""Figures: what they show, and that they are small, standalone and readable on light and dark pages."""

import io
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable

import numpy as np
import polars as pl
import pytest

from tspace_core.config import Vehicle
from tspace_core.errors import RecordError
from tspace_core.evaluation import figures
from tspace_core.evaluation.comparison import Comparison
from tspace_core.evaluation.figures import Picture
from tspace_core.evaluation.figures.candidates import time_behind
from tspace_core.evaluation.figures.data import envelope
from tspace_core.evaluation.figures.style import COLOURS

Draw = Callable[[Vehicle, Comparison], Picture]


def _frame(samples: int = 30_000) -> pl.DataFrame:
    time = np.arange(samples)
    velocity = 40 + 30 * np.sin(time / 500)
    velocity[1000:2000] = np.nan
    return pl.DataFrame(
        {
            "log_time_ns": time * 50_000_000,
            "velocity": velocity,
            "thrust": 20 + 20 * np.cos(time / 300),
            "current": 100 * np.sin(time / 70),
            "voltage": 650 - np.sin(time / 70),
        }
    ).with_columns(pl.col("velocity").fill_nan(None))


def _losses(updates: int = 5000) -> tuple[list[int], dict[str, list[float]]]:
    noise = np.random.default_rng(0).normal(0, 0.05, updates)
    falling = np.exp(-np.arange(updates) / 2000) + 0.1 * np.abs(noise) + 0.01
    return list(range(1, updates + 1)), {"critic": falling.tolist(), "actor": (-5 * falling + noise).tolist()}


DRAWN: dict[str, Draw] = {
    "energy_saving": lambda vehicle, result: figures.energy_saving(result.summary),
    "trip_time": lambda vehicle, result: figures.trip_time(result.pairs),
    "speed_traces": lambda vehicle, result: figures.speed_traces(result.traces, subject="policy"),
    "torque_map_change": lambda vehicle, result: figures.torque_map_change(
        vehicle.default_map(), result.map_changes["policy"]
    ),
    "action_heat_map": lambda vehicle, result: figures.action_heat_map(
        vehicle, np.random.default_rng(0).uniform(-1, 1, (40, 68)), np.arange(40) % 6
    ),
    "training_losses": lambda vehicle, result: figures.training_losses(*_losses()),
    "episode_histograms": lambda vehicle, result: figures.episode_histograms(
        np.random.default_rng(0).normal(700, 50, 60), np.random.default_rng(1).normal(-18, 30, 5000)
    ),
    "signals_overview": lambda vehicle, result: figures.signals_overview(_frame()),
}


@pytest.mark.parametrize("name", DRAWN)
def test_a_figure_is_small_standalone_and_says_what_it_shows(
    name: str, vehicle: Vehicle, comparison: Comparison
) -> None:
    from PIL import Image

    drawn = DRAWN[name](vehicle, comparison)
    assert drawn.name == name
    assert len(drawn.svg.encode()) < 200_000
    assert len(drawn.png) < 200_000
    root = ElementTree.fromstring(drawn.svg)
    assert root.tag.endswith("svg")
    inline = drawn.inline_svg
    assert inline.startswith("<svg")
    assert "http" not in inline
    assert 'role="img"' in inline
    assert "currentColor" in inline
    assert "#13579b" not in drawn.svg
    with Image.open(io.BytesIO(drawn.png)) as image:
        pixels = np.asarray(image.convert("RGB"))
    assert tuple(pixels[0, 0]) == (255, 255, 255)
    stand_in = np.all(pixels == (0x13, 0x57, 0x9B), axis=2)
    assert not stand_in.any()
    assert (pixels.max(axis=2) < 90).any(), "text on paper is dark"
    assert drawn.markdown.startswith("![")


def test_figures_are_the_same_every_time(vehicle: Vehicle, comparison: Comparison) -> None:
    first, second = (figures.energy_saving(comparison.summary) for _ in range(2))
    assert first == second


def test_labels_carry_units(vehicle: Vehicle, comparison: Comparison) -> None:
    for name, words in {
        "energy_saving": ("default map in %", "habitual", "minus budget"),
        "speed_traces": ("speed in km/h", "distance in km", "in s"),
        "torque_map_change": ("torque in Nm", "change in Nm", "accelerator pedal in %", "speed in km/h"),
        "signals_overview": ("time in s", "km/h", "velocity", "current"),
        "episode_histograms": ("Wh/km", "60 episodes", "5000 records"),
    }.items():
        drawn = DRAWN[name](vehicle, comparison).svg
        for word in words:
            assert word in drawn, (name, word)


def test_candidates_keep_their_colours(comparison: Comparison) -> None:
    drawn = figures.energy_saving(comparison.summary).svg
    for name in ("minus_budget", "random", "policy"):
        assert COLOURS[name] in drawn


def test_mean_action_counts_overlapping_rows(vehicle: Vehicle) -> None:
    actions = np.stack([np.full(68, 1.0), np.full(68, -0.5)])
    mean, counts = figures.mean_action(vehicle, actions, [0, 2])
    assert counts.tolist() == [1, 1, 2, 2, 1, 1, *[0] * 8]
    assert mean[0, 0] == 1.0
    assert mean[2, 5] == pytest.approx(0.25)
    assert mean[5, 16] == -0.5
    assert np.isnan(mean[6:]).all()


def test_a_thinned_curve_keeps_peaks_and_gaps() -> None:
    time = np.arange(100_000.0)
    values = np.zeros(len(time))
    values[54_321] = 7.0
    values[54_400] = -3.0
    values[10_000:30_000] = np.nan
    thin_time, thin = envelope(time, values)
    assert len(thin) < 1200
    assert np.nanmax(thin) == 7.0
    assert np.nanmin(thin) == -3.0
    assert thin_time[np.nanargmax(thin)] == 54_321
    assert np.all(np.diff(thin_time) >= 0)
    inside = (thin_time > 10_500) & (thin_time < 29_500)
    assert np.isnan(thin[inside]).all()


def test_time_behind_is_the_difference_at_the_same_place() -> None:
    time = np.arange(0, 200, 0.05)

    def drive(speed_kmh: float) -> pl.DataFrame:
        return pl.DataFrame(
            {"time_s": time, "distance_m": time * speed_kmh / 3.6, "speed_kmh": np.full(len(time), speed_kmh)}
        )

    place, behind = time_behind(drive(36.0), drive(18.0))
    assert behind == pytest.approx(place / 5.0 - place / 10.0, abs=1e-6)
    assert len(place) > 40


def test_what_cannot_be_drawn_is_named(vehicle: Vehicle) -> None:
    with pytest.raises(RecordError, match="torque"):
        figures.signals_overview(_frame(100), ["torque"])
    with pytest.raises(RecordError, match="recorded none"):
        figures.training_losses([], {})
    with pytest.raises(RecordError, match=r"shape \(2, 2\)"):
        figures.torque_map_change(vehicle.default_map(), np.zeros((2, 2)))


def test_a_caption_cannot_break_out_of_its_attribute() -> None:
    drawn = figures.signals_overview(_frame(100), title='"><script>alert(1)</script>')
    assert "<script" not in drawn.inline_svg
    assert "&quot;&gt;&lt;script" in drawn.inline_svg
