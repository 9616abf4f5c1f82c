"""A checkpoint brings back the whole agent, or says which file is at fault."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.agents.batches import SMALL, random_batch
from tspace_core.agents import DDPG, Checkpoint, CheckpointStore, load_agent
from tspace_core.agents.checkpoint import Component
from tspace_core.agents.policy import AgentPolicy
from tspace_core.errors import AgentError, CheckpointError, StorageError
from tspace_core.objects.path import AnyPath
from tspace_core.records.policy import Policy

COMPONENTS = {
    "actor",
    "critic",
    "target_actor",
    "target_critic",
    "actor_optimizer",
    "critic_optimizer",
    "normaliser",
    "counters",
}


@pytest.fixture
def root(tmp_path: Path) -> AnyPath:
    """Where checkpoints are kept."""
    return tmp_path


@pytest.fixture
def agent() -> DDPG:
    agent = DDPG(SMALL, 6, 5, seed=3)
    agent.fit_normaliser(np.arange(6.0), np.arange(1.0, 7.0))
    generator = np.random.default_rng(1)
    for _ in range(12):
        agent.train(random_batch(generator, 32, 6, 5))
        agent.update_target()
    return agent


def run_on(agent: DDPG) -> list[np.ndarray]:
    """What the agent does next, in every respect."""
    generator = np.random.default_rng(2)
    states = generator.normal(size=(9, 6)).astype(np.float32)
    found = []
    for _ in range(10):
        found.append(np.array(agent.train(random_batch(generator, 32, 6, 5))))
        agent.update_target()
        found += [agent.predict(states), agent.predict_target(states)]
    return found


def test_a_loaded_agent_goes_on_bit_for_bit(agent: DDPG, root: AnyPath) -> None:
    agent.save(root / "c")
    loaded = DDPG.load(root / "c", mode="train")
    assert loaded.updates == 12
    assert loaded.seed == 3
    assert loaded.hyper == agent.hyper
    for ours, theirs in zip(run_on(loaded), run_on(agent), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_inference_needs_the_policy_only(agent: DDPG, root: AnyPath) -> None:
    agent.save(root / "c")
    for name in COMPONENTS - {"actor", "target_actor", "normaliser"}:
        (root / "c" / f"{name}.safetensors").unlink()
    states = np.random.default_rng(2).normal(size=(9, 6)).astype(np.float32)
    loaded = load_agent(root / "c")
    assert loaded.mode == "infer"
    np.testing.assert_array_equal(loaded.predict(states), agent.predict(states))
    np.testing.assert_array_equal(loaded.predict_target(states), agent.predict_target(states))
    np.testing.assert_array_equal(AgentPolicy.load(root / "c")(states), agent.predict(states))
    with pytest.raises(AgentError, match=r"save was called on a ddpg agent in mode 'infer'"):
        loaded.save(root / "d")
    with pytest.raises(CheckpointError, match=r"critic\.safetensors: missing"):
        DDPG.load(root / "c", mode="train")


def test_files_are_one_pair_a_component_and_no_pickle(agent: DDPG, root: AnyPath) -> None:
    agent.save(root / "c", step=12)
    names = {path.name for path in (root / "c").iterdir()}
    assert names == {"manifest.json"} | {f"{c}.{end}" for c in COMPONENTS for end in ("json", "safetensors")}
    manifest = json.loads((root / "c" / "manifest.json").read_text())
    assert (manifest["agent"], manifest["step"], manifest["state_dim"]) == ("ddpg", 12, 6)
    assert set(manifest["components"]) == COMPONENTS
    assert manifest["hyperparameters"]["actor_hidden"] == [24, 16]
    with pytest.raises(StorageError, match="exists already"):
        agent.save(root / "c")


@pytest.mark.parametrize("name", ["actor", "critic_optimizer", "counters"])
@pytest.mark.parametrize("end", ["json", "safetensors"])
def test_a_missing_file_is_named(agent: DDPG, root: AnyPath, name: str, end: str) -> None:
    agent.save(root / "c")
    (root / "c" / f"{name}.{end}").unlink()
    with pytest.raises(CheckpointError, match=rf"{name}\.{end}: missing"):
        DDPG.load(root / "c", mode="train")


def test_a_damaged_file_is_named_and_the_agent_left_alone(agent: DDPG, root: AnyPath) -> None:
    agent.save(root / "c")
    path = root / "c" / "target_critic.safetensors"
    whole = path.read_bytes()
    other = DDPG(SMALL, 6, 5, seed=9)
    states = np.ones((2, 6), np.float32)
    before = other.predict(states)
    flipped = bytearray(whole)
    flipped[-3] ^= 1
    for damaged in (whole[:-40], b"", bytes(flipped)):
        path.write_bytes(damaged)
        with pytest.raises(
            CheckpointError, match=r"target_critic\.safetensors: sha256 .* cut off or changed"
        ):
            other.restore(Checkpoint(root / "c"))
        np.testing.assert_array_equal(other.predict(states), before)
    (root / "c" / "target_critic.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"target_critic\.json: not a checkpoint's manifest"):
        DDPG.load(root / "c", mode="train")


def test_hyperparameters_added_since_take_their_default(agent: DDPG, root: AnyPath) -> None:
    agent.save(root / "c")
    manifest = root / "c" / "manifest.json"
    older = json.loads(manifest.read_text())["hyperparameters"]
    del older["offline_updates"]
    edit(manifest, hyperparameters=older)
    assert DDPG.load(root / "c", mode="train").hyper == agent.hyper


def test_when_to_learn_and_save_may_change_on_the_way(agent: DDPG, root: AnyPath) -> None:
    agent.save(root / "c")
    longer = DDPG(SMALL.model_copy(update={"offline_updates": 9000, "checkpoints_kept": 3}), 6, 5)
    longer.restore(Checkpoint(root / "c"))
    states = np.ones((2, 6), np.float32)
    np.testing.assert_array_equal(longer.predict(states), agent.predict(states))


def test_the_policy_is_what_evaluation_drives_with(agent: DDPG) -> None:
    policy: Policy = AgentPolicy(agent)
    assert isinstance(policy, Policy)
    actions = policy(np.ones((3, 6), np.float32))
    assert actions.shape == (3, 5)
    assert actions.dtype == np.float32
    np.testing.assert_array_equal(actions, policy(np.ones((3, 6), np.float32)))  # no noise, also in training


def edit(path: AnyPath, **values: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_another_agent_or_size_is_refused(agent: DDPG, root: AnyPath) -> None:
    agent.save(root / "c")
    with pytest.raises(CheckpointError, match="action_dim is 5, this agent has 4"):
        DDPG(SMALL, 6, 4).restore(Checkpoint(root / "c"))
    other = DDPG(SMALL.model_copy(update={"gamma": 0.5, "checkpoints_kept": 3}), 6, 5)
    words = r"is \{'gamma': 0\.99\}, this agent has \{'gamma': 0\.5\}; use .* conf/hyperparameters/ddpg"
    with pytest.raises(CheckpointError, match=f"hyperparameters {words}"):
        other.restore(Checkpoint(root / "c"))
    manifest = root / "c" / "manifest.json"
    edit(manifest, state_dim=7)
    with pytest.raises(
        CheckpointError, match=r"actor\.safetensors: hidden\.0\.weight is \(24, 6\), expected \(24, 7\)"
    ):
        DDPG.load(root / "c")
    edit(manifest, hyperparameters={"gamma": 3})
    with pytest.raises(CheckpointError, match="hyperparameters not usable"):
        DDPG.load(root / "c")
    edit(manifest, agent="idql")
    with pytest.raises(CheckpointError, match="checkpoint of a idql agent, expected ddpg"):
        DDPG.load(root / "c")
    edit(manifest, agent="ppo")
    with pytest.raises(CheckpointError, match="unknown agent 'ppo'; known: ddpg, rdpg, idql"):
        load_agent(root / "c")
    manifest.unlink()
    with pytest.raises(CheckpointError, match=r"manifest\.json: missing"):
        DDPG.load(root / "c")


def test_the_store_keeps_the_newest(agent: DDPG, root: AnyPath) -> None:
    store = CheckpointStore(root / "ddpg" / "run", keep=3, every=5)
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        store.latest()
    for step in range(1, 36):
        if store.due(step):
            store.save(agent, step, {"more": Component(values={"step": step})})
    assert store.steps() == [25, 30, 35]
    assert {path.parent.name for path in store.root.glob("*/*")} == {"00000025", "00000030", "00000035"}
    assert store.latest() == store.path(35)
    assert Checkpoint(store.latest()).component("more").values == {"step": 35}
    with pytest.raises(CheckpointError, match="00000035: exists already"):
        store.save(agent, 35)


def test_the_latest_is_one_with_a_manifest(agent: DDPG, root: AnyPath) -> None:
    store = CheckpointStore(root)
    store.save(agent, 5)
    for name in ("00000010", ".00000015.1.tmp"):
        (root / name).mkdir()
        (root / name / "actor.json").write_text("{}")
    assert store.latest() == store.path(5)
    store.clear()
    assert {path.parent.name for path in root.glob("[0-9]*/*")} == {"00000005"}
    store.save(agent, 10)
    assert store.steps() == [5, 10]


def test_a_run_goes_back_behind_what_cannot_be_read(agent: DDPG, root: AnyPath) -> None:
    store, told = CheckpointStore(root), list[str]()
    assert store.last_good(told.append) is None and not told
    for step in (5, 10, 15):
        store.save(agent, step)
    (store.path(15) / "actor.json").write_text("{")
    (store.path(10) / "critic.safetensors").write_bytes(b"cut")
    found = store.last_good(told.append)
    assert found is not None and found.directory == store.path(5)
    assert store.steps() == [5]
    (aside,) = root.glob("damaged-00000015-*/actor.json")
    assert aside.read_text() == "{"
    assert [text.split(":")[0][:-9] for text in told] == [
        f"went back behind a checkpoint that cannot be read, now damaged-000000{step}" for step in (15, 10)
    ]
    assert "critic.safetensors" in told[1]
    assert store.save(agent, 15) == store.path(15)
