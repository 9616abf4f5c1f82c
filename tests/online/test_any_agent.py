"""Every agent drives and learns online; a recurrent one remembers what really happened."""

from pathlib import Path

import numpy as np
import pytest

from tests.agents.batches import SMALL
from tests.online.avatars import Run
from tests.online.builders import small_vehicle, taken_over, window
from tests.online.fake_car import applied, begun, ended, episode, refused, windows
from tests.online.learners import make_records, make_replay, make_spec, state_of
from tests.online.test_cruncher import Lessons, crunch
from tspace_core.agents import AGENTS, DPG, Checkpoint, load_agent
from tspace_core.agents.made_for import made_for
from tspace_core.config import (
    AgentHyperparameters,
    IDQLHyperparameters,
    RDPGHyperparameters,
    Vehicle,
    load_hyperparameters,
)
from tspace_core.errors import CheckpointError
from tspace_core.online.agent_choice import choose, learner_run
from tspace_core.online.avatar import AvatarOptions
from tspace_core.online.driver_agent import DriverAgent, fresh_agent
from tspace_core.online.learner_core import LearnerCore
from tspace_core.online.learner_protocol import EpisodeEnd, LearnerSpec, agent_of, encode_records
from tspace_core.records.flash_journal import as_action
from tspace_core.storage.champion import release
from tspace_core.storage.lake import Lake
from tspace_core.vehicle.interface import FlashOutcomeView, RowsProposal

HYPERS: dict[str, AgentHyperparameters] = {
    "ddpg": SMALL,
    "lstm": RDPGHyperparameters(width=8, layers=1, batch_size=4, length=5, burn_in=2),
    "transformer": RDPGHyperparameters(
        sequence_model="transformer", width=8, layers=1, heads=2, context=4, batch_size=4, length=5, burn_in=3
    ),
    "idql": IDQLHyperparameters(actor_width=8, value_hidden=(8,), samples=4, batch_size=16),
}
TRUCK = small_vehicle()


class Noting(DriverAgent):
    """Notes what it is told and what it remembers."""

    def __init__(self, agent: DPG) -> None:
        super().__init__(agent, explore=False)
        self.rewards: list[float | None] = []
        self.told: list[np.ndarray] = []
        self.chains = 0

    def begin_chain(self) -> None:
        self.chains += 1
        super().begin_chain()

    def act(self, state: np.ndarray, reward: float | None = None) -> np.ndarray:
        self.rewards.append(reward)
        return super().act(state, reward)

    def carried_out(self, action: np.ndarray) -> None:
        self.told.append(action)
        super().carried_out(action)


def noting(hyper: str = "lstm") -> Noting:
    agent = fresh_agent(TRUCK, HYPERS[hyper], None)
    return Noting(agent)


@pytest.mark.parametrize("name", HYPERS)
def test_an_episode_is_driven_and_recorded(name: str) -> None:
    driver = noting(name)
    _, car, lessons = crunch(TRUCK, episode(TRUCK, 1, 11), agent=driver)
    assert len(car.proposals) == 5
    assert len(lessons.records) == 5
    memories = [record.memory for record in lessons.records]
    if driver.agent.memory_dim:
        assert all(memory is not None and len(memory) == driver.agent.memory_dim for memory in memories)
        assert driver.rewards == [None, *(record.reward for record in lessons.records)]
    else:
        assert memories == [None] * 5
    assert len(driver.told) == (6 if driver.agent.memory_dim else 0)


def test_memory_is_that_of_the_agent_s_own_session_along_the_records() -> None:
    driver = noting()
    _, _, lessons = crunch(TRUCK, episode(TRUCK, 1, 13), agent=driver)
    session, reward = driver.agent.session(), None
    session.begin()
    for record in lessons.records:
        session.act(record.state[None], None if reward is None else np.array([reward], np.float32))
        assert session.memory is not None and record.memory is not None
        np.testing.assert_allclose(record.memory, session.memory[0], rtol=1e-5, atol=1e-5)
        session.carried_out(record.action[None])
        reward = record.reward


