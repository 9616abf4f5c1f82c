"""DDPG updates that stay on a device: drawn, computed and averaged there, the host only starts them.

On a CUDA device one update - draw, gather, gradients, optimizers, targets - is recorded once as a CUDA graph
and replayed: at these sizes a kernel takes less time than its launch (the same reason as in LeanRL's
figures). Losses are summed on the device and read once an interval, so that nothing waits for the host in
between. On other devices the same update runs without a graph.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tspace_core.agents.ddpg import DDPG, SATURATED
from tspace_core.agents.dense import ActorPass, CriticPass
from tspace_core.agents.dpg import Losses
from tspace_core.agents.flat import FlatAdam, FlatParameters
from tspace_core.agents.networks import Actor, Critic
from tspace_core.agents.normaliser import CLIP
from tspace_core.errors import AgentError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tspace_core.agents.device_replay import DeviceReplay, TensorBatch

_WARM_UP = 3
"""Updates before a graph is recorded, on copies: libraries take their memory in the first ones."""
_SUMS = 5
"""Critic loss, actor loss, mean value, saturated share, mean reward."""


class DDPGGraph:
    """A DDPG agent that learns on a device from a buffer there.

    It works on copies of the agent's networks and optimizers; ``write_back`` brings them home. The formulas
    are those of ``DDPG.train`` and ``update_target``.

    Args:
        agent: in mode ``train``, its normaliser fitted.
        replay: on the device; must not grow while this lives.

    Raises:
        AgentError: the agent does not train, or the buffer has other dimensions.
    """

    def __init__(self, agent: DDPG, replay: "DeviceReplay") -> None:
        layout = replay.layout
        if agent.mode != "train" or agent.reduce is not None:
            message = "an agent in mode 'infer', or one of several workers, cannot learn in a graph"
            raise AgentError(message)
        if not agent.normalised:
            message = "the agent's normaliser is not fitted; fit it with the buffer's figures first"
            raise AgentError(message)
        if (layout.state_dim, layout.action_dim) != (agent.state_dim, agent.action_dim):
            message = (
                f"the buffer has states of {layout.state_dim} and actions of {layout.action_dim}, the agent "
                f"has {agent.state_dim} and {agent.action_dim}"
            )
            raise AgentError(message)
        self._agent, self._replay, self._size = agent, replay, agent.hyper.batch_size
        self._device = replay.device
        actor, critic, target_actor, target_critic = self._copied()
        flat = {
            "actor": FlatParameters(actor),
            "critic": FlatParameters(critic),
            "target_actor": FlatParameters(target_actor),
            "target_critic": FlatParameters(target_critic),
        }
        self._flat = flat
        self._adams = {
            "actor": FlatAdam(flat["actor"], agent.hyper.actor_learning_rate),
            "critic": FlatAdam(flat["critic"], agent.hyper.critic_learning_rate),
        }
        inverse = agent.basis.inverse
        self._project = None if inverse is None else torch.from_numpy(inverse).to(self._device)
        self._mean = agent.normaliser.mean.to(self._device)
        self._scale = agent.normaliser.scale.to(self._device)
        self._actor, self._target_actor = ActorPass(actor, self._size), ActorPass(target_actor, self._size)
        self._critic, self._target_critic = (CriticPass(each, self._size) for each in (critic, target_critic))
        self._generator = torch.Generator(self._device)
        self._sums = torch.zeros(_SUMS, dtype=torch.float64, device=self._device)
        self._graph: torch.cuda.CUDAGraph | None = None
        self._take()

    def run(self, updates: int, seed: int) -> tuple[Losses, float]:
        """Do updates with batches that ``seed`` decides; wait for the device once, at the end.

        Returns:
            Mean losses and mean reward of the records drawn.

        Raises:
            DivergedError: a loss is not finite: what was learned since the last ``write_back`` is worthless.
        """
        if self._device.type == "cuda" and self._graph is None:
            self._record()
        self._sums.zero_()
        self._generator.manual_seed(seed)
        with torch.no_grad():
            for _ in range(updates):
                if self._graph is None:
                    self.update(self._replay.sample(self._size, self._generator))
                else:
                    self._graph.replay()
        critic, actor, mean_q, saturated, reward = (self._sums / updates).tolist()
        self._agent.require_finite(critic, f"mean critic loss of {updates} updates")
        self._agent.require_finite(actor, f"mean actor loss of {updates} updates")
        self._agent.updates += updates
        return Losses(critic, actor, mean_q, saturated), reward

    def update(self, batch: "TensorBatch") -> None:
        """One update from records on the device; see ``DDPG.train``. Nothing is checked."""
        hyper, size = self._agent.hyper, self._size
        states, following = self._normalised(batch.states), self._normalised(batch.next_states)
        codes = batch.actions if self._project is None else (batch.actions @ self._project).clamp_(-1.0, 1.0)
        future = self._target_critic.forward(following, self._target_actor.forward(following)).squeeze(1)
        targets = future * hyper.gamma * (1.0 - batch.terminals) + hyper.reward_scale * batch.rewards

        values = self._critic.forward(states, codes).squeeze(1)
        errors = values - targets
        told = [errors.dot(errors) / size, values.mean()]
        torch.mul(errors, 2.0 / size, out=self._critic.gradient.squeeze(1))
        self._critic.backward()
        self._adams["critic"].step()

        chosen = self._actor.forward(states)
        actor_loss = -self._critic.forward(states, chosen).mean()
        saturated = (chosen.abs() > SATURATED).float().mean()
        self._critic.gradient.fill_(-1.0 / size)
        self._critic.action_gradient(to=self._actor.gradient)
        if hyper.code_penalty:
            self._actor.gradient.add_(chosen, alpha=2.0 * hyper.code_penalty / size)
        self._actor.backward()
        self._adams["actor"].step()

        self._flat["target_actor"].approach(self._flat["actor"], hyper.tau)
        self._flat["target_critic"].approach(self._flat["critic"], hyper.tau)
        self._sums += torch.stack([told[0], actor_loss, told[1], saturated, batch.rewards.mean()])

    def write_back(self) -> None:
        """Bring networks and optimizers home to the agent."""
        for theirs, ours in self._pairs():
            theirs.copy_(ours)

    def _take(self) -> None:
        for theirs, ours in self._pairs():
            ours.copy_(theirs)

    @torch.no_grad()
    def _pairs(self) -> list[tuple[Tensor, Tensor]]:
        """The agent's tensors and those here."""
        mine: dict[str, Mapping[str, Tensor]] = {
            name: flat.named(flat.values.data) for name, flat in self._flat.items()
        }
        mine |= {f"{name}_optimizer": adam.tensors() for name, adam in self._adams.items()}
        home = self._agent.tensors()
        return [(home[name][key], tensor) for name, found in mine.items() for key, tensor in found.items()]

    def _copied(self) -> tuple[Actor, Critic, Actor, Critic]:
        """Networks of the agent's shapes on the device; their weights are taken over later."""
        agent, unused = self._agent, torch.Generator()
        hyper, size, states = agent.hyper, agent.basis.size, agent.state_dim
        hidden = (hyper.critic_state_hidden, hyper.critic_action_hidden, hyper.critic_joint_hidden)
        actors = [Actor(states, size, hyper.actor_hidden, unused).to(self._device) for _ in range(2)]
        critics = [Critic(states, size, hidden, unused).to(self._device) for _ in range(2)]
        return actors[0], critics[0], actors[1], critics[1]

    def _normalised(self, states: Tensor) -> Tensor:
        return states.sub(self._mean).mul_(self._scale).clamp_(-CLIP, CLIP)

    def _record(self) -> None:
        """Record one update; the warm-up's changes are taken back."""
        stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(stream), torch.no_grad():
            for _ in range(_WARM_UP):
                self.update(self._replay.sample(self._size, self._generator))
        torch.cuda.current_stream(self._device).wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        graph.register_generator_state(self._generator)
        with torch.cuda.graph(graph), torch.no_grad():
            self.update(self._replay.sample(self._size, self._generator))
        self._graph = graph
        self._take()
