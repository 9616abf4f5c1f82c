"""A vehicle: one YAML file in conf/vehicles says everything that differs between vehicles."""

import itertools
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field, PrivateAttr, field_validator, model_validator

from tspace_core.config.base import ConfigModel
from tspace_core.config.guard import GuardLimits
from tspace_core.config.link import BusConfig, PortConfig, XcpConfig
from tspace_core.config.map_formula import MapFormula
from tspace_core.config.online import OnlineConfig
from tspace_core.config.remote import UNIT_S, UNIT_SAMPLES, RemoteConfig
from tspace_core.config.settings import find_dbc
from tspace_core.config.torque_map import FLASHED_ROWS, TorqueMap
from tspace_core.config.twin import TwinParameters
from tspace_core.errors import ConfigError

STATE_SIGNALS = ("velocity", "thrust", "brake")
ENERGY_SIGNALS = ("current", "voltage")


class SignalSource(ConfigModel):
    """Where a signal comes from: a DBC signal on a bus, or the column of a trip table.

    ``value = clip(sign * (physical * scale + offset))`` with ``physical`` as the DBC or table gives it.
    """

    message: int | str | None = Field(default=None, description="frame id or DBC message name")
    signal: str | None = Field(default=None, description="signal name in the DBC")
    bus: int | None = Field(
        default=None, ge=0, description="bus number in the log; None: the first bus that has the id"
    )
    extended: bool | None = Field(default=None, description="29-bit id; None: as the DBC says")
    column: str | None = Field(default=None, description="column of a trip table, without blanks at its ends")
    unit: str = Field(description="unit of the value, e.g. km/h")
    scale: float = 1.0
    offset: float = 0.0
    sign: Literal[1, -1] = Field(default=1, description="-1 where the source counts the other way round")
    valid: tuple[float, float] | None = Field(
        default=None, description="closed range of possible values, in ``unit``"
    )
    sentinels: tuple[float, ...] = Field(default=(), description="physical values that mean `no value`")
    invalid_with: tuple[str, ...] = Field(
        default=(), description="signals of the same message whose sentinel makes this sample invalid too"
    )
    clip: tuple[float, float] | None = Field(
        default=None, description="the value is limited to this range, in ``unit``"
    )
    max_age_s: float = Field(default=0.5, gt=0, description="an older sample is stale, s")
    substitute: str | None = Field(
        default=None, description="what stands in for what, where the real signal is missing"
    )

    @model_validator(mode="after")
    def _one_source(self) -> "SignalSource":
        on_bus = self.message is not None and self.signal is not None
        if on_bus == (self.column is not None) or (self.message is None) != (self.signal is None):
            message = "give either message and signal (CAN) or column (trip table)"
            raise ValueError(message)
        for name in ("valid", "clip"):
            limits = getattr(self, name)
            if limits is not None and limits[0] >= limits[1]:
                message = f"{name} {limits} must be (lower, upper)"
                raise ValueError(message)
        return self


