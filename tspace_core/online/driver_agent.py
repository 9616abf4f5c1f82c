"""What acts while a vehicle drives: a policy, with exploration noise in training."""

import logging

import numpy as np
import torch
from numpy.typing import NDArray

from tspace_core.agents import DDPG, DPG, load_agent
from tspace_core.agents.noise import OrnsteinUhlenbeck
from tspace_core.config import DDPGHyperparameters, Vehicle
from tspace_core.errors import AgentError, CheckpointError, OnlineError, StorageError
from tspace_core.objects.path import AnyPath
from tspace_core.storage.replay import Replay

_log = logging.getLogger(__name__)

WARM_UP = 20
"""Predictions before the first real one: the first takes 50 times as long as the others."""
TYPICAL: dict[str, tuple[float, float]] = {
    "velocity": (40.0, 25.0),
    "thrust": (20.0, 20.0),
    "brake": (5.0, 10.0),
}
"""Mean and deviation of a state's signals (km/h, %, %) where no replay says better."""


class DriverAgent:
    """Predicts, and explores where it is asked to. Of one control thread.

    Args:
        agent: the policy; any mode.
        explore: noise on top, as in training.
        source: the checkpoint that the policy is from; None: fresh networks.

    Attributes:
        source: where the policy is from, as said last.
    """

    def __init__(self, agent: DPG, *, explore: bool, source: AnyPath | None = None) -> None:
        self.agent = agent
        self.source = source
        self._noise: OrnsteinUhlenbeck | None = None
        if explore:
            generator = np.random.default_rng([agent.seed, 3])
            self._noise = OrnsteinUhlenbeck(agent.action_dim, agent.hyper.noise, generator)
        self.warm_up()

    def warm_up(self) -> None:
        """Predict until it is as fast as it gets, on one thread: the networks are too small for more."""
        torch.set_num_threads(1)
        state = np.zeros(self.agent.state_dim, np.float32)
        for _ in range(WARM_UP):
            self.agent.predict(state)

    def begin_episode(self) -> None:
        """Start the noise at zero."""
        if self._noise is not None:
            self._noise.reset()

    def act(self, state: NDArray[np.float32]) -> NDArray[np.float32]:
        """The action for a state (state_dim,), in [-1, 1], (action_dim,).

        Raises:
            AgentError: a state of wrong shape or with values that are not finite; or the policy's own output
                is not finite: it has diverged and must not drive.
        """
        action = self.agent.predict(state)
        if self._noise is not None:
            action = np.clip(action + self._noise.sample()[0], -1.0, 1.0).astype(np.float32)
        if not np.isfinite(action).all():
            message = (
                f"the policy of {self.source or 'the fresh agent'} gives {int((~np.isfinite(action)).sum())} "
                "values that are not finite: it has diverged; drive with an older checkpoint"
            )
            raise AgentError(message)
        return action

    def take_over(self, weights: AnyPath) -> bool:
        """Act by the policy in a folder from now on: weights of a learner, or a checkpoint.

        One that cannot be read, does not fit or is not finite is logged and left: what drives goes on.

        Returns:
            Whether it was taken over.
        """
        try:
            fresh = load_agent(weights, mode="infer")
            if (fresh.state_dim, fresh.action_dim) != (self.agent.state_dim, self.agent.action_dim):
                message = (
                    f"{weights}: states of {fresh.state_dim} and actions of {fresh.action_dim}, this vehicle "
                    f"has {self.agent.state_dim} and {self.agent.action_dim}"
                )
                raise CheckpointError(message)
            probe = fresh.predict(np.zeros(fresh.state_dim, np.float32))
            if not np.isfinite(probe).all():
                message = f"{weights}: its policy is not finite"
                raise CheckpointError(message)
        except (AgentError, StorageError) as error:
            _log.warning("weights not taken over: %s", error)
            return False
        self.agent = fresh
        self.source = weights
        return True


def first_agent(
    vehicle: Vehicle,
    hyper: DDPGHyperparameters,
    *,
    checkpoint: AnyPath | None,
    replay: Replay | None,
    infer: bool,
) -> DriverAgent:
    """What a run begins with: the policy of a checkpoint, else, in training only, fresh networks.

    Args:
        vehicle: whose states and actions.
        hyper: of fresh networks.
        checkpoint: the release or the newest checkpoint; None: there is none.
        replay: gives the fresh networks' state normaliser; None: typical ranges.
        infer: inference, without noise.

    Raises:
        OnlineError: inference without a checkpoint, or one made for other windows than this vehicle's.
        CheckpointError: the checkpoint is damaged.
    """
    dimensions = (vehicle.sampling.state_dim, vehicle.action_dim)
    if checkpoint is None:
        if infer:
            message = (
                f"no agent to drive {vehicle.id} with: train one first (materialize ddpg_checkpoint), or "
                "drive without --infer to learn from nothing"
            )
            raise OnlineError(message)
        return DriverAgent(fresh_ddpg(vehicle, hyper, replay), explore=True)
    agent = load_agent(checkpoint, mode="infer")
    found = (agent.state_dim, agent.action_dim)
    if found != dimensions:
        message = (
            f"{checkpoint} has states of {found[0]} and actions of {found[1]}, {vehicle.id} has "
            f"{dimensions[0]} and {dimensions[1]}: train an agent for this vehicle's window and map"
        )
        raise OnlineError(message)
    return DriverAgent(agent, explore=not infer, source=checkpoint)


def fresh_ddpg(vehicle: Vehicle, hyper: DDPGHyperparameters, replay: Replay | None) -> DDPG:
    """Fresh networks, seeded by the hyperparameters, their normaliser from a replay or typical ranges."""
    agent = DDPG(hyper, vehicle.sampling.state_dim, vehicle.action_dim)
    if replay is not None and replay.layout.state_dim == agent.state_dim:
        agent.fit_normaliser(replay.state_mean, replay.state_std)
    else:
        agent.fit_normaliser(*typical_states(vehicle))
    return agent


def typical_states(vehicle: Vehicle) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and deviation of a state, (state_dim,) each, from typical ranges of its signals."""
    pairs = np.array([TYPICAL.get(name, (0.0, 1.0)) for name in vehicle.sampling.signals])
    mean, deviation = np.tile(pairs, (vehicle.sampling.window, 1)).T
    return mean, deviation
