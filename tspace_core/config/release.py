"""What an agent must show before it is released: the model of ``conf/release_bar.yaml``."""

from pydantic import Field

from tspace_core.config.base import ConfigModel, parse, read_yaml
from tspace_core.config.settings import settings


class ReleaseBar(ConfigModel):
    """Limits of a release; all figures are against the default map, behind a guard."""

    guard_violations: int = Field(default=0, ge=0, description="impossible proposals, clipped cells are none")
    trip_time_percent: float = Field(default=1.0, ge=0, description="largest change of the mean, either way")
    quality_percent: float = Field(default=10.0, ge=0, description="most that a quality figure is worse")
    saving_percent: float = Field(default=0.0, ge=0, description="the interval's lower bound lies above")
    drivers: int = Field(default=3, ge=1, description="different drivers at least")
    seeds: int = Field(default=5, ge=1, description="seeds at least")


def load_release_bar() -> ReleaseBar:
    """The bar of this installation, ``<conf_dir>/release_bar.yaml``.

    Raises:
        ConfigError: names the file, the field and the value.
    """
    path = settings().conf_dir / "release_bar.yaml"
    return parse(ReleaseBar, read_yaml(path), path)
