"""Places that drive on a cluster: Ray actors, each with environments of its own."""

import logging
from collections import deque
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from tspace_core.config import EngineConfig
from tspace_core.distributed.policy_weights import copy_of, take, weights_of
from tspace_core.distributed.rollouts import DrivenPlace, Driving, Rollout, rollout
from tspace_core.errors import AgentError, EngineError, TspaceError

if TYPE_CHECKING:
    from types import ModuleType

    from tspace_core.agents.dpg import DPG
    from tspace_core.distributed.policy_weights import PolicyWeights

_log = logging.getLogger(__name__)


class Driver:
    """The actor: places, and an agent with the weights that it was sent last."""

    def __init__(self, driving: Driving, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        self._driving = driving
        self._places: dict[int, DrivenPlace] = {}
        self._agent: DPG | None = None
        self._version = -1

    def begun(self) -> None:
        """Answers once the process is there."""

    def drive(
        self, place: int, episode: int, version: int, weights: "PolicyWeights"
    ) -> "Rollout | TspaceError":
        """A whole episode, or the error that it would end with each time."""
        try:
            if place not in self._places:
                self._places[place] = self._driving.place(place)
            if self._agent is None:
                self._agent = copy_of(weights)
            elif version != self._version:
                take(self._agent, weights)
            self._version = version
            found = self._driving.drive(self._places[place], self._agent, place, episode)
        except TspaceError as error:
            return AgentError(str(error))
        return rollout(place, episode, version, found)


class _Task(NamedTuple):
    """What an actor does: its start, or an episode."""

    actor: int
    episode: tuple[int, int] | None
    """Place and number."""

    def __str__(self) -> str:
        if self.episode is None:
            return "its start"
        return f"place {self.episode[0]}, episode {self.episode[1]}"


class RayRollouts:
    """Places on a cluster; see ``Engine.rollouts`` and ``Rollouts``.

    ``actors`` of the settings drive, at most as many as there are places. An actor that dies is replaced and
    the episode that was lost is driven once more; what others drove, or have driven, is not touched. Where
    there is no room for an actor, as after the loss of a node, the others drive on without it.
    """

    def __init__(self, ray: "ModuleType", config: EngineConfig, agent: "DPG", driving: Driving) -> None:
        self._ray: Any = ray
        self._config = config
        self._driving = driving
        self._actors: dict[int, Any] = {}
        self._idle: set[int] = set()
        self._waiting: deque[tuple[int, int]] = deque()
        self._tasks: dict[Any, _Task] = {}
        self._replaced = 0
        self._version = 0
        self._weights = ray.put(weights_of(agent))

    def __enter__(self) -> Self:
        """The rollouts."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Same as ``close``."""
        self.close()

    @property
    def replaced(self) -> int:
        """Actors that died and were replaced."""
        return self._replaced

    @property
    def actors(self) -> Mapping[int, Any]:
        """The Ray actors now, by number."""
        return self._actors

    def push(self, agent: "DPG") -> int:
        """See ``Rollouts``."""
        self._weights = self._ray.put(weights_of(agent))
        self._version += 1
        return self._version

    def __iter__(self) -> Iterator[Rollout]:
        """See ``Rollouts``; may be iterated once.

        Raises:
            AgentError: the environment does not fit the agent, or gives what is not finite.
            EngineError: actors die again and again.
        """
        return self._rounds() if self._driving.order == "round" else self._arrivals()

    def _rounds(self) -> Iterator[Rollout]:
        episode, places = self._driving.first, range(self._driving.places)
        while True:
            for place in places:
                self._send(place, episode)
            done: dict[int, Rollout] = {}
            while len(done) < len(places):
                found = self._next()
                done[found.place] = found
            for place in places:
                yield done[place]
            episode += 1

    def _arrivals(self) -> Iterator[Rollout]:
        for place in range(self._driving.places):
            self._send(place, self._driving.first)
        while True:
            found = self._next()
            self._send(found.place, found.episode + 1)
            yield found

    def _next(self) -> Rollout:
        """The next episode that is finished; replaces actors that died."""
        deaths = 0
        while True:
            task, sent = self._ended()
            try:
                found = self._ray.get(sent)
            except self._ray.exceptions.RayActorError as error:
                deaths += 1
                self._replace(task, deaths, error)
                continue
            except self._ray.exceptions.RayError as error:
                message = f"actor {task.actor} failed ({task}): {error}"
                raise EngineError(message) from error
            self._idle.add(task.actor)
            self._start()
            if isinstance(found, TspaceError):
                message = f"{task}: {found}"
                raise type(found)(message)
            if task.episode is not None:
                return found  # type: ignore[no-any-return]

    def _ended(self) -> tuple[_Task, Any]:
        """The next task that has ended; an episode may take any time, a start may not."""
        driven = any(task.episode is not None for task in self._tasks.values())
        limit = None if driven else self._config.start_timeout_s
        ready, _ = self._ray.wait(list(self._tasks), num_returns=1, timeout=limit)
        if not ready:
            message = (
                f"the cluster had no room for an actor of {self._config.cpus_per_actor:g} CPUs within "
                f"{self._config.start_timeout_s:g} s; add nodes ('ray start --address ...'), or wait longer "
                "with TSPACE_ENGINE__START_TIMEOUT_S"
            )
            raise EngineError(message)
        return self._tasks.pop(ready[0]), ready[0]

    def _replace(self, task: _Task, deaths: int, error: Exception) -> None:
        self._actors.pop(task.actor, None)
        self._replaced += 1
        if deaths > self._config.max_failures:
            message = (
                f"actors died {deaths} times while no episode was finished, max_failures is "
                f"{self._config.max_failures}; the last: {str(error).splitlines()[0]}; what they said is in "
                "Ray's logs (ray logs), often they ran out of memory"
            )
            raise EngineError(message) from error
        _log.warning("actor %d died (%s) and is replaced: %s", task.actor, task, error)
        if task.episode is not None:
            self._waiting.appendleft(task.episode)
        self._start()

    def _send(self, place: int, episode: int) -> None:
        self._waiting.append((place, episode))
        self._start()

    def _start(self) -> None:
        """Give what waits to actors that have nothing to do."""
        for number in range(min(self._config.actors, self._driving.places)):
            if number not in self._actors:
                kind = self._ray.remote(num_cpus=self._config.cpus_per_actor)(Driver)
                threads = max(int(self._config.cpus_per_actor), 1)
                actor = self._actors[number] = kind.remote(self._driving, threads)
                self._tasks[actor.begun.remote()] = _Task(number, None)
        while self._waiting and self._idle:
            place, episode = self._waiting.popleft()
            # Where there is an actor a place, each place keeps its own, and its environment there.
            number = place if place in self._idle else min(self._idle)
            self._idle.remove(number)
            sent = self._actors[number].drive.remote(place, episode, self._version, self._weights)
            self._tasks[sent] = _Task(number, (place, episode))

    def close(self) -> None:
        """End the actors."""
        self._tasks.clear()
        self._waiting.clear()
        self._idle.clear()
        while self._actors:
            self._ray.kill(self._actors.popitem()[1])
