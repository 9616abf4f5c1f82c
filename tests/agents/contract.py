"""What every agent keeps to: a test class of an agent inherits it and says how to make agent and batch."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tests.agents.batches import random_batch
from tspace_core.agents import AGENTS, DPG, Checkpoint, load_agent
from tspace_core.agents.policy import AgentPolicy
from tspace_core.agents.sources import Batch
from tspace_core.config import AgentHyperparameters
from tspace_core.errors import AgentError, CheckpointError, DivergedError

if TYPE_CHECKING:
    from collections.abc import Callable

STATE_DIM, ACTION_DIM = 4, 3
finite = pytest.mark.parametrize("value", [np.nan, np.inf])


def snapshot(agent: DPG) -> dict[str, torch.Tensor]:
    """A copy of all weights and moments."""
    return {
        f"{component}.{name}": tensor.clone()
        for component, tensors in agent.tensors().items()
        for name, tensor in tensors.items()
    }


def assert_as(agent: DPG, kept: dict[str, torch.Tensor]) -> None:
    now = snapshot(agent)
    assert now.keys() == kept.keys()
    assert [name for name, tensor in kept.items() if not torch.equal(tensor, now[name])] == []


def states(count: int = 7) -> NDArray[np.float32]:
    return np.random.default_rng(2).normal(size=(count, STATE_DIM)).astype(np.float32)


class AgentContract(ABC):
    """The tests of all agents."""

    hyper: ClassVar[AgentHyperparameters]
    wider: ClassVar[dict[str, Any]]
    """Hyperparameters that make networks of other sizes."""

    @abstractmethod
    def batch(self, agent: DPG, seed: int) -> Batch:
        """White noise that the agent can learn from."""

    def fresh(self, seed: int = 1, **changes: Any) -> DPG:
        kind = next(agent for agent in AGENTS.values() if agent.hyper_class is type(self.hyper))
        return kind(self.hyper.model_copy(update=changes), STATE_DIM, ACTION_DIM, seed=seed)

    def trained(self, seed: int = 1, updates: int = 3) -> DPG:
        agent = self.fresh(seed)
        agent.fit_normaliser(np.full(STATE_DIM, 0.5), np.full(STATE_DIM, 2.0))
        for number in range(updates):
            self.learn(agent, number)
        return agent

    def learn(self, agent: DPG, seed: int) -> tuple[float, ...]:
        losses = agent.train(self.batch(agent, seed))
        agent.update_target()
        return losses

    def test_states_that_must_not_be_written_are_answered(self) -> None:
        # Memory-mapped records are; pytest makes torch's warning of them an error.
        agent, kept = self.fresh(), states()
        kept.setflags(write=False)
        np.testing.assert_array_equal(agent.predict(kept), self.fresh().predict(states()))

    def test_only_seed_and_batches_decide(self) -> None:
        state, threads = torch.get_rng_state(), torch.get_num_threads()
        first, again, other = (self.trained(seed) for seed in (7, 7, 8))
        assert_as(again, snapshot(first))
        np.testing.assert_array_equal(first.predict(states()), again.predict(states()))
        assert (first.predict(states()) != other.predict(states())).any()
        assert (first.updates, first.finite()) == (3, True)
        assert torch.equal(torch.get_rng_state(), state)
        assert torch.get_num_threads() == threads

    def test_one_state_and_many_give_the_same_actions(self) -> None:
        agent = self.trained()
        for predict in (agent.predict, agent.predict_target):
            many = predict(states())
            assert many.shape == (7, ACTION_DIM) and (np.abs(many) <= 1).all()
            for state, action in zip(states(), many, strict=True):
                np.testing.assert_allclose(predict(state), action, atol=1e-6)

    def test_a_loaded_agent_goes_on_bit_for_bit(self, tmp_path: Path) -> None:
        agent = self.trained()
        agent.save(tmp_path / "c", step=3)
        again = load_agent(tmp_path / "c", mode="train")
        assert type(again) is type(agent)
        assert (again.updates, again.normalised, again.seed, again.hyper) == (3, True, 1, agent.hyper)
        assert_as(again, snapshot(agent))
        for number in (91, 92, 93):
            assert self.learn(again, number) == self.learn(agent, number)
        assert_as(again, snapshot(agent))

    def test_the_policy_alone_drives_and_says_what_it_cannot(self, tmp_path: Path) -> None:
        agent = self.trained()
        agent.save_policy(tmp_path / "p")
        names = {path.stem for path in (tmp_path / "p").iterdir()}
        assert names == {"manifest", *agent.policy_components}
        policy = load_agent(tmp_path / "p")
        np.testing.assert_array_equal(policy.predict(states()), agent.predict(states()))
        np.testing.assert_array_equal(policy.predict_target(states()), agent.predict_target(states()))
        np.testing.assert_array_equal(AgentPolicy.load(tmp_path / "p")(states()), agent.predict(states()))
        with pytest.raises(CheckpointError, match="has no component"):
            load_agent(tmp_path / "p", mode="train")
        batch = self.batch(policy, 0)
        calls: list[Callable[[], object]] = [
            lambda: policy.train(batch),
            policy.update_target,
            lambda: policy.save(tmp_path / "x"),
            lambda: policy.fit_normaliser(np.zeros(STATE_DIM), np.ones(STATE_DIM)),
        ]
        for call in calls:
            with pytest.raises(AgentError, match=r"in mode 'infer'.*mode='train'"):
                call()

    def test_the_policy_is_taken_over_by_an_agent_of_another_seed(self, tmp_path: Path) -> None:
        agent, other = self.trained(), self.trained(seed=9, updates=2)
        agent.save(tmp_path / "c")
        other.take_policy(Checkpoint(tmp_path / "c"))
        np.testing.assert_array_equal(other.predict(states()), agent.predict(states()))
        assert other.updates == 2

    def test_a_checkpoint_of_other_networks_changes_nothing(self, tmp_path: Path) -> None:
        self.trained().save(tmp_path / "c")
        other = self.fresh(**self.wider)
        before = snapshot(other)
        with pytest.raises(CheckpointError, match="the networks have other sizes"):
            other.take_policy(Checkpoint(tmp_path / "c"))
        with pytest.raises(CheckpointError, match=f"hyperparameters .*{next(iter(self.wider))}"):
            other.restore(Checkpoint(tmp_path / "c"))
        assert_as(other, before)

    def test_a_checkpoint_of_another_agent_is_refused(self, tmp_path: Path) -> None:
        agent = self.fresh()
        agent.save(tmp_path / "c")
        for name, kind in AGENTS.items():
            if name != agent.name:
                with pytest.raises(CheckpointError, match=f"of a {agent.name} agent, expected {name}"):
                    kind.load(tmp_path / "c")

    def test_what_workers_add_up_is_what_is_learned_from(self) -> None:
        agent, seen = self.fresh(), list[int]()

        def nothing(gradient: torch.Tensor) -> None:
            assert float(gradient.abs().sum()) > 0
            seen.append(len(gradient))
            gradient.zero_()

        agent.reduce = nothing
        before = agent.predict(states())
        optimizers = [name for name in agent.tensors() if name.endswith("_optimizer")]
        networks = {name: snapshot(agent)[name] for name in snapshot(agent) if "_optimizer" not in name}
        agent.train(self.batch(agent, 0))
        assert len(seen) == len(optimizers) >= 2
        learned = [name for name in networks if name.split(".")[0] + "_optimizer" in optimizers]
        assert learned
        assert [name for name in learned if not torch.equal(networks[name], snapshot(agent)[name])] == []
        np.testing.assert_array_equal(agent.predict(states()), before)

    @pytest.mark.parametrize("field", ["states", "actions", "rewards", "terminals"])
    @finite
    def test_a_batch_that_is_not_finite_changes_nothing(self, field: str, value: float) -> None:
        self.refused(field, value)

    def refused(self, field: str, value: float) -> None:
        """A value of a batch's field is no number: it is named, and nothing is learned."""
        agent = self.trained()
        before, batch = snapshot(agent), self.batch(agent, 0)
        getattr(batch, field).flat[2] = value
        with pytest.raises(AgentError, match=rf"^{field} of the batch holds \d+ values that are not finite"):
            agent.train(batch)
        assert_as(agent, before)
        assert agent.updates == 3

    def test_divergence_is_noticed(self) -> None:
        agent = self.fresh()
        batch = self.batch(agent, 0)
        rewards = np.full_like(batch.rewards, 1e30)
        with pytest.raises(DivergedError, match=r"critic loss is \w+: training has diverged"):
            agent.train(batch._replace(rewards=rewards))
        assert agent.updates == 0

    def test_states_and_arguments_that_do_not_fit_are_named(self) -> None:
        agent = self.trained()
        with pytest.raises(AgentError, match=r"state has shape \(5,\), expected \(4,\)"):
            agent.predict(np.zeros(5, np.float32))
        with pytest.raises(AgentError, match="1 values that are not finite"):
            agent.predict(np.array([0, np.nan, 0, 0], np.float32))
        with pytest.raises(AgentError, match="3 updates; fit the normaliser of a fresh agent"):
            agent.fit_normaliser(np.zeros(STATE_DIM), np.ones(STATE_DIM))
        with pytest.raises(AgentError, match="mode is 'learn'"):
            type(agent)(self.hyper, STATE_DIM, ACTION_DIM, mode="learn")  # type: ignore[arg-type]
        with pytest.raises(AgentError, match="action_dim is 0"):
            type(agent)(self.hyper, STATE_DIM, 0)


class RecordAgentContract(AgentContract):
    """The tests of agents that learn from records."""

    def batch(self, agent: DPG, seed: int) -> Batch:
        return random_batch(np.random.default_rng(seed), 32, agent.state_dim, agent.action_dim)

    @finite
    def test_next_states_that_are_not_finite_change_nothing(self, value: float) -> None:
        self.refused("next_states", value)

    def test_records_that_do_not_fit_are_named(self) -> None:
        agent, generator = self.trained(), np.random.default_rng(0)
        before = snapshot(agent)
        with pytest.raises(AgentError, match=r"actions of the batch has shape \(8, 2\).*\(8, 3\)"):
            agent.train(random_batch(generator, 8, STATE_DIM, 2))
        with pytest.raises(AgentError, match="holds no records"):
            agent.train(random_batch(generator, 0, STATE_DIM, ACTION_DIM))
        assert_as(agent, before)
