"""Offline training: an agent, a replay buffer, a number of updates."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Self

import numpy as np
from pydantic import BaseModel, ConfigDict

from tspace_core.agents.bad_batch import bad_records, describe_batch
from tspace_core.agents.checkpoint import Checkpoint, CheckpointStore, Component
from tspace_core.agents.dpg import DPG, Losses
from tspace_core.agents.graph_update import GraphUpdate, graph_update
from tspace_core.agents.pictures import map_change_figure
from tspace_core.agents.returns import episode_returns, running_reward
from tspace_core.agents.sources import RecordSource, mean_reward
from tspace_core.agents.tracking import NullTracker, RunTracker
from tspace_core.errors import AgentError, CheckpointError, DivergedError, TspaceError
from tspace_core.objects.fields import PathField
from tspace_core.objects.path import AnyPath
from tspace_core.storage.replay import Replay
from tspace_core.storage.writer import DIRECT, Writer

_log = logging.getLogger(__name__)

REPORT_EVERY = 100
"""Updates that one point of the series stands for."""

Progress = Callable[[int, int, "SeriesPoint"], None]
"""Called with updates done, updates in all, and the newest point of the series."""

Update = Callable[[DPG, RecordSource, np.random.Generator, int], tuple[Losses, float, int]]
"""At most so many updates of an agent from a source: mean losses, mean reward drawn, and how many it did."""


class SeriesPoint(BaseModel):
    """Means over the updates since the point before."""

    model_config = ConfigDict(frozen=True)

    update: int
    critic_loss: float
    actor_loss: float
    mean_q: float
    reward: float
    """Mean reward of the records drawn, in the unit of the replay's reward kind."""
    saturated: float


class TrainSummary(BaseModel):
    """What a training run did."""

    model_config = ConfigDict(frozen=True)

    agent: str
    replay: str
    """The buffer's name, or what was driven."""
    replay_version: str | None
    """None: there was no buffer in the lake, it was learned by driving."""
    run_id: str | None
    updates: int
    resumed_from: int
    series: tuple[SeriesPoint, ...]
    value_range: tuple[float, float]
    """Values that a policy can have with the rewards in the data: reward range / (1 - gamma), scaled."""
    overestimating: bool
    """The last mean value lies outside ``value_range``: the critic diverges, finite as it is."""
    checkpoint: PathField | None
    wall_s: float
    updates_per_s: float


class Means:
    """Running sums of one interval, exact through a checkpoint."""

    def __init__(self, count: int = 0, sums: dict[str, float] | None = None) -> None:
        self.count = count
        self.sums = sums or dict.fromkeys(("critic_loss", "actor_loss", "mean_q", "reward", "saturated"), 0.0)

    def add(self, losses: Losses, reward: float, count: int) -> None:
        """Add what ``count`` updates saw in the mean."""
        self.count += count
        sums = self.sums
        sums["critic_loss"] += count * losses.critic
        sums["actor_loss"] += count * losses.actor
        sums["mean_q"] += count * losses.mean_q
        sums["reward"] += count * reward
        sums["saturated"] += count * losses.saturated

    def take(self, update: int) -> SeriesPoint:
        """The means as the point at ``update``; the next interval begins."""
        point = SeriesPoint(update=update, **{name: total / self.count for name, total in self.sums.items()})
        self.count, self.sums = 0, dict.fromkeys(self.sums, 0.0)
        return point


class _RunState:
    """Where a run stands beside its agent; a component of its checkpoints."""

    NAME = "training"

    def __init__(self, seed: int, replay: Replay) -> None:
        self.generator = np.random.default_rng([seed, 2])
        self.replay_sha256 = replay.manifest.content_sha256
        self.done = 0
        self.run_id: str | None = None
        self.series: list[SeriesPoint] = []
        self.means = Means()

    def component(self) -> Component:
        return Component(
            values={
                "generator": self.generator.bit_generator.state,
                "replay_sha256": self.replay_sha256,
                "done": self.done,
                "run_id": self.run_id,
                "series": [point.model_dump() for point in self.series],
                "interval": {"count": self.means.count, "sums": self.means.sums},
            }
        )

    def take_over(self, checkpoint: Checkpoint) -> Self:
        keys = ("replay_sha256", "generator", "done", "run_id", "series", "interval")
        values: Any = checkpoint.component(self.NAME, keys).values
        if values["replay_sha256"] != self.replay_sha256:
            message = (
                f"{checkpoint.directory}: was trained on replay content {values['replay_sha256'][:12]}..., "
                f"this one is {self.replay_sha256[:12]}...; "
                "resume with the same replay version or start a new run"
            )
            raise AgentError(message)
        self.generator.bit_generator.state = values["generator"]
        self.done = values["done"]
        self.run_id = values["run_id"]
        self.series = [SeriesPoint.model_validate(point) for point in values["series"]]
        self.means = Means(**values["interval"])
        return self


