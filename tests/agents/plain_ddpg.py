"""DDPG as a textbook writes it - nn.Module, autograd, torch.optim.Adam - to hold the agent against."""

import copy
from itertools import pairwise

import torch
from torch import Tensor, nn

from tspace_core.agents import DDPG
from tspace_core.storage.replay import ReplayBatch


def layers_of(sizes: list[int]) -> nn.ModuleList:
    return nn.ModuleList(nn.Linear(inputs, outputs) for inputs, outputs in pairwise(sizes))


def rectified(layers: nn.ModuleList, x: Tensor) -> Tensor:
    for layer in layers:
        x = torch.relu(layer(x))
    return x


class PlainActor(nn.Module):
    """ReLU layers, then tanh."""

    def __init__(self, sizes: list[int]) -> None:
        super().__init__()
        self.hidden = layers_of(sizes[:-1])
        self.output = nn.Linear(sizes[-2], sizes[-1])

    def forward(self, x: Tensor) -> Tensor:
        """Codes of states."""
        return torch.tanh(self.output(rectified(self.hidden, x)))


class PlainCritic(nn.Module):
    """Branches for state and action, joined."""

    def __init__(self, state: list[int], action: list[int], joint: list[int]) -> None:
        super().__init__()
        self.state, self.action = layers_of(state), layers_of(action)
        self.joint = layers_of([state[-1] + action[-1], *joint])
        self.output = nn.Linear(joint[-1], 1)

    def forward(self, state: Tensor, action: Tensor) -> Tensor:
        """(n, 1) values."""
        parts = [rectified(self.state, state), rectified(self.action, action)]
        value: Tensor = self.output(rectified(self.joint, torch.cat(parts, dim=1)))
        return value


class PlainDDPG:
    """Starts with an agent's weights and hyperparameters, and then goes its own way."""

    def __init__(self, agent: DDPG, mean: float, std: float) -> None:
        hyper, size, states = agent.hyper, agent.basis.size, agent.state_dim
        self.hyper, self.mean, self.std = hyper, mean, std
        self.basis = agent.basis  # its least squares have a test of their own
        self.actor = PlainActor([states, *hyper.actor_hidden, size])
        self.critic = PlainCritic(
            [states, *hyper.critic_state_hidden],
            [size, *hyper.critic_action_hidden],
            list(hyper.critic_joint_hidden),
        )
        self.actor.load_state_dict(agent.actor.state_dict())
        self.critic.load_state_dict(agent.critic.state_dict())
        self.target_actor, self.target_critic = copy.deepcopy(self.actor), copy.deepcopy(self.critic)
        self.actor_adam = torch.optim.Adam(self.actor.parameters(), lr=hyper.actor_learning_rate)
        self.critic_adam = torch.optim.Adam(self.critic.parameters(), lr=hyper.critic_learning_rate)

    def update(self, batch: ReplayBatch) -> None:
        """One step of critic, actor and both targets."""
        hyper = self.hyper
        kind = self.actor.output.weight.dtype
        states, following = (
            ((torch.from_numpy(x) - self.mean) / self.std).clamp(-10, 10).to(kind)
            for x in (batch.states, batch.next_states)
        )
        actions = torch.from_numpy(self.basis.project(batch.actions)).to(kind)
        rewards, terminals = (torch.from_numpy(x)[:, None].to(kind) for x in (batch.rewards, batch.terminals))
        with torch.no_grad():
            future = self.target_critic(following, self.target_actor(following))
            targets = hyper.reward_scale * rewards + hyper.gamma * (1 - terminals) * future
        loss = nn.functional.mse_loss(self.critic(states, actions), targets)
        self.critic_adam.zero_grad()
        torch.autograd.backward(loss)
        self.critic_adam.step()

        chosen = self.actor(states)
        actor_loss = -self.critic(states, chosen).mean()
        actor_loss = actor_loss + hyper.code_penalty * chosen.square().sum(1).mean()
        self.actor_adam.zero_grad()
        torch.autograd.backward(actor_loss)
        self.actor_adam.step()

        with torch.no_grad():
            for live, target in ((self.actor, self.target_actor), (self.critic, self.target_critic)):
                for mine, theirs in zip(live.parameters(), target.parameters(), strict=True):
                    theirs.copy_((1 - hyper.tau) * theirs + hyper.tau * mine)
