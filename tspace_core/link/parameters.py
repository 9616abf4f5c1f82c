"""Where the map and the texts of a vehicle's VCU are: its A2L file, or its config where there is none."""

import math
import struct
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from tspace_core.config.settings import find_a2l
from tspace_core.config.vehicle import Vehicle
from tspace_core.errors import ConfigError, XcpProtocolError
from tspace_core.link.a2l import A2lParameter, Axis, read_parameters
from tspace_core.link.float_buffer import CELL_BYTES
from tspace_core.link.xcp import XcpMaster

_FORMATS = {
    "UBYTE": "B",
    "SBYTE": "b",
    "UWORD": "H",
    "SWORD": "h",
    "ULONG": "I",
    "SLONG": "i",
    "A_UINT64": "Q",
    "A_INT64": "q",
    "FLOAT32_IEEE": "f",
    "FLOAT64_IEEE": "d",
}
_SAME = 1e-4  # an axis point in float32 or with few digits is the same to this share of the axis' range


@dataclass(frozen=True)
class Place:
    """Where a parameter is and what it is.

    Attributes:
        address: in the VCU's units of address.
        extension: XCP address extension.
        length: bytes.
        shape: rows and columns of a map; None: a text.
        limits: least and greatest value.
        big_endian: byte order of its values, None: the VCU's.
        axes: those that the VCU keeps in its memory, with the vehicle's points.
    """

    address: int
    extension: int
    length: int
    shape: tuple[int, int] | None
    limits: tuple[float, float]
    big_endian: bool | None
    axes: tuple[tuple[Axis, tuple[float, ...]], ...] = ()


def find_places(vehicle: Vehicle, names: Collection[str] | None = None) -> dict[str, Place]:
    """The places of the named parameters.

    Args:
        vehicle: with an ``xcp`` section.
        names: None: map, VIN and software id.

    Raises:
        ConfigError: a parameter is nowhere given, or the map's shape or axes are not the vehicle's.
    """
    config = vehicle.xcp
    if config is None:
        message = f"vehicle {vehicle.id} has no `xcp:` section; add it"
        raise ConfigError(message)
    if names is None:
        names = (config.map_name, config.vin_name, config.software_name)
    if config.a2l is not None:
        found = read_parameters(find_a2l(config.a2l), names)
        return {name: _from_a2l(one, vehicle, is_map=name == config.map_name) for name, one in found.items()}
    shape = len(vehicle.torque_map.speed_axis_kmh), len(vehicle.torque_map.pedal_axis)
    places = {}
    for name in names:
        given = config.parameters.get(name)
        if given is None:
            message = f"xcp.parameters of {vehicle.id} has no {name}; give its address, or an A2L file"
            raise ConfigError(message)
        is_map = given.length is None
        if is_map == (name in (config.vin_name, config.software_name)):
            kind = "a text and needs a length" if is_map else "a map and has no length"
            message = f"xcp.parameters.{name} of {vehicle.id} is {kind}"
            raise ConfigError(message)
        places[name] = Place(
            address=given.address,
            extension=given.extension,
            length=given.length if given.length is not None else shape[0] * shape[1] * CELL_BYTES,
            shape=shape if is_map else None,
            limits=(-float(np.finfo(np.float32).max), float(np.finfo(np.float32).max)),
            big_endian=None,
        )
    return places


def check_stored_axes(master: XcpMaster, place: Place, vehicle: Vehicle) -> None:
    """Compare the axes that the VCU keeps in its memory with the vehicle's.

    Raises:
        XcpProtocolError: they differ.
    """
    step = master.slave.granularity
    for axis, wanted in place.axes:
        stored = axis.stored
        if stored is None:
            continue
        order = ">" if stored.big_endian else "<"
        form = struct.Struct(f"{order}{stored.count}{_FORMATS[stored.datatype]}")
        size = -(-form.size // step) * step
        data = master.short_upload(stored.address, size, stored.extension)[: form.size]
        values = [stored.conversion.physical(float(value)) for value in form.unpack(data)]
        difference = _difference(axis, values, wanted)
        if difference:
            message = f"the VCU's {difference} of {vehicle.id}; check vehicle, A2L file and software"
            raise XcpProtocolError(message)


def _from_a2l(found: A2lParameter, vehicle: Vehicle, *, is_map: bool) -> Place:
    stored: tuple[tuple[Axis, tuple[float, ...]], ...] = ()
    if is_map:
        if found.kind != "float32":
            message = f"{found.where}: {found.name} is a text; xcp.map_name of {vehicle.id} must name a map"
            raise ConfigError(message)
        stored = _check_axes(found, vehicle)
    return Place(
        address=found.address,
        extension=found.extension,
        length=found.length,
        shape=found.shape if found.kind == "float32" else None,
        limits=found.limits,
        big_endian=found.big_endian,
        axes=stored,
    )


def _check_axes(found: A2lParameter, vehicle: Vehicle) -> tuple[tuple[Axis, tuple[float, ...]], ...]:
    """Refuse axes that are not the vehicle's; return those that only the VCU's memory can tell."""
    given = vehicle.torque_map
    wanted = given.speed_axis_kmh, given.pedal_axis
    shape = len(wanted[0]), len(wanted[1])
    if found.shape != shape:
        hint = " (it is stored pedal by pedal, the wire contract is speed by pedal)" * (
            found.shape == shape[::-1]
        )
        message = (
            f"{found.where}: {found.name} lies in memory as {found.shape[0]} x {found.shape[1]} cells, the "
            f"torque map of {vehicle.id} is {shape[0]} speeds x {shape[1]} pedal positions{hint}"
        )
        raise ConfigError(message)
    stored = []
    for axis, points in zip(found.axes, wanted, strict=True):
        if axis is None:
            continue
        if axis.values is None:
            stored.append((axis, points))
        elif difference := _difference(axis, axis.values, points):
            message = f"{found.where}: {difference} of {vehicle.id}; check vehicle and A2L file"
            raise ConfigError(message)
    return tuple(stored)


def _difference(axis: Axis, values: Sequence[float], wanted: Sequence[float]) -> str:
    """What differs, in words; empty: nothing."""
    # A pedal axis may be in percent where the vehicle's is a fraction.
    scale = 0.01 if axis.unit.strip() == "%" and max(wanted) <= 1.0 else 1.0
    found = [value * scale for value in values]
    slack = _SAME * (wanted[-1] - wanted[0])
    if len(found) == len(wanted) and all(
        math.isclose(one, other, abs_tol=slack, rel_tol=0.0) for one, other in zip(found, wanted, strict=True)
    ):
        return ""
    return f"axis {axis.name} is {[float(f'{one:.6g}') for one in found]}, not {list(wanted)}"