def plain_update(
    agent: DPG, source: RecordSource, generator: np.random.Generator, limit: int
) -> tuple[Losses, float, int]:
    """Draw a batch, learn from it, let the targets follow: one update, whatever the limit."""
    batch = agent.draw(source, generator)
    losses = agent.train(batch)
    agent.update_target()
    return losses, mean_reward(batch), 1


def begin_offline(
    agent: DPG,
    replay: Replay,
    updates: int,
    checkpoints: CheckpointStore | None,
    *,
    resume: bool,
    report_every: int = REPORT_EVERY,
) -> _RunState:
    """Where a run stands: bring the agent there, or fit a fresh one's normaliser; see ``train_offline``."""
    _check(agent, replay, updates, report_every)
    if not resume and checkpoints is not None and checkpoints.steps():
        message = (
            f"{checkpoints.root}: holds checkpoints up to step {checkpoints.steps()[-1]}; "
            "go on from them with resume=True or choose a new run"
        )
        raise CheckpointError(message)
    state = _RunState(agent.seed, replay)
    checkpoint = checkpoints.last_good() if resume and checkpoints is not None else None
    if checkpoint is not None:
        state.take_over(checkpoint)
        agent.restore(checkpoint)
    elif not agent.normalised:
        agent.fit_normaliser(replay.state_mean, replay.state_std)
    return state


def train_offline(
    agent: DPG,
    replay: Replay,
    *,
    updates: int,
    tracker: RunTracker | None = None,
    checkpoints: CheckpointStore | None = None,
    progress: Progress | None = None,
    resume: bool = False,
    report_every: int = REPORT_EVERY,
    writer: Writer = DIRECT,
    update: Update | None = None,
) -> TrainSummary:
    """Train an agent on a replay buffer.

    The state normaliser of a fresh agent is fitted with the buffer's mean and deviation first. The same agent
    seed, replay and number of updates give the same weights on one machine, with or without a stop between.

    Args:
        agent: In mode ``train``.
        replay: Buffer with the agent's dimensions.
        updates: Updates in all; a resumed run does what is left of them.
        tracker: None tracks nothing.
        checkpoints: Where to save, every ``checkpoints.every`` updates and at the end; None saves nothing.
        progress: Called after each point of the series.
        resume: Go on from the latest checkpoint of ``checkpoints``; without one, begin.
        report_every: Updates a point of the series.
        writer: Of the last checkpoint. Those before it are always visible at once: a stopped run goes on
            from them.
        update: How updates are done; workers that learn together share them out. None: on a CUDA device where
            there is one and the agent can (``graph_update``), else on the host, one by one.

    Raises:
        AgentError: dimensions or discount do not fit; the buffer holds fewer records than a batch; a batch
            holds values that are not finite (names update, fields, records and episodes).
        DivergedError: a loss or weight is not finite (names the update). Nothing is saved then, and the error
            names the last good checkpoint, as it does for bad values.
        CheckpointError: the checkpoint to resume from is of another agent; or there are checkpoints and
            ``resume`` is not asked for. A damaged one is put aside and the one before it is taken.
    """
    state = begin_offline(agent, replay, updates, checkpoints, resume=resume, report_every=report_every)
    tracker = tracker or NullTracker()
    first, saved = state.done, _latest(checkpoints)
    update = update or graph_update(agent, replay) or plain_update
    began = time.perf_counter()
    with _tracked(tracker, agent, replay, updates, state):
        while state.done < updates:
            borders = [updates, _next(state.done, report_every)]
            if checkpoints is not None:
                borders.append(_next(state.done, checkpoints.every))
            _learn(agent, replay, state, checkpoints, update, min(borders) - state.done)
            if state.done % report_every == 0 or state.done == updates:
                point = state.means.take(state.done)
                state.series.append(point)
                tracker.metrics(state.done, point.model_dump(exclude={"update"}))
                if progress is not None:
                    progress(state.done, updates, point)
            if checkpoints is not None and (checkpoints.due(state.done) or state.done == updates):
                _require_finite(agent, state, checkpoints)
                how = writer if state.done == updates else DIRECT
                saved = checkpoints.save(agent, state.done, {state.NAME: state.component()}, writer=how)
        wall = time.perf_counter() - began
        if state.done > first:
            tracker.metrics(state.done, {"updates_per_s": (state.done - first) / wall})
        tracker.figure(map_change_figure(agent.predict, replay), "map_change.png")
    low, high = _value_range(agent, replay)
    return TrainSummary(
        agent=agent.name,
        replay=replay.manifest.name,
        replay_version=replay.manifest.version,
        run_id=state.run_id,
        updates=state.done,
        resumed_from=first,
        series=tuple(state.series),
        value_range=(low, high),
        overestimating=bool(state.series) and not low <= state.series[-1].mean_q <= high,
        checkpoint=saved,
        wall_s=wall,
        updates_per_s=(state.done - first) / wall,
    )


