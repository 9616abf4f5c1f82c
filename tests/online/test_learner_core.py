"""What a learner learns from, what it keeps, and that a stop between two updates changes nothing."""

from pathlib import Path

import numpy as np
import pytest

from tests.online.learners import (
    HYPER,
    make_records,
    make_replay,
    make_spec,
    noisy_episode,
    state_of,
    store_episode,
)
from tests.storage.replay_episodes import STATE_DIM
from tspace_core.agents import AGENTS, DDPG, Checkpoint, load_agent
from tspace_core.agents.checkpoint import CheckpointStore
from tspace_core.agents.sources import Batch, RecordSource
from tspace_core.config import (
    AgentHyperparameters,
    DDPGHyperparameters,
    IDQLHyperparameters,
    RDPGHyperparameters,
    load_vehicle,
)
from tspace_core.errors import AgentError, CheckpointError, DivergedError
from tspace_core.online.learner_core import LearnerCore
from tspace_core.online.learner_protocol import EpisodeEnd, LearnerSpec, Saved, WeightsMade

BAD_DATA: dict[str, AgentHyperparameters] = {
    "ddpg": HYPER,
    "rdpg": RDPGHyperparameters(layers=1, width=8, length=6, burn_in=0, batch_size=4),
    "idql": IDQLHyperparameters(value_hidden=(8,), actor_width=8, actor_blocks=1, samples=2, batch_size=32),
}
VALID, INVALID = EpisodeEnd(number=1, valid=True), EpisodeEnd(number=1, valid=False)


def weights_of(core: LearnerCore) -> np.ndarray:
    return core.agent.predict(np.random.default_rng(0).normal(30, 5, (5, STATE_DIM)).astype(np.float32))


def drive(core: LearnerCore, first: int, count: int) -> None:
    for number in range(first, first + count):
        core.take(make_records(number))
        core.learn()


def test_continuous_learning_follows_the_records(tmp_path: Path) -> None:
    make_replay(tmp_path)
    core = LearnerCore(make_spec(tmp_path, updates_per_record=0.5))
    assert core.learn() == 0  # no record, no update
    done = []
    for number in range(6):
        core.take(make_records(number))
        done.append(core.learn())
    assert done == [0, 1, 0, 1, 0, 1]
    learned = core.end_episode(VALID)
    assert (learned.updates, learned.total_updates, learned.records) == (3, 3, 6)
    assert (learned.live_records, learned.offline_records) == (6, 100)
    assert learned.critic_loss is not None
    assert learned.critic_loss > 0


def test_learning_at_an_episode_s_end_does_its_updates_then(tmp_path: Path) -> None:
    make_replay(tmp_path)
    core = LearnerCore(make_spec(tmp_path, learning="episode_end"))
    drive(core, 0, 4)
    assert core.updates == 0
    assert core.end_episode(VALID).updates == HYPER.updates_per_episode
    assert core.end_episode(VALID).total_updates == 2 * HYPER.updates_per_episode


def test_an_invalid_episode_is_forgotten(tmp_path: Path) -> None:
    make_replay(tmp_path)
    core = LearnerCore(make_spec(tmp_path, learning="episode_end"))
    drive(core, 0, 4)
    core.end_episode(VALID)
    drive(core, 10, 7)
    learned = core.end_episode(INVALID)
    assert (learned.valid, learned.records, learned.live_records, learned.updates) == (False, 7, 4, 0)
    assert learned.critic_loss is None
    kept = core.live.split(core.live.block(np.arange(4))).rewards
    np.testing.assert_array_equal(kept, [make_records(number).rewards[0] for number in range(4)])


def test_bad_records_are_refused_and_counted(tmp_path: Path) -> None:
    make_replay(tmp_path)
    core = LearnerCore(make_spec(tmp_path))
    bad = make_records(0, 2)
    bad.rewards[1] = np.nan
    core.take(bad)
    assert core.learn() == 0
    drive(core, 1, 3)
    learned = core.end_episode(VALID)
    assert (learned.records, learned.refused, learned.updates) == (3, 2, 3)


