"""From names to models: the files under conf/."""

from pathlib import Path

from tspace_core.config.base import find_named, names_in, parse, read_yaml
from tspace_core.config.hyperparameters import HYPERPARAMETERS, AgentHyperparameters
from tspace_core.config.places import Driver, Site
from tspace_core.config.settings import settings
from tspace_core.config.vehicle import Vehicle
from tspace_core.errors import ConfigError, UnknownNameError


def vehicle_ids() -> list[str]:
    """Ids of all vehicles in conf/vehicles, sorted."""
    return names_in(settings().conf_dir / "vehicles")


def driver_ids() -> list[str]:
    """Ids of all drivers in conf/drivers, sorted."""
    return names_in(settings().conf_dir / "drivers")


def load_vehicle(vehicle_id: str) -> Vehicle:
    """The vehicle of that id.

    Raises:
        UnknownNameError: there is no such file; lists those there are.
        ConfigError: names the file and each wrong field.
    """
    return read_vehicle(find_named(settings().conf_dir / "vehicles", vehicle_id, "vehicle"))


def read_vehicle(path: Path) -> Vehicle:
    """The vehicle that the file describes; ``default_csv`` is relative to the folder above the file's.

    Raises:
        ConfigError: names the file and each wrong field.
    """
    vehicle = parse(Vehicle, read_yaml(path), path)
    _same_name(path, vehicle.id)
    vehicle._folder = path.parent.parent
    return vehicle


def load_driver(driver_id: str) -> Driver:
    """The driver of that id (errors as ``load_vehicle``)."""
    path = find_named(settings().conf_dir / "drivers", driver_id, "driver")
    driver = parse(Driver, read_yaml(path), path)
    _same_name(path, driver.id)
    return driver


def load_site(site_id: str) -> Site:
    """The site of that id (errors as ``load_vehicle``)."""
    path = find_named(settings().conf_dir / "sites", site_id, "site")
    site = parse(Site, read_yaml(path), path)
    _same_name(path, site.id)
    return site


def load_hyperparameters(agent: str, name: str | None = None) -> AgentHyperparameters:
    """The hyperparameters of an agent in conf/hyperparameters (errors as ``load_vehicle``).

    Args:
        agent: ``ddpg``, ``rdpg`` or ``idql``: says which model the file is read as.
        name: of the file; default: the agent's.
    """
    if agent not in HYPERPARAMETERS:
        message = f"unknown agent {agent!r}; known: {', '.join(HYPERPARAMETERS)}"
        raise UnknownNameError(message)
    path = find_named(settings().conf_dir / "hyperparameters", name or agent, "hyperparameters")
    return parse(HYPERPARAMETERS[agent], read_yaml(path), path)


def _same_name(path: Path, name: str) -> None:
    if path.stem != name:
        message = f"{path}: id is {name!r}, but the file's name says {path.stem!r}; make them the same"
        raise ConfigError(message)
