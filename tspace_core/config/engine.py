"""What carries out training and drives in many places: this process, or a Ray cluster."""

from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class EngineConfig(BaseModel):
    """The engine of an installation; ``TSPACE_ENGINE__KIND=ray`` and so on."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["local", "ray"] = Field(
        default="local", description="local: everything in this process; ray: on a cluster"
    )
    address: str | None = Field(
        default=None,
        pattern=r"^(auto|[^/:]+:\d+)$",
        description="host:port of the cluster's head (GCS, 6379), or auto: the one this machine is part of; "
        "None: a cluster on this machine for as long as the engine is open",
    )
    workers: int = Field(default=2, ge=1, description="learners that share a batch")
    least_workers: int = Field(
        default=1, ge=1, description="go on with so many learners where nodes are gone; under it, give up"
    )
    cpus_per_worker: float = Field(default=1.0, gt=0)
    gpus_per_worker: float = Field(default=0.0, ge=0)
    actors: int = Field(default=2, ge=1, description="places that drive at once")
    cpus_per_actor: float = Field(default=1.0, gt=0)
    max_failures: int = Field(
        default=3, ge=0, description="how often dead workers are replaced before a run gives up"
    )
    connect_timeout_s: float = Field(default=5.0, gt=0, description="for the head's first answer")
    start_timeout_s: float = Field(
        default=120.0, gt=0, description="for nodes with room for least_workers, and for a worker to start"
    )
    exchange_timeout_s: float = Field(
        default=120.0, gt=0, description="a worker that does not answer the others for so long is dead"
    )
    object_store_bytes: int = Field(
        default=200 << 20, ge=80 << 20, description="shared memory of a cluster on this machine"
    )
    temp_dir: Path | None = Field(
        default=None,
        description="sessions and logs of a cluster on this machine; a short path, sockets lie below it",
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.least_workers > self.workers:
            message = f"least_workers is {self.least_workers}, more than workers ({self.workers})"
            raise ValueError(message)
        return self
