"""What the guard would leave of a torque map that is in effect throughout."""

from tspace_core.config import FLASHED_ROWS, TorqueMap, Vehicle
from tspace_core.guard.envelope import RATE_WINDOW_S, Envelope
from tspace_core.guard.rules import guard
from tspace_core.guard.state import Accepted, VehicleState

_NS = 1_000_000_000
_ROUNDS = 40


def allowed_map(vehicle: Vehicle, wanted: TorqueMap) -> TorqueMap:
    """What the guard makes of a whole map, flashed 4 rows at a time until nothing changes any more.

    The vehicle stands meanwhile and the flashes are more than 10 s apart, so the limits of how fast a map
    may change only cost time.

    Raises:
        ConfigError: the vehicle's default map is outside its own limits.
    """
    envelope, reference = Envelope.of(vehicle), vehicle.default_map()
    live, now_ns = reference, 0
    last = len(reference.table) - FLASHED_ROWS
    for _ in range(_ROUNDS):
        before = live
        for first_row in [*range(0, last, FLASHED_ROWS), last]:
            now_ns += round((RATE_WINDOW_S + 1.0) * _NS)
            rows = wanted.table[first_row : first_row + FLASHED_ROWS]
            state = VehicleState(0.0, 0.0, 0.0, now_ns)
            found = guard(rows, first_row, live, reference, state, envelope, (), now_ns)
            if isinstance(found, Accepted):
                live = found.table
        if live == before:
            break
    return live
