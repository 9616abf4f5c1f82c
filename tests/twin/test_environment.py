"""TorqueMap-v0 keeps Gymnasium's contract, and its decisions act when they should."""

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from tspace_core.config import Vehicle, load_vehicle
from tspace_core.errors import TwinError
from tspace_core.records.policy import Policy
from tspace_core.twin.cycles import load_route
from tspace_core.twin.decisions import DecisionLoop
from tspace_core.twin.environment import TorqueMapEnv
from tspace_core.twin.exploration import SmoothExploration
from tspace_core.twin.fleet import Fleet


@pytest.mark.parametrize("vehicle", ["twin_truck", "twin_mule"])
def test_gymnasium_accepts_it(vehicle: str) -> None:
    check_env(gymnasium.make("TorqueMap-v0", vehicle=vehicle, driver="aggressive").unwrapped)


def test_spaces() -> None:
    env = TorqueMapEnv()
    assert env.observation_space.shape == (90,)
    assert env.action_space.shape == (68,)
    np.testing.assert_array_equal(env.observation_space.high[:6], [180, 100, 100] * 2)


def test_a_seed_gives_one_episode_and_the_route_ends_it() -> None:
    totals = []
    for _ in range(2):
        env = TorqueMapEnv(driver="habitual")
        observation, info = env.reset(seed=9)
        rewards, used, truncated = 0.0, info["energy_wh"], False
        first = info["total_energy_wh"]
        while not truncated:
            observation, value, terminated, truncated, info = env.step(np.full(68, -0.5, dtype=np.float32))
            assert not terminated
            assert env.observation_space.contains(observation)
            rewards += value
            used += info["energy_wh"]
        assert info["arrived"]
        assert used == pytest.approx(info["total_energy_wh"] - first)
        assert rewards == pytest.approx(-used, rel=1e-4)
        totals.append((rewards, info["total_distance_m"], info["elapsed_s"]))
    assert totals[0] == totals[1]
    assert totals[0][1] > 10_000


def test_a_truck_that_cannot_drive_is_given_up(truck: Vehicle) -> None:
    strong = truck.model_copy(
        update={"torque_map": truck.torque_map.model_copy(update={"budget_nm": 10_000.0})}
    )
    env = TorqueMapEnv(strong, "tracker", "us06")
    env.reset(seed=1)
    nothing = -np.ones(68, dtype=np.float32)  # as much less as there is: no torque at any pedal
    limit_s = load_route("us06").time_limit_s
    for _ in range(round(limit_s / 3.0) + 1):
        _, _, terminated, truncated, info = env.step(nothing)
        if truncated:
            break
    assert truncated
    assert not terminated
    assert not info["arrived"]
    assert info["elapsed_s"] == pytest.approx(limit_s, abs=3.0)


def test_rewards_of_other_kinds() -> None:
    truck = load_vehicle("twin_truck")
    rewards = {}
    for kind in ("energy", "energy_per_distance", "energy_shaped", "loss"):
        vehicle = truck.model_copy(update={"reward": truck.reward.model_copy(update={"kind": kind})})
        env = TorqueMapEnv(vehicle)
        env.reset(seed=2)
        rewards[kind] = np.array([env.step(np.zeros(68, dtype=np.float32))[1] for _ in range(60)])
    # What is left of the energy without kinetic energy and road load varies far less.
    assert rewards["loss"].std() < 0.6 * rewards["energy"].std()
    assert rewards["energy_shaped"].std() < 0.8 * rewards["energy"].std()
    assert np.all(np.isfinite(rewards["energy_per_distance"]))


def test_step_before_reset_is_refused() -> None:
    with pytest.raises(gymnasium.error.ResetNeeded, match="call reset"):
        TorqueMapEnv().step(np.zeros(68, dtype=np.float32))


def test_decisions_act_after_the_delay(truck: Vehicle) -> None:
    fleet = Fleet(truck, "hwfet", ["tracker", "tracker"], [1, 1], rate_hz=100.0)
    loop = DecisionLoop(fleet)
    window = loop.first_window()
    assert loop.states(window).shape == (2, 90)
    for _ in range(8):
        window = loop.step(window, np.zeros((2, 68), dtype=np.float32)).window
    actions = np.stack([np.zeros(68), -np.ones(68)]).astype(np.float32)
    step = loop.step(window, actions)
    assert truck.twin is not None
    late = round(truck.twin.flash_delay_s * 100.0)
    torque = step.half_step.motor_torque
    np.testing.assert_array_equal(torque[0, :late], torque[1, :late])
    assert abs(torque[0, late + 30 :] - torque[1, late + 30 :]).max() > 0.0
    flash = step.flashes[1]
    assert flash is not None
    default = truck.default_map()
    rows = slice(flash.first_row, flash.first_row + 4)
    np.testing.assert_allclose(flash.torque_nm, default.table[rows] - 250.0, rtol=1e-6)
    state = loop.states(step.window)[0].reshape(30, 3)
    np.testing.assert_allclose(state[:, 0], step.window.velocity[0, 4::5], rtol=1e-6)


def test_a_flash_longer_than_a_window_is_refused(truck: Vehicle) -> None:
    assert truck.twin is not None
    slow = truck.model_copy(update={"twin": truck.twin.model_copy(update={"flash_delay_s": 2.0})})
    with pytest.raises(TwinError, match=r"a window lasts 1\.5 s"):
        DecisionLoop(Fleet(slow, "udds", ["tracker"], [1]))


def test_exploration_is_seeded_and_smooth(truck: Vehicle) -> None:
    states = np.zeros((3, 90), dtype=np.float32)
    one, other = SmoothExploration(truck, 4), SmoothExploration(truck, 4)
    assert isinstance(one, Policy)
    drawn = np.stack([one(states) for _ in range(400)])
    np.testing.assert_array_equal(drawn, np.stack([other(states) for _ in range(400)]))
    assert drawn.shape == (400, 3, 68)
    assert drawn.min() >= -1.0
    assert drawn.max() <= 1.0
    assert drawn.mean() == pytest.approx(-0.4, abs=0.1)
    assert drawn.std() > 0.25
    cells = drawn.reshape(400, 3, 4, 17)
    assert np.abs(np.diff(cells, axis=3)).mean() < 0.3 * drawn.std()
    assert np.abs(np.diff(cells, axis=0)).mean() < 0.5 * drawn.std()