def test_without_any_data_it_waits_and_then_learns_from_what_is_driven(tmp_path: Path) -> None:
    core = LearnerCore(make_spec(tmp_path))
    assert "no offline records" in core.ready().notes[0]
    assert isinstance(core.agent, DDPG)
    assert core.agent.normalised
    # signals are brought to the size of their range; one without limits is left alone
    np.testing.assert_allclose(core.agent.normaliser.mean.numpy(), np.tile([60, 50, 0], 3), atol=1e-6)
    deviations = np.tile([120 / 12**0.5, 100 / 12**0.5, 1], 3)
    np.testing.assert_allclose(1 / core.agent.normaliser.scale.numpy(), deviations, rtol=1e-5)
    drive(core, 0, 3)
    assert core.updates == 3


def test_a_buffer_of_other_records_is_left_out_with_a_note(tmp_path: Path) -> None:
    make_replay(tmp_path, noisy_episode(1, 20, budget_nm=100.0, reward_kind="loss"))
    core = LearnerCore(make_spec(tmp_path))
    assert core.offline is None
    assert "has other reward_kind, budget_nm than the vehicle's file" in core.notes[0]


def test_stored_online_episodes_that_the_buffer_lacks_are_live_again(tmp_path: Path) -> None:
    known, new = (store_episode(tmp_path, number, 10) for number in (5, 7))
    older = store_episode(tmp_path, 6, 8)
    store_episode(tmp_path, 8, 5, action_source="flash_journal")
    store_episode(tmp_path, 9, 5, budget_nm=100.0)
    make_replay(tmp_path, noisy_episode(1, 60), known)
    core = LearnerCore(make_spec(tmp_path))
    rewards = core.live.split(core.live.block(np.arange(len(core.live)))).rewards
    np.testing.assert_array_equal(rewards, [*older.rewards, *new.rewards])
    assert core.notes == [
        "left out online-9.00000000.0000.parquet: it has other budget_nm than the vehicle's file"
    ]
    small = LearnerCore(make_spec(tmp_path, live_capacity=12))
    rewards = small.live.split(small.live.block(np.arange(12))).rewards
    np.testing.assert_array_equal(rewards, [*older.rewards[-2:], *new.rewards])


def test_a_damaged_stored_episode_costs_only_itself(tmp_path: Path) -> None:
    good, _ = store_episode(tmp_path, 5, 10), store_episode(tmp_path, 6, 10)
    for path in (tmp_path / "lake").rglob("online-6.*.parquet"):
        path.write_bytes(b"PAR1")
    for path in (tmp_path / "lake").rglob("online-6.episodes.json"):
        path.with_name("online-4.episodes.json").write_text("{")
    core = LearnerCore(make_spec(tmp_path))
    assert len(core.live) == len(good)
    assert sum("left out" in note for note in core.notes) == 2


def test_the_same_sequence_gives_the_same_weights(tmp_path: Path) -> None:
    found = []
    for name in ("a", "b"):
        make_replay(tmp_path / name)
        core = LearnerCore(make_spec(tmp_path / name))
        drive(core, 0, 20)
        found.append(core.end_episode(VALID).checkpoint)
    assert found[0] is not None
    assert found[1] is not None
    assert state_of(found[0]) == state_of(found[1])
    other = LearnerCore(make_spec(tmp_path / "c", seed=4))
    drive(other, 0, 20)
    assert not np.array_equal(weights_of(other), load_agent(found[0]).predict(np.ones((5, 9), np.float32)))


