"""One sample of what the bus says, and when it was taken."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tspace_core.config import Vehicle
from tspace_core.link.datagrams import signals_needed


@dataclass(frozen=True, eq=False)
class Observation:
    """One sample of the state's signals, current and voltage.

    Attributes:
        time_ns: ns UTC: the bridge's stamp where it gives one, else the time of arrival.
        values: (signals,) float64 in the order of ``observed_signals``, in the vehicle's units.
        seq: running number from the bridge, where it gives one.
        received_ns: ns of the wall clock at the arrival, beside which a bridge's stamp is late or early;
            None: nobody looked at it.
        stamped: whether ``time_ns`` is the bridge's.
    """

    time_ns: int
    values: NDArray[np.float64]
    seq: int | None = None
    received_ns: int | None = None
    stamped: bool = False


def observed_signals(vehicle: Vehicle) -> tuple[str, ...]:
    """Signals of an observation in their order: the state's, then current and voltage.

    Raises:
        ConfigError: a state signal has no key in datagrams.
    """
    return signals_needed(vehicle)


def observation(
    sample: Mapping[str, float],
    signals: tuple[str, ...],
    *,
    arrived_ns: int,
    received_ns: int | None = None,
    time_ns: int | None = None,
    seq: int | None = None,
) -> Observation:
    """Make an observation of a sample by signal name.

    Args:
        sample: value by signal name.
        signals: the order wanted, see ``observed_signals``.
        arrived_ns: ns UTC of the arrival on a clock that never steps back; the sample's time where the
            bridge gives none.
        received_ns: ns of the wall clock at the arrival.
        time_ns: the bridge's stamp, if it gives one.
        seq: the bridge's running number, if it gives one.
    """
    values = np.array([sample[name] for name in signals], np.float64)
    return Observation(
        time_ns=arrived_ns if time_ns is None else time_ns,
        values=values,
        seq=seq,
        received_ns=received_ns,
        stamped=time_ns is not None,
    )
