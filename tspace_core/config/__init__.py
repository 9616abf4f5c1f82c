"""Vehicles, drivers, sites, hyperparameters and settings: pydantic models of the YAML files in conf/."""

from tspace_core.config.engine import EngineConfig
from tspace_core.config.guard import GuardLimits
from tspace_core.config.hyperparameters import (
    HYPERPARAMETERS,
    AgentHyperparameters,
    DDPGHyperparameters,
    IDQLHyperparameters,
    NoiseParameters,
    RDPGHyperparameters,
)
from tspace_core.config.link import BusConfig, Parameter, PortConfig, XcpConfig
from tspace_core.config.loading import (
    driver_ids,
    load_driver,
    load_hyperparameters,
    load_site,
    load_vehicle,
    read_vehicle,
    vehicle_ids,
)
from tspace_core.config.map_formula import MapFormula, formula_map
from tspace_core.config.online import OnlineConfig, WatchdogLimits
from tspace_core.config.places import Driver, DrivingStyle, Site
from tspace_core.config.remote import RemoteConfig
from tspace_core.config.settings import Settings, settings
from tspace_core.config.torque_map import FLASHED_ROWS, TorqueMap
from tspace_core.config.twin import TwinParameters
from tspace_core.config.vehicle import (
    EpisodeConfig,
    LogConfig,
    RewardConfig,
    RoadLoad,
    Sampling,
    SignalSource,
    TorqueMapConfig,
    Vehicle,
)

__all__ = [
    "FLASHED_ROWS",
    "HYPERPARAMETERS",
    "AgentHyperparameters",
    "BusConfig",
    "DDPGHyperparameters",
    "Driver",
    "DrivingStyle",
    "EngineConfig",
    "EpisodeConfig",
    "GuardLimits",
    "IDQLHyperparameters",
    "LogConfig",
    "MapFormula",
    "NoiseParameters",
    "OnlineConfig",
    "Parameter",
    "PortConfig",
    "RDPGHyperparameters",
    "RemoteConfig",
    "RewardConfig",
    "RoadLoad",
    "Sampling",
    "Settings",
    "SignalSource",
    "Site",
    "TorqueMap",
    "TorqueMapConfig",
    "TwinParameters",
    "Vehicle",
    "WatchdogLimits",
    "XcpConfig",
    "driver_ids",
    "formula_map",
    "load_driver",
    "load_hyperparameters",
    "load_site",
    "load_vehicle",
    "read_vehicle",
    "settings",
    "vehicle_ids",
]