def test_it_is_told_what_took_effect_not_what_it_wanted() -> None:
    driver, default = noting(), TRUCK.default_map()

    def halved(proposal: RowsProposal) -> FlashOutcomeView:
        rows = slice(proposal.first_row, proposal.first_row + 4)
        half = (proposal.rows + default.table[rows]) / 2
        return FlashOutcomeView("APPLIED", 0, "", proposal.first_row, half.astype(np.float32))

    _, car, lessons = crunch(TRUCK, episode(TRUCK, 1, 9), agent=driver, answer=halved)
    for proposal, told in zip(car.proposals, driver.told[1:], strict=True):
        rows = default.table[proposal.first_row : proposal.first_row + 4]
        wanted, _ = as_action(proposal.rows, rows, TRUCK.torque_map.budget_nm)
        np.testing.assert_allclose(told, wanted / 2, atol=1e-5)
    for record, told in zip(lessons.records, driver.told, strict=False):
        np.testing.assert_array_equal(record.action, told)


def test_a_refused_flash_is_remembered_as_the_map_that_stayed() -> None:
    driver, answers = noting(), iter([applied, refused, applied, applied])
    _, _, lessons = crunch(
        TRUCK, episode(TRUCK, 1, 11), agent=driver, answer=lambda proposal: next(answers, applied)(proposal)
    )
    assert driver.chains == 1
    np.testing.assert_array_equal(driver.told[2], driver.told[1])
    assert len(lessons.records) == 4  # the refused step is none
    # All five steps were rewarded for the agent, the refused one, too.
    assert None not in driver.rewards[1:]
    assert len(driver.rewards) == 6
    steps = [record.reward for record in lessons.records]
    assert [reward for reward in driver.rewards[1:] if reward in steps] == steps
    after = lessons.records[2]
    assert after.memory is not None
    np.testing.assert_allclose(after.memory[:68], driver.told[2], atol=1e-5)
    assert after.memory[68] == pytest.approx(driver.rewards[3])


def test_windows_that_were_lost_begin_it_anew() -> None:
    driver = noting()
    drive_on = windows(TRUCK, 14, invalid=(5,))
    _, _, lessons = crunch(TRUCK, [begun(1), *drive_on, ended(1)], agent=driver)
    assert driver.chains == 2
    assert driver.rewards.count(None) == 2
    begins = [record for record in lessons.records if record.memory is not None and not record.memory.any()]
    assert [record.time_ns for record in begins] == [lessons.records[0].time_ns, window(TRUCK, 6).start_ns]


def test_windows_that_were_lost_leave_noise_alone_where_nothing_is_remembered() -> None:
    agent = fresh_agent(TRUCK, SMALL, None)
    driver = DriverAgent(agent, explore=True)
    state = np.zeros(agent.state_dim, np.float32)
    driver.act(state)
    before = driver._session.component().values["noise"]
    driver.begin_chain()
    assert driver._session.component().values["noise"] == before


@pytest.mark.parametrize("name", HYPERS)
def test_memory_and_noise_go_on_through_new_weights(name: str, tmp_path: Path) -> None:
    agent = fresh_agent(TRUCK, HYPERS[name], None)
    agent.save(tmp_path / "same")
    one, other = (DriverAgent(load_agent(tmp_path / "same"), explore=True) for _ in range(2))
    generator = np.random.default_rng(2)
    for step in range(8):
        if step in (3, 6):
            assert taken_over(one, tmp_path / "same")
        state = generator.normal(30, 10, agent.state_dim).astype(np.float32)
        np.testing.assert_array_equal(one.act(state, -float(step)), other.act(state, -float(step)))


