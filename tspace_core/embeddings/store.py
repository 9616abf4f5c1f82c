"""Encoders in the lake: a folder each, and a file that says which is a vehicle's latest.

::

    embeddings/encoders/<vehicle>/<encoder>/    manifest.json, encoder.safetensors; never changed
    embeddings/encoders/<vehicle>.json          the latest one
"""

import shutil
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from tspace_core.embeddings.base import Encoder
from tspace_core.embeddings.registry import load_encoder
from tspace_core.errors import CheckpointError, ObjectMissingError
from tspace_core.objects.path import AnyPath
from tspace_core.storage.bucket_folder import MANIFEST
from tspace_core.storage.files import read_version
from tspace_core.storage.folders import remove_directory
from tspace_core.storage.lake import Lake
from tspace_core.storage.writer import DIRECT, Writer


class LatestEncoder(BaseModel):
    """What the pointer holds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    encoder: str
    windows: int
    episodes: int
    at: datetime


def encoder_folder(lake: Lake, vehicle_id: str, encoder_id: str) -> AnyPath:
    """Where an encoder lies."""
    return lake.root / "embeddings" / "encoders" / vehicle_id / encoder_id


def store_encoder(
    lake: Lake, vehicle_id: str, encoder: Encoder, *, windows: int, episodes: int, writer: Writer = DIRECT
) -> AnyPath:
    """Store a trained encoder as the vehicle's latest; an equal one whose files are whole is left as it is.

    Args:
        lake: where.
        vehicle_id: whose.
        encoder: that was trained.
        windows: it has learned from.
        episodes: these were of.
        writer: makes it visible.

    Returns:
        Its folder.
    """
    name = encoder.id
    folder = encoder_folder(lake, vehicle_id, name)
    if (folder / MANIFEST).is_file():
        try:
            load_encoder(folder)
        except CheckpointError:
            remove_directory(folder)  # nobody can use it
    if not (folder / MANIFEST).is_file():
        with writer.directory(folder) as made, tempfile.TemporaryDirectory() as scratch:
            encoder.save(Path(scratch))
            shutil.copytree(scratch, made, dirs_exist_ok=True)
    latest = LatestEncoder(encoder=name, windows=windows, episodes=episodes, at=datetime.now(UTC))
    writer.text(_pointer(lake, vehicle_id), latest.model_dump_json(indent=1) + "\n")
    return folder


def latest_encoder_id(lake: Lake, vehicle_id: str) -> str | None:
    """Id of the vehicle's latest encoder; None: none was trained.

    Raises:
        CheckpointError: the pointer is damaged.
    """
    path = _pointer(lake, vehicle_id)
    try:
        return LatestEncoder.model_validate_json(read_version(path)[0]).encoder
    except (FileNotFoundError, ObjectMissingError):
        return None
    except ValidationError as error:
        message = f"{path} is damaged ({error.error_count()} fields wrong): {_TRAIN.format(vehicle_id)}"
        raise CheckpointError(message) from error


def latest_encoder(lake: Lake, vehicle_id: str) -> Encoder:
    """The vehicle's latest encoder.

    Raises:
        CheckpointError: none was trained, or it is damaged.
    """
    found = latest_encoder_id(lake, vehicle_id)
    if found is None:
        message = f"no encoder of situations was trained for {vehicle_id}: {_TRAIN.format(vehicle_id)}"
        raise CheckpointError(message)
    return load_encoder(encoder_folder(lake, vehicle_id, found))


_TRAIN = "materialize situation_encoder for it, or `tspace embed --vehicle {0} --train`"


def _pointer(lake: Lake, vehicle_id: str) -> AnyPath:
    return lake.root / "embeddings" / "encoders" / f"{vehicle_id}.json"
