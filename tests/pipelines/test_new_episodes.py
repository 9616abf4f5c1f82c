"""Sensors on new episodes: only those whose check has passed count, and only until they were learned from."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import dagster as dg
import pytest

from tspace_pipelines.definitions import build
from tspace_pipelines.defs.replay.sensors import replay_sensor
from tspace_pipelines.defs.training.resources import RetrainingResource
from tspace_pipelines.defs.training.sensors import retraining_sensor
from tspace_pipelines.new_episodes import Progress
from tspace_pipelines.partitions import LOGS, VEHICLES

QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


@dataclass
class Events:
    """Makes the events of a pipeline without its work; names and metadata are the real ones."""

    instance: dg.DagsterInstance
    cursor: str | None = None
    retrain_cursor: str | None = None
    requested: list[str] = field(default_factory=list)

    def log(self, key: str, episodes: int, *, passed: bool = True, checked: bool = True) -> None:
        """Episodes of a log are materialized and checked."""
        self.instance.add_dynamic_partitions(str(LOGS.name), [key])

        @dg.asset(name="episodes", partitions_def=LOGS)
        def made() -> dg.MaterializeResult[None]:
            return dg.MaterializeResult(metadata={"episodes": episodes})

        @dg.asset_check(asset="episodes", name="episodes_schema", blocking=True)
        def check() -> dg.AssetCheckResult:
            return dg.AssetCheckResult(passed=passed)

        assets = [made, check] if checked else [made]
        dg.materialize(
            assets, partition_key=key, instance=self.instance, raise_on_error=False, run_config=QUIET
        )

    def learned(self, asset: str, vehicle: str) -> None:
        """Somebody materializes a replay buffer or a checkpoint."""

        @dg.asset(name=asset, partitions_def=VEHICLES)
        def learner() -> None:
            return None

        dg.materialize([learner], partition_key=vehicle, instance=self.instance, run_config=QUIET)

    def replay_tick(self) -> list[str | None]:
        """Partitions that the replay sensor asks for."""
        context = dg.build_sensor_context(instance=self.instance, cursor=self.cursor, definitions=build())
        result = replay_sensor(context)
        assert isinstance(result, dg.SensorResult)
        self.cursor = result.cursor
        return [request.partition_key for request in result.run_requests or []]

    def retrain_tick(self, at_least: int, agents: Sequence[str] = ("ddpg",)) -> tuple[list[str | None], str]:
        """Partitions that the retraining sensor asks for, or why it does not."""
        context = dg.build_sensor_context(
            instance=self.instance,
            cursor=self.retrain_cursor,
            definitions=build(),
            resources={"retraining": RetrainingResource(agents=list(agents), new_episodes=at_least)},
        )
        result = retraining_sensor(context)
        assert isinstance(result, dg.SensorResult)
        self.retrain_cursor = result.cursor
        asked = [request.partition_key for request in result.run_requests or []]
        return asked, str(result.skip_reason and result.skip_reason.skip_message)


@pytest.fixture
def events(instance: dg.DagsterInstance, data_dir: object) -> Events:
    return Events(instance)


def test_new_episodes_ask_for_the_buffer_of_their_vehicle_alone(events: Events) -> None:
    events.log("twin_truck/2026-01-05/a.blf", 2)
    events.log("twin_truck/2026-01-05/b.blf", 2)
    assert events.replay_tick() == ["twin_truck"]
    assert events.replay_tick() == []
    events.log("leaf_gen1/2026-01-05/a.txt", 1)
    assert events.replay_tick() == ["leaf_gen1"]


def test_failed_and_unchecked_episodes_do_not_count(events: Events) -> None:
    events.log("twin_truck/2026-01-05/bad.blf", 50, passed=False)
    events.log("twin_truck/2026-01-05/unchecked.blf", 50, checked=False)
    events.log("twin_truck/2026-01-05/none.blf", 0)
    assert events.replay_tick() == []
    assert events.retrain_tick(1)[0] == []
    assert Progress.from_cursor(events.cursor).open == []


def test_retraining_waits_for_enough_episodes(events: Events) -> None:
    events.log("twin_truck/2026-01-05/a.blf", 2)
    asked, why = events.retrain_tick(5)
    assert asked == [] and "twin_truck 2; 5 start a retraining" in why
    events.log("twin_truck/2026-01-05/bad.blf", 9, passed=False)
    events.log("leaf_gen1/2026-01-05/a.txt", 4)
    assert events.retrain_tick(5)[0] == []
    events.log("twin_truck/2026-01-05/b.blf", 3)
    assert events.retrain_tick(5)[0] == ["twin_truck"]
    assert events.retrain_tick(5)[0] == [], "asked for once"
    events.log("leaf_gen1/2026-01-05/b.txt", 1)
    assert events.retrain_tick(5)[0] == ["leaf_gen1"]


def test_a_log_that_is_made_again_counts_once(events: Events) -> None:
    for _ in range(3):
        events.log("twin_truck/2026-01-05/a.blf", 2)
    asked, why = events.retrain_tick(5)
    assert asked == [] and "twin_truck 2;" in why


def test_a_log_that_fails_later_no_longer_counts(events: Events) -> None:
    events.log("twin_truck/2026-01-05/a.blf", 7)
    assert events.retrain_tick(10)[0] == []
    events.log("twin_truck/2026-01-05/a.blf", 7, passed=False)
    events.log("twin_truck/2026-01-05/b.blf", 4)
    asked, why = events.retrain_tick(10)
    assert asked == [] and "twin_truck 4;" in why


def test_what_somebody_learned_from_is_not_new(events: Events) -> None:
    """Also for a sensor that is switched on for the first time, as after `make demo`."""
    events.log("twin_truck/2026-01-05/a.blf", 7)
    events.learned("replay_buffer", "twin_truck")
    events.learned("ddpg_checkpoint", "twin_truck")
    assert events.replay_tick() == []
    assert events.retrain_tick(5)[0] == []
    events.log("twin_truck/2026-01-05/b.blf", 5)
    assert events.replay_tick() == ["twin_truck"]
    assert events.retrain_tick(5)[0] == ["twin_truck"]


def test_an_episode_is_new_until_every_agent_has_learned_from_it(events: Events) -> None:
    both = ("ddpg", "idql")
    events.log("twin_truck/2026-01-05/a.blf", 7)
    events.learned("ddpg_checkpoint", "twin_truck")
    asked, why = events.retrain_tick(8, both)
    assert asked == []
    assert why == "new checked episodes: twin_truck 7; 8 start a retraining of ddpg, idql"
    assert events.retrain_tick(5, both)[0] == ["twin_truck"], "one run for both"
    assert events.retrain_tick(5, both)[0] == [], "asked for once"
    events.log("twin_truck/2026-01-05/b.blf", 7)
    for agent in both:
        events.learned(f"{agent}_checkpoint", "twin_truck")
    assert events.retrain_tick(5, both) == (
        [],
        "new checked episodes: none; 5 start a retraining of ddpg, idql",
    )


@pytest.mark.parametrize("status", [dg.DagsterRunStatus.NOT_STARTED, dg.DagsterRunStatus.STARTED])
def test_a_vehicle_is_not_retrained_twice_at_once(events: Events, status: dg.DagsterRunStatus) -> None:
    tags = {"dagster/partition": "twin_truck"}
    run = events.instance.add_run(dg.DagsterRun(job_name="retrain", status=status, tags=tags))
    events.log("twin_truck/2026-01-05/a.blf", 7)
    events.log("leaf_gen1/2026-01-05/a.txt", 7)
    assert events.retrain_tick(5)[0] == ["leaf_gen1"]
    asked, why = events.retrain_tick(5)
    assert asked == [] and f"twin_truck 7 (run {run.run_id} is not over); 5 start" in why
    events.instance.report_run_failed(run)
    assert events.retrain_tick(5)[0] == ["twin_truck"]


def test_another_request_has_another_run_key(events: Events) -> None:
    keys = []
    for name in ("a", "b"):
        events.log(f"twin_truck/2026-01-05/{name}.blf", 1)
        context = dg.build_sensor_context(instance=events.instance, cursor=events.cursor, definitions=build())
        result = replay_sensor(context)
        assert isinstance(result, dg.SensorResult) and result.run_requests
        events.cursor = result.cursor
        keys.append(result.run_requests[0].run_key)
    assert len(set(keys)) == 2


def test_a_long_run_is_read_once_however_many_episodes_it_reported(
    events: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    @dg.op
    def drive(context: dg.OpExecutionContext) -> None:
        for number in range(5):
            key = f"twin_truck/2026-01-05/online-08000{number}-000{number}"
            metadata = {"episodes": 1}
            context.log_event(dg.AssetMaterialization("episodes", partition=key, metadata=metadata))
        events.replay_tick()

    reads: list[str] = []
    all_logs = dg.DagsterInstance.all_logs

    def counted(self: dg.DagsterInstance, run_id: str, **rest: Any) -> Any:
        reads.append(run_id)
        return all_logs(self, run_id, **rest)

    monkeypatch.setattr(dg.DagsterInstance, "all_logs", counted)

    @dg.job(executor_def=dg.in_process_executor)
    def online() -> None:
        drive()

    assert online.execute_in_process(instance=events.instance, run_config=QUIET).success
    assert len(Progress.from_cursor(events.cursor).open) == 5
    assert len(reads) == 1
    assert events.replay_tick() == [], "nobody has checked them"
    assert Progress.from_cursor(events.cursor).open == []


def test_a_run_that_still_checks_is_waited_for(events: Events) -> None:
    """The sensor may look between the materialization and its check."""
    seen: list[list[str | None]] = []
    key = "twin_truck/2026-01-05/a.blf"
    events.instance.add_dynamic_partitions(str(LOGS.name), [key])

    @dg.asset(name="episodes", partitions_def=LOGS)
    def made() -> dg.MaterializeResult[None]:
        return dg.MaterializeResult(metadata={"episodes": 3})

    @dg.asset_check(asset="episodes", name="episodes_schema", blocking=True)
    def check() -> dg.AssetCheckResult:
        seen.append(events.replay_tick())
        return dg.AssetCheckResult(passed=True)

    assert dg.materialize(
        [made, check], partition_key=key, instance=events.instance, run_config=QUIET
    ).success
    assert seen == [[]]
    assert events.replay_tick() == ["twin_truck"]
