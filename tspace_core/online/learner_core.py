"""What a learner process does with what it is sent: updates, checkpoints, weights. No process, no sockets."""

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tspace_core.agents import AGENTS, Checkpoint, CheckpointStore
from tspace_core.agents.bad_batch import bad_places, bad_records, weights_at_fault
from tspace_core.agents.checkpoint import Component
from tspace_core.agents.made_for import made_for
from tspace_core.agents.mixed_replay import LiveReplay, MixedReplay
from tspace_core.agents.sources import Batch, mean_reward
from tspace_core.agents.weights import WeightsFolder
from tspace_core.errors import AgentError, DivergedError, ObjectServerError
from tspace_core.online.learner_protocol import (
    EpisodeEnd,
    EpisodeLearned,
    LearnerReady,
    LearnerSpec,
    Saved,
    WeightsMade,
)
from tspace_core.online.learner_sources import nominal_states, open_offline, read_stored
from tspace_core.storage.replay import ReplayBatch

if TYPE_CHECKING:
    from tspace_core.objects.path import AnyPath

_log = logging.getLogger(__name__)

STATE = "online"
"""Component of a checkpoint that holds where the loop stands."""
_KEYS = ("generator", "updates", "credit", "records", "replay")
_MEANS = ("critic_loss", "actor_loss", "mean_q", "reward", "saturated")

Tell = Callable[[Saved | WeightsMade], None]
Interrupted = Callable[[], bool]


