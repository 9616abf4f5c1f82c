"""Limits of the guard in front of every flash, as data; the numbers are the defaults of the envelope.

Sources: the envelope measured against panda/opendbc (rate and value limits, staleness), PX4 (stream alive
before arming) and UN R156 (a parameter change is recorded and has a safe state).
"""

from pydantic import Field

from tspace_core.config.base import ConfigModel


class GuardLimits(ConfigModel):
    """What a flash may change, and when the reference map comes back."""

    positive_factor_min: float = Field(
        default=0.8, ge=0, le=1, description="lower bound of positive cells, x reference"
    )
    positive_factor_max: float = Field(
        default=1.0,
        ge=0,
        le=1.5,
        description="upper bound of positive cells, x reference; the reference row's power limits as well",
    )
    pedal_zero_drop_nm: float = Field(
        default=50.0, ge=0, description="lowest torque at pedal 0 below the reference, Nm"
    )
    lift_off_deceleration_mps2: float = Field(
        default=1.3, gt=0, description="strongest deceleration at pedal 0, m/s2"
    )
    shaft_rad_per_m: float | None = Field(
        default=None,
        gt=0,
        description="gear ratio / wheel radius of the map's shaft, rad/m; None: the map formula's",
    )
    driveline_efficiency: float = Field(
        default=0.9,
        gt=0.5,
        le=1,
        description="least efficiency from wheels to shaft; braking torque acts on the wheels divided by it",
    )
    no_regen_below_kmh: float = Field(
        default=7.0, ge=0, description="no negative torque at pedal 0 below it, km/h"
    )
    cell_rate_nm: float = Field(default=50.0, gt=0, description="largest change of a cell in one flash, Nm")
    cell_rate_10s_nm: float = Field(
        default=100.0, gt=0, description="largest change of a cell within 10 s, Nm"
    )
    neighbour_step_nm: float = Field(
        default=600.0, gt=0, description="largest step between neighbouring cells, Nm"
    )
    driver_point_nm: float = Field(
        default=50.0, gt=0, description="largest change at the driver's present point, Nm"
    )
    flash_interval_s: float = Field(default=1.0, gt=0, description="shortest time between two flashes, s")
    proposal_age_s: float = Field(
        default=1.0, gt=0, description="an older proposal is stale and not flashed, s"
    )
    flash_time_limit_s: float = Field(
        default=2.0, gt=0, description="a flash that takes longer is UNKNOWN, s"
    )
    campaign_required: bool = Field(
        default=True, description="arm only with a signed campaign token; False for simulated vehicles"
    )
    campaign_key: str | None = Field(
        default=None, pattern="^[0-9a-f]{64}$", description="Ed25519 public key of who signs campaigns, hex"
    )
    override_brake_percent: float = Field(
        default=100.0, gt=0, description="brake beyond it is the driver's override, % of full travel"
    )
    both_pedals_percent: float = Field(
        default=5.0,
        ge=0,
        description="accelerator and brake both beyond it are implausible, % of full travel",
    )
    standstill_kmh: float = Field(
        default=1.0,
        gt=0,
        description="slower than this is standstill, where a saved map may be resumed, km/h",
    )
    counter_errors: int = Field(
        default=5, ge=1, description="counter errors in a window that make it invalid"
    )
    speed_difference_mps: float = Field(
        default=2.0, gt=0, description="largest difference of two speed sources, m/s"
    )
    heartbeat_hz: float = Field(default=10.0, gt=0, description="heartbeat of the agent to the guard, 1/s")
    no_flash_after_s: float = Field(
        default=0.5, gt=0, description="heartbeat lost this long: no new flash, s"
    )
    reference_after_s: float = Field(
        default=2.0, gt=0, description="heartbeat lost this long: reference map, s"
    )
    invalid_windows: int = Field(
        default=3, ge=1, description="invalid windows in a row until the reference map"
    )
    window_rate_min: float = Field(default=0.9, gt=0, le=1, description="least share of samples in a window")
    stale_periods: int = Field(
        default=10, ge=1, description="a sample older than so many of its periods is stale"
    )
