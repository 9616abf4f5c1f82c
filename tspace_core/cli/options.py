"""Options that several commands share."""

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from tspace_core.storage.lake import Lake

DataDir = Annotated[
    str | None,
    typer.Option("--data-dir", help="Root of the lake, a folder or s3://...; default: the settings'."),
]
VehicleId = Annotated[str, typer.Option("--vehicle", help="Vehicle id, see `tspace vehicles`.")]


def open_lake(data_dir: str | None) -> "Lake":
    """The lake at a root, or at the settings' one."""
    from tspace_core.config import settings
    from tspace_core.objects.path import any_path
    from tspace_core.storage.lake import Lake

    found = settings()
    return Lake(any_path(data_dir or found.lake_url or found.data_dir))


def tracking_uri(lake: "Lake") -> str:
    """MLflow's tracking store: the settings' server, or SQLite beside the lake that was asked for."""
    from tspace_core.config import settings

    return settings().mlflow_uri or f"sqlite:///{lake.local / 'mlflow.db'}"
