"""What a fleet gives back: the sampled trace of its vehicles and the ledger of their energy."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tspace_core.errors import TwinError
from tspace_core.twin.arrays import Array


@dataclass(frozen=True, eq=False)
class Trace:
    """What the vehicles did, sampled; every array has shape (vehicles, samples).

    The last sample of an interval is taken: sample k is the state at ``time_s[:, k]``. A vehicle that has
    reached the end stands still there and its samples have ``valid`` False.

    Attributes:
        time_s: s since the start.
        distance_m: m driven.
        velocity: km/h.
        thrust: accelerator pedal, % of full travel.
        brake: brake pedal, % of full travel.
        current: A, positive for discharge.
        voltage: V at the battery's terminals.
        gear: 1 (one fixed forward gear).
        motor_torque: Nm.
        motor_speed: rpm.
        soc: state of charge, %.
        reference: reference speed, km/h.
        acceleration: m/s2.
        valid: bool.
    """

    time_s: Array
    distance_m: Array
    velocity: Array
    thrust: Array
    brake: Array
    current: Array
    voltage: Array
    gear: Array
    motor_torque: Array
    motor_speed: Array
    soc: Array
    reference: Array
    acceleration: Array
    valid: NDArray[np.bool_]

    def __len__(self) -> int:
        return int(self.time_s.shape[1])

    def signal(self, name: str) -> Array:
        """The array of a signal by the name it has in a vehicle's config (velocity, thrust, ...).

        Raises:
            TwinError: the twin does not have that signal.
        """
        if name not in SIGNALS:
            message = f"the twin has no signal {name!r}; it has {', '.join(SIGNALS)}"
            raise TwinError(message)
        array: Array = getattr(self, name)
        return array

    @classmethod
    def concat(cls, blocks: Sequence["Trace"]) -> "Trace":
        """The blocks one after the other in time."""
        names = cls.__dataclass_fields__
        return cls(**{name: np.concatenate([getattr(b, name) for b in blocks], axis=1) for name in names})


SIGNALS = (
    "velocity",
    "thrust",
    "brake",
    "current",
    "voltage",
    "gear",
    "motor_torque",
    "motor_speed",
    "soc",
    "reference",
    "acceleration",
)


@dataclass(frozen=True, eq=False)
class EnergyLedger:
    """Where the battery's energy went, in J since the start; every array has shape (vehicles,).

    Attributes:
        chemical: taken from the cells, OCV x I.
        terminal: taken from the battery's terminals, V x I.
        kinetic: gained, rotating masses included.
        potential: gained.
        rolling: lost in the tyres.
        air: lost to the air (gained, with a tail wind).
        driveline: lost in gears and axle.
        motor: lost in motor and inverter.
        battery: lost in the battery's resistance.
        friction_brake: lost in the brakes.
        auxiliary: used by auxiliaries.
    """

    chemical: Array
    terminal: Array
    kinetic: Array
    potential: Array
    rolling: Array
    air: Array
    driveline: Array
    motor: Array
    battery: Array
    friction_brake: Array
    auxiliary: Array

    @property
    def used(self) -> Array:
        """Sum of all gains and losses, J."""
        lost = self.rolling + self.air + self.driveline + self.motor + self.battery + self.friction_brake
        return self.kinetic + self.potential + lost + self.auxiliary

    @property
    def turnover(self) -> Array:
        """Sum of the absolute values of all entries, J: what the balance's error is measured against."""
        names = [name for name in self.__dataclass_fields__ if name not in ("chemical", "terminal")]
        return np.asarray(sum(np.abs(getattr(self, name)) for name in names))

    @property
    def imbalance(self) -> Array:
        """|chemical - used| / turnover."""
        return np.abs(self.chemical - self.used) / np.maximum(self.turnover, 1.0)
