"""The simulated VCU's torque maps: a reference page that stays and a working page that is flashed."""

import numpy as np
from numpy.typing import ArrayLike

from tspace_core.config.torque_map import FLASHED_ROWS, TorqueMap
from tspace_core.config.vehicle import Vehicle
from tspace_core.errors import TwinError
from tspace_core.twin.fleet import Fleet
from tspace_core.twin.kernel import map_torque
from tspace_core.twin.truck import build_plant, table_of


class Vcu:
    """Interpolates the torque map of the active page, as an ECU with two calibration pages does.

    The reference page holds the default map and cannot be written. The working page starts as a copy of it;
    rows are written there. Either page can be the active one.

    Args:
        vehicle: a vehicle with a twin.
        fleet: where given, the active page is put into effect in its vehicle ``index`` at each change.
        index: number of the vehicle in ``fleet``.
    """

    def __init__(self, vehicle: Vehicle, fleet: Fleet | None = None, index: int = 0) -> None:
        self._reference = vehicle.default_map()
        self._working = self._reference
        self._on_working = True
        self._plant = build_plant(vehicle)
        self._fleet = fleet
        self._index = index
        self._activate()

    @property
    def reference(self) -> TorqueMap:
        """The reference page."""
        return self._reference

    @property
    def working(self) -> TorqueMap:
        """The working page."""
        return self._working

    @property
    def active(self) -> TorqueMap:
        """The page in effect."""
        return self._working if self._on_working else self._reference

    def select_working(self) -> None:
        """Put the working page into effect."""
        self._on_working = True
        self._activate()

    def select_reference(self) -> None:
        """Put the reference page into effect; the working page keeps its content."""
        self._on_working = False
        self._activate()

    def copy_reference(self) -> None:
        """Make the working page a copy of the reference page."""
        self._working = self._reference
        self._activate()

    def write_rows(self, first_row: int, torque_nm: ArrayLike) -> None:
        """Write rows of the working page.

        Args:
            first_row: index of the first row written.
            torque_nm: shape (rows, columns), Nm.

        Raises:
            TwinError: the rows do not fit the map or hold a value that is not finite.
        """
        rows = np.asarray(torque_nm, dtype=np.float32)
        table = self._working.table.copy()
        fits = rows.ndim == 2 and rows.shape[1] == table.shape[1] and first_row >= 0
        if not fits or first_row + len(rows) > len(table) or not np.all(np.isfinite(rows)):
            message = (
                f"rows of shape {rows.shape} from row {first_row} do not fit a map of {table.shape}, or "
                f"hold a value that is not finite; a flash writes {FLASHED_ROWS} finite rows inside the map"
            )
            raise TwinError(message)
        table[first_row : first_row + len(rows)] = rows
        self._working = TorqueMap(self._working.pedal_axis, self._working.speed_axis_kmh, table)
        self._activate()

    def torque(self, pedal: float, speed_kmh: float) -> float:
        """Torque in Nm of the active page at a pedal position (fraction) and a speed."""
        plant = self._plant
        return map_torque(table_of(self.active, plant), plant.pedal_axis, plant.speed_axis, pedal, speed_kmh)

    def _activate(self) -> None:
        if self._fleet is not None:
            self._fleet.set_map(self._index, self.active)
