"""Offline training: an agent, a replay buffer, a number of updates."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Self

import numpy as np
from pydantic import BaseModel, ConfigDict

from tspace_core.agents.checkpoint import Checkpoint, CheckpointStore, Component
from tspace_core.agents.dpg import DPG, Losses
from tspace_core.agents.pictures import map_change_figure
from tspace_core.agents.returns import episode_returns, running_reward
from tspace_core.agents.tracking import NullTracker, RunTracker
from tspace_core.errors import AgentError, CheckpointError
from tspace_core.objects.fields import PathField
from tspace_core.objects.path import AnyPath
from tspace_core.storage.replay import Replay
from tspace_core.storage.writer import DIRECT, Writer

_log = logging.getLogger(__name__)

REPORT_EVERY = 100
"""Updates that one point of the series stands for."""

Progress = Callable[[int, int, "SeriesPoint"], None]
"""Called with updates done, updates in all, and the newest point of the series."""


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
    replay_version: str
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


class _Means:
    """Running sums of one interval, exact through a checkpoint."""

    def __init__(self, count: int = 0, sums: dict[str, float] | None = None) -> None:
        self.count = count
        self.sums = sums or dict.fromkeys(("critic_loss", "actor_loss", "mean_q", "reward", "saturated"), 0.0)

    def add(self, losses: Losses, reward: float) -> None:
        self.count += 1
        sums = self.sums
        sums["critic_loss"] += losses.critic
        sums["actor_loss"] += losses.actor
        sums["mean_q"] += losses.mean_q
        sums["reward"] += reward
        sums["saturated"] += losses.saturated

    def take(self, update: int) -> SeriesPoint:
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
        self.means = _Means()

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
        self.means = _Means(**values["interval"])
        return self


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

    Raises:
        AgentError: dimensions or discount do not fit, or training diverged (names the update and the last
            good checkpoint).
        CheckpointError: the checkpoint to resume from is damaged or of another agent; or there are
            checkpoints and ``resume`` is not asked for.
    """
    _check(agent, replay, updates, report_every)
    if not resume and checkpoints is not None and checkpoints.steps():
        message = (
            f"{checkpoints.root}: holds checkpoints up to step {checkpoints.steps()[-1]}; "
            "go on from them with resume=True or choose a new run"
        )
        raise CheckpointError(message)
    state = _RunState(agent.seed, replay)
    if resume and checkpoints is not None and checkpoints.steps():
        checkpoint = Checkpoint(checkpoints.latest())
        state.take_over(checkpoint)
        agent.restore(checkpoint)
    elif not agent.normalised:
        agent.fit_normaliser(replay.state_mean, replay.state_std)
    tracker = tracker or NullTracker()
    first, saved = state.done, _latest(checkpoints)
    began = time.perf_counter()
    with _tracked(tracker, agent, replay, updates, state):
        while state.done < updates:
            _one_update(agent, replay, state, checkpoints)
            if state.done % report_every == 0 or state.done == updates:
                point = state.means.take(state.done)
                state.series.append(point)
                tracker.metrics(state.done, point.model_dump(exclude={"update"}))
                if progress is not None:
                    progress(state.done, updates, point)
            if checkpoints is not None and (checkpoints.due(state.done) or state.done == updates):
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


def _one_update(agent: DPG, replay: Replay, state: _RunState, checkpoints: CheckpointStore | None) -> None:
    batch = replay.sample(agent.hyper.batch_size, state.generator)
    try:
        losses = agent.train(batch)
    except AgentError as error:
        last = _latest(checkpoints) or "none"
        message = f"training stopped at update {state.done + 1}: {error} (last good checkpoint: {last})"
        raise AgentError(message) from error
    agent.update_target()
    state.means.add(losses, float(batch.rewards.mean(dtype=np.float64)))
    state.done += 1


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