class LearnerCore:
    """An agent that learns from offline and live records.

    The same spec, lake and sequence of calls give the same weights, bit for bit; so does a stop between two
    updates and a new core, provided that the live records are those that the lake gives back.

    Args:
        spec: what to learn from, how, and where to keep it.
        tell: is told of each checkpoint and each version of weights.

    Raises:
        AgentError: dimensions or discount do not fit.
        CheckpointError: the run's newest checkpoint, or the one to start from, is not of this agent; or the
            latter cannot be read.
    """

    def __init__(self, spec: LearnerSpec, tell: Tell = lambda _: None) -> None:
        self.spec = spec
        self.notes: list[str] = []
        self._tell = tell
        self._checkpoints = CheckpointStore(
            spec.checkpoints, keep=spec.hyper.checkpoints_kept, every=spec.hyper.checkpoint_every
        )
        for written in (self._checkpoints, CheckpointStore(spec.weights_folder)):
            written.clear()  # one learner at a time: whatever is left is of a dead one
        self._weights = WeightsFolder(spec.weights_folder)
        self.offline = open_offline(spec, self.notes)
        dimensions = spec.layout.state_dim, spec.layout.action_dim
        self.agent = AGENTS[spec.agent](spec.hyper, *dimensions, seed=spec.seed)
        self.agent.made_for = made_for(spec.layout)
        self.live = LiveReplay(*dimensions, spec.live_capacity, self.agent.memory_dim)
        self._replay = MixedReplay(self.offline, self.live, spec.live_share)
        self._check_discount()
        read_stored(spec, self.offline, self.live, self.notes)

        self._generator = np.random.default_rng([spec.seed, 3])
        self.updates = 0
        self.records = 0
        self._credit = 0.0
        self.checkpoint: AnyPath | None = None
        self._behind = False
        self._begin()
        self._saved = self._published = self.updates
        self.version = 0
        self._forget_episode()

    def ready(self) -> LearnerReady:
        """Publish the weights to begin with and say where the run stands."""
        self.publish()
        return LearnerReady(
            updates=self.updates,
            records=self.records,
            checkpoint=self.checkpoint,
            offline_records=len(self.offline) if self.offline else 0,
            live_records=len(self.live),
            notes=tuple(self.notes),
        )

    def take(self, records: ReplayBatch, memory: NDArray[np.float32] | None = None) -> None:
        """Take live records of the episode going on; bad ones are refused, counted and logged.

        Args:
            records: in their order; one that does not follow the one before begins a sequence of its own.
            memory: (records, memory_dim) what the agent that drives remembered before each. That of another
                kind of agent, which still drives while this one begins, is of no use and left out.
        """
        count = len(records.rewards)
        if memory is not None and memory.shape[1:] != (self.live.memory_dim,):
            memory = None
        try:
            self.live.add(records, memory)
        except AgentError as error:
            self._refused += count
            _log.warning("%d live records refused: %s", count, error)
            return
        self.records += count
        self._arrived += count
        if self.spec.learning == "continuous":
            self._credit += count * self.spec.updates_per_record

    @property
    def due(self) -> int:
        """Updates that the records so far have earned and that are not done yet."""
        return int(self._credit) if len(self._replay) else 0

    def learn(self, interrupted: Interrupted = lambda: False) -> int:
        """Do the updates that are due; return how many were done.

        Raises:
            DivergedError: a loss or a weight is not finite.
            AgentError: a batch cannot be learned from; names the records that are not finite.
        """
        done = 0
        while self.due and not interrupted():
            self._credit -= 1.0
            self._update()
            done += 1
        if done and self.spec.weights == "step":
            self.publish()
        return done

    def end_episode(self, end: EpisodeEnd, interrupted: Interrupted = lambda: False) -> EpisodeLearned:
        """Learn what is left to learn of an episode, save, publish, and say what it taught.

        Of an invalid episode the records are forgotten and nothing more is learned.

        Raises:
            DivergedError: a loss or a weight is not finite.
            AgentError: a batch cannot be learned from; names the records that are not finite.
        """
        self.live.end_episode()
        if not end.valid:
            self.live.discard(self._arrived)
            self._credit = 0.0
        elif self.spec.learning == "episode_end" and len(self._replay):
            self._credit = float(self.spec.hyper.updates_per_episode)
        self.learn(interrupted)
        self.save()
        if self.updates > self._published:
            self.publish()
        means = {name: total / self._count if self._count else None for name, total in self._sums.items()}
        learned = EpisodeLearned(
            number=end.number,
            valid=end.valid,
            updates=self._count,
            total_updates=self.updates,
            **means,
            checkpoint=self.checkpoint,
            weights_version=self.version,
            records=self._arrived,
            refused=self._refused,
            live_records=len(self.live),
            offline_records=len(self.offline) if self.offline else 0,
            learning_s=self._learning_s,
        )
        self._forget_episode()
        return learned

    def save(self) -> None:
        """Save a checkpoint if there were updates since the last; a lake out of reach gets it the next time.

        Raises:
            DivergedError: a weight is not finite; nothing is saved.
        """
        if self.updates == self._saved:
            return
        self._require_finite()
        try:
            if self._behind:
                self._checkpoints.clear()  # what broke off the last time
            self.checkpoint = self._checkpoints.save(self.agent, self.updates, {STATE: self._component()})
        except ObjectServerError as error:
            # What was learned is not lost while this process lives; it goes on and saves the next time.
            self._behind = True
            _log.warning("no checkpoint after update %d: %s", self.updates, error)
            return
        self._behind = False
        self._saved = self.updates
        self._tell(Saved(updates=self.updates, checkpoint=self.checkpoint))

    def publish(self) -> None:
        """Write the policy as the next version of weights.

        Raises:
            DivergedError: a weight is not finite; nothing is published.
        """
        self._require_finite()
        self.version = self._weights.publish(self.agent, self.updates)
        self._published = self.updates
        path = self._weights.path(self.version)
        self._tell(WeightsMade(version=self.version, updates=self.updates, path=path))

    def _update(self) -> None:
        began = time.perf_counter()
        batch = self.agent.draw(self._replay, self._generator)
        try:
            losses = self.agent.train(batch)
        except AgentError as error:
            message = f"update {self.updates + 1}: {error}{self._at_fault(batch, error)}"
            raise type(error)(message) from error
        self.agent.update_target()
        self.updates += 1
        self._count += 1
        reward = mean_reward(batch)
        values = (losses.critic, losses.actor, losses.mean_q, reward, losses.saturated)
        for name, value in zip(_MEANS, values, strict=True):
            self._sums[name] += value
        self._learning_s += time.perf_counter() - began
        if self._checkpoints.due(self.updates):
            self.save()

    def _at_fault(self, batch: Batch, error: AgentError) -> str:
        """What was wrong, data or weights, and what is left; nothing of a batch that is wrong otherwise."""
        where = bad_places(batch)
        if where:
            # Live records are looked at when they come: what is spoilt lies in the buffer.
            named = bad_records(self.offline) if self.offline else "the live records hold them: drive anew"
            said = f"; not finite: {where}. {named}"
        elif isinstance(error, DivergedError):
            said = f"; {weights_at_fault(batch)}"
        else:
            said = ""
        return f"{said} (last good checkpoint: {self.checkpoint or 'none'})"

    def _begin(self) -> None:
        """Go on from the run's newest good checkpoint; else begin with another run's, or afresh."""
        checkpoint = self._checkpoints.last_good(tell=self.notes.append)
        if checkpoint is not None:
            self._resume(checkpoint)
            self.checkpoint = checkpoint.directory
        elif self.spec.start_from is not None:
            self.agent.restore(Checkpoint(self.spec.start_from))
            self.notes.append(f"the run begins with {self.spec.start_from}")
        elif self.offline is not None:
            self.agent.fit_normaliser(self.offline.state_mean, self.offline.state_std)
        else:
            self.agent.fit_normaliser(*nominal_states(self.spec))

    def _resume(self, checkpoint: Checkpoint) -> None:
        values: Any = checkpoint.component(STATE, _KEYS).values
        self.agent.restore(checkpoint)
        self._generator.bit_generator.state = values["generator"]
        self.updates = int(values["updates"])
        self.records = int(values["records"])
        self._credit = float(values["credit"])
        if values["replay"] != self._replay_sha256():
            self.notes.append("the offline buffer is another one than at the last checkpoint")

    def _component(self) -> Component:
        return Component(
            values={
                "generator": self._generator.bit_generator.state,
                "updates": self.updates,
                "credit": self._credit,
                "records": self.records,
                "replay": self._replay_sha256(),
            }
        )

    def _replay_sha256(self) -> str | None:
        return self.offline.manifest.content_sha256 if self.offline else None

    def _require_finite(self) -> None:
        if not self.agent.finite():
            message = (
                f"update {self.updates}: a weight is not finite: training has diverged; "
                "lower the learning rates or reward_scale"
            )
            raise DivergedError(message)

    def _check_discount(self) -> None:
        layout, hyper = self.spec.layout, self.spec.hyper
        if layout.reward_kind == "energy_shaped" and layout.gamma != hyper.gamma:
            message = (
                f"rewards of {self.spec.vehicle_id} are shaped for gamma {layout.gamma}, the agent discounts "
                f"with {hyper.gamma}; shaping keeps the optimum only with equal gammas: set one to the other"
            )
            raise AgentError(message)

    def _forget_episode(self) -> None:
        self._arrived = self._refused = self._count = 0
        self._sums = dict.fromkeys(_MEANS, 0.0)
        self._learning_s = 0.0
