"""Rewards by hand."""

from typing import Any

import numpy as np
import pytest

from tspace_core.errors import RecordError
from tspace_core.records.reward import REWARD_KINDS, kinetic_energy_wh, reward, road_load_w


def test_energy_is_the_negative_of_what_was_used() -> None:
    found = reward("energy", energy_wh=np.array([18.5, -3.0]))
    assert found.dtype == np.float32
    assert found == pytest.approx([-18.5, 3.0])


def test_energy_per_distance_is_in_wh_per_km_and_finite_at_standstill() -> None:
    found = reward(
        "energy_per_distance", energy_wh=[10.0, 10.0], distance_m=[50.0, 0.0], minimum_distance_m=5.0
    )
    assert found == pytest.approx([-200.0, -2000.0])


def test_shaping_adds_gamma_times_the_next_potential_less_the_present_one() -> None:
    # 7200 kg at 36 km/h: 0.5 * 7200 * 100 J = 100 Wh; at 72 km/h 400 Wh.
    assert kinetic_energy_wh([36, 72], 7200) == pytest.approx([100, 400])
    found = reward("energy_shaped", energy_wh=310.0, v_start_kmh=36, v_end_kmh=72, mass_kg=7200, gamma=0.9)
    assert found == pytest.approx(-310 + 0.9 * 400 - 100)


def test_shaping_telescopes_with_gamma_one() -> None:
    rng = np.random.default_rng(5)
    speed, energy = rng.uniform(0, 90, 30), rng.normal(20, 30, 29)
    shaped = reward(
        "energy_shaped",
        energy_wh=energy,
        v_start_kmh=speed[:-1],
        v_end_kmh=speed[1:],
        mass_kg=12000,
        gamma=1.0,
    )
    ends = kinetic_energy_wh(speed[[0, -1]], 12000)
    assert shaped.sum() == pytest.approx(-energy.sum() + ends[1] - ends[0], rel=1e-4)


def test_loss_is_zero_for_a_vehicle_without_losses() -> None:
    road = {"mass_kg": 7000, "rolling_resistance": 0.007, "drag_area_m2": 5.0}
    power = road_load_w(72.0, **road)
    assert power == pytest.approx((7000 * 9.80665 * 0.007 + 0.5 * 1.2 * 5 * 400) * 20)
    work = float(power) * 3 / 3600
    change = 400 - 100
    arguments: dict[str, Any] = {
        "v_start_kmh": 36,
        "v_end_kmh": 72,
        "duration_s": 3,
        "road_load_w": power,
        "mass_kg": 7200,
    }
    assert reward("loss", energy_wh=work + change, **arguments) == pytest.approx(0, abs=1e-4)
    assert reward("loss", energy_wh=work + change + 7, **arguments) == pytest.approx(-7, abs=1e-4)


@pytest.mark.parametrize("kind", REWARD_KINDS)
def test_every_kind_likes_less_energy(kind: str) -> None:
    same = {"distance_m": 40.0, "v_start_kmh": 40.0, "v_end_kmh": 42.0, "duration_s": 3.0, "mass_kg": 9000.0}
    assert reward(kind, energy_wh=10.0, **same) > reward(kind, energy_wh=11.0, **same)


def test_bad_arguments_name_what_is_wrong() -> None:
    with pytest.raises(RecordError, match=r"unknown reward kind 'speed'.*energy_shaped"):
        reward("speed", energy_wh=1)
    with pytest.raises(RecordError, match="mass_kg > 0, not 0"):
        reward("loss", energy_wh=1)
    with pytest.raises(RecordError, match="minimum_distance_m > 0"):
        reward("energy_per_distance", energy_wh=1, minimum_distance_m=0)
