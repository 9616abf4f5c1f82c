"""The half of a run in an environment that learns: from what was driven, in this process, with checkpoints.

How it is driven says a subclass: step by step in this process (``gymnasium_run``), or whole episodes in
places of an engine (``distributed.parallel_training``).
"""

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from tspace_core.agents.checkpoint import Checkpoint, CheckpointStore, Component
from tspace_core.agents.dpg import DPG
from tspace_core.agents.gymnasium_evaluation import evaluate_in
from tspace_core.agents.gymnasium_spaces import Environment, Floats
from tspace_core.agents.gymnasium_state import Evaluation, GymnasiumSummary, RunPoint, RunState
from tspace_core.agents.mixed_replay import LiveReplay, MixedReplay
from tspace_core.agents.sources import RecordSource
from tspace_core.agents.tracking import NullTracker, RunTracker
from tspace_core.errors import AgentError, CheckpointError, DivergedError, EngineError

if TYPE_CHECKING:
    from tspace_core.objects.path import AnyPath

_log = logging.getLogger(__name__)

Progress = Callable[[int, int, RunPoint], None]
"""Called with steps (or, where whole episodes are driven, episodes) done, those in all, and the newest point
of the series."""


@dataclass(frozen=True, kw_only=True)
class LearningPlan:
    """How a run learns, however it drives; the arguments of ``train_in`` of the same names."""

    LEAST: ClassVar[dict[str, int]] = {
        "update_every": 1,
        "updates_per_step": 0,
        "seed": 0,
        "evaluate_every": 0,
        "evaluation_episodes": 1,
        "report_every": 1,
    }
    """Lowest value of each number."""

    update_every: int = 1
    updates_per_step: float = 1.0
    explore: bool = True
    seed: int = 0
    normalise: Literal["warm_up", "bounds", "no"] = "warm_up"
    evaluate_every: int = 0
    evaluation_episodes: int = 10
    report_every: int = 1000
    keep_records: bool = True

    def __post_init__(self) -> None:
        for name, low in self.LEAST.items():
            if getattr(self, name) < low:
                message = f"{name} is {getattr(self, name)}, at least {low} is needed"
                raise AgentError(message)


def require_learner(
    agent: DPG, replay: LiveReplay | None, capacity: int, offline: RecordSource | None
) -> LiveReplay:
    """What takes the records: ``replay``, or a new one of ``capacity``.

    Raises:
        AgentError: the agent cannot learn, or not from so few records.
    """
    if agent.mode != "train":
        message = f"the {agent.name} agent is in mode {agent.mode!r}; load it with mode='train'"
        raise AgentError(message)
    records = replay
    if records is None:
        records = LiveReplay(agent.state_dim, agent.action_dim, capacity, agent.memory_dim)
    if offline is None and records.capacity < agent.hyper.batch_size:
        message = (
            f"capacity is {records.capacity} records, a batch of the {agent.name} agent needs "
            f"{agent.hyper.batch_size}; keep more, or lower batch_size"
        )
        raise AgentError(message)
    return records


