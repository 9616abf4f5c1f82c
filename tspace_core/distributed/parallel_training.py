"""Training with what an engine's places drive: rounds of whole episodes, learning between them.

The counterpart of ``agents.gymnasium_run.train_in``, with the same learning, checkpoints and figures. There
the policy changes within an episode; here a round of one episode a place is driven with one version of it,
and the updates that its steps are worth follow. So the round's episodes are driven at once wherever the
engine has processes, and the same agent, seed and arguments give the same weights on every engine, whatever
died meanwhile. Learning is in this process, and the places wait for it.

A run with checkpoints goes on bit for bit after a stop, as checkpoints are written between two rounds.
Without the records (``keep_records=False``) it drives ``warm_up_episodes`` by its policy, with noise, before
it learns on. All of this needs an environment whose reset with a seed decides the whole episode. One that
counts its resets, as ``TorqueMap-v0`` with several drivers does, is no such one: give each place its own
driver with ``options``.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from tspace_core.agents.checkpoint import Checkpoint, CheckpointStore
from tspace_core.agents.dpg import DPG
from tspace_core.agents.gymnasium_learning import (
    LearningPlan,
    LearningRun,
    Progress,
    require_learner,
)
from tspace_core.agents.gymnasium_state import EpisodeReturn, GymnasiumSummary, RunState
from tspace_core.agents.mixed_replay import LiveReplay, MixedReplay
from tspace_core.agents.sources import RecordSource
from tspace_core.agents.tracking import RunTracker
from tspace_core.distributed.rollouts import Driving, Rollout, Rollouts, make_environment
from tspace_core.errors import AgentError

if TYPE_CHECKING:
    from tspace_core.agents.gymnasium_spaces import Environment, Floats
    from tspace_core.distributed.engine import Engine


@dataclass(frozen=True, kw_only=True)
class RoundsPlan(LearningPlan):
    """How a run drives and learns; the arguments of ``train_from_rollouts`` of the same names."""

    LEAST: ClassVar[dict[str, int]] = {
        "episodes": 1,
        "places": 1,
        "warm_up_episodes": 0,
        **LearningPlan.LEAST,
    }

    episodes: int
    places: int
    warm_up_episodes: int

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.episodes % self.places:
            more = self.episodes + self.places - self.episodes % self.places
            message = (
                f"{self.episodes} episodes are no whole rounds of {self.places} places; drive {more}, or in "
                "another number of places"
            )
            raise AgentError(message)


def train_from_rollouts(
    engine: "Engine",
    agent: DPG,
    environment: str,
    *,
    episodes: int,
    options: Sequence[Mapping[str, Any]] = ({},),
    places: int | None = None,
    warm_up_episodes: int = 0,
    updates_per_step: float = 1.0,
    explore: bool = True,
    longest: int | None = None,
    seed: int = 0,
    capacity: int = 1_000_000,
    replay: LiveReplay | None = None,
    offline: RecordSource | None = None,
    live_share: float = 0.5,
    normalise: Literal["warm_up", "bounds", "no"] = "warm_up",
    evaluate_every: int = 0,
    evaluation_episodes: int = 10,
    report_every: int = 1,
    checkpoints: CheckpointStore | None = None,
    keep_records: bool = True,
    resume: bool = False,
    tracker: RunTracker | None = None,
    progress: Progress | None = None,
) -> GymnasiumSummary:
    """Drive and learn in rounds.

    Args:
        engine: drives; open.
        agent: in mode ``train``, with the environment's dimensions; it learns in this process.
        environment: id of Gymnasium, with the module that registers it in front.
        episodes: in all, over all places, those of the warm-up included: whole rounds.
        options: keyword arguments of the environment; place k takes the k-th of them, and round again.
        places: episodes of a round; default: the engine's ``actors``. More than that take turns.
        warm_up_episodes: of them driven with random codes before anything is learned. Learning waits longer
            where there are fewer records than a batch; the updates of these steps follow then.
        updates_per_step: updates for each step of a round, after the round.
        explore: exploration noise after the warm-up.
        longest: steps after which an episode is cut off; None: the environment says.
        seed: of episodes, random codes, noise and batches; the agent's weights have its own.
        capacity: see ``train_in``, as all that follow. What is due "every so many steps" is done at the end
            of a round, and evaluations take the first of ``options``.
        replay: see there.
        offline: see there.
        live_share: see there.
        normalise: see there.
        evaluate_every: see there.
        evaluation_episodes: see there.
        report_every: steps a point of the series; 1: each round.
        checkpoints: where to save: after the first round that ends ``checkpoints.every`` steps after the last
            one, and at the end.
        keep_records: see there.
        resume: see there.
        tracker: see there.
        progress: called with episodes done, those in all, and each point of the series.

    Raises:
        AgentError: as ``train_in``; or the episodes are no whole rounds. Names the place and the episode.
        CheckpointError: as ``train_in``.
        EngineError: the cluster is gone, or actors die again and again. Names the last good checkpoint.
    """
    plan = RoundsPlan(
        episodes=episodes,
        places=engine.config.actors if places is None else places,
        warm_up_episodes=warm_up_episodes,
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
    with ExitStack() as stack:
        driving = Driving(
            environment=environment,
            places=plan.places,
            options=options,
            seed=seed,
            explore=explore,
            longest=longest,
            warm_up=warm_up_episodes,
        )
        place = driving.place(0)
        stack.callback(place.close)
        place.require_fits(agent)
        run = _RoundsRun(
            engine,
            driving,
            stack,
            place.bounds,
            plan,
            agent,
            RunState(environment, seed, plan.places),
            records,
            MixedReplay(offline, records, live_share),
            environment=partial(make_environment, environment, options[0]),
            checkpoints=checkpoints,
            tracker=tracker,
            progress=progress,
        )
        return run.go(resume=resume)


class _RoundsRun(LearningRun):
    """One run of ``train_from_rollouts``."""

    def __init__(
        self,
        engine: "Engine",
        driving: Driving,
        stack: ExitStack,
        bounds: "tuple[Floats, Floats]",
        plan: RoundsPlan,
        agent: DPG,
        state: RunState,
        records: LiveReplay,
        source: MixedReplay,
        *,
        environment: "Environment",
        checkpoints: CheckpointStore | None,
        tracker: RunTracker | None,
        progress: Progress | None,
    ) -> None:
        super().__init__(
            agent,
            state,
            records,
            source,
            plan,
            environment=environment,
            checkpoints=checkpoints,
            tracker=tracker,
            progress=progress,
        )
        self._engine, self._driving, self._stack, self._limits = engine, driving, stack, bounds
        self._wanted = plan.episodes
        self._learn_from = plan.warm_up_episodes
        """Episodes after which learning begins."""
        self._learned_to = 0
        """Steps whose updates are done, or counted as due."""
        self._rollouts: Rollouts
        self._episodes: Iterator[Rollout]

    def _open(self) -> None:
        driving = replace(self._driving, first=int(self.state.numbers[0]))
        self._rollouts = self._stack.enter_context(self._engine.rollouts(self.agent, driving))
        self._episodes = iter(self._rollouts)

    def _drive(self) -> bool:
        """A round."""
        for _ in range(self._driving.places):
            self._take(next(self._episodes))
        return True

    def _take(self, found: Rollout) -> None:
        state = self.state
        for reward in found.records.rewards:
            state.stepped(float(reward))
        self.records.add(found.records, found.memory)
        self.records.end_episode()
        state.numbers[found.place] = found.episode + 1
        told = EpisodeReturn(step=state.steps, value=found.total_reward, length=len(found))
        state.episodes.append(told)
        self.tracker.metrics(state.steps, {"episode_return": found.total_reward})

    def _learn(self, before: int) -> None:
        """The updates that the round is worth; the next one is driven with what was learned."""
        del before
        known = self.agent.normalised, self.state.updates
        super()._learn(self._learned_to)
        if self._ready():
            self._learned_to = self.state.steps
        if (self.agent.normalised, self.state.updates) != known:
            self._rollouts.push(self.agent)

    def _progress(self) -> tuple[int, int]:
        return int(np.sum(self.state.numbers)), self._wanted

    def _warm(self) -> bool:
        return int(np.sum(self.state.numbers)) >= self._learn_from

    def _bounds(self) -> "tuple[Floats, Floats]":
        return self._limits

    def _restore(self, checkpoint: Checkpoint) -> None:
        # What is due and not done yet was counted, too, where no whole update came of it so far.
        self._learned_to = self.state.steps if self.state.updates or self.state.due else 0
        if "records" not in checkpoint.manifest.components:
            self._learn_from = int(np.sum(self.state.numbers)) + self._driving.warm_up
