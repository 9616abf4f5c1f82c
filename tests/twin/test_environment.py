"""TorqueMap-v0 keeps Gymnasium's contract, and its decisions act when they should."""

from collections import Counter
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from tspace_core.config import TorqueMap, Vehicle, load_vehicle
from tspace_core.errors import TwinError
from tspace_core.guard.envelope import Envelope
from tspace_core.records.policy import Policy
from tspace_core.twin.cycles import load_route
from tspace_core.twin.decisions import DecisionLoop
from tspace_core.twin.environment import TorqueMapEnv
from tspace_core.twin.exploration import SmoothExploration
from tspace_core.twin.fleet import Fleet


@pytest.mark.parametrize("guarded", [False, True])
@pytest.mark.parametrize("vehicle", ["twin_truck", "twin_mule"])
def test_gymnasium_accepts_it(vehicle: str, guarded: bool) -> None:
    check_env(gymnasium.make("TorqueMap-v0", vehicle=vehicle, driver="aggressive", guarded=guarded).unwrapped)


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


def test_drivers_take_turns_and_time_may_end_an_episode() -> None:
    lengths, energies = [], []
    env = TorqueMapEnv(driver=["tracker", "aggressive"], cycle="udds", time_limit_s=60.0)
    for _ in range(3):
        env.reset(seed=4)
        truncated, steps = False, 0
        while not truncated:
            *_, truncated, info = env.step(np.zeros(68, dtype=np.float32))
            steps += 1
        assert not info["arrived"]
        lengths.append(steps)
        energies.append(info["total_energy_wh"])
    assert lengths == [20, 20, 20]  # 60 s less the first window, in steps of 3 s
    assert energies[0] == energies[2] != energies[1]


def test_a_reward_may_be_chosen_and_the_road_made_level() -> None:
    totals = {}
    for level in (False, True):
        env = TorqueMapEnv(reward="loss", level=level)
        env.reset(seed=2)
        totals[level] = np.array([env.step(np.zeros(68, dtype=np.float32))[1] for _ in range(60)])
    assert load_vehicle("twin_truck").reward.kind == "energy"
    # What hills take and give back is most of what is left of the variance.
    assert totals[True].std() < 0.6 * totals[False].std()
    assert totals[True].max() < 0.0  # losses only


def test_behind_a_guard_the_info_says_what_took_effect() -> None:
    """Step by step it is what the guard's rules allow, and by a seed the same again."""
    free, env = TorqueMapEnv(), TorqueMapEnv(guarded=True)
    truck, actions = env.vehicle, np.random.default_rng(11).uniform(-1, 1, (150, 68)).astype(np.float32)
    default, budget, envelope = truck.default_map(), truck.torque_map.budget_nm, Envelope.of(truck)
    live, refused, totals = default, Counter[str | None](), []
    _, info = free.reset(seed=3)
    assert "carried_out" not in free.step(actions[0])[-1]
    observation, info = env.reset(seed=3)
    for action in actions:
        state = observation.reshape(30, 3)
        first_row = default.first_row(float(state[:, 0].max()))
        before = info["elapsed_s"]
        observation, _, _, truncated, info = env.step(action)
        rule, done = info["rule"], info["carried_out"]
        refused[rule] += 1
        rows = slice(first_row, first_row + 4)
        assert info["first_row"] == first_row
        if rule is None:
            table = live.table.copy()
            table[rows] = default.table[rows] + budget * done.reshape(4, 17)
            moved = np.abs(table - live.table).max()
            assert moved <= truck.guard.cell_rate_nm + 1e-3, "no cell jumps"
            live = TorqueMap(default.pedal_axis, default.speed_axis_kmh, table)
        else:
            assert info["clipped"] == {}
            assert min(state[-1, 1], state[-1, 2]) > truck.guard.both_pedals_percent
        assert info["elapsed_s"] > before
        np.testing.assert_allclose(done, (live.table - default.table)[rows].ravel() / budget, atol=1e-6)
        for bound in envelope.bounds:
            assert (live.table >= bound.lower - 1e-2).all(), bound.rule
            assert (live.table <= bound.upper + 1e-2).all(), bound.rule
        assert not truncated
        totals.append(info["total_energy_wh"])
    assert refused[None] > 100
    again = TorqueMapEnv(guarded=True)
    again.reset(seed=3)
    assert [again.step(action)[-1]["total_energy_wh"] for action in actions] == totals


