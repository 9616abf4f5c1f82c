"""Bad input of training, through the door that all use, for every agent: stop, say it, lose nothing."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.agents.batches import SMALL
from tests.agents.scored import VEHICLE, drive
from tspace_core.agents import AGENTS, CheckpointStore
from tspace_core.agents.offline_run import Trained, has_agent, latest_agent, train_agent
from tspace_core.config import AgentHyperparameters, load_vehicle
from tspace_core.config.hyperparameters import IDQLHyperparameters, RDPGHyperparameters
from tspace_core.errors import AgentError, CheckpointError, DivergedError
from tspace_core.storage.lake import Lake
from tspace_core.storage.replay import Replay, build_replay

SCHEDULE = {"offline_checkpoint_every": 2, "checkpoints_kept": 3}
HYPER: dict[str, AgentHyperparameters] = {
    "ddpg": SMALL.model_copy(update=SCHEDULE),
    "rdpg": RDPGHyperparameters(layers=1, width=8, length=6, batch_size=4, **SCHEDULE),
    "idql": IDQLHyperparameters(
        value_hidden=(8,), actor_width=8, actor_blocks=1, samples=2, batch_size=32, **SCHEDULE
    ),
}

pytestmark = pytest.mark.parametrize("agent", list(AGENTS))


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    found = Lake(tmp_path / "lake")
    vehicle = load_vehicle(VEHICLE)
    build_replay(
        found.replay(VEHICLE), (drive(vehicle, f"{VEHICLE}/2026-01-05/a.blf", k, 30) for k in range(3))
    )
    return found


def train(lake: Lake, agent: str, updates: int = 6, **changed: object) -> Trained:
    hyper = HYPER[agent].model_copy(update=changed)
    return train_agent(lake, VEHICLE, agent=agent, updates=updates, hyper=hyper)


def spoil(lake: Lake, record: int, column: int) -> Replay:
    """Put a NaN into a stored row, as a bad disk or a wrong writer would; every record is drawn soon."""
    replay = Replay.open(lake.replay(VEHICLE))
    path = Path(str(replay.directory)) / "rows.f32"
    rows = np.fromfile(path, np.float32).reshape(-1, replay.layout.row_width)
    rows[record, column] = np.nan
    rows.tofile(path)
    return replay


def test_every_agent_is_trained_and_is_the_latest_of_its_kind(lake: Lake, agent: str) -> None:
    trained = train(lake, agent)
    found = latest_agent(lake, VEHICLE, agent)
    assert found == trained and found.agent == agent and type(found.hyperparameters) is type(HYPER[agent])
    assert found.hyperparameters == HYPER[agent] and found.folder.parent.name == agent
    assert [name for name in AGENTS if has_agent(lake, VEHICLE, name)] == [agent]
    again = train(lake, agent, 8)
    assert again.summary.resumed_from == 6 and again.run == trained.run


def test_nan_in_the_data_names_update_field_record_and_episode(lake: Lake, agent: str) -> None:
    replay = Replay.open(lake.replay(VEHICLE))
    trained = train(lake, agent, 2)
    column = replay.layout.state_dim + 3
    spoil(lake, 40, column)  # the second episode has rows 31 to 61, so this is its record 9, the 39th of all
    with pytest.raises(AgentError) as caught:
        train(lake, agent, 500)
    said = str(caught.value)
    assert "training stopped at update " in said and "actions at places " in said
    assert f"record 39 (episode {VEHICLE}/2026-01-05/a.blf#0001, its record 9)" in said
    assert "last good checkpoint: " in said and "build the buffer again" in said
    store = CheckpointStore(trained.folder)
    assert str(store.latest()) in said
    AGENTS[agent].load(store.latest(), mode="train")
    assert latest_agent(lake, VEHICLE, agent) == trained, "what was the latest agent still is"


def test_divergence_keeps_the_last_good_checkpoint(
    lake: Lake, agent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = train(lake, agent, 2)
    kind = AGENTS[agent]
    plain = kind.update_target

    def lost(self: object) -> None:
        plain(self)  # type: ignore[arg-type]
        if self.updates == 3:  # type: ignore[attr-defined]
            for name, component in self._components().items():  # type: ignore[attr-defined]
                if "critic" in name and "optimizer" not in name:
                    for tensor in component.tensors.values():
                        tensor.fill_(float("nan"))

    monkeypatch.setattr(kind, "update_target", lost)
    with pytest.raises(DivergedError, match="stopped at update 4") as caught:
        train(lake, agent, 500)
    assert f"last good checkpoint: {trained.checkpoint}" in str(caught.value)
    assert CheckpointStore(trained.folder).steps() == [2]


def test_lost_weights_are_never_saved(lake: Lake, agent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = train(lake, agent, 2)
    kind = AGENTS[agent]
    plain = kind.update_target

    def lost(self: object) -> None:
        plain(self)  # type: ignore[arg-type]
        if self.updates == 4:  # type: ignore[attr-defined]
            next(iter(self._components()["actor"].tensors.values())).fill_(float("inf"))  # type: ignore[attr-defined]

    monkeypatch.setattr(kind, "update_target", lost)
    with pytest.raises(DivergedError, match="stopped at update 4: a weight is not finite"):
        train(lake, agent, 500)
    assert CheckpointStore(trained.folder).steps() == [2]


def test_fewer_records_than_a_batch(lake: Lake, agent: str) -> None:
    with pytest.raises(AgentError, match=r"holds 90 records, a batch is 91: .*repeat_records"):
        train(lake, agent, batch_size=91)
    assert not has_agent(lake, VEHICLE, agent)
    assert train(lake, agent, 2, batch_size=91, repeat_records=True).step == 2


@pytest.mark.parametrize("file", ["actor.safetensors", "training.json", "manifest.json"])
def test_a_torn_checkpoint_is_put_aside_and_the_one_before_is_taken(
    lake: Lake, agent: str, file: str, caplog: pytest.LogCaptureFixture
) -> None:
    trained = train(lake, agent, 4)
    torn = Path(str(trained.checkpoint)) / file
    content = torn.read_bytes()
    torn.write_bytes(content[: len(content) // 2])
    again = train(lake, agent, 6)
    assert again.summary.resumed_from == 2 and again.step == 6
    (aside,) = Path(str(trained.folder)).glob("damaged-00000004-*")
    assert (aside / file).read_bytes() == content[: len(content) // 2]
    assert file in caplog.text and "went back behind a checkpoint that cannot be read" in caplog.text


def test_torn_or_not_the_weights_are_the_same(lake: Lake, agent: str) -> None:
    trained = train(lake, agent, 6)
    name = "actor.safetensors"
    whole = (trained.checkpoint / name).read_bytes()
    torn = Path(str(trained.checkpoint)) / name
    torn.write_bytes(whole[:-5])
    assert (train(lake, agent, 6).checkpoint / name).read_bytes() == whole


def test_where_every_checkpoint_is_torn_training_begins_anew(lake: Lake, agent: str) -> None:
    trained = train(lake, agent, 2)
    whole = (trained.checkpoint / "actor.safetensors").read_bytes()
    for path in Path(str(trained.folder)).glob("*/actor.safetensors"):
        path.write_bytes(b"")
    again = train(lake, agent, 2)
    assert again.summary.resumed_from == 0
    assert (again.checkpoint / "actor.safetensors").read_bytes() == whole


def test_a_checkpoint_of_other_networks_is_refused_and_stays(lake: Lake, agent: str) -> None:
    trained = train(lake, agent, 2)
    field = {"ddpg": "actor_hidden", "rdpg": "width", "idql": "value_hidden"}[agent]
    wider = train(lake, agent, 2, **{field: 12 if field == "width" else (12, 9)})
    shutil.copytree(Path(str(wider.checkpoint)), Path(str(trained.folder / "00000004")))
    with pytest.raises(CheckpointError, match=r"hyperparameters is .*, this agent has .*"):
        train(lake, agent, 6)
    assert CheckpointStore(trained.folder).steps() == [2, 4]


def test_a_checkpoint_of_another_agent_is_refused(lake: Lake, agent: str) -> None:
    trained = train(lake, agent, 2)
    other = train(lake, next(name for name in AGENTS if name != agent), 4)
    shutil.copytree(Path(str(other.checkpoint)), Path(str(trained.folder / "00000004")))
    with pytest.raises(CheckpointError, match=f"checkpoint of a {other.agent} agent, expected {agent}"):
        train(lake, agent, 6)


def test_hyperparameters_of_another_agent_are_refused(lake: Lake, agent: str) -> None:
    other = next(name for name in AGENTS if name != agent)
    with pytest.raises(AgentError, match=f"the agent {agent} takes {type(HYPER[agent]).__name__}"):
        train_agent(lake, VEHICLE, agent=agent, updates=1, hyper=HYPER[other])
    with pytest.raises(AgentError, match="unknown agent 'ppo'; known: ddpg"):
        train_agent(lake, VEHICLE, agent="ppo", updates=1)
