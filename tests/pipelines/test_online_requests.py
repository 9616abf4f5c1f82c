"""From requests to runs: one run a vehicle, dead ones found by their heartbeat, cancelled ones left alone."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster import DagsterRunStatus as Status

from tests.pipelines.conftest import VEHICLE
from tspace_core.config import settings
from tspace_core.link.requests import Request, RequestOptions, Spool
from tspace_core.online.heartbeat import beat
from tspace_core.vehicle.states import Event
from tspace_pipelines.definitions import build
from tspace_pipelines.defs.online.jobs import online_episodes
from tspace_pipelines.defs.online.resources import OnlineResource
from tspace_pipelines.defs.online.sensors import online_sensor
from tspace_pipelines.online_requests import (
    ATTEMPTS,
    FRESH_S,
    REQUEST_TAG,
    SILENT_S,
    STARTING_S,
    VEHICLE_TAG,
    decide,
    first_event,
)

BEGIN = (Event.BEGIN, "HMI: begin, heard before the run")


class Desk:
    """A spool, an instance, and runs that are only said to exist."""

    def __init__(self, instance: dg.DagsterInstance, folder: Path) -> None:
        self.instance = instance
        self.spool = Spool(folder, VEHICLE)
        self.now = datetime.now(UTC)

    def ask(self, event: Any = "begin", **options: Any) -> Request:
        return self.spool.write("hmi" if event == "begin" else "command", event, RequestOptions(**options))

    def tick(self) -> Sequence[dg.RunRequest]:
        self.notes: list[str] = []
        decision = decide(self.instance, self.spool, self.now)
        self.notes = decision.notes
        return decision.requests

    def launch(self, request: dg.RunRequest, status: Status = Status.STARTED) -> dg.DagsterRun:
        return self.instance.create_run_for_job(
            online_episodes, tags=dict(request.tags), run_config=request.run_config, status=status
        )

    def end(self, run: dg.DagsterRun, how: str) -> None:
        report = getattr(self.instance, f"report_run_{how}")
        report(run)

    def up(self, request: dg.RunRequest, run_id: str = "run") -> tuple[Event, str] | None:
        """The run of a request is connected: what it does first."""
        asked_begin = bool(config(request)["begin"])
        return first_event(self.spool, request.tags[REQUEST_TAG], run_id, self.now, begin=asked_begin)

    def outcome(self) -> str | None:
        return self.spool.done()[-1].outcome


@pytest.fixture
def desk(instance: dg.DagsterInstance, data_dir: Path) -> Desk:
    return Desk(instance, settings().online_dir)


def sensor_context(desk: Desk) -> dg.SensorEvaluationContext:
    online = OnlineResource(folder=str(settings().online_dir))
    return dg.build_sensor_context(instance=desk.instance, definitions=build(), resources={"online": online})


def config(request: dg.RunRequest) -> Any:
    return request.run_config["ops"]["drive_online"]["config"]


def test_a_begin_of_the_hmi_asks_for_a_run_that_begins(desk: Desk) -> None:
    asked = desk.ask("begin", episodes=2)
    (request,) = desk.tick()
    assert request.run_key == f"{VEHICLE}#{asked.id}#1"
    assert request.tags[VEHICLE_TAG] == VEHICLE
    assert config(request) == {
        "vehicle": VEHICLE, "infer": False, "observe": False, "episodes": 2, "begin": True,
    }  # fmt: skip


def test_a_command_asks_for_a_run_that_waits_for_the_hmi(desk: Desk) -> None:
    desk.ask("start", infer=True)
    (request,) = desk.tick()
    assert (config(request)["begin"], config(request)["infer"]) == (False, True)


@pytest.mark.parametrize("status", [Status.NOT_STARTED, Status.STARTING, Status.STARTED, Status.CANCELING])
def test_a_vehicle_has_one_run(desk: Desk, status: Status) -> None:
    desk.ask()
    run = desk.launch(desk.tick()[0], status)
    desk.ask()
    beat(desk.spool.folder, VEHICLE, run.run_id, "driving", 1)
    assert desk.tick() == []


def test_requests_that_came_together_share_a_run(desk: Desk) -> None:
    first, second = desk.ask(), desk.ask()
    (request,) = desk.tick()
    assert first.id in str(request.run_key)
    assert desk.up(request, "the run") == BEGIN
    assert desk.spool.pending() == [first]
    assert (desk.spool.done()[-1].id, desk.outcome()) == (second.id, "joined run the run")
    desk.launch(request, Status.SUCCESS)
    assert desk.tick() == []
    assert desk.spool.pending() == []


def test_a_begin_beside_the_request_of_a_person_is_not_lost(desk: Desk) -> None:
    desk.ask("start")
    desk.ask("begin")
    (request,) = desk.tick()
    assert config(request)["begin"] is False
    assert desk.up(request) == BEGIN


def test_a_begin_said_again_while_the_run_starts_does_not_start_another_run_after_it(desk: Desk) -> None:
    desk.ask()
    (request,) = desk.tick()
    run = desk.launch(request)
    desk.ask()
    assert desk.tick() == []
    assert desk.up(request, run.run_id) == BEGIN
    desk.end(run, "canceled")
    assert desk.tick() == []
    assert desk.spool.pending() == []


def test_a_begin_that_is_taken_back_while_the_run_starts_flashes_nothing(desk: Desk) -> None:
    desk.ask()
    (request,) = desk.tick()
    desk.launch(request)
    desk.spool.withdraw("the HMI said exit before a run began")
    assert desk.up(request) == (Event.EXIT, "the request was withdrawn before the run was up")


def test_taken_back_and_said_again_is_a_begin(desk: Desk) -> None:
    desk.ask()
    (request,) = desk.tick()
    desk.spool.withdraw("the HMI said end_valid before a run began")
    desk.ask()
    assert desk.up(request) == BEGIN
    assert desk.spool.pending() == []


def test_a_begin_of_long_ago_waits_for_the_hmi(desk: Desk) -> None:
    """Dagster was down meanwhile: nobody may stand at the vehicle any more."""
    desk.ask()
    (request,) = desk.tick()
    desk.now += timedelta(seconds=FRESH_S + 1)
    assert desk.up(request) is None


def test_a_later_attempt_waits_for_the_hmi_or_follows_a_new_begin(desk: Desk) -> None:
    desk.ask()
    desk.end(desk.launch(desk.tick()[0]), "failed")
    (request,) = desk.tick()
    assert desk.up(request) is None
    desk.ask()
    assert desk.up(request) == BEGIN


def test_a_run_that_a_person_starts_by_hand_does_as_it_is_told(desk: Desk) -> None:
    for begin, first in ((True, (Event.BEGIN, "begin, as the run was told")), (False, None)):
        assert first_event(desk.spool, None, "by hand", desk.now, begin=begin) == first


def test_requests_until_a_person_cancelled_are_on_hold_with_the_run(desk: Desk) -> None:
    desk.ask()
    run = desk.launch(desk.tick()[0])
    desk.ask("start")
    desk.end(run, "canceled")
    assert desk.tick() == []
    assert desk.spool.pending() == []
    assert "a person cancelled the run" in str(desk.outcome())
    desk.ask()
    assert len(desk.tick()) == 1


def test_a_run_that_ended_well_settles_its_request(desk: Desk) -> None:
    desk.ask()
    run = desk.launch(desk.tick()[0], Status.SUCCESS)
    assert desk.tick() == []
    assert desk.outcome() == f"done by run {run.run_id}"


def test_a_failed_run_is_tried_again_and_waits_for_a_person_to_begin(desk: Desk) -> None:
    asked = desk.ask()
    desk.end(desk.launch(desk.tick()[0]), "failed")
    (request,) = desk.tick()
    assert request.run_key == f"{VEHICLE}#{asked.id}#2"
    assert config(request)["begin"] is False


def test_failing_again_and_again_is_given_up(desk: Desk) -> None:
    desk.ask()
    for _ in range(ATTEMPTS):
        desk.end(desk.launch(desk.tick()[0]), "failed")
    assert desk.tick() == []
    assert str(desk.outcome()).startswith(f"given up after {ATTEMPTS} failed runs")


def test_a_cancelled_run_holds_the_vehicle_until_somebody_asks_again(desk: Desk) -> None:
    desk.ask()
    desk.end(desk.launch(desk.tick()[0]), "canceled")
    assert desk.tick() == []
    assert "cancelled by a person" in str(desk.outcome())
    assert desk.tick() == []
    desk.ask()
    assert len(desk.tick()) == 1


def test_a_run_whose_heartbeat_is_old_is_reported_failed_and_asked_for_again(desk: Desk) -> None:
    desk.ask()
    run = desk.launch(desk.tick()[0])
    beat(desk.spool.folder, VEHICLE, run.run_id, "driving", 1)
    desk.now = datetime.now(UTC) + timedelta(seconds=SILENT_S - 1)
    assert desk.tick() == []
    desk.now += timedelta(seconds=2)
    (request,) = desk.tick()
    assert desk.instance.get_run_by_id(run.run_id).status is Status.FAILURE  # type: ignore[union-attr]
    assert str(request.run_key).endswith("#2")
    assert any("its last heartbeat is" in note for note in desk.notes)


def test_the_heartbeat_of_an_older_run_does_not_speak_for_this_one(desk: Desk) -> None:
    desk.ask()
    run = desk.launch(desk.tick()[0])
    beat(desk.spool.folder, VEHICLE, "another run", "driving", 1)
    desk.now = datetime.now(UTC) + timedelta(seconds=STARTING_S - 5)
    assert desk.tick() == []
    desk.now += timedelta(seconds=10)
    assert len(desk.tick()) == 1
    assert desk.instance.get_run_by_id(run.run_id).status is Status.FAILURE  # type: ignore[union-attr]


def test_a_dead_run_that_was_being_cancelled_ends_cancelled(desk: Desk) -> None:
    desk.ask()
    run = desk.launch(desk.tick()[0], Status.CANCELING)
    desk.now = datetime.now(UTC) + timedelta(seconds=STARTING_S + 5)
    assert desk.tick() == []
    assert desk.instance.get_run_by_id(run.run_id).status is Status.CANCELED  # type: ignore[union-attr]
    assert "cancelled by a person" in str(desk.outcome())


def test_a_dead_run_is_found_though_nothing_is_asked_for(desk: Desk) -> None:
    desk.ask()
    (request,) = desk.tick()
    run = desk.launch(request)
    desk.spool.withdraw("the HMI said exit")
    desk.now = datetime.now(UTC) + timedelta(seconds=STARTING_S + 5)
    assert desk.tick() == []
    assert desk.instance.get_run_by_id(run.run_id).status is Status.FAILURE  # type: ignore[union-attr]


def test_a_withdrawn_request_starts_nothing(desk: Desk) -> None:
    desk.ask()
    desk.spool.withdraw("the HMI said exit")
    assert desk.tick() == []


def test_the_sensor_looks_at_every_vehicle(desk: Desk) -> None:
    for vehicle in (VEHICLE, "twin_mule"):
        Spool(settings().online_dir, vehicle).write("command", "start", RequestOptions())
    context = sensor_context(desk)
    result = online_sensor(context)
    assert isinstance(result, dg.SensorResult)
    assert {request.tags[VEHICLE_TAG] for request in result.run_requests or []} == {VEHICLE, "twin_mule"}


def test_the_sensor_says_that_nobody_asks(desk: Desk) -> None:
    context = sensor_context(desk)
    result = online_sensor(context)
    assert isinstance(result, dg.SensorResult)
    assert result.skip_reason is not None
    assert result.skip_reason.skip_message == "nobody asks for an online episode"
