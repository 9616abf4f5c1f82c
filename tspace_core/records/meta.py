"""What every episode carries beside its numbers."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from tspace_core import __version__
from tspace_core.config import Site, TorqueMap, Vehicle

TimeSource = Literal["absolute_stamps", "log_header", "date_folder", "file_modified", "clock"]
ActionSource = Literal["flash_journal", "realised_torque", "default_map", "agent"]

UNITS: dict[str, str] = {
    "velocity": "km/h",
    "thrust": "%",
    "brake": "%",
    "current": "A",
    "voltage": "V",
    "gear": "-",
    "motor_torque": "Nm",
    "motor_speed": "rpm",
    "torque_request": "Nm",
    "soc": "%",
    "elevation": "m",
    "energy": "Wh",
    "distance": "m",
    "time": "UTC",
}
"""Units of the signals and sums by name."""


class EpisodeMeta(BaseModel):
    """Where an episode comes from and what its numbers mean. Instants are UTC with the zone beside them."""

    # JSON has no NaN: "NaN", "Infinity" and "-Infinity" stand for them and are read back.
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    episode_id: str
    vehicle_id: str
    driver_id: str
    site_id: str
    timezone: str = Field(description="IANA name of the site's time zone")
    units: dict[str, str] = Field(default_factory=lambda: dict(UNITS))
    rate_hz: float = Field(gt=0)
    window: int = Field(gt=0, description="samples in a state window")
    signals: tuple[str, ...] = Field(description="order of the signals in a state")
    pedal_axis: tuple[float, ...] = Field(description="map columns, fraction of full travel")
    speed_axis_kmh: tuple[float, ...] = Field(description="map rows, km/h")
    default_map_sha256: str = Field(
        pattern="^[0-9a-f]{64}$", description="``TorqueMap.sha256`` of the map that actions are relative to"
    )
    budget_nm: float = Field(gt=0, description="torque of an action of 1, Nm")
    upper_factor: float = Field(gt=0, description="upper limit of a flash x default where that is positive")
    software_version: str
    log_key: str = Field(description="vehicle/date/name of the raw log")
    segment: int = Field(default=0, ge=0, description="stretch of the log without a break in its clock")
    time_source: TimeSource
    substitutes: dict[str, str] = Field(default_factory=dict, description="signal: what stands in for it")
    action_source: ActionSource
    action_note: str = ""
    reward_kind: str
    gamma: float = 0.99
    energy_wh: float = Field(description="electric energy of all rewarded time, discharge positive")
    distance_m: float
    duration_s: float = Field(ge=0, description="first sample of the first window to the last of the last")
    end_reason: str = Field(description="why the episode ends where it does")


def episode_meta(
    vehicle: Vehicle, site: Site, default_map: TorqueMap, driver_id: str, **own: Any
) -> EpisodeMeta:
    """Meta information with what vehicle, site and map say of any of its episodes.

    Args:
        vehicle: whose episode it is.
        site: where it was driven.
        default_map: that actions are relative to.
        driver_id: who drove.
        own: the fields of ``EpisodeMeta`` that are this episode's own.
    """
    return EpisodeMeta(
        vehicle_id=vehicle.id,
        driver_id=driver_id,
        site_id=site.id,
        timezone=site.timezone,
        rate_hz=vehicle.sampling.rate_hz,
        window=vehicle.sampling.window,
        signals=vehicle.sampling.signals,
        pedal_axis=vehicle.torque_map.pedal_axis,
        speed_axis_kmh=vehicle.torque_map.speed_axis_kmh,
        default_map_sha256=default_map.sha256(),
        budget_nm=vehicle.torque_map.budget_nm,
        upper_factor=vehicle.torque_map.upper_factor,
        software_version=__version__,
        substitutes=vehicle.substitutes,
        reward_kind=vehicle.reward.kind,
        gamma=vehicle.reward.gamma,
        **own,
    )
