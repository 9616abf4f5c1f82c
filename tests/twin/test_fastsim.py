"""FASTSim, which others wrote, finds the same energy for the same achieved traces.

Its figures are kept in fastsim_figures.json; benchmarks/fastsim_oracle.py makes them in its own environment.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from tspace_core.config import load_vehicle
from tspace_core.twin.fleet import Fleet
from tspace_core.twin.truck import blended, drive_fingerprint

FIGURES = json.loads((Path(__file__).parent / "fastsim_figures.json").read_text())


def test_figures_are_complete() -> None:
    assert FIGURES["fastsim"] == "2.1.5"
    found = {(drive["vehicle"], drive["cycle"]) for drive in FIGURES["drives"]}
    cycles = ("udds", "hwfet", "us06", "wltc_class3b")
    assert found == {(vehicle, cycle) for vehicle in ("twin_truck", "twin_mule") for cycle in cycles}


@pytest.mark.parametrize("drive", FIGURES["drives"], ids=lambda drive: f"{drive['vehicle']}-{drive['cycle']}")
def test_energy_within_one_percent(drive: dict[str, Any]) -> None:
    vehicle = blended(load_vehicle(drive["vehicle"]))
    renew = f"the figures are of other parameters; run {FIGURES['command']}"
    assert drive_fingerprint(vehicle) == drive["fingerprint"], renew
    fleet = Fleet(
        vehicle,
        drive["cycle"],
        [FIGURES["driver"]],
        [FIGURES["seed"]],
        mode="time",
        rate_hz=FIGURES["trace_hz"],
    )
    fleet.run()
    # The trace that FASTSim got must be the one that the twin drives today.
    assert fleet.distance_m[0] == pytest.approx(drive["twin_distance_m"], rel=1e-6), renew
    # At full power the two disagree by millimetres a second on what the motor can do.
    assert drive["trace_missed_mps"] < 0.01
    assert drive["fastsim_distance_m"] == pytest.approx(drive["twin_distance_m"], rel=1e-3)
    assert fleet.energy_wh[0] == pytest.approx(drive["fastsim_terminal_wh"], rel=0.01)
    ledger = fleet.ledger
    # The air's share: FASTSim takes the mean speed of each 0.1 s, the twin each 0.01 s.
    assert ledger.air[0] / 3600 == pytest.approx(drive["fastsim_drag_wh"], rel=0.002)
    assert ledger.rolling[0] / 3600 == pytest.approx(drive["fastsim_rr_wh"], rel=0.002)
    assert ledger.auxiliary[0] / 3600 == pytest.approx(drive["fastsim_aux_in_wh"], rel=0.002)
