"""Which episodes are new for an asset that learns from them, counted in Dagster's own events.

A materialization of ``episodes`` counts when its blocking check has passed in the same run, and until the
assets that learn from it (replay buffer, checkpoints) are materialized for that vehicle, by whomever.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import dagster as dg
from pydantic import BaseModel

from tspace_pipelines.partitions import vehicle_of

EPISODES = dg.AssetKey("episodes")
CHECK = "episodes_schema"
_PAGE = 500


class Materialized(BaseModel):
    """One materialization of a log's episodes."""

    storage_id: int
    run_id: str
    partition: str
    episodes: int


class Progress(BaseModel):
    """What a sensor remembers between its ticks, as its cursor."""

    after: int = 0
    """Newest event looked at."""
    open: list[Materialized] = []
    """Materializations whose run has not checked them yet."""
    passed: dict[str, Materialized] = {}
    """Checked ones that nothing was learned from yet, the newest of each partition."""

    @classmethod
    def from_cursor(cls, cursor: str | None) -> "Progress":
        """The progress that a cursor holds; without one, everything is looked at."""
        return cls.model_validate_json(cursor) if cursor else cls()

    def to_cursor(self) -> str:
        """The cursor to remember."""
        return self.model_dump_json()


@dataclass
class New:
    """New episodes of one vehicle."""

    episodes: int = 0
    newest: int = 0
    partitions: list[str] = field(default_factory=list)


def advance(
    instance: dg.DagsterInstance, progress: Progress, learners: Sequence[dg.AssetKey]
) -> dict[str, New]:
    """Look at what happened since and update ``progress``.

    Args:
        instance: of Dagster.
        progress: of the sensor; changed in place.
        learners: the assets, partitioned by vehicle, that learn from episodes; an episode is new until the
            last of them has learned from it.

    Returns:
        New episodes by vehicle id.
    """
    _fetch(instance, progress)
    _settle(instance, progress)
    learned: dict[str, int] = {}
    found: dict[str, New] = {}
    for partition, item in list(progress.passed.items()):
        vehicle = vehicle_of(partition)
        if vehicle not in learned:
            learned[vehicle] = min(_latest(instance, learner, vehicle) for learner in learners)
        if item.storage_id < learned[vehicle]:
            del progress.passed[partition]
            continue
        new = found.setdefault(vehicle, New())
        new.episodes += item.episodes
        new.newest = max(new.newest, item.storage_id)
        new.partitions.append(partition)
    return {vehicle: new for vehicle, new in found.items() if new.episodes}


def forget(progress: Progress, new: New) -> None:
    """Mark as dealt with what was asked to be learned from."""
    for partition in new.partitions:
        progress.passed.pop(partition, None)


def _fetch(instance: dg.DagsterInstance, progress: Progress) -> None:
    while True:
        records = instance.fetch_materializations(
            dg.AssetRecordsFilter(asset_key=EPISODES, after_storage_id=progress.after),
            limit=_PAGE,
            ascending=True,
        ).records
        for record in records:
            progress.after = record.storage_id
            event = record.asset_materialization
            if event is None or record.partition_key is None:
                continue
            count = event.metadata.get("episodes")
            progress.open.append(
                Materialized(
                    storage_id=record.storage_id,
                    run_id=record.run_id,
                    partition=record.partition_key,
                    episodes=int(str(count.value)) if count is not None else 0,
                )
            )
        if len(records) < _PAGE:
            return


def _settle(instance: dg.DagsterInstance, progress: Progress) -> None:
    still_open = []
    runs: dict[str, RunVerdicts] = {}
    for item in progress.open:
        if item.run_id not in runs:
            runs[item.run_id] = RunVerdicts.read(instance, item.run_id)
        verdict = runs[item.run_id].of(item.storage_id)
        if verdict is None:
            still_open.append(item)
        elif verdict:
            progress.passed[item.partition] = item
        else:
            progress.passed.pop(item.partition, None)
    progress.open = still_open


@dataclass
class RunVerdicts:
    """What the check of ``episodes`` said in one run; a long run has many, so they are read once.

    Attributes:
        passed: by the storage id of the materialization that was checked.
        other: of checks that name no materialization, the oldest first.
        over: whether the run has ended.
    """

    passed: dict[int, bool]
    other: list[bool]
    over: bool

    @classmethod
    def read(cls, instance: dg.DagsterInstance, run_id: str) -> "RunVerdicts":
        """Read a run's verdicts."""
        # In this order: what a run says before its end is not missed.
        run = instance.get_run_by_id(run_id)
        found = cls({}, [], over=run is None or run.is_finished)
        for entry in instance.all_logs(run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION):
            event = entry.dagster_event
            if event is None:
                continue
            evaluation = event.asset_check_evaluation_data
            if (evaluation.asset_key, evaluation.check_name) != (EPISODES, CHECK):
                continue
            target = evaluation.target_materialization_data
            if target is None:
                found.other.append(bool(evaluation.passed))
            else:
                found.passed.setdefault(target.storage_id, bool(evaluation.passed))
        return found

    def of(self, storage_id: int) -> bool | None:
        """Whether a materialization passed its check; None while the run that should check it goes on."""
        if storage_id in self.passed:
            return self.passed[storage_id]
        if self.other:
            return self.other[0]
        return False if self.over else None


def _latest(instance: dg.DagsterInstance, asset: dg.AssetKey, partition: str) -> int:
    records = instance.fetch_materializations(
        dg.AssetRecordsFilter(asset_key=asset, asset_partitions=[partition]), limit=1
    ).records
    return records[0].storage_id if records else 0
