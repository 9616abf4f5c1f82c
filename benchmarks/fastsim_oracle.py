"""FASTSim's energy for the twin's own drives: the oracle of tests/twin/test_fastsim.py.

FASTSim 2.1.5 holds numpy at 2.0 and so lives in an environment of its own. Run by hand, nightly, or when the
test says that the figures are of other parameters::

    python -m venv /tmp/fastsim && /tmp/fastsim/bin/pip install fastsim==2.1.5
    .venv/bin/python benchmarks/fastsim_oracle.py --fastsim-python /tmp/fastsim/bin/python

The twin drives four cycles by time with the tracking driver; FASTSim gets each achieved trace in steps of
0.1 s and a vehicle with the same figures: mass, rotating masses (as wheel inertia), drag area, rolling
resistance, driveline efficiency, motor efficiency over power, power limit, auxiliaries. Compared is the
energy at the battery's terminals: FASTSim's battery has a constant round-trip efficiency behind them, the
twin's an open-circuit voltage and a resistance, which cannot be handed over. Two more things differ: the
twin's fade of regeneration towards standstill is a ramp, FASTSim's a logistic curve (matched in its middle
and slope), and FASTSim looks efficiencies up in steps of 1 % of power. FASTSim always regenerates before it
uses the friction brake, so the twin drives with ``brake_blend_share`` 1 here.
"""

import argparse
import json
import math
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tspace_core.config.vehicle import Vehicle

PROJECT = Path(__file__).resolve().parents[1]
FIGURES = PROJECT / "tests" / "twin" / "fastsim_figures.json"
VEHICLES = ("twin_truck", "twin_mule")
CYCLES = ("udds", "hwfet", "us06", "wltc_class3b")
DRIVER, SEED = "tracker", 1
TRACE_HZ = 10.0
BATTERY_CAR = 17
"""Number of a battery-electric vehicle in FASTSim's table; all that matters here is then overwritten."""
MPH_PER_KMH = 1.0 / 1.609344


def handed_over(vehicle: "Vehicle") -> dict[str, Any]:
    """The vehicle's figures in FASTSim's terms."""
    from tspace_core.twin.truck import twin_parameters

    road, twin = vehicle.road, twin_parameters(vehicle)
    low, high = (speed * MPH_PER_KMH for speed in twin.regen_fade_kmh)
    # share = 1 / (1 + a exp(-b (mph + 1))): the slope in the middle is b / 4, the ramp's is 1 / (high - low).
    b = 4.0 / (high - low)
    return {
        "veh_override_kg": road.mass_kg,
        "drag_coef": road.drag_area_m2,
        "frontal_area_m2": 1.0,
        "wheel_rr_coef": road.rolling_resistance,
        "wheel_radius_m": twin.wheel_radius_m,
        "num_wheels": 4,
        "wheel_inertia_kg_m2": (road.rotating_mass_factor - 1) * road.mass_kg * twin.wheel_radius_m**2 / 4,
        "trans_eff": twin.driveline_efficiency,
        "aux_kw": twin.auxiliary_kw,
        "mc_max_kw": twin.power_max_kw,
        "mc_pwr_out_perc": list(twin.motor_efficiency.power_fraction),
        "mc_eff_map": list(twin.motor_efficiency.efficiency),
        "mc_sec_to_peak_pwr": 0.01,
        "ess_max_kw": 3 * twin.power_max_kw,
        "ess_max_kwh": 2000.0,
        "min_soc": 0.0,
        "max_soc": 1.0,
        "max_trac_mps2": 50.0,
        "wheel_coef_of_fric": 5.0,
        "max_regen": 1.0,
        "regen_b": b,
        "regen_a": math.exp(b * (0.5 * (low + high) + 1.0)),
        "air_density_kg_per_m3": road.air_density_kg_m3,
    }