def test_a_stop_between_two_updates_changes_nothing(tmp_path: Path) -> None:
    """Stopped in the middle of an episode's updates and begun again: bit for bit as if never stopped."""
    for name in ("whole", "stopped"):
        make_replay(tmp_path / name)
        store_episode(tmp_path / name, 7, 12)
    hyper = HYPER.model_copy(update={"updates_per_episode": 17})
    spec = {"learning": "episode_end", "hyper": hyper}
    whole = LearnerCore(make_spec(tmp_path / "whole", **spec))
    whole.end_episode(VALID)

    stopped = LearnerCore(make_spec(tmp_path / "stopped", **spec))
    looks = iter([False] * 8 + [True] * 99)
    stopped.end_episode(VALID, lambda: next(looks))
    assert stopped.updates == 8
    again = LearnerCore(make_spec(tmp_path / "stopped", **spec))
    assert again.ready().updates == 8
    assert again.learn() == 9
    again.save()
    assert whole.checkpoint is not None
    assert again.checkpoint is not None
    assert state_of(again.checkpoint) == state_of(whole.checkpoint)


def test_checkpoints_are_as_many_as_wanted_and_told(tmp_path: Path) -> None:
    make_replay(tmp_path)
    told: list[Saved | WeightsMade] = []
    core = LearnerCore(make_spec(tmp_path), told.append)
    drive(core, 0, 23)
    core.end_episode(VALID)
    saved = [item.updates for item in told if isinstance(item, Saved)]
    assert saved == [5, 10, 15, 20, 23]
    assert CheckpointStore(core.spec.checkpoints).steps() == [15, 20, 23]
    assert [item.updates for item in told if isinstance(item, WeightsMade)] == [23]


def test_weights_at_each_step_where_that_is_wanted(tmp_path: Path) -> None:
    make_replay(tmp_path)
    told: list[Saved | WeightsMade] = []
    core = LearnerCore(make_spec(tmp_path, weights="step"), told.append)
    drive(core, 0, 4)
    core.end_episode(VALID)
    made = [item for item in told if isinstance(item, WeightsMade)]
    assert [(item.version, item.updates) for item in made] == [(1, 1), (2, 2), (3, 3), (4, 4)]
    states = np.random.default_rng(0).normal(30, 5, (5, STATE_DIM)).astype(np.float32)
    np.testing.assert_array_equal(load_agent(made[-1].path).predict(states), core.agent.predict(states))


def test_divergence_is_found_before_anything_is_kept(tmp_path: Path) -> None:
    make_replay(tmp_path)
    core = LearnerCore(make_spec(tmp_path))
    drive(core, 0, 7)
    assert isinstance(core.agent, DDPG)
    core.agent.actor.output.bias.data[0] = np.nan
    with pytest.raises(
        DivergedError, match=r"update 8: actor loss is nan.* the weights are at fault.*00000005"
    ):
        drive(core, 7, 1)
    for keep in (core.publish, core.save):
        with pytest.raises(DivergedError, match="a weight is not finite"):
            keep()
    assert core.checkpoint == core.spec.checkpoints / "00000005"
    assert LearnerCore(core.spec).agent.finite()


def spoilt(root: Path, **changes: object) -> LearnerCore:
    """A learner whose offline buffer got a NaN after it had been checked: the second episode's record 9."""
    replay = make_replay(root)
    path = Path(str(replay.directory)) / "rows.f32"
    rows = np.fromfile(path, np.float32).reshape(-1, replay.layout.row_width)
    rows[61 + 9, STATE_DIM + 3] = np.nan  # an action's cell; the first episode has 60 records and an end
    rows.tofile(path)
    return LearnerCore(make_spec(root, live_share=0.0, **changes))


@pytest.mark.parametrize("name", AGENTS)
def test_bad_data_is_no_divergence_and_names_the_records(tmp_path: Path, name: str) -> None:
    hyper = BAD_DATA[name]
    core = spoilt(tmp_path, agent=name, hyper=hyper)
    with pytest.raises(AgentError) as caught:
        drive(core, 0, 300)
    said = str(caught.value)
    assert not isinstance(caught.value, DivergedError)
    assert f"update {core.updates + 1}: " in said and "actions at places " in said
    assert "record 69 (episode " in said and "its record 9)" in said
    assert "build the buffer again" in said
    assert "learning rates" not in said
    assert f"(last good checkpoint: {core.checkpoint or 'none'})" in said
    assert core.agent.finite()


