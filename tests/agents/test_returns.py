"""Returns of the episodes in a buffer, and their running reward."""

from pathlib import Path

import numpy as np
import pytest

from tests.storage.replay_episodes import coded_episode
from tspace_core.agents.returns import episode_returns, running_reward
from tspace_core.storage.replay import build_replay


def test_returns_are_those_of_the_episodes(tmp_path: Path) -> None:
    episodes = [coded_episode(3, 5), coded_episode(1, 1), coded_episode(2, 9)]
    replay = build_replay(tmp_path / "r", episodes)
    expected = [episode.rewards.sum(dtype="f8") for episode in episodes]
    np.testing.assert_allclose(episode_returns(replay), expected, rtol=1e-12)


def test_running_reward_by_hand() -> None:
    assert running_reward([-10.0, 10.0, 10.0]).tolist() == pytest.approx([-10.0, -9.0, -8.05])
    assert running_reward([]).tolist() == []
