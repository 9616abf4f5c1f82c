"""A policy's weights as plain arrays: what is sent to places that drive."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tspace_core.agents import AGENTS
from tspace_core.agents.dpg import DPG


@dataclass(frozen=True)
class PolicyWeights:
    """All that an agent in mode ``infer`` is made of."""

    agent: str
    hyperparameters: Mapping[str, Any]
    state_dim: int
    action_dim: int
    seed: int
    tensors: Mapping[str, Mapping[str, NDArray[Any]]]
    """By component and name."""
    values: Mapping[str, Mapping[str, Any]]


def weights_of(agent: DPG) -> PolicyWeights:
    """A copy of the agent's policy."""
    components = agent._components()
    chosen = {name: components[name] for name in agent.policy_components}
    return PolicyWeights(
        agent=agent.name,
        hyperparameters=agent.hyper.model_dump(mode="json"),
        state_dim=agent.state_dim,
        action_dim=agent.action_dim,
        seed=agent.seed,
        tensors={
            name: {key: tensor.detach().cpu().numpy().copy() for key, tensor in component.tensors.items()}
            for name, component in chosen.items()
        },
        values={name: dict(component.values) for name, component in chosen.items()},
    )


def copy_of(weights: PolicyWeights) -> DPG:
    """An agent in mode ``infer`` with these weights."""
    kind = AGENTS[weights.agent]
    hyper = kind.hyper_class.model_validate(weights.hyperparameters)
    agent = kind(hyper, weights.state_dim, weights.action_dim, seed=weights.seed, mode="infer")
    take(agent, weights)
    return agent


def take(agent: DPG, weights: PolicyWeights) -> None:
    """Let an agent of the same kind, sizes and hyperparameters go on as ``copy_of`` these weights would.

    The seed comes along, for a session draws its noise with it.
    """
    import torch

    components = agent._components()
    for name, tensors in weights.tensors.items():
        for key, values in tensors.items():
            components[name].tensors[key].copy_(torch.from_numpy(np.array(values)))
    agent._take_values(weights.values)
    agent.seed = weights.seed