def export(folder: Path) -> list[dict[str, Any]]:
    """Drive the cycles and leave the achieved traces in ``folder``; returns one entry a drive."""
    import numpy as np

    from tspace_core.config.loading import load_vehicle
    from tspace_core.twin.fleet import Fleet
    from tspace_core.twin.truck import blended, drive_fingerprint

    drives = []
    for vehicle_id in VEHICLES:
        vehicle = blended(load_vehicle(vehicle_id))
        for cycle in CYCLES:
            fleet = Fleet(vehicle, cycle, [DRIVER], [SEED], mode="time", rate_hz=TRACE_HZ)
            trace = fleet.run()
            moved = trace.velocity[0, trace.valid[0]] / 3.6
            name = f"{vehicle_id}-{cycle}.npy"
            np.save(folder / name, np.concatenate([[0.0], moved]))
            drives.append(
                {
                    "vehicle": vehicle_id,
                    "cycle": cycle,
                    "trace": name,
                    "parameters": handed_over(vehicle),
                    "fingerprint": drive_fingerprint(vehicle),
                    "twin_terminal_wh": float(fleet.energy_wh[0]),
                    "twin_distance_m": float(fleet.distance_m[0]),
                }
            )
            print(f"drove {vehicle_id} on {cycle}", file=sys.stderr)
    return drives


def compute(folder: Path) -> None:
    """In FASTSim's environment: add FASTSim's figures to every drive of ``folder``/drives.json."""
    import importlib.metadata

    import fastsim  # type: ignore[import-not-found]  # only in its own environment
    import numpy as np

    fastsim.utils.disable_logging()
    drives = json.loads((folder / "drives.json").read_text())
    for drive in drives:
        speed = np.load(folder / drive.pop("trace"))
        parameters = dict(drive.pop("parameters"))
        density = parameters.pop("air_density_kg_per_m3")
        vehicle = fastsim.vehicle.Vehicle.from_vehdb(BATTERY_CAR)
        for field, value in parameters.items():
            setattr(vehicle, field, np.array(value) if isinstance(value, list) else value)
        vehicle.set_derived()
        cycle = fastsim.cycle.Cycle.from_dict(
            {
                "cycSecs": np.arange(len(speed)) / TRACE_HZ,
                "cycMps": speed,
                "cycGrade": np.zeros(len(speed)),
                "cycRoadType": np.zeros(len(speed)),
            }
        )
        sim = fastsim.simdrive.SimDrive(cycle, vehicle)
        sim.props.air_density_kg_per_m3 = density
        sim.props.a_grav_mps2 = 9.80665
        sim.sim_drive(0.8)
        step = 1.0 / TRACE_HZ
        drive["fastsim_terminal_wh"] = float(np.sum(sim.ess_kw_out_ach) * step / 3.6)
        drive["fastsim_distance_m"] = float(np.sum(sim.dist_m))
        drive["trace_missed_mps"] = float(np.max(np.abs(sim.mps_ach - speed)))
        for name in ("drag_kw", "rr_kw", "cyc_fric_brake_kw", "accel_kw", "aux_in_kw"):
            drive[f"fastsim_{name[:-3]}_wh"] = float(np.sum(getattr(sim, name)) * step / 3.6)
        print(f"FASTSim drove {drive['vehicle']} on {drive['cycle']}", file=sys.stderr)
    version = importlib.metadata.version("fastsim")
    (folder / "figures.json").write_text(json.dumps({"fastsim": version, "drives": drives}))


def main() -> None:
    """Write the figures and print how far twin and FASTSim are apart."""
    parser = argparse.ArgumentParser(description="Energy of the twin's drives as FASTSim sees them")
    parser.add_argument(
        "--fastsim-python", default="/tmp/fastsim/bin/python", help="Python with fastsim 2.1.5"
    )
    parser.add_argument("--compute", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.compute:
        compute(arguments.compute)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "drives.json").write_text(json.dumps(export(folder)))
        command = [arguments.fastsim_python, str(Path(__file__).resolve()), "--compute", str(folder)]
        subprocess.run(command, check=True)
        figures = json.loads((folder / "figures.json").read_text())
    figures["command"] = "benchmarks/fastsim_oracle.py --fastsim-python <Python with fastsim 2.1.5>"
    figures["driver"], figures["seed"], figures["trace_hz"] = DRIVER, SEED, TRACE_HZ
    print(f"{'vehicle':12} {'cycle':14} {'twin Wh':>10} {'FASTSim Wh':>11} {'difference':>10}")
    for drive in figures["drives"]:
        twin, other = drive["twin_terminal_wh"], drive["fastsim_terminal_wh"]
        print(
            f"{drive['vehicle']:12} {drive['cycle']:14} {twin:10.1f} {other:11.1f} {twin / other - 1:10.2%}"
        )
    FIGURES.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
