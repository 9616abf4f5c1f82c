"""Sites with their time zones, and the drivers who drive there."""

from typing import Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import Field, field_validator

from tspace_core.config.base import ConfigModel


class Site(ConfigModel):
    """A place where vehicles are driven; instants are stored in UTC with this zone beside them."""

    id: str
    name: str = Field(description="name shown to people")
    timezone: str = Field(description="IANA time zone, e.g. Europe/Berlin")

    @field_validator("timezone")
    @classmethod
    def _known_zone(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (ZoneInfoNotFoundError, ValueError) as error:
            message = f"{value!r} is no IANA time zone; use a name like Europe/Berlin or UTC"
            raise ValueError(message) from error
        return value

    @property
    def zone(self) -> ZoneInfo:
        """The time zone as an object of the standard library."""
        return ZoneInfo(self.timezone)


class DrivingStyle(ConfigModel):
    """How a simulated driver works the pedals; read by the twin alone."""

    preview_s: float = Field(ge=0, le=10, description="how far ahead the driver looks, s")
    speed_gain: float = Field(gt=0, description="demanded acceleration per speed error, (m/s2)/(m/s)")
    integral_gain: float = Field(ge=0, description="correction of a lasting speed error, 1/s2")
    adaptation: float = Field(
        ge=0,
        le=1,
        description="share of a change of the torque map that the driver makes up for with the pedal",
    )
    pedal_rate_per_s: float = Field(gt=0, description="fastest pedal movement, full travels a second")
    reaction_s: float = Field(ge=0, le=2, description="reaction time, s")
    acceleration_limit_mps2: float = Field(gt=0, description="strongest acceleration asked for, m/s2")
    braking_limit_mps2: float = Field(gt=0, description="strongest deceleration asked for, m/s2")
    pedal_noise: float = Field(
        ge=0, le=0.1, description="standard deviation of the foot's tremor, full travels"
    )


class Driver(ConfigModel):
    """Who drives: a person by pseudonym, or a simulated driver with a style."""

    id: str
    kind: Literal["person", "simulated"]
    description: str = ""
    style: DrivingStyle | None = Field(default=None, description="only for simulated drivers")
