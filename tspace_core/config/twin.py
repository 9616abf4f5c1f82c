"""Parameters of a vehicle's simulated twin."""

from tspace_core.config.base import ConfigModel


class TwinParameters(ConfigModel):
    """What the simulated truck needs beyond the vehicle's own data."""