def test_a_batch_of_other_shapes_is_called_what_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_replay(tmp_path)
    core = LearnerCore(make_spec(tmp_path))
    drive(core, 0, 3)
    plain = core.agent.draw

    def draw(source: RecordSource, generator: np.random.Generator) -> Batch:
        batch = plain(source, generator)
        return batch._replace(states=batch.states[:, :-1])

    monkeypatch.setattr(core.agent, "draw", draw)
    with pytest.raises(AgentError, match=r"^update 4: states of the batch has shape \(\d+, 8\)") as caught:
        drive(core, 3, 1)
    assert not isinstance(caught.value, DivergedError)
    assert "at fault" not in str(caught.value)


def test_a_damaged_checkpoint_is_put_aside_for_the_one_before(tmp_path: Path) -> None:
    make_replay(tmp_path)
    core = LearnerCore(make_spec(tmp_path))
    drive(core, 0, 10)
    (core.spec.checkpoints / "00000010" / "critic.safetensors").write_bytes(b"cut")
    again = LearnerCore(core.spec)
    assert again.updates == 5
    assert "went back behind a checkpoint that cannot be read, now damaged-00000010" in again.notes[0]
    drive(again, 5, 5)  # comes to step 10 again
    assert Checkpoint(core.spec.checkpoints / "00000010").manifest.step == 10


def test_what_a_killed_writer_left_is_swept(tmp_path: Path) -> None:
    spec = make_spec(tmp_path)
    for folder in (spec.checkpoints, spec.weights_folder):
        (folder / ".00000005.123-abc.tmp").mkdir(parents=True)
        (folder / ".00000005.123-abc.tmp" / "actor.json").write_text("{")
    LearnerCore(spec)
    assert list(spec.checkpoints.iterdir()) == []
    assert list(spec.weights_folder.iterdir()) == []


def test_a_new_run_can_begin_with_the_champion(tmp_path: Path) -> None:
    agent = DDPG(HYPER, STATE_DIM, 68, seed=11)
    agent.save(tmp_path / "champion")
    core = LearnerCore(make_spec(tmp_path, start_from=tmp_path / "champion"))
    states = np.ones((2, STATE_DIM), np.float32)
    np.testing.assert_array_equal(core.agent.predict(states), agent.predict(states))
    drive(core, 0, 5)
    resumed = LearnerCore(make_spec(tmp_path, start_from=tmp_path / "gone by now"))
    assert resumed.updates == 5
    with pytest.raises(CheckpointError, match="missing"):
        LearnerCore(make_spec(tmp_path, run="other", start_from=tmp_path / "gone by now"))


def test_other_hyperparameters_than_the_run_s_are_an_error_and_harm_nothing(tmp_path: Path) -> None:
    core = LearnerCore(make_spec(tmp_path))
    drive(core, 0, 5)
    changed = make_spec(tmp_path, hyper=HYPER.model_copy(update={"tau": 0.5}))
    with pytest.raises(CheckpointError, match="hyperparameters is"):
        LearnerCore(changed)
    assert LearnerCore(core.spec).updates == 5


def test_shaped_rewards_need_the_agent_s_discount(tmp_path: Path) -> None:
    layout = make_spec(tmp_path).layout.model_copy(update={"reward_kind": "energy_shaped", "gamma": 0.9})
    with pytest.raises(AgentError, match=r"shaped for gamma 0\.9, the agent discounts with 0\.99"):
        LearnerCore(make_spec(tmp_path, layout=layout))


def test_the_spec_of_a_vehicle_is_what_its_file_says(tmp_path: Path) -> None:
    vehicle, hyper = load_vehicle("twin_truck"), DDPGHyperparameters()
    spec = LearnerSpec.of(vehicle, hyper, lake=tmp_path, folder=tmp_path / "l", run="r")
    assert (spec.layout.state_dim, spec.layout.action_dim, spec.seed) == (90, 68, hyper.seed)
    assert list(spec.ranges) == [(0, 200), (0, 100), (0, 100)]
    assert (spec.learning, spec.weights) == (vehicle.online.learning, vehicle.online.weights)
    assert LearnerSpec.model_validate_json(spec.model_dump_json()) == spec
