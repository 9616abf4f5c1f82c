"""Episodes driven in an environment: what one is, how it is driven, and the engine in one process."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, Self

import gymnasium
import numpy as np
from numpy.typing import NDArray

from tspace_core.agents.gymnasium_spaces import Floats, Place, episode_seed
from tspace_core.distributed.policy_weights import copy_of, take, weights_of
from tspace_core.errors import AgentError
from tspace_core.storage.replay import ReplayBatch

if TYPE_CHECKING:
    from tspace_core.agents.dpg import DPG

Order = Literal["round", "arrival"]


@dataclass(frozen=True)
class Rollout:
    """One whole episode."""

    place: int
    """Number of the place, or actor, that drove it."""
    episode: int
    """Number of the episode in that place, from 0."""
    version: int
    """Weights it was driven with: 0 those at the beginning, then one more a ``push``."""
    records: ReplayBatch
    """Its steps in their order, actions in [-1, 1]."""
    memory: NDArray[np.float32] | None
    """(steps, memory_dim) what a recurrent agent remembered before each step."""
    total_reward: float
    info: Mapping[str, float]
    """Numbers that the environment gave with the last step."""

    def __len__(self) -> int:
        return len(self.records.rewards)


@dataclass(frozen=True, kw_only=True)
class Driving:
    """What is driven, and how.

    Raises:
        AgentError: a number is too small, or there are no options.
    """

    environment: str
    """Id of Gymnasium, with the module that registers it in front where it is not Gymnasium's own:
    ``tspace_core.twin.environment:TorqueMap-v0``."""
    places: int
    """Each has its own episodes. More than an engine's ``actors`` take turns."""
    options: Sequence[Mapping[str, Any]] = ({},)
    """Keyword arguments of the environment; place k takes the k-th of them, and round again."""
    seed: int = 0
    """With place and episode it decides route, driver and noise."""
    explore: bool = True
    """With the agent's exploration noise."""
    longest: int | None = None
    """Steps after which an episode is cut off; None: the environment says."""
    order: Order = "round"
    """``round``: an episode of each place in turn, each round with the same weights, the same episodes on
    every engine; ``arrival``: as they are finished, nobody waits."""
    first: int = 0
    """Number of each place's first episode, to go on where others ended."""
    warm_up: int = 0
    """Episodes, over all places from number 0 on, with random codes instead of the agent's."""

    def __post_init__(self) -> None:
        for name, low in (("places", 1), ("first", 0), ("warm_up", 0)):
            if getattr(self, name) < low:
                message = f"{name} is {getattr(self, name)}, at least {low} is needed"
                raise AgentError(message)
        if not self.options:
            message = "no options: give those of at least one place, an empty mapping where there are none"
            raise AgentError(message)

    def place(self, number: int) -> "DrivenPlace":
        """The place of this number, with an environment of its own."""
        return DrivenPlace(self.environment, self.options[number % len(self.options)])

    def drive(self, place: "DrivenPlace", agent: "DPG", number: int, episode: int) -> "Driven":
        """An episode in the place of this number: the same on every engine with the same weights."""
        return place.drive(
            agent,
            (self.seed, number, episode),
            explore=self.explore,
            longest=self.longest,
            at_random=episode * self.places + number < self.warm_up,
        )


class Rollouts(Protocol):
    """Places that drive; iterate over the episodes, push weights between two of them, close at the end."""

    def __enter__(self) -> Self:
        """The rollouts."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Same as ``close``."""

    def __iter__(self) -> Iterator[Rollout]:
        """Episodes without end, each once and whole."""

    def push(self, agent: "DPG") -> int:
        """Drive with these weights from each place's next episode on; returns their version.

        In the order ``round`` it takes effect with the next round.
        """

    def close(self) -> None:
        """End the places; what they are driving is lost."""

    @property
    def replaced(self) -> int:
        """Places that died and were filled again."""


class _LastInfo(gymnasium.Wrapper):  # type: ignore[misc]
    """Keeps what the environment said beside its last step."""

    info: Mapping[str, Any] = MappingProxyType({})

    def step(self, action: Any) -> Any:
        """As the environment's."""
        found = self.env.step(action)
        self.info = found[-1]
        return found


def make_environment(environment: str, options: Mapping[str, Any]) -> "gymnasium.Env[Any, Any]":
    """An environment by its id, with the module that registers it in front.

    Raises:
        AgentError: there is none, or it does not take these options.
    """
    try:
        # The checker's warnings are for authors of environments.
        return gymnasium.make(environment, disable_env_checker=True, **options)
    except (gymnasium.error.Error, ImportError, TypeError) as error:
        message = (
            f"environment {environment!r} with {dict(options)} cannot be made: {error}; give an id "
            "that Gymnasium knows, with the module that registers it in front (module:Id-v0), and "
            "options that it takes"
        )
        raise AgentError(message) from error


