"""Engines: what carries out a training and drives environments, in this process or on a cluster."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

from tspace_core.agents.training import REPORT_EVERY, train_offline
from tspace_core.config import EngineConfig
from tspace_core.distributed.rollouts import Driving, LocalRollouts, Order, Rollouts
from tspace_core.storage.writer import DIRECT, Writer

if TYPE_CHECKING:
    from tspace_core.agents.checkpoint import CheckpointStore
    from tspace_core.agents.dpg import DPG
    from tspace_core.agents.tracking import RunTracker
    from tspace_core.agents.training import Progress, TrainSummary
    from tspace_core.storage.replay import Replay


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

    def train_offline(
        self,
        agent: "DPG",
        replay: "Replay",
        *,
        updates: int,
        tracker: "RunTracker | None" = None,
        checkpoints: "CheckpointStore | None" = None,
        progress: "Progress | None" = None,
        resume: bool = False,
        report_every: int = REPORT_EVERY,
        writer: Writer = DIRECT,
    ) -> "TrainSummary":
        """Train on a replay buffer; as ``agents.training.train_offline``, with the same checkpoints.

        Raises:
            EngineError: the cluster cannot be reached or is gone; names the last good checkpoint.
        """

    def rollouts(
        self,
        agent: "DPG",
        environment: str,
        *,
        options: Sequence[Mapping[str, Any]] = ({},),
        places: int | None = None,
        seed: int = 0,
        explore: bool = True,
        longest: int | None = None,
        order: Order = "round",
        first: int = 0,
        warm_up: int = 0,
    ) -> AbstractContextManager[Rollouts]:
        """Drive an environment in several places at once; see ``rollouts.Rollouts``.

        Args:
            agent: whose policy drives; its weights are those of now, later ones are pushed.
            environment: id of Gymnasium, with the module that registers it in front where it is not
                Gymnasium's own: ``tspace_core.twin.environment:TorqueMap-v0``.
            options: keyword arguments of the environment; place k takes the k-th of them, and round again.
            places: each has its own episodes; default: ``actors`` of the settings. More than that are
                driven by the actors that there are: how many there are does not change an episode.
            seed: with place and episode it decides route, driver and noise.
            explore: with the agent's exploration noise.
            longest: steps after which an episode is cut off; None: the environment says.
            order: ``round``: an episode of each place in turn, each round with the same weights, the same
                episodes on every engine; ``arrival``: as they are finished, nobody waits.
            first: number of each place's first episode, to go on where others ended.
            warm_up: episodes, over all places from number 0 on, with random codes instead of the agent's.

        Raises:
            EngineError: the cluster cannot be reached.
        """

    def close(self) -> None:
        """End what this engine started; may be called twice."""


class LocalEngine:
    """Everything in this process, one after the other."""

    name = "local"

    def __init__(self, config: EngineConfig | None = None) -> None:
        self.config = config or EngineConfig()

    def __enter__(self) -> Self:
        """The engine."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing was started."""

    def train_offline(
        self,
        agent: "DPG",
        replay: "Replay",
        *,
        updates: int,
        tracker: "RunTracker | None" = None,
        checkpoints: "CheckpointStore | None" = None,
        progress: "Progress | None" = None,
        resume: bool = False,
        report_every: int = REPORT_EVERY,
        writer: Writer = DIRECT,
    ) -> "TrainSummary":
        """``agents.training.train_offline``."""
        return train_offline(
            agent,
            replay,
            updates=updates,
            tracker=tracker,
            checkpoints=checkpoints,
            progress=progress,
            resume=resume,
            report_every=report_every,
            writer=writer,
        )

    def rollouts(
        self,
        agent: "DPG",
        environment: str,
        *,
        options: Sequence[Mapping[str, Any]] = ({},),
        places: int | None = None,
        seed: int = 0,
        explore: bool = True,
        longest: int | None = None,
        order: Order = "round",
        first: int = 0,
        warm_up: int = 0,
    ) -> AbstractContextManager[Rollouts]:
        """See ``Engine``; the places drive in turn, so both orders are the same."""
        driving = Driving(
            environment=environment,
            places=self.config.actors if places is None else places,
            options=options,
            seed=seed,
            explore=explore,
            longest=longest,
            order=order,
            first=first,
            warm_up=warm_up,
        )
        return LocalRollouts(agent, driving)

    def close(self) -> None:
        """Nothing was started."""


def make_engine(config: EngineConfig) -> Engine:
    """The engine that the settings ask for; Ray is imported for ``ray`` only, which takes seconds."""
    if config.kind == "local":
        return LocalEngine(config)
    from tspace_core.distributed.ray_engine import RayEngine

    return RayEngine(config)
