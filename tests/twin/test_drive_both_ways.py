"""A drive in the environment and the same drive as a log, cut into an episode, give the same records."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from gymnasium.utils import seeding
from numpy.typing import NDArray

from tspace_core.config import Vehicle
from tspace_core.records.episode import RecordFlag
from tspace_core.records.reward import REWARD_KINDS
from tspace_core.storage import episodes_table
from tspace_core.storage.ingest import ingest_log, store_episodes
from tspace_core.storage.lake import Lake, RawLog
from tspace_core.twin.environment import TorqueMapEnv
from tspace_core.twin.recorder import DEFAULT_START, record_drive

SEED, DRIVER, CYCLE = 4, "habitual", "us06"
ACTIONS = -np.random.default_rng(8).uniform(0, 1, (400, 68)).astype(np.float32)
"""Never above zero: where the default drives, a flash may only lower it, and the log holds what it became."""


@dataclass(frozen=True)
class Driven:
    """What the environment said, n steps."""

    observations: NDArray[np.float32]
    rewards: NDArray[np.float64]
    rows: list[int]


def in_environment(vehicle: Vehicle) -> Driven:
    env = TorqueMapEnv(vehicle, DRIVER, CYCLE)
    observation, _ = env.reset(seed=SEED)
    observations, truncated = [observation], False
    rewards: list[float] = []
    rows: list[int] = []
    while not truncated:
        observation, reward, _, truncated, info = env.step(ACTIONS[len(rewards)])
        observations.append(observation)
        rewards.append(reward)
        rows.append(info["first_row"])
    return Driven(np.stack(observations), np.array(rewards), rows)


def in_log(vehicle: Vehicle, folder: Path, start: datetime = DEFAULT_START) -> tuple[Lake, RawLog]:
    decisions = iter(ACTIONS)
    seed = int(seeding.np_random(SEED)[0].integers(2**31))  # what reset(seed=SEED) draws
    log = folder / "drive.blf"
    record_drive(vehicle, DRIVER, CYCLE, seed, log, lambda states: next(decisions)[None], start=start)
    lake = Lake(folder / "lake")
    return lake, ingest_log(lake, log, vehicle).raw


@pytest.fixture(scope="module")
def recorded(truck: Vehicle, tmp_path_factory: pytest.TempPathFactory) -> tuple[Lake, RawLog]:
    return in_log(truck, tmp_path_factory.mktemp("recorded"))


# Largest and mean difference of a reward. Kinetic energy shows the velocity's age of up to 20 ms in the log;
# a distance near the least divisor shows it most.
DIFFERENCES = {
    "energy": (0.3, 0.05),
    "energy_per_distance": (150.0, 10.0),
    "energy_shaped": (3.0, 0.4),
    "loss": (3.0, 0.4),
}


@pytest.mark.parametrize("kind", REWARD_KINDS)
def test_the_log_holds_the_records_of_the_environment(
    truck: Vehicle, recorded: tuple[Lake, RawLog], kind: str
) -> None:
    vehicle = truck.model_copy(update={"reward": truck.reward.model_copy(update={"kind": kind})})
    driven = in_environment(vehicle)
    (path,) = store_episodes(*recorded, vehicle).paths
    episode = episodes_table.read(path)
    n = len(episode)
    assert n == len(driven.rewards) - 1  # the step in which the truck arrives has no whole window behind it
    difference = np.abs(episode.states - driven.observations[: n + 1]).reshape(n + 1, -1, 3)
    # A frame goes out after its sample: the grid sees velocity up to 20 ms and the pedals 10 ms late.
    assert (difference.max(axis=(0, 1)) < [0.3, 3.0, 3.0]).all()
    assert (difference.mean(axis=(0, 1)) < [0.05, 0.25, 0.05]).all()
    error = np.abs(episode.rewards - driven.rewards[:n])
    largest, mean = DIFFERENCES[kind]
    assert error.max() < largest
    assert error.mean() < mean < 0.03 * np.abs(driven.rewards).mean()
    assert episode.rows.tolist() == driven.rows[:n]
    np.testing.assert_allclose(episode.actions[1:], ACTIONS[1:n], atol=1e-5)
    assert not episode.actions[0].any()
    assert episode.flags[0] == RecordFlag.FIRST | RecordFlag.FLASHED | RecordFlag.ZEROED
    assert set(episode.flags[1:].tolist()) == {RecordFlag.FLASHED}


@pytest.mark.parametrize("late_ms", [7, 33])
def test_a_log_that_starts_between_two_instants_of_the_grid(
    truck: Vehicle, tmp_path: Path, late_ms: int
) -> None:
    """Windows then lie up to one grid step beside the decisions', with the same actions behind them."""
    driven = in_environment(truck)
    lake, raw = in_log(truck, tmp_path, DEFAULT_START + timedelta(milliseconds=late_ms))
    (path,) = store_episodes(lake, raw, truck).paths
    episode = episodes_table.read(path)
    n = len(episode)
    assert n >= len(driven.rewards) - 2
    velocity = episode.states[:, ::3] - driven.observations[: n + 1, ::3]
    assert np.abs(velocity).max() < 1.0
    np.testing.assert_allclose(episode.actions[1:], ACTIONS[1:n], atol=1e-5)
    assert episode.rows.tolist() == driven.rows[:n]
    assert np.abs(episode.rewards - driven.rewards[:n]).mean() < 2.0
    assert episode.rewards.sum() == pytest.approx(driven.rewards[:n].sum(), rel=2e-3)