def test_a_refused_flash_leaves_the_map_and_names_the_rule(truck: Vehicle) -> None:
    """A guard that holds flashes 5 s apart, and decisions every 3 s: every second one comes too soon."""
    slow = truck.model_copy(update={"guard": truck.guard.model_copy(update={"flash_interval_s": 5.0})})
    env = TorqueMapEnv(slow, "tracker", "us06", guarded=True)
    observation, _ = env.reset(seed=1)
    infos, first_rows = [], []
    for value in (-0.1, -0.2):
        first_rows.append(slow.default_map().first_row(float(observation.reshape(30, 3)[:, 0].max())))
        observation, *_, info = env.step(np.full(68, value, np.float32))
        infos.append(info)
    assert [info["rule"] for info in infos] == [None, "interval"]
    assert [info["first_row"] for info in infos] == first_rows, (
        "of what was refused, too: rows of carried_out"
    )
    assert infos[0]["clipped"].keys() <= {"factor", "pedal_zero", "no_regen", "shape", "power"}
    np.testing.assert_array_equal(infos[0]["carried_out"], infos[1]["carried_out"])
    assert infos[0]["carried_out"].min() == pytest.approx(-0.1, abs=1e-3)


def test_putting_an_acceleration_off_saves_nothing_with_the_traction_factor() -> None:
    """Of steps that only accelerate, what is left of the reward does not depend on how much."""
    slopes = {}
    for factor in (1.0, 1.1):
        env = TorqueMapEnv(reward="loss", level=True, traction_factor=factor)
        env.reset(seed=2)
        rewards, used = [], []
        for _ in range(200):
            _, value, *_, info = env.step(np.zeros(68, dtype=np.float32))
            rewards.append(value)
            used.append(info["energy_wh"])
        driving = np.array(used) > 10.0
        slopes[factor] = np.polyfit(np.array(used)[driving], np.array(rewards)[driving], 1)[0]
    assert slopes[1.0] < -0.05
    assert abs(slopes[1.1]) < 0.4 * abs(slopes[1.0])


def test_braking_by_the_motor_costs_next_to_nothing_with_the_braking_factor() -> None:
    """Steps that give work back: less noise in the reward, and the others are as they were."""
    found = {}
    for factor in (None, 0.9):
        env = TorqueMapEnv(reward="loss", level=True, traction_factor=1.1, braking_factor=factor)
        env.reset(seed=2)
        steps = [env.step(np.zeros(68, dtype=np.float32)) for _ in range(200)]
        rewards = np.array([step[1] for step in steps])
        work = np.array([step[1] + step[-1]["energy_wh"] for step in steps])
        found[factor] = rewards, work
    (plain, work), (priced, _) = found[None], found[0.9]
    assert (work < 0).sum() > 10
    np.testing.assert_array_equal(plain[work > 0], priced[work > 0])
    # The step's work counted 1.1 times is what `work` holds.
    np.testing.assert_allclose((priced - plain)[work < 0], -0.2 / 1.1 * work[work < 0], rtol=1e-4)
    assert priced[work < 0].std() < 0.6 * plain[work < 0].std()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"driver": []}, "at least one"),
        ({"time_limit_s": 0.0}, "above 0"),
        ({"reward": "energy_per_distance", "level": True}, "choose another reward"),
        ({"reward": "energy", "traction_factor": 1.1}, "leave them at 1"),
        ({"reward": "energy", "braking_factor": 0.9}, "leave them at 1"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(TwinError, match=message):
        TorqueMapEnv(**arguments)


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
