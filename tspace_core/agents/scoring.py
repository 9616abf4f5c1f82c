"""Batch inference: what an agent would have done in every recorded situation, and what its critic thinks.

For each record of a log's episodes: the proposed action, the torque rows that a flash would make of it, the
critic's value of the proposal and of the recorded action, the share of cells that ask for more than the
limits allow, and how far the proposal is from what was done. Nothing is flashed and nothing was driven with
these proposals: a higher value is the critic's opinion, no saving.

Episodes stream through in blocks of records. One episode and one block are in memory at a time.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from tspace_core.agents.checkpoint import Checkpoint
from tspace_core.agents.made_for import MadeFor, require_vehicle
from tspace_core.agents.offline_run import one_thread
from tspace_core.agents.scorers import SCORERS, Recorded, Scorer, Values
from tspace_core.agents.scores import Scores, Tally, stored_scores
from tspace_core.agents.scoring_table import ScoredBlock, ScoresFile, scores_file, scores_path
from tspace_core.config import Vehicle, load_vehicle
from tspace_core.errors import AgentError, CheckpointError, StorageError
from tspace_core.objects.path import AnyPath, any_path
from tspace_core.records.episode import Episode
from tspace_core.storage import episodes_table
from tspace_core.storage.champion import content_sha256
from tspace_core.storage.fingerprint import fingerprint
from tspace_core.storage.lake import Lake, RawLog, read_json
from tspace_core.storage.summaries import to_metadata
from tspace_core.storage.writer import DIRECT, Writer

SCORING_VERSION = 1
"""To be raised when the same inputs give other scores."""
BLOCK = 16_384
"""Records that are held and written at a time: a row group."""


@dataclass(frozen=True)
class OpenCheckpoint:
    """A checkpoint that scores.

    Attributes:
        directory: where it lies.
        id: 16 hex digits of its content.
        agent: name of the agent.
        run: training run it is of, as far as its folder tells.
        step: of the run.
        scorer: answers.
        made_for: type of vehicle, if known.
    """

    directory: AnyPath
    id: str
    agent: str
    run: str
    step: int
    scorer: Scorer
    made_for: MadeFor | None = None


def checkpoint_id(directory: AnyPath) -> str:
    """What stands for a checkpoint in names: equal contents have equal ids, wherever they lie.

    Raises:
        CheckpointError: there is no checkpoint.
    """
    if not directory.is_dir():
        message = f"{directory}: no such checkpoint; name the folder of one, or train first (tspace train)"
        raise CheckpointError(message)
    return content_sha256(directory)[:16]


@lru_cache(maxsize=2)
def open_checkpoint(directory: str) -> OpenCheckpoint:
    """The checkpoint in a folder, read once a process: checkpoints are immutable.

    Raises:
        CheckpointError: there is none, it is damaged, holds the policy only, or is of an agent that cannot
            score.
    """
    path = any_path(directory)
    identity = checkpoint_id(path)
    checkpoint = Checkpoint(path)
    manifest = checkpoint.manifest
    if manifest.agent not in SCORERS:
        message = f"{path}: checkpoint of a {manifest.agent} agent, scoring knows: {', '.join(SCORERS)}"
        raise CheckpointError(message)
    return OpenCheckpoint(
        directory=path,
        id=identity,
        agent=manifest.agent,
        run=path.resolve().parent.name,
        step=manifest.step,
        scorer=SCORERS[manifest.agent](checkpoint),
        made_for=manifest.made_for,
    )


def check_fits(opened: OpenCheckpoint, vehicle: Vehicle) -> None:
    """Compare what a checkpoint was made for with a vehicle.

    Raises:
        CheckpointError: it is of another type of vehicle or window; names both.
    """
    scorer = opened.scorer
    for name, has, wanted in (
        ("state_dim", scorer.state_dim, vehicle.sampling.state_dim),
        ("action_dim", scorer.action_dim, vehicle.action_dim),
    ):
        if has != wanted:
            message = (
                f"{opened.directory}: its {name} is {has}, {vehicle.id} has {wanted}; "
                "score with an agent trained for this vehicle"
            )
            raise CheckpointError(message)
    require_vehicle(opened.made_for, vehicle, opened.directory)


def scores_fingerprint(lake: Lake, log: RawLog, vehicle: Vehicle, identity: str) -> str:
    """What the scores of a log are made from; equal means there is nothing to do.

    Raises:
        StorageError: the log has no episodes, that is, they were never cut; or their manifest is damaged.
    """
    manifest = lake.episodes_manifest(log)
    if not manifest.is_file():
        message = (
            f"{log.key} has no episodes: {manifest} does not exist; cut them first "
            "(tspace ingest, or materialize episodes)"
        )
        raise StorageError(message)
    content = read_json(manifest)
    return fingerprint(
        stage="policy_actions",
        layout=SCORING_VERSION,
        checkpoint=identity,
        episodes=content.get("summary", {}).get("fingerprint"),
        files=[entry.get("file") for entry in content.get("episodes", [])],
        map=vehicle.default_map().sha256(),
        budget=vehicle.torque_map.budget_nm,
        upper=vehicle.torque_map.upper_factor,
        signals=vehicle.sampling.model_dump(mode="json"),
    )


def current_scores(lake: Lake, log: RawLog, vehicle: Vehicle, identity: str) -> Scores | None:
    """The scores of a log by a checkpoint if they are stored and nothing they are made from has changed.

    Raises:
        StorageError: the log's episodes were never cut, or their manifest is damaged.
    """
    mark = scores_fingerprint(lake, log, vehicle, identity)
    found = stored_scores(lake, scores_path(lake, log, identity))
    return found if found is not None and found.fingerprint == mark else None


def store_scores(
    lake: Lake,
    key: str,
    checkpoint: str,
    *,
    vehicle: Vehicle | None = None,
    writer: Writer = DIRECT,
    again: bool = False,
) -> Scores:
    """Score all episodes of a log and store the result as Parquet.

    Nothing is done if the result is there already and its inputs are as they were. An episode of another
    layout than the vehicle has now (window, signals, map axes, default map or budget) is left out and
    counted with the reason: the agent could not have read it, or the proposal could not be compared.

    Args:
        lake: with the episodes.
        key: of the log.
        checkpoint: folder of the checkpoint.
        vehicle: whose log it is; default: read from its file.
        writer: makes the file visible.
        again: also if there is nothing new.

    Raises:
        CheckpointError: the checkpoint is missing, damaged or of another type of vehicle.
        AgentError: an answer is not finite; names episode and record.
        StorageError: the log has no episodes, a file of them is damaged, or the disk is full.
    """
    log = lake.log_of(key)
    vehicle = vehicle or load_vehicle(log.vehicle_id)
    opened = open_checkpoint(checkpoint)
    check_fits(opened, vehicle)
    found = None if again else current_scores(lake, log, vehicle, opened.id)
    if found is not None:
        return found
    mark = scores_fingerprint(lake, log, vehicle, opened.id)
    path = scores_path(lake, log, opened.id)
    tally = Tally(vehicle)
    episodes = (episodes_table.read(part) for part in lake.episodes(log))
    try:
        with one_thread(), writer.file(path) as temporary, scores_file(temporary) as file:
            score_episodes(opened, episodes, file, tally)
            scores = tally.scores(
                key=key,
                fingerprint=mark,
                path=path,
                checkpoint=opened.id,
                agent=opened.agent,
                run=opened.run,
                step=opened.step,
            )
            file.describe(json.dumps(to_metadata(scores, lake.root)))
    except OSError as error:
        message = f"scores of {key} not stored: {path} cannot be written ({error}); make room, then go on"
        raise StorageError(message) from error
    return scores


def score_episodes(
    opened: OpenCheckpoint, episodes: Iterable[Episode], file: ScoresFile, tally: Tally
) -> None:
    """Stream episodes through a checkpoint into a file.

    Raises:
        AgentError: an answer is not finite; names episode and record.
    """
    for spans in _blocks(tally.fitting(episodes)):
        states = np.concatenate([span.episode.states[span.rows] for span in spans])
        behaviour = np.concatenate([span.episode.actions[span.rows] for span in spans])
        rewards = np.concatenate([span.episode.rewards[span.rows] for span in spans])
        begins = np.concatenate([np.arange(span.first, span.stop) == 0 for span in spans])
        values = opened.scorer(Recorded(states, behaviour, rewards, begins))
        _require_finite(opened, values, spans)
        block = _block(tally, spans, states, behaviour, values)
        file.write(block)
        tally.add(block)


@dataclass(frozen=True)
class _Span:
    """Records ``first`` to ``stop`` of an episode."""

    episode: Episode
    first: int
    stop: int

    @property
    def rows(self) -> slice:
        return slice(self.first, self.stop)

    @property
    def count(self) -> int:
        return self.stop - self.first


def _blocks(episodes: Iterable[Episode]) -> Iterator[list[_Span]]:
    """Records of episodes, ``BLOCK`` at a time; the last are fewer."""
    spans: list[_Span] = []
    room = BLOCK
    for episode in episodes:
        first = 0
        while first < len(episode):
            stop = min(first + room, len(episode))
            spans.append(_Span(episode, first, stop))
            room -= stop - first
            first = stop
            if room == 0:
                yield spans
                spans, room = [], BLOCK
    if spans:
        yield spans


def _block(
    tally: Tally,
    spans: Sequence[_Span],
    states: NDArray[np.float32],
    behaviour: NDArray[np.float32],
    values: Values,
) -> ScoredBlock:
    n, sampling = len(states), tally.vehicle.sampling
    speed = states.reshape(n, sampling.window, -1)[:, :, sampling.signals.index("velocity")]
    first_rows = tally.default.first_row(speed.max(axis=1))
    limits = tally.vehicle.torque_map
    torque, beyond = tally.default.flashed_rows(
        values.actions, first_rows, budget_nm=limits.budget_nm, upper_factor=limits.upper_factor
    )
    difference = values.actions - behaviour
    return ScoredBlock(
        times=np.concatenate([span.episode.times[span.rows] for span in spans]),
        episodes=np.repeat(np.arange(len(spans), dtype=np.int32), [span.count for span in spans]),
        episode_ids=[span.episode.meta.episode_id for span in spans],
        records=np.concatenate([np.arange(span.first, span.stop, dtype=np.int32) for span in spans]),
        first_rows=first_rows,
        actions=values.actions,
        torque=torque.reshape(n, -1),
        q_proposal=values.q_proposal,
        q_behaviour=values.q_behaviour,
        clipped=beyond.reshape(n, -1).mean(axis=1, dtype=np.float32),
        distance=np.sqrt(np.einsum("ij,ij->i", difference, difference) / difference.shape[1]),
    )


def _require_finite(opened: OpenCheckpoint, values: Values, spans: Sequence[_Span]) -> None:
    for what, array in (
        ("action", values.actions),
        ("value of the proposal", values.q_proposal),
        ("value of the recorded action", values.q_behaviour),
    ):
        bad = ~np.isfinite(array).reshape(len(array), -1).all(axis=1)
        if not bad.any():
            continue
        place = int(bad.argmax())
        for span in spans:
            if place < span.count:
                break
            place -= span.count
        message = (
            f"{opened.directory}: its {what} is not finite at record {span.first + place} of episode "
            f"{span.episode.meta.episode_id} ({int(bad.sum())} such records in its block): the agent has "
            "diverged; score an earlier checkpoint"
        )
        raise AgentError(message)
