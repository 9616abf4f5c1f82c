"""What acts while a vehicle drives: any agent, with exploration noise in training."""

import logging
from itertools import count
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from tspace_core.agents import AGENTS, DPG, load_agent
from tspace_core.agents.dpg import learning
from tspace_core.agents.fast_actor import fast_session
from tspace_core.agents.made_for import MadeFor, made_for, require_alike, require_vehicle
from tspace_core.agents.session import Session
from tspace_core.config import AgentHyperparameters, Vehicle
from tspace_core.errors import AgentError, CheckpointError, OnlineError, StorageError
from tspace_core.objects.path import AnyPath
from tspace_core.online.learner_protocol import agent_of
from tspace_core.storage.replay import Replay

_log = logging.getLogger(__name__)

WARM_UP = 20
"""Decisions before the first real one: the first takes 50 times as long as the others."""
WARM_UP_AGAIN = 3
"""The same of a policy that takes over: torch and the runtime are warm by then."""
TYPICAL: dict[str, tuple[float, float]] = {
    "velocity": (40.0, 25.0),
    "thrust": (20.0, 20.0),
    "brake": (5.0, 10.0),
}
"""Mean and deviation of a state's signals (km/h, %, %) where no replay says better."""


class Successor(NamedTuple):
    """A policy that is ready to drive.

    Attributes:
        agent: the policy.
        session: acts by it, as fast as it gets.
        source: the checkpoint or the version of weights that it is from.
    """

    agent: DPG
    session: Session
    source: AnyPath


class DriverAgent:
    """Decides for one vehicle through a session, and explores where it is asked to. Of one control thread.

    What is to drive next is made ready on another thread (``prepare``), then taken over.

    An episode is ``begin_episode``, then for each state ``act`` or ``pass_by``, then ``carried_out``: what a
    recurrent agent remembers is what really happened.

    Args:
        agent: the policy; any mode. It drives by its weights as they are now.
        explore: noise on top, as in training.
        source: the checkpoint that the policy is from; None: fresh networks.
        made_for: type of the vehicle: what is taken over must be for it; None: only lengths are compared.

    Attributes:
        agent: that drives.
        source: where the policy is from, as said last.
    """

    def __init__(
        self,
        agent: DPG,
        *,
        explore: bool,
        source: AnyPath | None = None,
        made_for: MadeFor | None = None,
    ) -> None:
        self.agent = agent
        self.source = source
        self._explore = explore
        self._made_for = made_for
        self._seeds = count()
        torch.set_num_threads(1)  # the networks are too small for more
        self._session = self._ready_session(agent, WARM_UP)

    @property
    def memory(self) -> NDArray[np.float32] | None:
        """(memory_dim,) what a recurrent agent remembered before the last state; None: it has no memory."""
        memory = self._session.memory if self.agent.memory_dim else None
        return None if memory is None else np.array(memory[0], np.float32)

    def begin_episode(self) -> None:
        """Start with the noise at zero and nothing remembered."""
        self._session.begin()

    def begin_chain(self) -> None:
        """Go on after windows that were lost: what was remembered does not lead to the next state."""
        if self.agent.memory_dim:
            self._session.begin()

    def act(self, state: NDArray[np.float32], reward: float | None = None) -> NDArray[np.float32]:
        """The action for a state (state_dim,), in [-1, 1], (action_dim,).

        Args:
            state: physical units.
            reward: of the step that led to it; None: none did.

        Raises:
            AgentError: a state of wrong shape or with values that are not finite; or the policy's own output
                is not finite: it has diverged and must not drive.
        """
        rewards = None if reward is None else np.array([reward], np.float32)
        action: NDArray[np.float32] = self._session.act(np.reshape(state, (1, -1)), rewards)[0]
        if not np.isfinite(action).all():
            message = (
                f"the policy of {self.source or 'the fresh agent'} gives {int((~np.isfinite(action)).sum())} "
                "values that are not finite: it has diverged; drive with an older checkpoint"
            )
            raise AgentError(message)
        return action

    def pass_by(self, state: NDArray[np.float32], reward: float | None = None) -> None:
        """See a state at which nothing is proposed; arguments and errors as for ``act``."""
        if self.agent.memory_dim:
            self.act(state, reward)

    def carried_out(self, action: NDArray[np.float32]) -> None:
        """Tell the action (action_dim,) that took effect after the last state, whatever was proposed."""
        self._session.carried_out(np.reshape(action, (1, -1)))

    def prepare(self, weights: AnyPath, name: AnyPath | None = None) -> Successor | None:
        """Make the policy in a folder ready to drive: weights of a learner, or a checkpoint.

        Takes tens to hundreds of milliseconds (reading, checks, export, first decisions) and changes nothing
        of what drives: for any thread but the one that drives.

        Args:
            weights: the folder.
            name: the checkpoint's own name, where the folder is a copy of it.

        Returns:
            What ``take_over`` takes; None: the policy cannot be read, does not fit or is not finite, which is
            logged.
        """
        try:
            fresh = load_agent(weights, mode="infer")
            if (fresh.state_dim, fresh.action_dim) != (self.agent.state_dim, self.agent.action_dim):
                message = (
                    f"{weights}: states of {fresh.state_dim} and actions of {fresh.action_dim}, this vehicle "
                    f"has {self.agent.state_dim} and {self.agent.action_dim}"
                )
                raise CheckpointError(message)
            require_alike(fresh.made_for, self._made_for, weights, "this vehicle")
            if not fresh.finite():
                message = f"{weights}: its policy is not finite"
                raise CheckpointError(message)
            session = self._ready_session(fresh, WARM_UP_AGAIN)
        except (AgentError, StorageError) as error:
            _log.warning("weights not taken over: %s", error)
            return None
        return Successor(fresh, session, name or weights)

    def take_over(self, successor: Successor) -> None:
        """Act by what ``prepare`` gave from now on; only references change hands.

        Where both are of one kind, noise and memory go on.
        """
        if _alike(successor.agent, self.agent):
            successor.session.restore(self._session.component())
        self.agent, self._session, self.source = successor

    def _ready_session(self, agent: DPG, warm_up: int) -> Session:
        """A session that has decided until it is as fast as it gets, and does not know of it."""
        session = fast_session(agent, explore=self._explore, seed=next(self._seeds))
        start = session.component()
        state = np.zeros((1, agent.state_dim), np.float32)
        for _ in range(warm_up):
            session.act(state)
        session.begin()
        session.restore(start)
        return session


