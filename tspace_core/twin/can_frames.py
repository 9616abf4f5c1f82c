"""From a simulated trace to CAN frames: each DBC message at its own rate, with counters."""

from dataclasses import dataclass

import cantools
import numpy as np
from cantools.database.can import Database, Message, Signal
from numpy.typing import NDArray

from tspace_core.config.vehicle import SignalSource, Vehicle
from tspace_core.errors import TwinError
from tspace_core.twin.arrays import Array
from tspace_core.twin.trace import SIGNALS, Trace

COUNTER_SUFFIX = "_Counter"
TRANSMIT_OFFSET_NS = 150_000
"""Time from the sample to the first message on the bus; each further message follows by as much."""
JITTER_NS = 40_000
"""Largest deviation of a message from its schedule."""


@dataclass(frozen=True, eq=False)
class Frames:
    """Classical CAN frames in order of time; arrays of one entry a frame.

    Attributes:
        time_ns: int64, ns since the start of the drive.
        id: uint32, without flag bits.
        extended: bool.
        length: uint8, bytes.
        payload: uint8, shape (n, 8).
    """

    time_ns: NDArray[np.int64]
    id: NDArray[np.uint32]
    extended: NDArray[np.bool_]
    length: NDArray[np.uint8]
    payload: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.time_ns)


Carried = tuple[str, Signal, SignalSource]
"""A signal of the twin: its name, where it stands in its message, and how it is read there."""


class TwinMessages:
    """The messages of a twin's DBC and the signals that the twin writes into them.

    Args:
        vehicle: its ``signals`` say which message and signal hold which value.

    Attributes:
        messages: all messages, by id.
        carried: by name of a message, what the twin writes there.

    Raises:
        TwinError: a message of the DBC has no cycle time, or a signal does not exist there.
    """

    def __init__(self, vehicle: Vehicle) -> None:
        files = vehicle.dbc_files()
        database = Database()
        for path in files:
            loaded = cantools.database.load_file(path)
            if not isinstance(loaded, Database):
                message = f"{path}: holds no CAN messages; the twin writes classical CAN through a DBC"
                raise TwinError(message)
            database.messages.extend(loaded.messages)
        database.refresh()
        self.messages: list[Message] = sorted(database.messages, key=lambda each: each.frame_id)
        self.carried: dict[str, list[Carried]] = {}
        for name, source in vehicle.signals.items():
            frame, signal = _locate(database, name, source)
            if name in SIGNALS:
                self.carried.setdefault(frame.name, []).append((name, signal, source))
        for frame in self.messages:
            if not frame.cycle_time:
                message = (
                    f"message {frame.name} in {files[0].name}: GenMsgCycleTime is missing or 0; set it in ms"
                )
                raise TwinError(message)


def _locate(database: Database, name: str, source: SignalSource) -> tuple[Message, Signal]:
    try:
        frame = (
            database.get_message_by_frame_id(source.message)
            if isinstance(source.message, int)
            else database.get_message_by_name(str(source.message))
        )
        return frame, frame.get_signal_by_name(str(source.signal))
    except KeyError as error:
        message = f"signal {name}: {source.message}/{source.signal} is not in the twin's DBC"
        raise TwinError(message) from error


def samples_between(frame: Message, rate_hz: float) -> int:
    """Samples from one sending of a message to the next.

    Raises:
        TwinError: the message is faster than the samples.
    """
    every = round((frame.cycle_time or 0) * 1e-3 * rate_hz)
    if every < 1:
        message = (
            f"message {frame.name}: every {frame.cycle_time} ms is faster than {rate_hz} samples a second"
        )
        raise TwinError(message)
    return every


