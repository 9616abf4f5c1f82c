"""Vehicles that report online episodes, and people that look at them: processes on one Dagster instance."""

import multiprocessing
import os
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

LONG_S = 300.0
FIRST_NS = 1_767_600_000 * 10**9
_QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


@dataclass
class Told:
    """What one process has to say."""

    who: str
    keys: list[str] = field(default_factory=list)
    """Of the episodes that it reported, or saw, in order."""
    seconds: list[float] = field(default_factory=list)
    """Of each report, or each look."""
    errors: list[str] = field(default_factory=list)


def report_at_once(
    homes: Sequence[Path], *, vehicles: int, readers: int, rounds: int, environment: Mapping[str, str]
) -> list[list[Told]]:
    """Let so many vehicles report so many episodes each while readers look; all begin at the same moment.

    One instance after the other, in the same processes: what each had to say, by instance.
    """
    context = multiprocessing.get_context("spawn")
    begin, answers = context.Barrier(vehicles + readers), context.Queue()
    over = [context.Event() for _ in homes]
    before = {name: os.environ.get(name) for name in environment}
    os.environ.update(environment)
    try:
        drivers = [
            context.Process(target=_drive, args=(homes, number, rounds, begin, answers))
            for number in range(vehicles)
        ]
        lookers = [
            context.Process(target=_look, args=(homes, number, begin, over, answers))
            for number in range(readers)
        ]
        for process in drivers + lookers:
            process.start()
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
    try:
        found = []
        for event in over:
            told = [answers.get(timeout=LONG_S) for _ in drivers]
            event.set()
            told += [answers.get(timeout=LONG_S) for _ in lookers]
            found.append(sorted(told, key=lambda one: one.who))
        for process in drivers + lookers:
            process.join(LONG_S)
    finally:
        for process in drivers + lookers:
            process.kill()
    return found


def _drive(homes: Sequence[Path], number: int, rounds: int, begin: Any, answers: Any) -> None:
    for home in homes:
        told = Told(f"vehicle {number}")
        try:
            _report(home, number, rounds, begin, told)
        except BaseException:  # whatever it is, the test is to show it
            told.errors.append(traceback.format_exc())
            begin.abort()
        answers.put(told)


def _report(home: Path, number: int, rounds: int, begin: Any, told: Told) -> None:
    import dagster as dg

    from tspace_core.config import load_vehicle, settings
    from tspace_core.storage.lake import Lake
    from tspace_core.storage.online_episodes import online_key, store_online_episode
    from tspace_pipelines.online_report import EpisodeReporter
    from tspace_pipelines.online_requests import VEHICLE_TAG

    truck = load_vehicle("twin_truck").model_copy(update={"id": f"truck_{number}"})
    lake = Lake(settings().data_dir)

    @dg.op
    def drive_online(context: dg.OpExecutionContext) -> None:
        report = EpisodeReporter(context, lake, truck)
        begin.wait(LONG_S)
        for episode in range(rounds):
            key = online_key(truck.id, FIRST_NS + episode * 60 * 10**9, episode)
            stored = store_online_episode(lake, truck, key, [])
            result: Any = SimpleNamespace(
                key=key, summary=stored.model_copy(update={"episodes": 1, "records": 12}), number=episode,
                reason="done", total_reward=1.0, running_reward=None, flashes=1, latency_ms=None,
                learned=None, checkpoint=None, tracked=None, training_log=None, line=lambda: "an episode",
            )  # fmt: skip
            began = time.perf_counter()
            report(result)
            told.seconds.append(time.perf_counter() - began)
            told.keys.append(key)

    @dg.job
    def online() -> None:
        drive_online()

    with dg.DagsterInstance.from_config(str(home)) as instance:
        done = online.execute_in_process(
            instance=instance, run_config=_QUIET, raise_on_error=False,
            tags={VEHICLE_TAG: truck.id, "dagster/run_key": f"{truck.id}#1"},
        )  # fmt: skip
    told.errors += [str(event.step_failure_data.error) for event in done.all_events if event.is_step_failure]


def _look(homes: Sequence[Path], number: int, begin: Any, over: Any, answers: Any) -> None:
    for home, event in zip(homes, over, strict=True):
        told = Told(f"reader {number}")
        try:
            _read(home, begin, event, told)
        except BaseException:
            told.errors.append(traceback.format_exc())
            begin.abort()
        answers.put(told)


def _read(home: Path, begin: Any, over: Any, told: Told) -> None:
    import dagster as dg

    from tspace_pipelines.new_episodes import EPISODES, Progress, advance
    from tspace_pipelines.partitions import LOGS

    progress = Progress()
    with dg.DagsterInstance.from_config(str(home)) as instance:
        begin.wait(LONG_S)
        last = False
        while not last:
            last = over.is_set()  # one more look after all is done
            began = time.perf_counter()
            advance(instance, progress, [dg.AssetKey("replay_buffer")])
            known = set(instance.get_dynamic_partitions(str(LOGS.name)))
            seen = instance.get_materialized_partitions(EPISODES)
            instance.get_runs(limit=25)
            told.seconds.append(time.perf_counter() - began)
            if not seen <= known | set(instance.get_dynamic_partitions(str(LOGS.name))):
                told.errors.append(f"materialized and no partition: {sorted(seen - known)}")
    told.keys = sorted(progress.passed)