class LearningRun(ABC):
    """One run, made for one call of ``go``.

    Args:
        agent: learns.
        state: where a run like this begins.
        records: take what is driven.
        source: batches are drawn from it.
        plan: how to learn.
        environment: for evaluations.
        checkpoints: None saves nothing.
        tracker: None tracks nothing.
        progress: called after each point of the series.
    """

    def __init__(
        self,
        agent: DPG,
        state: RunState,
        records: LiveReplay,
        source: MixedReplay,
        plan: LearningPlan,
        *,
        environment: Environment,
        checkpoints: CheckpointStore | None,
        tracker: RunTracker | None,
        progress: Progress | None,
    ) -> None:
        self.agent, self.state, self.records, self.source, self.plan = agent, state, records, source, plan
        self.environment, self.checkpoints, self.progress = environment, checkpoints, progress
        self.tracker = tracker or NullTracker()
        self._saved: AnyPath | None = None
        self._saved_at = 0

    @abstractmethod
    def _open(self) -> None:
        """Begin to drive: after a checkpoint was restored, before the first ``_drive``."""

    @abstractmethod
    def _drive(self) -> bool:
        """Drive on and keep what it gave; returns whether an episode ended."""

    @abstractmethod
    def _progress(self) -> tuple[int, int]:
        """How far it is, and how far it is to go."""

    @abstractmethod
    def _warm(self) -> bool:
        """Whether enough was driven to learn from."""

    @abstractmethod
    def _bounds(self) -> tuple[Floats, Floats]:
        """Lowest and highest state that the environment gives, (state_dim,) each."""

    def _components(self) -> dict[str, Component]:
        """What a checkpoint holds beside agent and records."""
        return {"run": self.state.component()}

    @abstractmethod
    def _restore(self, checkpoint: Checkpoint) -> None:
        """Go on from what a subclass added to the checkpoint."""

    def go(self, *, resume: bool) -> GymnasiumSummary:
        """Drive and learn to the end.

        Raises:
            TspaceError: as ``train_in``; names the step and the last good checkpoint.
        """
        state = self.state
        self._begin(resume=resume)
        first, began = state.steps, time.perf_counter()
        with self._tracked():
            self._open()
            while not self._over():
                before = state.steps
                try:
                    ended = self._drive()
                    self._learn(before)
                except (AgentError, EngineError) as error:
                    last = self._saved or "none"
                    message = (
                        f"training stopped after step {state.steps}: {error} (last good checkpoint: {last})"
                    )
                    raise type(error)(message) from error
                self._tell(before)
                self._save_if_due(ended=ended)
            self._point()
            self._save()
        return GymnasiumSummary(
            agent=self.agent.name,
            environment=state.environment,
            seed=state.seed,
            steps=state.steps,
            updates=state.updates,
            resumed_from=first,
            run_id=state.run_id,
            episodes=tuple(state.episodes),
            evaluations=tuple(state.evaluations),
            series=tuple(state.series),
            checkpoint=self._saved,
            wall_s=time.perf_counter() - began,
        )

    def _over(self) -> bool:
        done, of = self._progress()
        return done >= of

    def _begin(self, *, resume: bool) -> None:
        """Go on from the newest checkpoint, or make the agent ready."""
        store, state = self.checkpoints, self.state
        if store is not None and store.steps() and not resume:
            message = (
                f"{store.root}: holds checkpoints up to step {store.steps()[-1]}; "
                "go on from them with resume=True or choose a new run"
            )
            raise CheckpointError(message)
        checkpoint = None if store is None else store.last_good()
        if checkpoint is None:
            if self._warm():
                self._fit()
            return
        found = checkpoint.component("run", ("environment", "seed", "places", "steps"))
        for name in ("environment", "seed", "places"):
            if found.values[name] != getattr(state, name):
                message = (
                    f"{checkpoint.directory}: {name} is {found.values[name]}, this run has "
                    f"{getattr(state, name)}; resume with the same or choose a new run"
                )
                raise CheckpointError(message)
        self.agent.restore(checkpoint)
        state.restore(found)
        if "records" in checkpoint.manifest.components:
            self.records.restore(checkpoint.component("records"))
        self._restore(checkpoint)
        self._saved, self._saved_at = checkpoint.directory, state.steps

    def _fit(self) -> None:
        """Fit the normaliser of a fresh agent."""
        agent, how = self.agent, self.plan.normalise
        if agent.normalised or how == "no":
            return
        if how == "bounds":
            low, high = (bound.astype(np.float64) for bound in self._bounds())
            if not (np.isfinite(low).all() and np.isfinite(high).all()):
                message = (
                    f"{self.state.environment}: the observation space has no finite bounds to normalise by; "
                    "use normalise='warm_up'"
                )
                raise AgentError(message)
            # The deviation of a uniform distribution between the bounds.
            agent.fit_normaliser((low + high) / 2, (high - low) / np.sqrt(12.0))
        elif len(self.records):
            states = self.records.split(self.records.block(np.arange(len(self.records)))).states
            agent.fit_normaliser(states.mean(axis=0, dtype=np.float64), states.std(axis=0, dtype=np.float64))

    def _ready(self) -> bool:
        return self._warm() and len(self.source) >= self.agent.hyper.batch_size

    def _learn(self, before: int) -> None:
        """The updates that are due after the steps since ``before``."""
        state, plan, agent = self.state, self.plan, self.agent
        if not self._ready():
            return
        if not state.updates:
            self._fit()
        state.due += plan.updates_per_step * (state.steps - before)
        if state.steps // plan.update_every == before // plan.update_every:
            return
        while state.due >= 1.0:
            state.due -= 1.0
            losses = agent.train(agent.draw(self.source, state.drawer))
            agent.update_target()
            state.learned(losses)

    def _tell(self, before: int) -> None:
        """A point of the series and an evaluation, where they are due."""
        state, plan = self.state, self.plan
        if state.steps // plan.report_every != before // plan.report_every:
            self._point()
        every = plan.evaluate_every
        if every and state.steps // every != before // every:
            seed = plan.seed + 1
            returns = evaluate_in(self.environment, self.agent, episodes=plan.evaluation_episodes, seed=seed)
            mean, std = float(returns.mean()), float(returns.std())
            state.evaluations.append(Evaluation(step=state.steps, mean=mean, std=std, episodes=len(returns)))
            self.tracker.metrics(state.steps, {"evaluation": mean})

    def _point(self) -> None:
        found = self.state.point()
        if found is None:
            return
        self.tracker.metrics(found.step, found.model_dump(exclude={"step"}))
        if self.progress is not None:
            self.progress(*self._progress(), found)

    def _save_if_due(self, *, ended: bool) -> None:
        store, gone = self.checkpoints, self.state.steps - self._saved_at
        if store is None or gone < store.every:
            return
        if ended or self.state.places > 1 or gone >= 2 * store.every:
            self._save()

    def _save(self) -> None:
        state = self.state
        if self.checkpoints is None or self._saved_at == state.steps:
            return
        if not self.agent.finite():  # a checkpoint is one to go back to
            message = (
                f"a weight is not finite after step {state.steps}, nothing is saved; lower the learning "
                f"rates or reward_scale (last good checkpoint: {self._saved or 'none'})"
            )
            raise DivergedError(message)
        extra = self._components()
        if self.plan.keep_records:
            extra["records"] = self.records.component()
        self._saved = self.checkpoints.save(self.agent, state.steps, extra)
        self._saved_at = state.steps

    @contextmanager
    def _tracked(self) -> Iterator[None]:
        agent, plan, state = self.agent, self.plan, self.state
        params = {**agent.hyper.model_dump(mode="json"), **vars(plan), "agent_seed": agent.seed}
        tags = {"agent": agent.name, "environment": state.environment}
        state.run_id = self.tracker.start(params, tags, resume=state.run_id)
        try:
            yield
        except BaseException as error:
            try:
                self.tracker.finish("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
            except Exception:  # the tracker's own trouble must not hide why training ended
                _log.exception("the tracker could not end run %s", state.run_id)
            raise
        self.tracker.finish("FINISHED")
