"""Best static maps that were searched once, kept beside the vehicles' files or in a lake.

A search takes minutes and an evaluation seconds, so what was found is stored, as JSON, with a fingerprint of
all that it depends on: truck, default map, limits, drivers, cycle and search. A file of another fingerprint
counts as none.
"""

import hashlib
import json
from collections.abc import Callable

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from tspace_core.config import TorqueMap, Vehicle, load_driver, settings
from tspace_core.errors import ConfigError
from tspace_core.evaluation.static_map import FoundMap, Limits, StaticSearch, cell_limits, search_static_map
from tspace_core.objects.path import AnyPath
from tspace_core.storage.files import write_text
from tspace_core.twin.truck import drive_fingerprint

FOLDER = "static_maps"
"""Below conf/."""
_FORMAT = 1


class BestStaticMap(BaseModel):
    """The best static map of a vehicle on a cycle, as it is stored.

    ``values`` are in torque budgets at the crossings of ``search``'s bands, ``table_nm`` the map they gave;
    savings are those on the search's own drives, in %: for an honest figure drive it with other seeds.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    vehicle: str
    cycle: str
    search: StaticSearch
    fingerprint: str
    values: tuple[tuple[float, ...], ...]
    table_nm: tuple[tuple[float, ...], ...]
    sha256: str
    saving_percent: float
    objective: float
    drives: int

    @classmethod
    def of(cls, vehicle: Vehicle, cycle: str, search: StaticSearch, found: FoundMap) -> "BestStaticMap":
        """What a search found."""
        return cls(
            vehicle=vehicle.id,
            cycle=cycle,
            search=search,
            fingerprint=fingerprint(vehicle, cycle, search),
            values=tuple(tuple(round(float(value), 6) for value in row) for row in found.values),
            # Shortest decimals: each float32 reads back unchanged.
            table_nm=tuple(tuple(float(str(cell)) for cell in row) for row in found.table.table),
            sha256=found.table.sha256(),
            saving_percent=found.saving_percent,
            objective=found.objective,
            drives=found.drives,
        )

    def torque_map(self, vehicle: Vehicle) -> TorqueMap:
        """The map, on the vehicle's axes.

        Raises:
            ConfigError: the table is not what was found, or leaves the vehicle's limits.
        """
        default = vehicle.default_map()
        table = TorqueMap(default.pedal_axis, default.speed_axis_kmh, np.array(self.table_nm, np.float32))
        lower, upper = cell_limits(vehicle, self.search.limits)
        inside = np.all((table.table >= lower) & (table.table <= upper))
        if table.sha256() != self.sha256 or not inside:
            message = (
                f"the stored best static map of {self.vehicle} on {self.cycle} was changed or leaves the "
                f"{self.search.limits} limits; delete its file and search again"
            )
            raise ConfigError(message)
        return table


def fingerprint(vehicle: Vehicle, cycle: str, search: StaticSearch) -> str:
    """Hash of all that a search's result depends on."""
    digest = hashlib.sha256()
    styles = [load_driver(driver).model_dump(mode="json") for driver in search.drivers]
    content = [_FORMAT, drive_fingerprint(vehicle), cycle, styles, search.model_dump(mode="json")]
    digest.update(json.dumps(content, sort_keys=True).encode())
    for limit in cell_limits(vehicle, search.limits):
        digest.update(np.ascontiguousarray(limit, dtype="<f8").tobytes())
    return digest.hexdigest()


def stored_static_map(
    vehicle: Vehicle, cycle: str, *, search: StaticSearch | None = None, folder: AnyPath | None = None
) -> BestStaticMap | None:
    """The stored map of a vehicle on a cycle; None: there is none that fits vehicle, cycle and search.

    Args:
        vehicle: with a twin.
        cycle: name of a cycle.
        search: with which it was found; default: the default search.
        folder: of the files; default: conf/static_maps alone. With a folder both are looked through.

    Raises:
        ConfigError: a file is damaged.
    """
    search = search or StaticSearch()
    mark = fingerprint(vehicle, cycle, search)
    for place in dict.fromkeys((folder, None)):
        path = _path(vehicle, cycle, search.limits, place)
        if not path.is_file():
            continue
        try:
            found = BestStaticMap.model_validate_json(path.read_text(encoding="utf-8"))
        except (ValidationError, UnicodeDecodeError) as error:
            message = f"{path}: not a best static map ({error}); delete it and search again"
            raise ConfigError(message) from error
        if found.fingerprint == mark:
            return found
    return None


def best_static_map(
    vehicle: Vehicle,
    cycle: str = "truck_route",
    *,
    search: StaticSearch | None = None,
    folder: AnyPath | None = None,
    progress: Callable[[int, float], object] | None = None,
) -> BestStaticMap:
    """The best static map: the stored one, or else searched now and stored.

    Args:
        vehicle: with a twin.
        cycle: name of a cycle; the search drives this very route, with other seeds of the drivers' feet.
        search: bands, drives and effort; the default takes some 2 minutes of one core.
        folder: where it is kept if it is searched, and looked for first; default: conf/static_maps.
        progress: see ``search_static_map``.

    Raises:
        ConfigError: a stored file is damaged, or the search does not fit the vehicle.
        TwinError: the vehicle has no twin.
    """
    search = search or StaticSearch()
    found = stored_static_map(vehicle, cycle, search=search, folder=folder)
    if found is None:
        found = BestStaticMap.of(
            vehicle, cycle, search, search_static_map(vehicle, [cycle], search, progress=progress)
        )
        path = _path(vehicle, cycle, search.limits, folder)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, found.model_dump_json(indent=1) + "\n")
    return found


def _path(vehicle: Vehicle, cycle: str, limits: Limits, folder: AnyPath | None) -> AnyPath:
    return (folder or settings().conf_dir / FOLDER) / f"{vehicle.id}-{cycle}-{limits}.json"
