"""The engine on a Ray cluster as a resource of dagster-ray."""

from typing import TYPE_CHECKING, Any

import dagster as dg
from dagster_ray import Lifecycle, LocalRay
from pydantic import Field

from tspace_core.config import EngineConfig

if TYPE_CHECKING:
    from tspace_core.distributed import Engine
    from tspace_core.distributed.ray_cluster import RayCluster


class RayEngineResource(LocalRay):  # type: ignore[misc]
    """A cluster for the engine, and for whatever else uses dagster-ray's resources.

    An address that nobody answers is an ``EngineError`` within seconds, where ``ray.init`` waits two minutes
    and then ends the process.
    """

    settings: dict[str, Any] = Field(description="fields of EngineConfig; see docs/scaling.md")

    def open(self) -> "Engine":
        """The engine, to be used with ``with``."""
        from tspace_core.distributed import make_engine

        return make_engine(self.engine_config())

    def engine_config(self) -> EngineConfig:
        """The settings as the engine's model."""
        return EngineConfig.model_validate(self.settings)

    def connect(self, context: dg.InitResourceContext | dg.OpExecutionContext) -> Any:
        """Connect this process to the cluster, or start one; used by what asks for ``context``.

        Raises:
            EngineError: nobody answers.
        """
        from tspace_core.distributed.ray_cluster import RayCluster

        cluster = RayCluster(self.engine_config())
        cluster.connect()
        self._context = _Connection(cluster)
        return self._context


def lazy_ray_engine(settings: dict[str, Any]) -> RayEngineResource:
    """The resource that connects when an engine first needs the cluster, not at each step's beginning.

    Dagster makes nested configuration anew from what was given, so a default of ours would be lost.
    """
    return RayEngineResource(settings=settings, lifecycle=Lifecycle(connect=False))


class _Connection:
    """What dagster-ray disconnects at a step's end."""

    def __init__(self, cluster: "RayCluster") -> None:
        self._cluster = cluster

    def disconnect(self) -> None:
        """Leave the cluster; end it if it was started here."""
        self._cluster.close()