class TorqueMapConfig(ConfigModel):
    """Axes, default map, and how far a flash may move it."""

    pedal_axis: tuple[float, ...] = Field(min_length=2, description="fractions of full travel, ascending")
    speed_axis_kmh: tuple[float, ...] = Field(min_length=FLASHED_ROWS, description="km/h, ascending")
    default_csv: Path = Field(description="default map in the field's CSV form, relative to conf/")
    shaft: Literal["motor", "wheel"] = Field(description="the shaft that the map's torque acts on")
    budget_nm: float = Field(default=250.0, gt=0, description="largest change from the default, Nm")
    upper_factor: float = Field(
        default=1.0, gt=0, description="upper limit x default where the default is positive"
    )
    formula: MapFormula | None = Field(default=None, description="formula that the default map was made from")

    @field_validator("pedal_axis", "speed_axis_kmh")
    @classmethod
    def _ascending(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if any(later <= earlier for earlier, later in itertools.pairwise(value)):
            message = f"axis {value} must be ascending"
            raise ValueError(message)
        return value


class Sampling(ConfigModel):
    """The vehicle's grid and window."""

    rate_hz: float = Field(default=20.0, gt=0, le=1000, description="samples a second")
    window: int = Field(default=30, ge=2, description="samples in a window")
    signals: tuple[str, ...] = Field(default=STATE_SIGNALS, min_length=1, description="state order")

    @field_validator("signals")
    @classmethod
    def _each_once(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(value)) < len(value):
            message = f"signals {value} must name each signal once"
            raise ValueError(message)
        return value

    @property
    def period_ns(self) -> int:
        """Time between two samples in ns."""
        return round(1e9 / self.rate_hz)

    @property
    def window_s(self) -> float:
        """Length of a window in s."""
        return self.window / self.rate_hz

    @property
    def state_dim(self) -> int:
        """Values in a state: samples x signals."""
        return self.window * len(self.signals)


class LogConfig(ConfigModel):
    """How gaps in a log are taken."""

    disorder_s: float = Field(
        default=0.05,
        ge=0,
        le=1,
        description="a frame up to this late is put in order; a larger step back is a set clock",
    )
    gap_s: float = Field(default=5.0, gt=0, description="a longer gap between frames starts a new segment, s")
    max_dt_s: float = Field(default=1.0, gt=0, description="energy is integrated over shorter steps only, s")


class RoadLoad(ConfigModel):
    """What resists the vehicle; needed by the rewards that take road load or kinetic energy out."""

    mass_kg: float = Field(gt=0)
    rotating_mass_factor: float = Field(default=1.0, ge=1, description="inertial mass / mass")
    rolling_resistance: float = Field(gt=0, lt=0.1, description="rolling resistance coefficient")
    drag_area_m2: float = Field(gt=0, description="drag coefficient x frontal area, m2")
    air_density_kg_m3: float = Field(default=1.2, gt=0)


class RewardConfig(ConfigModel):
    """Which reward the records of this vehicle carry; formulas in docs/rewards.md."""

    kind: Literal["energy", "energy_per_distance", "energy_shaped", "loss"] = "energy"
    gamma: float = Field(default=0.99, gt=0, le=1, description="discount in the shaping term")
    minimum_distance_m: float = Field(
        default=1.0, gt=0, description="least divisor of energy_per_distance, m"
    )


class EpisodeConfig(ConfigModel):
    """When a run of windows becomes an episode."""

    minimum_records: int = Field(default=4, ge=1, description="shorter runs are counted and left out")
    maximum_records: int = Field(default=400, ge=1, description="longer runs are cut into several episodes")


class Vehicle(ConfigModel):
    """One vehicle, as its file in conf/vehicles describes it."""

    id: str = Field(pattern=r"^[a-z][a-z0-9_]*$", description="the file's name")
    vin: str = Field(min_length=1, description="VIN, or a made-up one for simulated and published vehicles")
    type: Literal["production", "mule", "passenger"]
    description: str
    site: str = Field(description="id of the site it is driven at, unless a log says otherwise")
    driver: str = Field(description="id of its driver, unless a log says otherwise")
    torque_map: TorqueMapConfig
    sampling: Sampling = Sampling()
    log: LogConfig = LogConfig()
    episodes: EpisodeConfig = EpisodeConfig()
    dbc: tuple[str, ...] = Field(
        default=(), description="DBC files along settings().dbc_path; the first wins for an id"
    )
    signals: dict[str, SignalSource]
    actions: Literal["flash_journal", "realised_torque", "default_map"] = Field(
        description="where the actions of offline records come from"
    )
    road: RoadLoad
    reward: RewardConfig = RewardConfig()
    guard: GuardLimits = GuardLimits()
    interface: Literal["kvaser", "remote"] = Field(
        default="kvaser", description="how it is driven online: on its CAN bus, or through its telematics box"
    )
    remote: RemoteConfig | None = Field(default=None, description="its telematics box, if it has one")
    bus: BusConfig | None = Field(default=None, description="its CAN bus, where it is driven online")
    xcp: XcpConfig | None = Field(
        default=None, description="its VCU's XCP slave, where maps are flashed by CAN"
    )
    ports: PortConfig = PortConfig()
    online: OnlineConfig = OnlineConfig()
    twin: TwinParameters | None = Field(
        default=None, description="parameters of its simulated twin, if it has one"
    )
    _folder: Path = PrivateAttr(default=Path("conf"))

    @model_validator(mode="after")
    def _consistent(self) -> "Vehicle":
        needed = (*self.sampling.signals, *ENERGY_SIGNALS)
        missing = [name for name in needed if name not in self.signals]
        if missing:
            message = f"signals {missing} are needed and have no source"
            raise ValueError(message)
        kinds = {source.column is None for source in self.signals.values()}
        if len(kinds) > 1:
            message = "signals come either from CAN messages or from trip table columns, not from both"
            raise ValueError(message)
        if kinds == {True} and not self.dbc:
            message = "signals come from CAN messages, so dbc must name at least one file"
            raise ValueError(message)
        if self.actions == "realised_torque" and "motor_torque" not in self.signals:
            message = "actions: realised_torque needs the signal motor_torque"
            raise ValueError(message)
        if self.interface == "remote":
            self._fits_a_box()
        for name, source in self.signals.items():
            unknown = [other for other in source.invalid_with if other not in self.signals]
            if unknown:
                message = f"signals.{name}.invalid_with names {unknown}, which have no source"
                raise ValueError(message)
        return self

    def _fits_a_box(self) -> None:
        if self.remote is None:
            message = "interface: remote needs a `remote:` section, which may be empty ({})"
            raise ValueError(message)
        rate, whole = UNIT_SAMPLES / UNIT_S, self.sampling.window % UNIT_SAMPLES == 0
        if self.sampling.rate_hz != rate or not whole:
            message = (
                f"sampling {self.sampling.rate_hz:g} Hz x {self.sampling.window}: a telematics box sends "
                f"{rate:g} Hz in units of {UNIT_SAMPLES}, so window must be a multiple of that"
            )
            raise ValueError(message)

    @property
    def from_trip_table(self) -> bool:
        """Whether its logs are trip tables rather than CAN logs."""
        return any(source.column is not None for source in self.signals.values())

    @property
    def substitutes(self) -> dict[str, str]:
        """Signals that something else stands in for, with what and why."""
        return {name: source.substitute for name, source in self.signals.items() if source.substitute}

    @property
    def action_dim(self) -> int:
        """Values in an action: flashed rows x pedal columns."""
        return FLASHED_ROWS * len(self.torque_map.pedal_axis)

    def default_map(self) -> TorqueMap:
        """The default torque map, checked against the axes of this config.

        Raises:
            ConfigError: the CSV is missing, broken, or has other axes.
        """
        path = self._folder / self.torque_map.default_csv
        table = TorqueMap.from_csv(path)
        for name in ("pedal_axis", "speed_axis_kmh"):
            wanted, found = np.asarray(getattr(self.torque_map, name), np.float32), getattr(table, name)
            if not np.array_equal(wanted, found):
                message = f"{path}: its {name} {found.tolist()} is not that of {self.id}: {wanted.tolist()}"
                raise ConfigError(message)
        return table

    def dbc_files(self) -> list[Path]:
        """The DBC files, found along the search path of the settings.

        Raises:
            ConfigError: names the file that was not found and the folders looked in.
        """
        return [find_dbc(name) for name in self.dbc]
