"""Strip charts: every peak and every gap is to be seen, whatever the length."""

import re
from base64 import b64decode
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from tspace_pipelines.metadata import MAX_PLOT_BYTES
from tspace_pipelines.strip_chart import Strip, envelope, strip_chart


def picture(markdown: str) -> Image.Image:
    found = re.fullmatch(r"!\[.*\]\(data:image/png;base64,([A-Za-z0-9+/=]+)\)", markdown)
    assert found is not None
    return Image.open(BytesIO(b64decode(found.group(1)))).convert("RGB")


@pytest.mark.parametrize("seed", range(5))
def test_the_envelope_keeps_every_extreme(seed: int) -> None:
    generator = np.random.default_rng(seed)
    time = np.sort(generator.uniform(3.0, 50.0, 10_000))
    values = generator.normal(size=10_000)
    values[generator.random(10_000) < 0.3] = np.nan
    low, high, columns = envelope(Strip("x", time, values), time[0], time[-1], 200)
    assert (low.min(), high.max()) == (np.nanmin(values), np.nanmax(values))
    assert (np.diff(columns) > 0).all() and columns[0] >= 0 and columns[-1] < 200
    place = np.clip(((time - time[0]) / (time[-1] - time[0]) * 200).astype(int), 0, 199)
    for least, greatest, column in zip(low, high, columns, strict=True):
        mine = values[(place == column) & np.isfinite(values)]
        assert (mine.min(), mine.max()) == (least, greatest)


def test_a_gap_stays_empty() -> None:
    time = np.arange(1000) / 10
    values = np.ones(1000)
    values[400:600] = np.nan
    _, _, columns = envelope(Strip("x", time, values), 0.0, 100.0, 100)
    assert set(range(100)) - set(columns.tolist()) == set(range(40, 60))


def test_a_clock_that_steps_back_is_drawn_over_itself() -> None:
    time = np.concatenate([np.arange(50.0), np.arange(50.0)])
    values = np.concatenate([np.zeros(50), np.ones(50)])
    low, high, _ = envelope(Strip("x", time, values), 0.0, 49.0, 50)
    assert (low == 0).all() and (high == 1).all()


@pytest.mark.parametrize("rows", [0, 1, 50, 200_000])
def test_a_chart_of_any_length_is_a_small_picture(rows: int) -> None:
    time = np.arange(rows) / 20
    noise = np.random.default_rng(rows).normal(size=rows)
    strips = [Strip(f"signal {k}", time, noise) for k in range(5)]
    shown = strip_chart("some/2026-01-05/log.blf", [*strips, Strip("none", time, np.full(rows, np.nan))])
    assert len(shown.value) < MAX_PLOT_BYTES
    assert picture(shown.value).height > 6 * 50
