"""Any agent in any Gymnasium environment of Box spaces: one function to train, one to evaluate.

Public tasks and ``TorqueMap-v0`` run the same code. A time limit (``truncated``) ends an episode but not the
value beyond it; a true end (``terminated``) does.

A run in one place with checkpoints goes on bit for bit after a stop, if a reset with a seed decides all of an
episode: a checkpoint is written between two episodes and holds agent, optimizers, noise, generators, counters
and the records. It does not go on bit for bit

- in several places, or where an episode is longer than two intervals of checkpoints: the episodes that were
  going on are broken off, and new ones begin;
- without the records (``keep_records=False``, for buffers too large to be saved again and again): the run
  then drives ``warm_up`` steps by its policy, with noise, before it learns on;
- where the environment keeps a state of its own over its resets.
"""

from contextlib import ExitStack
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from tspace_core.agents.checkpoint import Checkpoint, CheckpointStore, Component
from tspace_core.agents.dpg import DPG
from tspace_core.agents.gymnasium_evaluation import evaluate_in, make_agent, open_places
from tspace_core.agents.gymnasium_learning import LearningPlan, LearningRun, Progress, require_learner
from tspace_core.agents.gymnasium_spaces import TRAINING, Environment, Floats, Place, Step, episode_seed
from tspace_core.agents.gymnasium_state import EpisodeReturn, GymnasiumSummary, RunState
from tspace_core.agents.mixed_replay import LiveReplay, MixedReplay
from tspace_core.agents.sources import RecordSource
from tspace_core.agents.tracking import RunTracker
from tspace_core.errors import AgentError
from tspace_core.storage.replay import ReplayBatch

__all__ = ["GymnasiumSummary", "Plan", "Progress", "evaluate_in", "make_agent", "train_in"]


@dataclass(frozen=True, kw_only=True)
class Plan(LearningPlan):
    """How a run drives and learns; the arguments of ``train_in`` of the same names."""

    LEAST: ClassVar[dict[str, int]] = {"steps": 1, "warm_up": 0, **LearningPlan.LEAST}

    steps: int
    warm_up: int = 1000


def train_in(
    environment: Environment,
    agent: DPG,
    *,
    steps: int,
    warm_up: int = 1000,
    update_every: int = 1,
    updates_per_step: float = 1.0,
    explore: bool = True,
    seed: int = 0,
    environments: int = 1,
    capacity: int = 1_000_000,
    replay: LiveReplay | None = None,
    offline: RecordSource | None = None,
    live_share: float = 0.5,
    normalise: Literal["warm_up", "bounds", "no"] = "warm_up",
    evaluate_every: int = 0,
    evaluation_episodes: int = 10,
    report_every: int = 1000,
    checkpoints: CheckpointStore | None = None,
    keep_records: bool = True,
    resume: bool = False,
    tracker: RunTracker | None = None,
    progress: Progress | None = None,
) -> GymnasiumSummary:
    """Drive and learn.

    The same agent, seed and arguments give the same weights on one machine.

    Args:
        environment: id or factory; with several places it is made as often.
        agent: in mode ``train``, with the environment's dimensions; see ``make_agent``.
        steps: of the environment, over all places, those of the warm-up included.
        warm_up: steps with random actions before anything is learned. Learning waits longer where there
            are fewer records than a batch.
        update_every: steps between two rounds of updates.
        updates_per_step: updates for each step; those due are done in one round.
        explore: exploration noise after the warm-up.
        seed: of episodes, random actions, noise and batches; the agent's weights have its own.
        environments: places that are driven at the same time in this process.
        capacity: records kept; the oldest make room.
        replay: where the records are kept instead, for a caller that wants them afterwards.
        offline: further records that batches are drawn from, for fine-tuning.
        live_share: of a batch, where there are offline ones.
        normalise: how the normaliser of a fresh agent is fitted: with the states of the warm-up, with the
            observation space's bounds (which must be finite), or not at all.
        evaluate_every: steps between two evaluations without noise; 0: none.
        evaluation_episodes: of each evaluation.
        report_every: steps a point of the series.
        checkpoints: where to save, at the first end of an episode after ``checkpoints.every`` steps, and at
            the end; None saves nothing.
        keep_records: whether checkpoints hold the records, too.
        resume: go on from the latest checkpoint of ``checkpoints``; without one, begin.
        tracker: None tracks nothing.
        progress: called after each point of the series.

    Raises:
        AgentError: dimensions, spaces or arguments do not fit; the environment gave something that is not
            finite; or (``DivergedError``) training diverged. Names the step and the last good checkpoint.
        CheckpointError: the checkpoint to resume from is of another run; or there are checkpoints and
            ``resume`` is not asked for. One that cannot be read is put aside for the one before.
    """
    plan = Plan(
        steps=steps,
        warm_up=warm_up,
        update_every=update_every,
        updates_per_step=updates_per_step,
        explore=explore,
        seed=seed,
        normalise=normalise,
        evaluate_every=evaluate_every,
        evaluation_episodes=evaluation_episodes,
        report_every=report_every,
        keep_records=keep_records,
    )
    records = require_learner(agent, replay, capacity, offline)
    needed = max(warm_up, 0 if offline is not None else agent.hyper.batch_size)
    if updates_per_step and not resume and steps < needed:
        message = (
            f"{steps} steps end before anything is learned: a warm-up of {warm_up} and a batch of "
            f"{agent.hyper.batch_size} records come first; drive more steps, or lower these"
        )
        raise AgentError(message)
    with ExitStack() as stack:
        places = open_places(stack, environment, agent, environments)
        run = _Run(
            places,
            plan,
            agent,
            records,
            MixedReplay(offline, records, live_share),
            environment=environment,
            checkpoints=checkpoints,
            tracker=tracker,
            progress=progress,
        )
        return run.go(resume=resume)


