"""The report's section on situations: where the agent changes most, beside recorded moments like it."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.embeddings.drives import VEHICLE, WINDOW, put_episode, smooth_episode
from tspace_core.agents import AGENTS
from tspace_core.agents.scorers import Recorded, Values
from tspace_core.config import load_hyperparameters, load_vehicle
from tspace_core.config.embeddings import EmbeddingParameters
from tspace_core.embeddings.run import embed_episodes, train_encoder
from tspace_core.storage.lake import Lake
from tspace_pipelines.report_situations import situations_section

CLIPPED = 12
"""Columns from here on are clipped back to the default map."""


def predict(states: NDArray[np.float32]) -> NDArray[np.float32]:
    """Takes off the more the faster it goes: the largest change is known.

    In the columns of the highest pedals it asks for more than the limits allow, which changes nothing.
    """
    speed = states.reshape(len(states), WINDOW, 3)[:, :, 0].mean(axis=1, keepdims=True)
    actions = np.repeat(-speed / 200, 68, axis=1).reshape(-1, 4, 17)
    actions[:, :, CLIPPED:] = 1.0
    return actions.reshape(-1, 68)


@pytest.fixture
def agent(monkeypatch: pytest.MonkeyPatch) -> None:
    def scorer(records: Recorded) -> Values:
        found = Values.empty(len(records.states), 68)
        found.actions[:] = predict(records.states)
        return found

    def opened(directory: str) -> SimpleNamespace:
        return SimpleNamespace(scorer=scorer)

    monkeypatch.setattr("tspace_core.agents.scoring.open_checkpoint", opened)


@pytest.mark.parametrize("kind", list(AGENTS))
def test_any_agent_is_shown(kind: str, tmp_path: Path) -> None:
    lake, vehicle = Lake(tmp_path / "lake"), load_vehicle(VEHICLE)
    for number in (1, 2):
        put_episode(lake, smooth_episode(number, 40))
    train_encoder(lake, VEHICLE, EmbeddingParameters(encoder="statistics"))
    embed_episodes(lake, VEHICLE)
    hyper = load_hyperparameters(kind)
    fresh = AGENTS[kind](hyper, vehicle.sampling.state_dim, vehicle.action_dim, seed=1)
    fresh.save(tmp_path / kind, step=1)
    section = situations_section(lake, vehicle, tmp_path / kind)
    assert section is not None
    assert section.lines, section.note


@pytest.mark.usefixtures("agent")
def test_the_largest_changes_are_shown_with_moments_of_other_drives(tmp_path: Path) -> None:
    lake, vehicle = Lake(tmp_path), load_vehicle(VEHICLE)
    episodes = {}
    for number in range(1, 4):
        episode = smooth_episode(number, 60)
        episodes[episode.meta.episode_id] = episode
        put_episode(lake, episode)
    assert situations_section(lake, vehicle, tmp_path) is None  # nothing is embedded
    train_encoder(lake, VEHICLE, EmbeddingParameters(encoder="statistics"))
    embed_episodes(lake, VEHICLE)
    section = situations_section(lake, vehicle, tmp_path)
    assert section is not None
    assert section.rows == 180
    assert len(section.lines) == len(section.pictures) == 3
    largest = max(-float(predict(episode.states[:-1])[:, 0].min()) for episode in episodes.values())
    first = section.lines[0]
    assert first.change_nm == pytest.approx(largest * vehicle.torque_map.budget_nm * CLIPPED / 17, rel=1e-4)
    for line in section.lines:
        assert len(line.neighbours) == 3
        assert not any(told.startswith(line.episode) for told in line.neighbours)
    assert "changed by" in section.pictures[0].svg

    # A report does not fail for what is damaged: vectors, an episode, the pointer.
    vectors = max(tmp_path.glob("embeddings/*.lance/data/*"), key=lambda path: path.stat().st_size)
    recording = next(tmp_path.glob("episodes/**/*.parquet"))
    for path, says in (
        (vectors, "tspace embed"),
        (recording, recording.name),
        (lake.root / "embeddings" / f"{VEHICLE}.json", "tspace embed"),
    ):
        content = Path(str(path)).read_bytes()
        Path(str(path)).write_bytes(content[: len(content) // 3])
        damaged = situations_section(lake, vehicle, tmp_path)
        assert damaged is not None
        assert says in damaged.note
        assert not damaged.lines
        Path(str(path)).write_bytes(content)