def _alike(one: DPG, other: DPG) -> bool:
    return one.name == other.name and learning(one.hyper) == learning(other.hyper)


def first_agent(
    vehicle: Vehicle,
    hyper: AgentHyperparameters,
    *,
    checkpoint: AnyPath | None,
    replay: Replay | None,
    infer: bool,
) -> DriverAgent:
    """What a run begins with: the policy of a checkpoint, else, in training only, fresh networks.

    Args:
        vehicle: whose states and actions.
        hyper: of fresh networks; their model says of which agent.
        checkpoint: the release or the newest checkpoint; None: there is none.
        replay: gives the fresh networks' state normaliser; None: typical ranges.
        infer: inference, without noise.

    Raises:
        OnlineError: inference without a checkpoint, or one made for other windows than this vehicle's.
        CheckpointError: the checkpoint is damaged, or of another type of vehicle.
    """
    kind = made_for(vehicle)
    if checkpoint is None:
        if infer:
            message = (
                f"no agent to drive {vehicle.id} with: train one first (materialize "
                f"{agent_of(hyper)}_checkpoint), or drive without --infer to learn from nothing"
            )
            raise OnlineError(message)
        return DriverAgent(fresh_agent(vehicle, hyper, replay), explore=True, made_for=kind)
    dimensions = (vehicle.sampling.state_dim, vehicle.action_dim)
    agent = load_agent(checkpoint, mode="infer")
    found = (agent.state_dim, agent.action_dim)
    if found != dimensions:
        message = (
            f"{checkpoint} has states of {found[0]} and actions of {found[1]}, {vehicle.id} has "
            f"{dimensions[0]} and {dimensions[1]}: train an agent for this vehicle's window and map"
        )
        raise OnlineError(message)
    require_vehicle(agent.made_for, vehicle, checkpoint)
    return DriverAgent(agent, explore=not infer, source=checkpoint, made_for=kind)


def fresh_agent(vehicle: Vehicle, hyper: AgentHyperparameters, replay: Replay | None) -> DPG:
    """Fresh networks, seeded by the hyperparameters, their normaliser from a replay or typical ranges."""
    agent = AGENTS[agent_of(hyper)](hyper, vehicle.sampling.state_dim, vehicle.action_dim)
    if replay is not None and replay.layout.state_dim == agent.state_dim:
        agent.fit_normaliser(replay.state_mean, replay.state_std)
    else:
        agent.fit_normaliser(*typical_states(vehicle))
    agent.made_for = made_for(vehicle)
    return agent


def typical_states(vehicle: Vehicle) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and deviation of a state, (state_dim,) each, from typical ranges of its signals."""
    pairs = np.array([TYPICAL.get(name, (0.0, 1.0)) for name in vehicle.sampling.signals])
    mean, deviation = np.tile(pairs, (vehicle.sampling.window, 1)).T
    return mean, deviation
