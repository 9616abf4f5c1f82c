"""Everything that happens with records and episodes off the control path, in their order.

One task takes what the control loop puts into one queue: records go to the learner, episodes are learned
from, stored, tracked and reported. It may take its time; the control loop goes on with the next episode.
"""

import json
import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tspace_core.agents.tracking import RunTracker
from tspace_core.config import Vehicle
from tspace_core.errors import OnlineError, StorageError
from tspace_core.objects.path import AnyPath
from tspace_core.online.agent_choice import ReleaseWatch
from tspace_core.online.cruncher import FinishedEpisode
from tspace_core.online.delivery import TRY_AGAIN_S, Delivery
from tspace_core.online.driver_agent import Successor
from tspace_core.online.learner import LearnerFailed
from tspace_core.online.learner_protocol import EpisodeLearned, LearnerReady, LearnerSpec
from tspace_core.online.recording import Record
from tspace_core.online.results import (
    EpisodeResult,
    RunSummary,
    counts_of,
    smoothed,
    total_reward,
    training_log,
)
from tspace_core.online.run_state import RunState, RunStateFile
from tspace_core.online.weights_watch import WeightsWatch
from tspace_core.storage.champion import Champion
from tspace_core.storage.lake import Lake
from tspace_core.storage.online_outbox import EpisodeOutbox
from tspace_core.storage.replay import ReplayBatch
from tspace_core.supervision import Pipeline, PipelineClosed, PipelineEmpty, Supervisor

_log = logging.getLogger(__name__)

QUEUE = 4096
"""Records and episodes that wait at most: hours of driving."""
HAND_OVER_S = 5.0
RESTARTS = 2
"""Times a learner that died is started again in one run."""


class Learner(Protocol):
    """What the keeper needs of a learner process."""

    spec: LearnerSpec
    """As it was given."""

    def start(self) -> None:
        """Start the process, also again after it died."""

    def require_ready(self) -> LearnerReady:
        """Wait until it can learn; where it cannot, it is ended.

        Raises:
            OnlineError: it cannot; says why.
        """

    def add(self, records: ReplayBatch, memory: NDArray[np.float32] | None = None) -> bool:
        """Hand records over, and (records, memory_dim) what was remembered before each; never waits."""

    def end_episode(self, number: int, *, valid: bool) -> EpisodeLearned | LearnerFailed:
        """Tell of an episode's end and wait for what it taught."""

    def weights(self) -> Path | None:
        """Newer weights, once."""

    def on_weights(self, wake: Callable[[], None]) -> None:
        """Call this, which never waits, whenever there are newer weights."""

    def stop(self) -> AnyPath | None:
        """Save and end; the newest checkpoint."""


@dataclass(frozen=True)
class KeeperSetup:
    """What the keeper works with.

    Attributes:
        vehicle, lake: whose episodes, and where they are stored.
        states: file of the run's state.
        tracker, tracked: where metrics go, and the id of its run.
        releases: looks for another release.
        prepare: makes weights ready to drive; None: nothing drives.
        make_learner: makes and starts the learner that begins with a release, and says why where it gives
            None; None: nothing is to be learned.
        on_episode: called with every stored episode, on the keeper's own thread.
        tell: called with lines for people.
        enough: called when the wanted number of episodes is stored.
        wanted: that number; None: no limit.
    """

    vehicle: Vehicle
    lake: Lake
    states: RunStateFile
    tracker: RunTracker
    tracked: str | None
    releases: ReleaseWatch
    prepare: Callable[[AnyPath], Successor | None] | None
    make_learner: Callable[[Champion], Learner | None] | None
    on_episode: Callable[[EpisodeResult], object]
    tell: Callable[[str], object]
    enough: Callable[[str], None]
    wanted: int | None = None


