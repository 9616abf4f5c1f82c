"""Agents for Gymnasium environments, and what they earn there without noise."""

from contextlib import ExitStack

import numpy as np
from numpy.typing import NDArray

from tspace_core.agents import AGENTS
from tspace_core.agents.dpg import DPG
from tspace_core.agents.gymnasium_spaces import EVALUATION, Environment, Place, episode_seed
from tspace_core.config import AgentHyperparameters
from tspace_core.errors import AgentError


def make_agent(name: str, environment: Environment, hyper: AgentHyperparameters, seed: int) -> DPG:
    """A fresh agent with the dimensions of an environment.

    Args:
        name: ``ddpg``, ``rdpg`` or ``idql``.
        environment: id or factory; made once and closed.
        hyper: hyperparameters of that agent.
        seed: of its weights and its noise.

    Raises:
        AgentError: an unknown agent, hyperparameters of another, or an environment that does not fit.
    """
    if name not in AGENTS:
        message = f"unknown agent {name!r}; known: {', '.join(AGENTS)}"
        raise AgentError(message)
    made = AGENTS[name]
    if not isinstance(hyper, made.hyper_class):
        message = (
            f"{name} was given {type(hyper).__name__}; load its own with load_hyperparameters({name!r}, ...)"
        )
        raise AgentError(message)
    with Place(environment) as place:
        return made(hyper, place.state_dim, place.action_dim, seed=seed)


def evaluate_in(
    environment: Environment, agent: DPG, *, episodes: int, seed: int = 0, environments: int | None = None
) -> NDArray[np.float64]:
    """Return of each of ``episodes`` episodes without noise, (episodes,).

    Args:
        environment: id or factory.
        agent: in any mode.
        episodes: each has a start of its own, decided by the seed and its number.
        seed: of the episodes.
        environments: places driven at the same time; default: as many as episodes, at most 16.

    Raises:
        AgentError: the environment does not fit the agent, or gave something that is not finite.
    """
    if episodes < 1:
        message = f"{episodes} episodes to evaluate, at least 1 is needed"
        raise AgentError(message)
    count = min(episodes, 16 if environments is None else environments)
    with ExitStack() as stack:
        places = open_places(stack, environment, agent, count)
        session = agent.session(count, seed=seed)
        returns = np.zeros(episodes)
        doing: NDArray[np.int64] = np.arange(count)  # the episode of each place
        for number, place in enumerate(places):
            place.begin(episode_seed(seed, EVALUATION, 0, number))
        session.begin()
        following, rewards = count, np.zeros(count, np.float32)
        while (doing < episodes).any():
            actions = session.act(np.stack([place.state for place in places]), rewards)
            fresh, done = np.zeros(count, np.bool_), actions.copy()
            for index, place in enumerate(places):
                if doing[index] >= episodes:
                    continue
                step = place.step(actions[index])
                rewards[index], done[index] = step.reward, step.carried_out
                returns[doing[index]] += step.reward
                if step.terminated or step.truncated:
                    doing[index], fresh[index] = following, True
                    if following < episodes:
                        place.begin(episode_seed(seed, EVALUATION, 0, following))
                    following += 1
            session.carried_out(done)
            if fresh.any():
                session.begin(fresh)
        return returns


def open_places(stack: ExitStack, environment: Environment, agent: DPG, count: int) -> list[Place]:
    """``count`` environments that fit the agent; ``stack`` closes them.

    Raises:
        AgentError: the environment does not fit the agent, or ``count`` is under 1.
    """
    if count < 1:
        message = f"{count} environments at once, at least 1 is needed"
        raise AgentError(message)
    places = [stack.enter_context(Place(environment)) for _ in range(count)]
    for name in ("state_dim", "action_dim"):
        ours, theirs = getattr(agent, name), getattr(places[0], name)
        if ours != theirs:
            message = (
                f"{places[0].name}: {name} is {theirs}, the {agent.name} agent has {ours}; "
                "make it with make_agent for this environment"
            )
            raise AgentError(message)
    return places
