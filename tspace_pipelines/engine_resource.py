"""The engine as a resource: what learns and drives for the assets, by the settings.

An asset asks for ``engine: EngineResource`` and opens it while it trains::

    with engine.open() as found:
        train_agent(..., trainer=found.train_offline)

Where the settings say ``ray`` the resource is also one of dagster-ray (``RayEngineResource``): its
``connect`` gives other assets the same cluster. Neither Ray nor dagster-ray is imported otherwise.
"""

from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import Field

from tspace_core.config import EngineConfig

if TYPE_CHECKING:
    from tspace_core.distributed import Engine


class EngineResource(dg.ConfigurableResource):  # type: ignore[type-arg]
    """The engine in one process."""

    settings: dict[str, Any] = Field(
        default_factory=dict, description="fields of EngineConfig; see docs/scaling.md"
    )

    def open(self) -> "Engine":
        """The engine, to be used with ``with``; a cluster is looked for, or started, when needed."""
        from tspace_core.distributed import make_engine

        return make_engine(EngineConfig.model_validate(self.settings))


def engine_resource(config: EngineConfig) -> dg.ConfigurableResource:  # type: ignore[type-arg]
    """The resource for an engine."""
    values = config.model_dump(mode="json", exclude_defaults=True)
    if config.kind == "local":
        return EngineResource(settings=values)
    from tspace_pipelines.ray_engine_resource import lazy_ray_engine

    return lazy_ray_engine(values)
