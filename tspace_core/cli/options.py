"""Options that several commands share."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from tspace_core.storage.lake import Lake

DataDir = Annotated[Path | None, typer.Option("--data-dir", help="Root of the lake; default: the settings'.")]
VehicleId = Annotated[str, typer.Option("--vehicle", help="Vehicle id, see `tspace vehicles`.")]


def open_lake(data_dir: Path | None) -> "Lake":
    """The lake at a root, or at the settings' one."""
    from tspace_core.config import settings
    from tspace_core.storage.lake import Lake

    return Lake(data_dir if data_dir is not None else settings().data_dir)
