"""Gymnasium environment ``TorqueMap-v0``: choose 4 rows of the torque map while a simulated truck drives.

Importing this module registers it. Observation, action and reward are documented in docs/environment.md.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import gymnasium
import numpy as np
from numpy.typing import NDArray

from tspace_core.config.loading import load_vehicle
from tspace_core.config.torque_map import FLASHED_ROWS
from tspace_core.config.vehicle import RewardConfig, Vehicle
from tspace_core.errors import TwinError
from tspace_core.guard.state import Accepted
from tspace_core.records.flash_journal import as_action
from tspace_core.records.reward import RewardKind
from tspace_core.twin.cycles import load_route
from tspace_core.twin.decisions import DecisionLoop
from tspace_core.twin.fleet import Fleet
from tspace_core.twin.fleet_guard import FleetGuard
from tspace_core.twin.step_reward import step_rewards
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
        driver: id of a simulated driver; of several, each drive takes the next in turn.
        cycle: name of a cycle; with ``truck_route`` each episode has a route of its own.
        reward: kind of reward, see docs/rewards.md; None: that of the vehicle's file.
        time_limit_s: a drive ends (``truncated``) once it has taken this long; None: at the route's end.
        level: take the road's height out of the reward: plus the potential energy gained in the step, Wh.
            Potential-based as kinetic energy is, so what is best stays best; but a truck must know the height
            of its road for it, and the twin does. Rewards in Wh only.
        traction_factor: with reward ``loss``, Wh at the battery that a Wh of work at the wheels counts for
            (road load, kinetic energy, and with ``level`` potential energy). With 1, an acceleration that is
            put off saves its losses in this step and pays for them later; with what driving really takes at
            the margin, 1.1 for the twins, it saves nothing. Over a whole route it changes little: the sum
            of that work is nearly the same for all maps.
        braking_factor: the same for steps in which the wheels give work back, None: as ``traction_factor``.
            With what the motor really gives back at the margin, 0.9 for the twins, braking with it costs
            nothing and friction brakes show; with 1.1 all braking looks dear, and that is three quarters of
            the noise.
        guarded: with the vehicle's guard in front of every flash, as on the road: what it leaves of an action
            takes effect, and the info says what that is. Without one an action takes effect as it is, within
            the limits of a flash.
        render_mode: only None; there is nothing to draw.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": []}

    def __init__(
        self,
        vehicle: str | Vehicle = "twin_truck",
        driver: str | Sequence[str] = "tracker",
        cycle: str = "truck_route",
        render_mode: None = None,
        reward: RewardKind | None = None,
        time_limit_s: float | None = None,
        *,
        level: bool = False,
        traction_factor: float = 1.0,
        braking_factor: float | None = None,
        guarded: bool = False,
    ) -> None:
        self.vehicle = load_vehicle(vehicle) if isinstance(vehicle, str) else vehicle
        if reward is not None:
            kind = RewardConfig.model_validate({**self.vehicle.reward.model_dump(), "kind": reward})
            self.vehicle = self.vehicle.model_copy(update={"reward": kind})
        self.render_mode = render_mode
        self._drivers = [driver] if isinstance(driver, str) else list(driver)
        if not self._drivers or (time_limit_s is not None and not time_limit_s > 0):
            message = f"{len(self._drivers)} drivers, time_limit_s {time_limit_s}: at least one, and above 0"
            raise TwinError(message)
        if level and self.vehicle.reward.kind == "energy_per_distance":
            message = "level adds Wh, energy_per_distance is in Wh/km: choose another reward, or level=False"
            raise TwinError(message)
        braking = traction_factor if braking_factor is None else braking_factor
        if (traction_factor, braking) != (1.0, 1.0) and self.vehicle.reward.kind != "loss":
            message = (
                f"traction_factor {traction_factor:g} and braking_factor {braking:g} are for reward 'loss', "
                f"not {self.vehicle.reward.kind!r}: leave them at 1"
            )
            raise TwinError(message)
        self._level = level
        self._traction_factor, self._braking_factor = traction_factor, braking
        self._time_limit_s = time_limit_s
        self._guarded = guarded
        self._drives = 0
        self._cycle = cycle
        sampling = self.vehicle.sampling
        bounds = np.array([BOUNDS[name] for name in sampling.signals], dtype=np.float32)
        self.observation_space = gymnasium.spaces.Box(
            np.tile(bounds[:, 0], sampling.window), np.tile(bounds[:, 1], sampling.window), dtype=np.float32
        )
        size = FLASHED_ROWS * len(self.vehicle.torque_map.pedal_axis)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (size,), dtype=np.float32)
        self._default = self.vehicle.default_map().table
        self._loop: DecisionLoop | None = None
        self._guard: FleetGuard | None = None
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
        driver = self._drivers[self._drives % len(self._drivers)]
        self._drives += 1
        fleet = Fleet(self.vehicle, route, [driver], [drive], rate_hz=rate_hz)
        self._guard = FleetGuard(fleet, [driver]) if self._guarded else None
        self._loop = DecisionLoop(fleet, None if self._guard is None else self._guard.answer)
        self._window = self._loop.first_window()
        return self._observation(), self._info(0.0, 0.0)

    def step(self, action: Floats) -> tuple[Floats, float, bool, bool, dict[str, Any]]:
        """Flash ``action`` (68 values in [-1, 1]) and drive on for two windows.

        Returns:
            Observation, reward, terminated (always False: a drive has no end in itself), truncated (the end
            of the route, or of the time that a drive on it may take), and info with ``energy_wh``,
            ``distance_m`` of the step, ``elapsed_s``, ``total_energy_wh``, ``total_distance_m``, ``arrived``
            of the drive, and ``first_row`` of the decision's 4 rows. Behind a guard also ``carried_out``:
            what these rows are now, as an action, ``rule``: which one refused the flash, or None, and
            ``clipped``: the cells that each rule changed.
        """
        loop, before = self._loop, self._window
        if loop is None or before is None:
            message = "call reset() before step()"
            raise gymnasium.error.ResetNeeded(message)
        fleet = loop.fleet
        energy, distance = float(fleet.energy_wh[0]), float(fleet.distance_m[0])
        height = float(fleet.ledger.potential[0])
        done = loop.step(before, np.asarray(action, dtype=np.float32)[None, :])
        self._window = done.window
        used = float(fleet.energy_wh[0]) - energy
        driven = float(fleet.distance_m[0]) - distance
        value = step_rewards(
            self.vehicle, np.array([used]), np.array([driven]), before, done.half_step, done.window
        )[0]
        if self._level:
            value = value + (float(fleet.ledger.potential[0]) - height) / 3600.0
        if self.vehicle.reward.kind == "loss":
            # The loss is minus what was used plus the work at the wheels.
            work = value + used
            value = value + ((self._traction_factor if work > 0 else self._braking_factor) - 1.0) * work
        # Of a refused flash, too: it says which rows ``carried_out`` is about.
        info = self._info(used, driven) | {"first_row": done.first_rows[0]}
        if self._guard is not None:
            info |= self._answer(self._guard, done.first_rows[0])
        limit_s = fleet.route.time_limit_s
        if self._time_limit_s is not None:
            limit_s = min(limit_s, self._time_limit_s)
        # Half a sample of tolerance: the clock is a sum of steps.
        truncated = info["arrived"] or info["elapsed_s"] >= limit_s - 0.5 / fleet.rate_hz
        return self._observation(), float(value), False, truncated, info

    def _observation(self) -> Floats:
        assert self._loop is not None
        assert self._window is not None
        state = self._loop.states(self._window)[0]
        return np.asarray(np.clip(state, self.observation_space.low, self.observation_space.high))

    def _answer(self, guard: FleetGuard, first_row: int) -> dict[str, Any]:
        """What the guard said to the newest decision, and what is live now."""
        found = guard.answers[0]
        rows = slice(first_row, first_row + FLASHED_ROWS)
        live = guard.fleet.map(0).table[rows]
        carried_out, _ = as_action(live, self._default[rows], self.vehicle.torque_map.budget_nm)
        return {
            "carried_out": carried_out,
            "rule": None if found is None or isinstance(found, Accepted) else found.rule,
            "clipped": dict(found.clipped) if isinstance(found, Accepted) else {},
        }

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