class FrameMaker:
    """Writes a vehicle's signals into the messages of its DBC.

    Args:
        vehicle: its ``signals`` say which message and signal hold which value.
        seed: of the jitter in the messages' stamps.

    Raises:
        TwinError: a message of the DBC has no cycle time, or a signal does not exist there.
    """

    def __init__(self, vehicle: Vehicle, seed: int) -> None:
        self._twin = TwinMessages(vehicle)
        self._generator = np.random.default_rng([seed, 0x63616E])

    def frames(self, trace: Trace, index: int, rate_hz: float) -> Frames:
        """Frames of one vehicle's valid samples, from the first sample on.

        Args:
            trace: samples from the start of the drive.
            index: which vehicle.
            rate_hz: samples a second; the fastest message must not be faster.
        """
        count = int(np.count_nonzero(trace.valid[index]))
        time_ns = np.round(trace.time_s[index, :count] * 1e9).astype(np.int64)
        parts = [
            self._message(frame, number, trace, index, time_ns, rate_hz)
            for number, frame in enumerate(self._twin.messages)
        ]
        stamps = np.concatenate([part.time_ns for part in parts])
        order = np.argsort(stamps, kind="stable")
        return Frames(
            stamps[order],
            np.concatenate([part.id for part in parts])[order],
            np.concatenate([part.extended for part in parts])[order],
            np.concatenate([part.length for part in parts])[order],
            np.concatenate([part.payload for part in parts])[order],
        )

    def _message(
        self,
        frame: Message,
        number: int,
        trace: Trace,
        index: int,
        time_ns: NDArray[np.int64],
        rate_hz: float,
    ) -> Frames:
        every = samples_between(frame, rate_hz)
        rows = slice(0, len(time_ns), every)
        stamps = time_ns[rows] + TRANSMIT_OFFSET_NS * (number + 1)
        stamps = stamps + self._generator.integers(-JITTER_NS, JITTER_NS + 1, len(stamps))
        payload = np.zeros((len(stamps), 8), dtype=np.uint8)
        for name, signal, source in self._twin.carried.get(frame.name, []):
            value = trace.signal(name)[index, : len(time_ns)][rows]
            put(payload, signal, raw_values(signal, (source.sign * value - source.offset) / source.scale))
        for signal in frame.signals:
            if signal.name.endswith(COUNTER_SUFFIX):
                put(payload, signal, np.arange(len(stamps), dtype=np.int64) % (1 << signal.length))
        return Frames(
            stamps,
            np.full(len(stamps), frame.frame_id, dtype=np.uint32),
            np.full(len(stamps), frame.is_extended_frame, dtype=np.bool_),
            np.full(len(stamps), frame.length, dtype=np.uint8),
            payload,
        )


def raw_values(signal: Signal, physical: Array) -> NDArray[np.int64]:
    """Raw integers of physical values: rounded, and held at the ends of what the signal can carry."""
    raw = np.round((physical - signal.offset) / signal.scale)
    low, high = (
        (-(1 << signal.length - 1), (1 << signal.length - 1) - 1)
        if signal.is_signed
        else (
            0,
            (1 << signal.length) - 1,
        )
    )
    if signal.minimum is not None:
        low = max(low, int(np.ceil((signal.minimum - signal.offset) / signal.scale)))
    if signal.maximum is not None:
        high = min(high, int(np.floor((signal.maximum - signal.offset) / signal.scale)))
    return np.asarray(np.clip(raw, low, high), dtype=np.int64)


def put(payload: NDArray[np.uint8], signal: Signal, raw: NDArray[np.int64]) -> None:
    """Write raw integers into payloads of shape (n, 8), least significant bit first.

    Bit numbers are those of the DBC: bit b lies in byte b // 8. Little-endian signals start at their least
    significant bit and go up; big-endian ones start at their most significant bit and go down within a byte,
    then on to the top of the next byte.
    """
    if signal.byte_order == "little_endian":
        places = [signal.start + k for k in range(signal.length)]
    else:
        place = signal.start
        descending = []
        for _ in range(signal.length):
            descending.append(place)
            place = place - 1 if place % 8 else place + 15
        places = descending[::-1]
    for k, place in enumerate(places):
        payload[:, place // 8] |= (((raw >> k) & 1) << (place % 8)).astype(np.uint8)