def _latest(checkpoints: CheckpointStore | None) -> AnyPath | None:
    return checkpoints.latest() if checkpoints is not None and checkpoints.steps() else None


def _next(done: int, every: int) -> int:
    """The next multiple of ``every``."""
    return (done // every + 1) * every


def _learn(
    agent: DPG,
    replay: Replay,
    state: _RunState,
    checkpoints: CheckpointStore | None,
    update: Update,
    limit: int,
) -> None:
    before = state.generator.bit_generator.state
    try:
        losses, reward, count = update(agent, replay, state.generator, limit)
    except AgentError as error:
        # In an interval on a device no batch is known to be the one: the whole buffer is looked through.
        batch = bad_records(replay) if isinstance(update, GraphUpdate) else _batch(agent, replay, before)
        message = (
            f"training stopped at update {state.done + 1}: {error}; {batch} ({_last_words(checkpoints)})"
        )
        raise type(error)(message) from error
    state.means.add(losses, reward, count)
    state.done += count


def _batch(agent: DPG, replay: Replay, generator: Any) -> str:
    try:
        return describe_batch(agent, replay, generator)
    except (TspaceError, OSError, ValueError) as error:  # what went wrong first is what counts
        return f"its batch could not be drawn again: {error}"


def _require_finite(agent: DPG, state: _RunState, checkpoints: CheckpointStore) -> None:
    """A checkpoint is one to go back to: never save weights that are lost."""
    if not agent.finite():
        message = (
            f"training stopped at update {state.done}: a weight is not finite, nothing of it is saved; lower "
            f"the learning rates or reward_scale ({_last_words(checkpoints)})"
        )
        raise DivergedError(message)


def _last_words(checkpoints: CheckpointStore | None) -> str:
    return f"last good checkpoint: {_latest(checkpoints) or 'none'}"


@contextmanager
def _tracked(
    tracker: RunTracker, agent: DPG, replay: Replay, updates: int, state: _RunState
) -> Iterator[None]:
    manifest = replay.manifest
    tags = {
        "agent": agent.name,
        "vehicle": ",".join(sorted({episode.vehicle_id for episode in manifest.content.episodes})),
        "replay": manifest.name,
        "replay_version": manifest.version,
        "replay_sha256": manifest.content_sha256,
        "software_version": manifest.software_version,
    }
    params = {**agent.hyper.model_dump(mode="json"), "seed": agent.seed, "updates": updates}
    before, state.run_id = state.run_id, tracker.start(params, tags, resume=state.run_id)
    try:
        if state.run_id != before:
            _tell_returns(tracker, replay)
        yield
    except BaseException as error:
        try:
            tracker.finish("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
        except Exception:  # the tracker's own trouble must not hide why training ended
            _log.exception("the tracker could not end run %s", state.run_id)
        raise
    tracker.finish("FINISHED")


def _tell_returns(tracker: RunTracker, replay: Replay) -> None:
    """What the data earned, an episode a step, told once a run."""
    returns = episode_returns(replay)
    pairs = zip(returns.tolist(), running_reward(returns).tolist(), strict=True)
    for number, (value, smoothed) in enumerate(pairs, start=1):
        tracker.metrics(number, {"episode_return": value, "running_reward": smoothed})


def _check(agent: DPG, replay: Replay, updates: int, report_every: int) -> None:
    layout = replay.layout
    if updates < 1 or report_every < 1:
        message = f"updates is {updates} and report_every is {report_every}, both must be at least 1"
        raise AgentError(message)
    if (layout.state_dim, layout.action_dim) != (agent.state_dim, agent.action_dim):
        message = (
            f"{replay.directory}: states of {layout.state_dim} and actions of {layout.action_dim}, the "
            f"agent has {agent.state_dim} and {agent.action_dim}; make the agent for this replay's dimensions"
        )
        raise AgentError(message)
    size = agent.hyper.batch_size
    if len(replay) < size and not agent.hyper.repeat_records:
        message = (
            f"{replay.directory}: holds {len(replay)} records, a batch is {size}: record more episodes, make "
            "batch_size smaller, or set repeat_records, so that records are drawn several times for a batch"
        )
        raise AgentError(message)
    if layout.reward_kind == "energy_shaped" and layout.gamma != agent.hyper.gamma:
        message = (
            f"{replay.directory}: rewards are shaped for gamma {layout.gamma}, the agent discounts with "
            f"{agent.hyper.gamma}; shaping keeps the optimum only with equal gammas: set one to the other"
        )
        raise AgentError(message)


def _value_range(agent: DPG, replay: Replay) -> tuple[float, float]:
    reward = replay.manifest.content.reward
    scale = agent.hyper.reward_scale / (1.0 - agent.hyper.gamma)
    # A true end stops the sum at any length, so the range always holds zero.
    return min(0.0, reward.minimum * scale), max(0.0, reward.maximum * scale)
