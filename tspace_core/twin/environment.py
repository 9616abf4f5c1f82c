"""Gymnasium environment ``TorqueMap-v0``: choose 4 rows of the torque map while a simulated truck drives.

Importing this module registers it. Observation, action and reward are documented in docs/environment.md.
"""

from typing import TYPE_CHECKING, Any, ClassVar

import gymnasium
import numpy as np
from numpy.typing import NDArray

from tspace_core.config.loading import load_vehicle
from tspace_core.config.torque_map import FLASHED_ROWS
from tspace_core.config.vehicle import Vehicle
from tspace_core.records.reward import reward, road_load_w
from tspace_core.twin.cycles import load_route
from tspace_core.twin.decisions import DecisionLoop
from tspace_core.twin.fleet import Fleet
from tspace_core.twin.truck import twin_parameters

if TYPE_CHECKING:
    from tspace_core.twin.trace import Trace

BOUNDS = {
    "velocity": (0.0, 180.0),
    "thrust": (0.0, 100.0),
    "brake": (0.0, 100.0),
    "current": (-3000.0, 3000.0),
    "voltage": (0.0, 1500.0),
    "gear": (0.0, 15.0),
    "motor_torque": (-10000.0, 10000.0),
    "motor_speed": (0.0, 20000.0),
    "soc": (0.0, 100.0),
    "acceleration": (-20.0, 20.0),
}
"""Lowest and highest value of each signal in the observation, in its unit."""

Floats = NDArray[np.float32]


class TorqueMapEnv(gymnasium.Env[Floats, Floats]):  # type: ignore[misc]
    """One simulated truck on one route; a step is one decision, two windows long.

    Args:
        vehicle: id of a vehicle with a twin, or the vehicle.
        driver: id of a simulated driver.
        cycle: name of a cycle; with ``truck_route`` each episode has a route of its own.
        render_mode: only None; there is nothing to draw.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": []}

    def __init__(
        self,
        vehicle: str | Vehicle = "twin_truck",
        driver: str = "tracker",
        cycle: str = "truck_route",
        render_mode: None = None,
    ) -> None:
        self.vehicle = load_vehicle(vehicle) if isinstance(vehicle, str) else vehicle
        self.render_mode = render_mode
        self._driver = driver
        self._cycle = cycle
        sampling = self.vehicle.sampling
        bounds = np.array([BOUNDS[name] for name in sampling.signals], dtype=np.float32)
        self.observation_space = gymnasium.spaces.Box(
            np.tile(bounds[:, 0], sampling.window), np.tile(bounds[:, 1], sampling.window), dtype=np.float32
        )
        size = FLASHED_ROWS * len(self.vehicle.torque_map.pedal_axis)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (size,), dtype=np.float32)
        self._loop: DecisionLoop | None = None
        self._window: Trace | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Floats, dict[str, Any]]:
        """Begin a drive and let its first window pass.

        Args:
            seed: of route, driver and everything else random.
            options: not used.

        Returns:
            The observation and the info, as ``step``.
        """
        super().reset(seed=seed, options=options)
        drive = int(self.np_random.integers(2**31))
        route = load_route(self._cycle, drive)
        rate_hz = 1.0 / twin_parameters(self.vehicle).step_s
        fleet = Fleet(self.vehicle, route, [self._driver], [drive], rate_hz=rate_hz)
        self._loop = DecisionLoop(fleet)
        self._window = self._loop.first_window()
        return self._observation(), self._info(0.0, 0.0)

    def step(self, action: Floats) -> tuple[Floats, float, bool, bool, dict[str, Any]]:
        """Flash ``action`` (68 values in [-1, 1]) and drive on for two windows.

        Returns:
            Observation, reward, terminated (always False: a drive has no end in itself), truncated (the end
            of the route, or of the time that a drive on it may take), and info with ``energy_wh``,
            ``distance_m`` of the step, ``elapsed_s``, ``total_energy_wh``, ``total_distance_m``, ``arrived``
            of the drive, and ``first_row`` of the flash.
        """
        loop, before = self._loop, self._window
        if loop is None or before is None:
            message = "call reset() before step()"
            raise gymnasium.error.ResetNeeded(message)
        fleet = loop.fleet
        energy, distance = float(fleet.energy_wh[0]), float(fleet.distance_m[0])
        done = loop.step(before, np.asarray(action, dtype=np.float32)[None, :])
        self._window = done.window
        used = float(fleet.energy_wh[0]) - energy
        driven = float(fleet.distance_m[0]) - distance
        velocity = np.concatenate([done.half_step.velocity[0], done.window.velocity[0]])
        road = self.vehicle.road
        resistance = road_load_w(
            velocity,
            mass_kg=road.mass_kg,
            rolling_resistance=road.rolling_resistance,
            drag_area_m2=road.drag_area_m2,
            air_density_kg_m3=road.air_density_kg_m3,
        )
        value = reward(
            self.vehicle.reward.kind,
            energy_wh=used,
            distance_m=driven,
            v_start_kmh=before.velocity[0, -1],
            v_end_kmh=velocity[-1],
            duration_s=2.0 * self.vehicle.sampling.window_s,
            road_load_w=resistance.mean(),
            mass_kg=road.mass_kg * road.rotating_mass_factor,
            gamma=self.vehicle.reward.gamma,
            minimum_distance_m=self.vehicle.reward.minimum_distance_m,
        )
        info = self._info(used, driven)
        flash = done.flashes[0]
        if flash is not None:
            info["first_row"] = flash.first_row
        truncated = info["arrived"] or info["elapsed_s"] >= fleet.route.time_limit_s
        return self._observation(), float(value), False, truncated, info

    def _observation(self) -> Floats:
        assert self._loop is not None
        assert self._window is not None
        state = self._loop.states(self._window)[0]
        return np.asarray(np.clip(state, self.observation_space.low, self.observation_space.high))

    def _info(self, energy_wh: float, distance_m: float) -> dict[str, Any]:
        assert self._loop is not None
        fleet = self._loop.fleet
        return {
            "energy_wh": energy_wh,
            "distance_m": distance_m,
            "elapsed_s": float(fleet.elapsed_s[0]),
            "total_energy_wh": float(fleet.energy_wh[0]),
            "total_distance_m": float(fleet.distance_m[0]),
            "arrived": bool(fleet.done[0]),
        }


gymnasium.register(id="TorqueMap-v0", entry_point="tspace_core.twin.environment:TorqueMapEnv")
