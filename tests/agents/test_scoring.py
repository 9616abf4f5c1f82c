"""Batch inference: proposals, values and limits of every record, streamed, once."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from tests.agents.scored import VEHICLE, drive, put_agent, put_episodes
from tspace_core.agents import DDPG, scorers, scoring
from tspace_core.agents.scorers import Recorded, Values
from tspace_core.agents.scores import total
from tspace_core.agents.scoring import store_scores
from tspace_core.agents.scoring_table import SCHEMA, read_scores
from tspace_core.config import FLASHED_ROWS, Vehicle, load_vehicle
from tspace_core.errors import AgentError, CheckpointError, StorageError
from tspace_core.storage.lake import Lake
from tspace_core.storage.writer import DIRECT

KEY = f"{VEHICLE}/2026-01-05/drive.blf"
LENGTHS = (40, 1, 90, 17)


@pytest.fixture(scope="module")
def vehicle() -> Vehicle:
    return load_vehicle(VEHICLE)


@pytest.fixture
def lake(tmp_path: Path, vehicle: Vehicle) -> Lake:
    found = Lake(tmp_path / "lake")
    put_episodes(found, KEY, [drive(vehicle, KEY, k, n) for k, n in enumerate(LENGTHS)])
    return found


@pytest.fixture
def checkpoint(tmp_path: Path, vehicle: Vehicle) -> Path:
    folder = tmp_path / "lake" / "checkpoints" / "ddpg" / "run1" / "00000007"
    put_agent(folder, vehicle)
    return folder


def columns(path: Path) -> dict[str, np.ndarray]:
    table = read_scores(path)
    lists = {name: table.column(name).combine_chunks().flatten().to_numpy() for name in ("action", "torque")}
    rest = {
        name: np.array(table.column(name).to_pylist()) for name in table.column_names if name not in lists
    }
    return {**rest, **{name: values.reshape(len(table), -1) for name, values in lists.items()}}


def test_each_record_has_what_the_agent_says_of_it(lake: Lake, checkpoint: Path, vehicle: Vehicle) -> None:
    scores = store_scores(lake, KEY, str(checkpoint))
    assert scores.path == lake.root / f"policy_actions/vehicle={VEHICLE}/date=2026-01-05" / (
        f"drive.blf.{scores.checkpoint}.parquet"
    )
    found = columns(Path(str(scores.path)))
    episodes = [drive(vehicle, KEY, k, n) for k, n in enumerate(LENGTHS)]
    states = np.concatenate([episode.states[:-1] for episode in episodes])
    behaviour = np.concatenate([episode.actions for episode in episodes])
    agent = DDPG.load(checkpoint, mode="train")
    proposals = agent.predict(states)
    np.testing.assert_allclose(found["action"], proposals, atol=1e-5)
    with torch.no_grad():
        normal = agent.normaliser(torch.from_numpy(states))
        for name, actions in (("q_proposal", proposals), ("q_behaviour", behaviour)):
            values = agent.critic(normal, torch.from_numpy(actions)).squeeze(1).numpy()
            np.testing.assert_allclose(found[name], values, rtol=1e-4, atol=1e-5)
    expected = np.sqrt(np.mean((found["action"] - behaviour) ** 2, axis=1))
    np.testing.assert_allclose(found["distance"], expected, rtol=1e-5)
    default, limits = vehicle.default_map(), vehicle.torque_map
    for k, state in enumerate(states):
        row = int(default.first_row(state.reshape(vehicle.sampling.window, -1)[:, 0].max()))
        assert row == found["first_row"][k]
        flashed = default.flashed(
            found["action"][k], row, default, budget_nm=limits.budget_nm, upper_factor=limits.upper_factor
        )
        rows = flashed.table[row : row + FLASHED_ROWS]
        assert np.array_equal(rows.ravel(), found["torque"][k])
        asked = default.table[row : row + FLASHED_ROWS].ravel() + found["action"][k] * limits.budget_nm
        assert found["clipped"][k] == pytest.approx(np.mean(np.abs(asked - rows.ravel()) > 1e-3), abs=0.03)
    assert found["episode_id"].tolist() == [e.meta.episode_id for e in episodes for _ in range(len(e))]
    assert found["record"].tolist() == [k for episode in episodes for k in range(len(episode))]
    times = read_scores(scores.path).column("time").cast("int64").to_numpy()
    assert np.array_equal(times, np.concatenate([episode.times[:-1] for episode in episodes]))


def test_the_summary_is_that_of_the_file(lake: Lake, checkpoint: Path, vehicle: Vehicle) -> None:
    scores = store_scores(lake, KEY, str(checkpoint))
    found = columns(Path(str(scores.path)))
    assert scores.records == sum(LENGTHS) == len(found["time"]) and scores.episodes == len(LENGTHS)
    assert scores.q_proposal == pytest.approx(found["q_proposal"].mean(), rel=1e-5)
    assert scores.q_behaviour == pytest.approx(found["q_behaviour"].mean(), rel=1e-5)
    assert scores.preferred == pytest.approx(np.mean(found["q_proposal"] > found["q_behaviour"]))
    assert scores.clipped == pytest.approx(found["clipped"].mean(), rel=1e-5)
    assert scores.clipped is not None and 0.2 < scores.clipped < 0.8, "the agent's proposals reach the limits"
    for name, value in scores.distance_quantiles().items():
        exact = np.quantile(found["distance"], float(name[1:]) / 100, method="inverted_cdf")
        assert exact <= value + 1e-6 and value - exact <= 0.0101
    default = vehicle.default_map()
    for row in np.flatnonzero(scores.flashes):
        place = row - found["first_row"]
        holds = (place >= 0) & (place < FLASHED_ROWS)
        assert scores.flashes[row] == holds.sum()
        torque = found["torque"].reshape(-1, FLASHED_ROWS, 17)[holds, place[holds]]
        np.testing.assert_allclose(scores.change_nm[row], torque.mean(0) - default.table[row], atol=2e-3)


def test_the_file_says_what_it_is(lake: Lake, checkpoint: Path) -> None:
    scores = store_scores(lake, KEY, str(checkpoint))
    schema = pq.read_schema(scores.path)
    assert schema.field("torque").metadata[b"unit"] == b"Nm"
    assert all(field.metadata[b"unit"] and field.metadata[b"description"] for field in schema)
    about = json.loads(pq.read_metadata(scores.path).metadata[b"tspace"])
    assert (about["agent"], about["run"], about["step"]) == ("ddpg", "run1", 7)
    assert about["checkpoint"] == scores.checkpoint and about["software_version"]
    assert not Path(about["path"]).is_absolute(), "a lake can be moved"


@pytest.mark.parametrize("block", [1, 7, 64, 10_000])
def test_blocks_leave_no_seam(
    lake: Lake, checkpoint: Path, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = columns(Path(str(store_scores(lake, KEY, str(checkpoint)).path)))
    monkeypatch.setattr(scoring, "BLOCK", block)
    monkeypatch.setattr(scorers, "STEP", 32)
    scoring.open_checkpoint.cache_clear()
    scores = store_scores(lake, KEY, str(checkpoint), again=True)
    scoring.open_checkpoint.cache_clear()
    file = pq.ParquetFile(scores.path)
    assert file.num_row_groups == -(-sum(LENGTHS) // block)
    for name, values in columns(Path(str(scores.path))).items():
        if values.dtype.kind == "f":
            np.testing.assert_allclose(
                values, whole[name], rtol=1e-3, atol=2e-2 if name == "torque" else 1e-4
            )
        else:
            assert np.array_equal(values, whole[name])


def test_the_same_again_is_nothing_to_do(lake: Lake, checkpoint: Path, vehicle: Vehicle) -> None:
    first = store_scores(lake, KEY, str(checkpoint))
    before = Path(str(first.path)).stat().st_mtime_ns
    again = store_scores(lake, KEY, str(checkpoint))
    assert again.reused and not first.reused and Path(str(first.path)).stat().st_mtime_ns == before
    assert again.model_dump() == first.model_dump()
    put_episodes(lake, KEY, [drive(vehicle, KEY, 0, 9, seed=5)])
    other = store_scores(lake, KEY, str(checkpoint))
    assert not other.reused and other.records == 9


def test_a_damaged_result_is_made_again(lake: Lake, checkpoint: Path) -> None:
    first = store_scores(lake, KEY, str(checkpoint))
    path = Path(str(first.path))
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(StorageError, match=r"holds no scores.*score"):
        read_scores(path)
    assert store_scores(lake, KEY, str(checkpoint)).model_dump() == first.model_dump()


def test_a_copy_of_a_checkpoint_is_the_same_checkpoint(lake: Lake, checkpoint: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copied" / "somewhere"
    shutil.copytree(checkpoint, copy)
    first = store_scores(lake, KEY, str(checkpoint))
    assert store_scores(lake, KEY, str(copy)).reused
    put_agent(tmp_path / "other", load_vehicle(VEHICLE), seed=3)
    assert store_scores(lake, KEY, str(tmp_path / "other")).path != first.path


def test_a_log_whose_episodes_are_none(lake: Lake, checkpoint: Path) -> None:
    key = f"{VEHICLE}/2026-01-06/short.blf"
    put_episodes(lake, key, [])
    scores = store_scores(lake, key, str(checkpoint))
    assert scores.records == 0 and scores.q_proposal is None and scores.distance_quantiles() == {}
    assert read_scores(scores.path).schema.names == SCHEMA.names
    assert total([scores]).records == 0 and total([]).records == 0


def test_totals_weigh_by_records(lake: Lake, checkpoint: Path, vehicle: Vehicle) -> None:
    key = f"{VEHICLE}/2026-01-06/other.blf"
    put_episodes(lake, key, [drive(vehicle, key, 0, 5, seed=1)])
    parts = [store_scores(lake, name, str(checkpoint)) for name in (KEY, key)]
    both = total(parts)
    files = [columns(Path(str(part.path))) for part in parts]
    assert both.records == sum(LENGTHS) + 5
    for name in ("q_proposal", "clipped", "distance"):
        exact = np.concatenate([file[name] for file in files]).mean(dtype=np.float64)
        assert getattr(both, name) == pytest.approx(exact, rel=1e-5)
    assert sum(both.distances) == both.records and sum(both.flashes) == FLASHED_ROWS * both.records


class TestBadInput:
    """Each says what is wrong and leaves no half result."""

    def nothing_stored(self, lake: Lake) -> bool:
        return not list(Path(str(lake.root)).rglob("policy_actions/**/*.parquet"))

    def test_no_checkpoint(self, lake: Lake, tmp_path: Path) -> None:
        with pytest.raises(CheckpointError, match="no such checkpoint"):
            store_scores(lake, KEY, str(tmp_path / "none"))

    def test_another_type_of_vehicle(self, lake: Lake, tmp_path: Path, vehicle: Vehicle) -> None:
        put_agent(tmp_path / "big", vehicle, state_dim=600)
        with pytest.raises(CheckpointError, match=r"state_dim is 600, twin_truck has 90"):
            store_scores(lake, KEY, str(tmp_path / "big"))

    def test_a_policy_alone_has_no_opinion(self, lake: Lake, tmp_path: Path, checkpoint: Path) -> None:
        DDPG.load(checkpoint, mode="train").save_policy(tmp_path / "policy")
        with pytest.raises(CheckpointError, match="no component 'critic'"):
            store_scores(lake, KEY, str(tmp_path / "policy"))

    def test_episodes_of_another_layout_are_left_out_and_counted(
        self, lake: Lake, checkpoint: Path, vehicle: Vehicle
    ) -> None:
        remote = load_vehicle("twin_remote")
        odd = [
            drive(vehicle, KEY, 0, 6),
            drive(remote, KEY, 1, 4),
            drive(vehicle, KEY, 2, 5, budget_nm=100.0),
            drive(vehicle, KEY, 3, 5, default_map_sha256="0" * 64),
            drive(vehicle, KEY, 4, 5, default_map_sha256="1" * 64),
        ]
        put_episodes(lake, KEY, odd)
        scores = store_scores(lake, KEY, str(checkpoint))
        assert (scores.episodes, scores.records) == (1, 6)
        assert scores.left_out == {"window": 1, "budget": 1, "default_map": 2}
        assert "budget is 100.0, twin_truck has 250" in scores.messages["budget"]
        assert odd[2].meta.episode_id in scores.messages["budget"]

    def test_a_torn_episode(self, lake: Lake, checkpoint: Path) -> None:
        path = Path(str(lake.episodes(lake.log_of(KEY))[2]))
        path.write_bytes(path.read_bytes()[:-200])
        with pytest.raises(StorageError, match=path.name):
            store_scores(lake, KEY, str(checkpoint))
        assert self.nothing_stored(lake)

    def test_a_log_that_was_never_cut(self, lake: Lake, checkpoint: Path) -> None:
        with pytest.raises(StorageError, match=r"has no episodes.*cut them first"):
            store_scores(lake, f"{VEHICLE}/2026-01-07/raw.blf", str(checkpoint))

    def test_an_agent_that_has_diverged(self, lake: Lake, tmp_path: Path, vehicle: Vehicle) -> None:
        agent = put_agent(tmp_path / "fine", vehicle)
        agent.critic.output.bias.data.fill_(float("nan"))
        agent.save(tmp_path / "diverged")
        with pytest.raises(AgentError, match=rf"not finite at record 0 of episode {KEY}#0000.*148 such"):
            store_scores(lake, KEY, str(tmp_path / "diverged"))
        assert self.nothing_stored(lake)

    def test_the_record_that_is_not_finite_is_named(
        self, lake: Lake, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        opened = scoring.open_checkpoint(str(checkpoint))
        answer = opened.scorer

        class Odd:
            state_dim, action_dim = answer.state_dim, answer.action_dim

            def __call__(self, records: Recorded, /) -> Values:
                values = answer(records)
                values.q_behaviour[41 + 3] = np.inf
                return values

        odd = scoring.OpenCheckpoint(opened.directory, opened.id, "ddpg", "run", 1, Odd())
        monkeypatch.setattr(scoring, "open_checkpoint", lambda directory: odd)
        with pytest.raises(AgentError, match=rf"record 3 of episode {KEY}#0002"):
            store_scores(lake, KEY, str(checkpoint))

    def test_a_full_disk(self, lake: Lake, checkpoint: Path) -> None:
        class Full:
            file = staticmethod(lambda path, **conditions: _full(path))
            text, directory, remove = DIRECT.text, DIRECT.directory, DIRECT.remove

        with pytest.raises(StorageError, match=r"drive\.blf.*cannot be written.*No space left"):
            store_scores(lake, KEY, str(checkpoint), writer=Full())
        assert self.nothing_stored(lake)


@contextmanager
def _full(path: object) -> Iterator[Path]:
    yield Path("/dev/full")