def test_another_kind_of_agent_takes_over(tmp_path: Path) -> None:
    driver = DriverAgent(fresh_agent(TRUCK, SMALL, None), explore=True)
    driver.act(np.zeros(9, np.float32))
    for name in ("lstm", "idql", "transformer", "ddpg"):
        fresh_agent(TRUCK, HYPERS[name], None).save(tmp_path / name)
        assert taken_over(driver, tmp_path / name)
        assert np.abs(driver.act(np.zeros(9, np.float32), -1.0)).max() <= 1.0
        assert (driver.memory is not None) == bool(driver.agent.memory_dim)


def drive(core: LearnerCore, first: int, count: int) -> None:
    """Records that follow each other, and what was remembered before each."""
    generator, dim = np.random.default_rng(first), core.agent.memory_dim
    states = generator.normal(30, 5, (count + 1, 9)).astype(np.float32)
    for number in range(count):
        records = make_records(first + number)._replace(
            states=states[number][None], next_states=states[number + 1][None]
        )
        memory = generator.normal(size=(1, dim)).astype(np.float32) if dim else None
        core.take(records, memory)
        core.learn()


@pytest.mark.parametrize("name", HYPERS)
def test_it_learns_from_what_is_driven_and_goes_on_after_a_stop(name: str, tmp_path: Path) -> None:
    hyper = HYPERS[name].model_copy(update={"checkpoint_every": 3})
    make_replay(tmp_path)
    spec = make_spec(tmp_path, agent=agent_of(hyper), hyper=hyper)
    core = LearnerCore(spec)
    assert core.agent.made_for == made_for(spec.layout)
    drive(core, 0, 12)
    learned = core.end_episode(EpisodeEnd(number=1, valid=True))
    assert (learned.updates, learned.records, learned.refused) == (12, 12, 0)
    assert learned.checkpoint is not None
    assert learned.checkpoint.parent.parent.name == agent_of(hyper)
    again = LearnerCore(spec)
    assert (again.updates, again.agent.name) == (12, core.agent.name)
    again.agent.save(tmp_path / "again")
    core.agent.save(tmp_path / "core")
    assert state_of(tmp_path / "again") == state_of(tmp_path / "core")
    weights = load_agent(spec.weights_folder / f"{learned.weights_version:08d}")
    assert weights.made_for == core.agent.made_for


def test_live_records_keep_their_memory_and_their_episode(tmp_path: Path) -> None:
    core = LearnerCore(make_spec(tmp_path, agent="rdpg", hyper=HYPERS["lstm"], updates_per_record=0.0))
    drive(core, 0, 4)
    core.end_episode(EpisodeEnd(number=1, valid=True))
    drive(core, 50, 3)
    drawn = core.live.sample_sequences(200, 5, np.random.default_rng(0))
    assert set(drawn.mask.sum(axis=1)) == {4.0, 3.0}
    assert drawn.memory is not None
    assert len(np.unique(drawn.memory, axis=0)) == 2


def test_memory_of_another_agent_is_left_out(tmp_path: Path) -> None:
    core = LearnerCore(make_spec(tmp_path))
    core.take(make_records(1), np.ones((1, 7), np.float32))
    recurrent = LearnerCore(make_spec(tmp_path / "b", agent="rdpg", hyper=HYPERS["lstm"]))
    recurrent.take(make_records(1), np.ones((1, 7), np.float32))
    assert (core.records, recurrent.records) == (1, 1)
    drawn = recurrent.live.sample_sequences(1, 1, np.random.default_rng(0))
    assert drawn.memory is not None and not drawn.memory.any()


@pytest.mark.parametrize("name", HYPERS)
def test_a_spec_keeps_its_kind_of_hyperparameters(name: str, tmp_path: Path) -> None:
    hyper = HYPERS[name]
    spec = LearnerSpec.of(TRUCK, hyper, lake=tmp_path, folder=tmp_path, run="r")
    again = LearnerSpec.model_validate_json(spec.model_dump_json())
    assert again == spec
    assert type(again.hyper) is type(hyper)
    assert again.checkpoints == tmp_path / "checkpoints" / agent_of(hyper) / "r"


