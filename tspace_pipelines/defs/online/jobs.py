"""The long run that drives one vehicle."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import dagster as dg
from pydantic import Field

from tspace_core.config import load_vehicle, settings
from tspace_core.link.requests import Spool
from tspace_pipelines.interrupts import hear_interrupts
from tspace_pipelines.metadata import clear_failure
from tspace_pipelines.online_requests import REQUEST_TAG, VEHICLE_TAG, first_event
from tspace_pipelines.resources import LakeResource

if TYPE_CHECKING:
    from tspace_core.vehicle.states import Event

PARENT_TAG = "dagster/parent_run_id"


class DriveConfig(dg.Config):
    """Which vehicle and how."""

    vehicle: str = Field(description="vehicle id")
    infer: bool = Field(default=False, description="drive with the released agent, learn nothing")
    observe: bool = Field(default=False, description="flash nothing: record only")
    episodes: int | None = Field(
        default=None, ge=1, description="end after so many; None: until the HMI's exit"
    )
    begin: bool = Field(
        default=False, description="begin the first episode at once: the HMI has asked for it"
    )


@dg.op(tags={"tspace/layer": "online"})
def drive_online(context: dg.OpExecutionContext, config: DriveConfig, lake: LakeResource) -> None:
    """Drive until the HMI's exit or the wanted number of episodes; each is reported as it is stored."""
    from tspace_core.online.avatar import Avatar, AvatarOptions
    from tspace_core.online.delivery import deliver_waiting
    from tspace_pipelines.online_report import EpisodeReporter

    hear_interrupts()
    with clear_failure():
        vehicle = load_vehicle(config.vehicle)
        found = lake.open()
        # A run that a person started by hand counts as the vehicle's one run, too.
        context.instance.add_run_tags(context.run_id, {VEHICLE_TAG: vehicle.id})
        token = settings().campaign_token
        options = AvatarOptions(
            infer=config.infer,
            observe=config.observe,
            episodes=config.episodes,
            run_id=context.run_id,
            by=f"Dagster run {context.run_id[:8]}",
            token=token.get_secret_value() if token is not None else None,
        )
        deliver_waiting(found, vehicle.id, context.log.warning)
        reporter = EpisodeReporter(context, found, vehicle)
        for key in reporter.catch_up():
            context.log.info("%s was stored by a run that could not report it: reported now", key)
        summary = Avatar(
            vehicle,
            found,
            options,
            on_episode=reporter,
            tell=context.log.info,
            first=lambda: _first(context, config),
        ).run()
    context.log.info(str(summary))


def _first(context: dg.OpExecutionContext, config: DriveConfig) -> "tuple[Event, str] | None":
    """What to do once connected; a run that a person repeats has no request and waits for the HMI."""
    tags = context.run.tags
    again = PARENT_TAG in tags
    return first_event(
        Spool(settings().online_dir, config.vehicle),
        None if again else tags.get(REQUEST_TAG),
        context.run_id,
        datetime.now(UTC),
        begin=config.begin and not again,
    )


@dg.job(
    executor_def=dg.in_process_executor,
    # A run that fails is asked for again by its request; a second worker beside a half-dead one never is.
    tags={"tspace/lane": "online", "dagster/max_retries": "0"},
    description="Observe, infer, flash and learn on one vehicle, for as long as it drives.",
)
def online_episodes() -> None:
    """One vehicle's online run."""
    drive_online()
