"""Engines: what carries out a training and drives environments, in this process or on a cluster."""

from contextlib import AbstractContextManager
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

from tspace_core.agents import training
from tspace_core.config import EngineConfig
from tspace_core.distributed.rollouts import Driving, LocalRollouts, Rollouts

if TYPE_CHECKING:
    from tspace_core.agents.dpg import DPG
    from tspace_core.agents.offline_run import Trainer


class Engine(Protocol):
    """What learns and drives; open it with ``with``, so that what it started ends."""

    name: str
    """``local`` or ``ray``."""
    config: EngineConfig

    def __enter__(self) -> Self:
        """The engine itself; a cluster is started or looked for when it is first needed."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Same as ``close``."""

    @property
    def train_offline(self) -> "Trainer":
        """Trains on a replay buffer; as ``agents.training.train_offline``, with the same checkpoints.

        Raises:
            EngineError: the cluster cannot be reached or is gone; names the last good checkpoint.
        """

    def rollouts(self, agent: "DPG", driving: Driving) -> AbstractContextManager[Rollouts]:
        """Drive an environment in several places at once; see ``Rollouts``.

        Args:
            agent: whose policy drives; its weights are those of now, later ones are pushed.
            driving: what is driven, and how. How many ``actors`` of the settings drive its places does not
                change an episode.

        Raises:
            EngineError: the cluster cannot be reached.
        """

    def close(self) -> None:
        """End what this engine started; may be called twice."""


class LocalEngine:
    """Everything in this process, one after the other."""

    name = "local"
    train_offline = staticmethod(training.train_offline)

    def __init__(self, config: EngineConfig | None = None) -> None:
        self.config = config or EngineConfig()

    def __enter__(self) -> Self:
        """The engine."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing was started."""

    def rollouts(self, agent: "DPG", driving: Driving) -> AbstractContextManager[Rollouts]:
        """See ``Engine``; the places drive in turn, so both orders are the same."""
        return LocalRollouts(agent, driving)

    def close(self) -> None:
        """Nothing was started."""


def make_engine(config: EngineConfig) -> Engine:
    """The engine that the settings ask for; Ray is imported for ``ray`` only, which takes seconds."""
    if config.kind == "local":
        return LocalEngine(config)
    from tspace_core.distributed.ray_engine import RayEngine

    return RayEngine(config)
