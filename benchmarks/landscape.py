"""How much a static change of the torque map saves in the twin, over the brakes' blending.

    python benchmarks/landscape.py

Every map drives the same routes by place with the same drivers and seed; the figures are changes against the
default map. The map is lowered by its budget at pedals up to 20 % and at speeds of 10 km/h and more.
"""

import argparse

import numpy as np

from tspace_core.config import TorqueMap, Vehicle, load_vehicle
from tspace_core.twin.fleet import Fleet

DRIVERS = ("tracker", "habitual", "aggressive")
VEHICLES = ("twin_truck", "twin_mule")
ROUTES = ("truck_route", "udds")


def with_blending(vehicle: Vehicle, share: float) -> Vehicle:
    """The vehicle with another share of blended braking."""
    assert vehicle.twin is not None
    twin = vehicle.twin.model_copy(update={"brake_blend_share": share})
    return vehicle.model_copy(update={"twin": twin})


def lowered(vehicle: Vehicle) -> TorqueMap:
    """The default map less the budget where the pedal is low."""
    default = vehicle.default_map()
    table = default.table.copy()
    table[np.ix_(default.speed_axis_kmh >= 10, default.pedal_axis <= 0.2)] -= vehicle.torque_map.budget_nm
    return TorqueMap(default.pedal_axis, default.speed_axis_kmh, table)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shares", type=float, nargs="+", default=[1.0, 0.5, 0.0])
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    count = len(DRIVERS)
    print(f"{'vehicle':<12}{'route':<14}{'blending':>9}   energy % / trip time %: {', '.join(DRIVERS)}")
    for vehicle_id in VEHICLES:
        for route in ROUTES:
            for share in arguments.shares:
                vehicle = with_blending(load_vehicle(vehicle_id), share)
                maps = [vehicle.default_map()] * count + [lowered(vehicle)] * count
                fleet = Fleet(vehicle, route, DRIVERS * 2, [arguments.seed] * 2 * count, maps)
                fleet.run()
                change = [
                    (values[count:] / values[:count] - 1) * 100
                    for values in (np.asarray(fleet.energy_wh), np.asarray(fleet.elapsed_s))
                ]
                cells = "  ".join(f"{e:+.2f} / {t:+.2f}" for e, t in zip(*change, strict=True))
                print(f"{vehicle_id:<12}{route:<14}{share:>9.1f}   {cells}")


if __name__ == "__main__":
    main()