class Keeper:
    """Takes over records and episodes; ``keep`` is a task of the run's supervisor.

    Args:
        setup: what it works with.
        state: of the run.
        summary: of the run; counted in place.
        learner: running; None: nothing is learned.
    """

    def __init__(
        self, setup: KeeperSetup, state: RunState, summary: RunSummary, learner: Learner | None
    ) -> None:
        self._setup = setup
        self._queue: Pipeline[Record | FinishedEpisode | Champion | str] = Pipeline("lessons", QUEUE)
        self._restarts = 0
        self._released: Champion | None = None
        self._learned_from: Champion | None = None
        self._weights = WeightsWatch(self._newest_weights, setup.prepare)
        self._outbox = EpisodeOutbox(setup.lake, setup.states.folder)
        self._delivery = Delivery(self._outbox, setup.on_episode, self._note, setup.tell)
        self.state = state
        self.summary = summary
        self.learner = learner
        self._listen()

    def began(self, number: int, note: str) -> None:
        """Tell of an episode's begin; never waits."""
        self._queue.put(f"episode {number} begins{f': {note}' if note else ''}", timeout_s=0.0)

    def record(self, record: Record) -> None:
        """Take a record for the learner; never waits."""
        learns = self._setup.make_learner is not None and record.truthful
        if learns and not self._queue.put(record, timeout_s=0.0):
            self.summary.unlearned += 1

    def finished(self, episode: FinishedEpisode) -> None:
        """Take an episode.

        Raises:
            OnlineError: nobody takes any: storing hangs.
        """
        if not self._queue.put(episode, timeout_s=HAND_OVER_S):
            message = f"episode {episode.number} cannot be handed over: {QUEUE} records and episodes wait"
            raise OnlineError(message)

    def weights(self, wait_s: float = 0.0) -> Successor | None:
        """The learner's newest weights, ready to drive, once.

        Args:
            wait_s: longest wait for those that are known and not ready yet; 0: only what is ready now.
        """
        return self._weights.newer(wait_s) if wait_s else self._weights.ready()

    def release(self, wait_s: float = 0.0) -> Successor | None:
        """Another release since the last call, ready to drive; the learner begins anew from it, too.

        Args:
            wait_s: longest wait for a look, and for getting ready what it finds.

        Raises:
            OnlineError: the learner cannot be told, as nobody takes anything: storing hangs.
        """
        found = self._setup.releases.newer(wait_s)
        if found is None:
            return None
        self._released = found.champion
        self._weights.forget()  # what the learner made before has no say any more
        if not self._queue.put(found.champion, timeout_s=HAND_OVER_S):
            message = (
                f"the release {found.champion.run} step {found.champion.step} cannot be handed over: {QUEUE} "
                "records and episodes wait"
            )
            raise OnlineError(message)
        return found.successor

    def watch_weights(self, supervisor: Supervisor) -> None:
        """Get the learner's weights ready until the supervisor stops; a task of it."""
        supervisor.on_stop("close weights", self._weights.close)
        self._weights.watch()

    def watch_releases(self, supervisor: Supervisor) -> None:
        """Look for releases until the supervisor stops; a task of it."""
        supervisor.on_stop("close releases", self._setup.releases.close)
        self._setup.releases.watch()

    def close(self) -> None:
        """Take nothing more; ``keep`` returns when all is done that was taken."""
        self._queue.close()

    def keep(self) -> None:
        """Work until ``close`` and the queue is empty.

        Raises:
            StorageError: this machine's disk is full or not writable.
            OnlineError: the learner dies again and again.
        """
        self._delivery.deliver()  # what the run before could not
        while True:
            try:
                item = self._queue.get(TRY_AGAIN_S if self._delivery.behind else None)
            except PipelineEmpty:
                self._delivery.deliver()
                continue
            except PipelineClosed:
                self._delivery.finish()
                return
            if isinstance(item, Record):
                self._teach(item)
            elif isinstance(item, FinishedEpisode):
                self._take(item)
            elif isinstance(item, str):
                self._setup.tell(item)
            else:
                self._exchange(item)

    def _teach(self, record: Record) -> None:
        if self.learner is None:
            self.summary.unlearned += 1
            return
        memory = None if record.memory is None else record.memory[None]
        self.learner.add(batch_of(record), memory)

    def _take(self, episode: FinishedEpisode) -> None:
        learned = self._learn(episode)
        # The number is used up first: after a crash in between a number is left out, never given twice.
        self._save(episode, {})
        if episode.valid:
            self._close(episode, learned)
        else:
            self.summary.discarded += 1
            self._setup.tell(f"episode {episode.number} thrown away: {episode.reason}")
        if isinstance(learned, LearnerFailed) and not learned.alive:
            # Not before the episode is stored: what a learner begins with is read from the lake.
            self._restart(learned)

    def _close(self, episode: FinishedEpisode, learned: EpisodeLearned | LearnerFailed | None) -> None:
        """Store, track and report a valid episode."""
        if isinstance(learned, LearnerFailed):
            result = self._store(episode, None, learned.cause)
        else:
            result = self._store(episode, learned, None)
        self._save(episode, {"running_reward": result.running_reward})
        self.summary.count(result)
        self._track(result)
        self._setup.tell(result.line())
        self._delivery.stored(result)
        if self._setup.wanted is not None and self.summary.episodes >= self._setup.wanted:
            self._setup.enough(f"{self.summary.episodes} episodes done")

    def _note(self, line: str) -> None:
        self.summary.notes.append(line)
        self._setup.tell(f"note: {line}")

    def _learn(self, episode: FinishedEpisode) -> EpisodeLearned | LearnerFailed | None:
        if self.learner is None:
            return None
        found = self.learner.end_episode(episode.number, valid=episode.valid)
        if isinstance(found, LearnerFailed):
            self.summary.notes.append(f"episode {episode.number}: {found.cause}")
        return found

    def _restart(self, failed: LearnerFailed) -> None:
        assert self.learner is not None
        if self._restarts >= RESTARTS:
            message = f"the learner died {self._restarts + 1} times, last: {failed.cause}"
            raise OnlineError(message)
        self._restarts += 1
        _log.warning("the learner is started again: %s", failed.cause)
        self.learner.start()

    def _exchange(self, released: Champion) -> None:
        self._setup.tell(f"{released.run} step {released.step} was released: it drives from now on")
        if self._setup.make_learner is not None:
            if self.learner is not None:
                self.learner.stop()
            self.learner = self._setup.make_learner(released)
            if self.learner is not None:
                # Its checkpoints are in use from now on, also where another agent was released.
                spec = self.learner.spec
                changes = {"learner_run": spec.run, "learner_agent": spec.agent}
                self.state = self.state.model_copy(update=changes)
        self._learned_from = released
        self._listen()
        self.state = self.state.model_copy(update={"champion": released.sha256})

    def _listen(self) -> None:
        if self.learner is not None:
            self.learner.on_weights(self._weights.wake)
            self._weights.wake()  # for what it made before

    def _newest_weights(self) -> Path | None:
        if self._released is not self._learned_from:  # asked first: what is read next is the new learner then
            return None
        learner = self.learner
        return None if learner is None else learner.weights()

    def _store(
        self, episode: FinishedEpisode, learned: EpisodeLearned | None, note: str | None
    ) -> EpisodeResult:
        setup, value = self._setup, total_reward(episode)
        running = (
            smoothed(self.state.running_reward, value) if episode.episodes else self.state.running_reward
        )
        summary = self._outbox.store(
            setup.vehicle,
            episode.key,
            episode.episodes,
            counts=counts_of(episode, setup.vehicle.sampling.window),
            training_log=training_log(episode, running, learned, note=note, tracked=setup.tracked),
            live_map=episode.live,
        )
        return EpisodeResult(
            number=episode.number,
            key=episode.key,
            reason=episode.reason,
            windows=episode.report.windows,
            summary=summary,
            total_reward=value,
            running_reward=running,
            flashes=dict(Counter(decision.result for decision in episode.decisions)),
            latency_ms=episode.latency.summary_ms(),
            learned=learned,
            checkpoint=learned.checkpoint if learned is not None else None,
            tracked=setup.tracked,
            training_log=setup.lake.training_log(setup.lake.log_of(episode.key)),
        )

    def _save(self, episode: FinishedEpisode, changes: dict[str, object]) -> None:
        agent = str(episode.agent) if episode.agent is not None else None
        state = self.state.model_copy(update={"episodes": episode.number, "agent": agent, **changes})
        try:
            self.state = self._setup.states.save(state, episode.live if episode.valid else None)
        except OSError as error:
            message = (
                f"the state of {self._setup.vehicle.id}'s run cannot be written to "
                f"{self._setup.states.folder} ({error}); make room or correct the rights, then "
                "begin the run again"
            )
            raise StorageError(message) from error

    def _track(self, result: EpisodeResult) -> None:
        """Metrics of an episode; a tracking server that is gone costs the metrics, not the drive."""
        summary = result.summary
        values: dict[str, float | None] = {
            "episode_return": result.total_reward,
            "running_reward": result.running_reward,
            "records": float(summary.records),
            "lost_records": float(sum(summary.lost_records.values())),
            "energy_wh": summary.energy_wh,
            "distance_km": summary.distance_m / 1000.0,
            "duration_s": summary.duration_s,
            "energy_wh_per_km": summary.energy_wh / (summary.distance_m / 1000.0)
            if summary.distance_m
            else None,
            **{f"flashes_{name.lower()}": float(count) for name, count in result.flashes.items()},
            **{f"proposal_ms_{name}": value for name, value in result.latency_ms.items() if name != "count"},
        }
        if result.learned is not None:
            learned = result.learned
            values |= {
                "critic_loss": learned.critic_loss,
                "actor_loss": learned.actor_loss,
                "mean_q": learned.mean_q,
                "saturated": learned.saturated,
                "updates": float(learned.updates),
                "total_updates": float(learned.total_updates),
                "live_records": float(learned.live_records),
            }
        known = {name: value for name, value in values.items() if value is not None}
        try:
            self._setup.tracker.metrics(result.number, known)
        except Exception as error:  # any trouble of a tracking server
            note = f"episode {result.number} is not tracked: {error}"
            _log.warning(note)
            self.summary.notes.append(note)


def batch_of(record: Record) -> ReplayBatch:
    """One record as a batch."""
    return ReplayBatch(
        states=record.state[None],
        actions=record.action[None],
        rewards=np.array([record.reward], np.float32),
        next_states=record.next_state[None],
        terminals=np.zeros(1, np.float32),
        first_rows=np.array([record.first_row], np.float32),
    )


def summary_json(summary: RunSummary) -> str:
    """A run's summary as JSON, for logs and tools."""
    content = {name: getattr(summary, name) for name in summary.__dataclass_fields__}
    return json.dumps(content, default=str)