class _Run(LearningRun):
    """One run of ``train_in``."""

    def __init__(
        self,
        places: list[Place],
        plan: Plan,
        agent: DPG,
        records: LiveReplay,
        source: MixedReplay,
        *,
        environment: Environment,
        checkpoints: CheckpointStore | None,
        tracker: RunTracker | None,
        progress: Progress | None,
    ) -> None:
        super().__init__(
            agent,
            RunState(places[0].name, plan.seed, len(places)),
            records,
            source,
            plan,
            environment=environment,
            checkpoints=checkpoints,
            tracker=tracker,
            progress=progress,
        )
        self.places, self._driving = places, plan
        self.session = agent.session(len(places), explore=plan.explore, seed=plan.seed)
        self.learn_from = plan.warm_up
        """Step after which learning begins."""
        self._returns = np.zeros(len(places))
        self._rewards = np.zeros(len(places), np.float32)
        self._waiting: list[list[tuple[Floats, Step, Floats | None]]] = [[] for _ in places]
        # Records of a recurrent agent stay together by episode; those of several places would mix.
        self._whole_episodes = agent.memory_dim > 0 and len(places) > 1

    def _open(self) -> None:
        for index in range(len(self.places)):
            self._begin_episode(index)

    def _progress(self) -> tuple[int, int]:
        return self.state.steps, self._driving.steps

    def _warm(self) -> bool:
        return self.state.steps >= self.learn_from

    def _bounds(self) -> tuple[Floats, Floats]:
        return self.places[0].bounds

    def _components(self) -> dict[str, Component]:
        begun = self.state.numbers.copy()
        if len(self.places) == 1 and self.places[0].steps == 0:
            self.state.numbers[0] -= 1  # the episode that has just begun is begun again
        found = {**super()._components(), "session": self.session.component()}
        self.state.numbers = begun
        return found

    def _restore(self, checkpoint: Checkpoint) -> None:
        self.session.restore(checkpoint.component("session"))
        if "records" not in checkpoint.manifest.components:
            self.learn_from = self.state.steps + self._driving.warm_up

    def _begin_episode(self, index: int) -> None:
        number = int(self.state.numbers[index])
        self.state.numbers[index] += 1
        self._returns[index] = 0.0
        self.places[index].begin(episode_seed(self.plan.seed, TRAINING, index, number))
        which = np.zeros(len(self.places), np.bool_)
        which[index] = True
        self.session.begin(which)

    def _drive(self) -> bool:
        """One step in each place; returns whether an episode ended in one."""
        state, agent, count = self.state, self.agent, len(self.places)
        states = np.stack([place.state for place in self.places])
        memory = None
        if state.steps < self._driving.warm_up:
            if agent.memory_dim:  # what is remembered goes on through random actions, too
                self.session.act(states, self._rewards)
            codes = state.explorer.uniform(-1.0, 1.0, (count, agent.basis.size)).astype(np.float32)
            actions = agent.basis.expand(codes)
        else:
            actions = self.session.act(states, self._rewards)
        memory = self.session.memory
        steps = [place.step(action) for place, action in zip(self.places, actions, strict=True)]
        # As on the road: what is learned from and remembered is what was done, not what was asked for.
        self.session.carried_out(np.stack([step.carried_out for step in steps]))
        ended = False
        for index, (place, step) in enumerate(zip(self.places, steps, strict=True)):
            state.stepped(step.reward)
            self._rewards[index] = step.reward
            self._returns[index] += step.reward
            kept = None if memory is None else memory[index]
            self._waiting[index].append((states[index], step, kept))
            over = step.terminated or step.truncated
            if over or not self._whole_episodes:
                self._store(index, over=over)
            if over:
                value = float(self._returns[index])
                told = EpisodeReturn(step=state.steps, value=value, length=place.steps)
                state.episodes.append(told)
                self.tracker.metrics(state.steps, {"episode_return": value})
                self._begin_episode(index)
                ended = True
        return ended

    def _store(self, index: int, *, over: bool) -> None:
        """Move the records of a place that wait to the replay."""
        waiting = self._waiting[index]
        self._waiting[index] = []
        memory = (
            None if waiting[0][2] is None else np.stack([kept for *_, kept in waiting if kept is not None])
        )
        steps = [step for _, step, _ in waiting]
        batch = ReplayBatch(
            states=np.stack([before for before, *_ in waiting]),
            actions=np.stack([step.carried_out for step in steps]),
            rewards=np.array([step.reward for step in steps], np.float32),
            next_states=np.stack([step.state for step in steps]),
            terminals=np.array([step.terminated for step in steps], np.float32),
            first_rows=np.zeros(len(steps), np.float32),
        )
        self.records.add(batch, memory)
        if over:
            self.records.end_episode()
