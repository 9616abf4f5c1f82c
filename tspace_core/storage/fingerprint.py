"""Fingerprints: what a stored result was made from, so that the same is not made twice."""

import hashlib
import json
from typing import Any

from tspace_core import __version__
from tspace_core.config import Vehicle


def fingerprint(**inputs: Any) -> str:
    """Return a hash over named inputs (JSON types) and the software's version, 64 hex digits."""
    content = json.dumps({"version": __version__, **inputs}, sort_keys=True, default=str)
    return hashlib.sha256(content.encode()).hexdigest()


def vehicle_config(vehicle: Vehicle) -> dict[str, Any]:
    """Return what of a vehicle's file can change its signals and episodes, offline."""
    other = {"description", "vin", "guard", "twin", "interface", "remote", "bus", "xcp", "ports", "online"}
    config: dict[str, Any] = vehicle.model_dump(mode="json", exclude=other)
    if vehicle.remote is not None:
        config["sign"] = vehicle.remote.sign  # of all that is said of its telematics box
    return config