def test_records_travel_with_their_memory() -> None:
    from tspace_core.online.learner_protocol import Decoder

    memory = np.arange(6, dtype=np.float32).reshape(2, 3)
    frames = [
        frame
        for data in (encode_records(make_records(1, 2), memory), encode_records(make_records(1, 2)))
        for frame in Decoder().feed(data)
    ]
    assert frames[0].memory is not None
    np.testing.assert_array_equal(frames[0].memory, memory)
    assert frames[1].memory is None
    np.testing.assert_array_equal(frames[0].records().states, make_records(1, 2).states)


def test_a_run_of_a_recurrent_agent_tells_its_learner_what_it_remembers(tmp_path: Path) -> None:
    run = Run(tmp_path, episode(TRUCK, 1, 9), hyper=HYPERS["lstm"])
    run.avatar.run()
    (learner,) = run.learners
    assert learner.spec.agent == "rdpg"
    assert len(learner.memories) == 4
    dim = AGENTS["rdpg"](HYPERS["lstm"], 9, 68).memory_dim
    assert all(memory is not None and memory.shape == (1, dim) for memory in learner.memories)


def put_release(root: Path, vehicle: Vehicle, name: str) -> Lake:
    lake = Lake(root)
    fresh_agent(vehicle, HYPERS[name], None).save(root / "runs" / name / "00000001")
    release(lake, vehicle, root / "runs" / name / "00000001", by="test", loads=load_agent)
    return lake


def test_the_release_says_which_agent_drives_unless_one_is_asked_for(tmp_path: Path) -> None:
    assert choose(Lake(tmp_path), TRUCK, infer=False).agent == "ddpg"
    lake = put_release(tmp_path, TRUCK, "idql")
    found = choose(lake, TRUCK, infer=False)
    assert (found.agent, found.hyper.batch_size) == ("idql", HYPERS["idql"].batch_size)
    assert found.hyper.offline_updates == load_hyperparameters("idql").offline_updates
    assert found.released is not None and found.checkpoint == found.released.checkpoint
    asked = TRUCK.model_copy(update={"online": TRUCK.online.model_copy(update={"agent": "rdpg"})})
    for other in (choose(lake, asked, infer=False), choose(lake, TRUCK, infer=False, agent="rdpg")):
        assert (other.agent, other.released, other.checkpoint) == ("rdpg", None, None)
        assert "of the kind idql, but rdpg is asked for" in other.notes[0]


def test_other_agents_are_other_runs() -> None:
    names = {learner_run(TRUCK, hyper, None) for hyper in HYPERS.values()}
    assert len(names) == len(HYPERS)


def test_the_agent_of_the_options_drives(tmp_path: Path) -> None:
    put_release(tmp_path, TRUCK, "idql")
    run = Run(tmp_path, episode(TRUCK, 1, 7), options=AvatarOptions(agent="ddpg"), hyper=None)
    summary = run.avatar.run()
    assert run.learners[0].spec.agent == "ddpg"
    assert any("the release is left out" in note for note in summary.notes)


def test_a_learner_begins_with_no_agent_of_another_type_of_vehicle(tmp_path: Path) -> None:
    spec = make_spec(tmp_path)
    other = AGENTS["ddpg"](spec.hyper, 9, 68)
    other.made_for = made_for(spec.layout).model_copy(update={"rate_hz": 99.0})
    other.save(tmp_path / "other")
    with pytest.raises(CheckpointError, match=r"rate_hz 99\.0, this agent has"):
        LearnerCore(spec.model_copy(update={"start_from": tmp_path / "other"}))
    assert Checkpoint(tmp_path / "other").manifest.made_for == other.made_for


def test_lessons_are_as_before_where_nothing_acts() -> None:
    _, _, lessons = crunch(TRUCK, episode(TRUCK, 1, 7), agent=None, lessons=Lessons())
    assert [record.memory for record in lessons.records] == [None] * 3