class DrivenPlace:
    """An environment in which an agent drives whole episodes.

    Args:
        environment: id of Gymnasium, with the module that registers it in front.
        options: keyword arguments of the environment.

    Raises:
        AgentError: there is no such environment, it does not take these options, or its spaces are no boxes.
    """

    def __init__(self, environment: str, options: Mapping[str, Any]) -> None:
        self._name = environment
        self._options = options
        self._last: _LastInfo | None = None
        self._place = Place(self._made)

    def _made(self) -> Any:
        self._last = _LastInfo(make_environment(self._name, self._options))
        return self._last

    def drive(
        self,
        agent: "DPG",
        seed: tuple[int, int, int],
        *,
        explore: bool,
        longest: int | None = None,
        at_random: bool = False,
    ) -> "Driven":
        """One episode.

        Args:
            agent: drives; the same weights and seed give the same episode.
            seed: seed, place and episode; they decide the environment's draws and the noise's.
            explore: with exploration noise.
            longest: steps at most.
            at_random: with random codes instead of the agent's.

        Raises:
            AgentError: the environment does not fit the agent, or gives numbers that are not finite.
        """
        self.require_fits(agent)
        place = self._place
        assert self._last is not None
        session = agent.session(1, explore=explore, seed=episode_seed(*_stream(seed, 1)))
        place.begin(episode_seed(*_stream(seed, 0)))
        session.begin()
        explorer = np.random.default_rng(episode_seed(*_stream(seed, 2)))
        rows: dict[str, list[Any]] = {name: [] for name in ReplayBatch._fields}
        memory: list[NDArray[np.float32]] = []
        reward, ended = None, False
        while not ended:
            state = place.state
            rewards = None if reward is None else np.array([reward], np.float32)
            if not at_random or agent.memory_dim:  # what is remembered goes on through random actions, too
                action = session.act(state[None], rewards)[0]
            if at_random:
                codes = explorer.uniform(-1.0, 1.0, (1, agent.basis.size)).astype(np.float32)
                action = agent.basis.expand(codes)[0]
            if session.memory is not None:
                memory.append(np.array(session.memory[0]))
            step = place.step(action)
            session.carried_out(step.carried_out[None])
            reward = step.reward
            ended = step.terminated or step.truncated or (longest is not None and place.steps >= longest)
            first_row = self._last.info.get("first_row", 0)
            values = (state, step.carried_out, reward, step.state, step.terminated, first_row)
            for name, value in zip(ReplayBatch._fields, values, strict=True):
                rows[name].append(value)
        return Driven(
            ReplayBatch(*(np.array(rows[name], np.float32) for name in ReplayBatch._fields)),
            np.stack(memory) if memory else None,
            {
                name: float(value)
                for name, value in self._last.info.items()
                if isinstance(value, int | float | np.number)
            },
        )

    def require_fits(self, agent: "DPG") -> None:
        """Raise an ``AgentError`` unless states and actions are of the agent's sizes."""
        found = self._place.state_dim, self._place.action_dim
        if found != (agent.state_dim, agent.action_dim):
            message = (
                f"{self._name} has states of {found[0]} and actions of {found[1]}, the agent "
                f"{agent.state_dim} and {agent.action_dim}: make the agent for the environment's boxes"
            )
            raise AgentError(message)

    @property
    def bounds(self) -> tuple[Floats, Floats]:
        """Lowest and highest state, (state_dim,) each; infinite where there is no bound."""
        return self._place.bounds

    def close(self) -> None:
        """Let go of the environment."""
        self._place.close()


class Driven(NamedTuple):
    """What an episode gave."""

    records: ReplayBatch
    memory: NDArray[np.float32] | None
    info: Mapping[str, float]


def _stream(seed: tuple[int, int, int], stream: int) -> tuple[int, int, int, int]:
    return seed[0], stream, seed[1], seed[2]


class LocalRollouts:
    """Places that drive in turn, in this process; see ``Engine.rollouts``."""

    replaced = 0

    def __init__(self, agent: "DPG", driving: Driving) -> None:
        self._agent = copy_of(weights_of(agent))
        self._driving = driving
        self._version = 0
        self._places = [driving.place(number) for number in range(driving.places)]

    def __enter__(self) -> Self:
        """The rollouts."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Same as ``close``."""
        self.close()

    def __iter__(self) -> Iterator[Rollout]:
        """Episodes without end, a round of all places after the other.

        A round is driven with one version: what is pushed within it takes effect with the next.
        """
        episode = self._driving.first
        while True:
            version, done = self._version, []
            for number, place in enumerate(self._places):
                found = self._driving.drive(place, self._agent, number, episode)
                done.append(rollout(number, episode, version, found))
            yield from done
            episode += 1

    def push(self, agent: "DPG") -> int:
        """See ``Rollouts``; a round that is being given out was driven before."""
        take(self._agent, weights_of(agent))
        self._version += 1
        return self._version

    def close(self) -> None:
        """Close the environments."""
        while self._places:
            self._places.pop().close()


def rollout(place: int, episode: int, version: int, driven: Driven) -> Rollout:
    """The episode that was driven there."""
    total = float(driven.records.rewards.sum(dtype=np.float64))
    return Rollout(place, episode, version, *driven[:2], total, driven.info)
