"""CAN frames to the signals of a vehicle, batch by batch."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from tspace_core.can.dbc import CanDatabase
from tspace_core.can.decode import Decoded, decode_signals
from tspace_core.can.frames import FrameBatch, FrameFlag
from tspace_core.can.kernels import group_rows
from tspace_core.can.report import ReadReport
from tspace_core.can.samples import Floats, Mask, Samples, sentinel_mask, valid_samples
from tspace_core.can.sources import WantedMessage, WantedSignal, wanted_messages
from tspace_core.config.vehicle import Vehicle

__all__ = ["Samples", "SignalExtractor"]

_STANDARD_IDS = 2048
_NO_SIGNALS = FrameFlag.REMOTE | FrameFlag.ERROR
Rows = npt.NDArray[np.int64]


class SignalExtractor:
    """Decodes the frames that a vehicle's signals are in; keeps state between batches of one log.

    Counted in ``report``, and nothing else is left out:

    =======================  ====================================================================
    ``remote_frame``         frames with a wanted id that only ask for data
    ``error_frame``          error frames
    ``other_bus``            frames with a wanted id on another bus than the configured one, or,
                             without a configured bus, than the first bus that had the id
    ``too_short``            samples missing because the frame ends before the signal
    ``unknown_multiplexer``  samples missing because the DBC lacks the multiplexer's value
    ``sentinel``             samples that mean `no value`, or whose ``invalid_with`` signal does
    ``not_finite``           samples that are NaN or infinite
    ``out_of_range``         samples outside the valid range of the vehicle's file
    =======================  ====================================================================

    Args:
        vehicle: its ``signals`` say what is wanted.
        database: of the vehicle.
        report: of the log.

    Raises:
        DatabaseError: a message or signal of the vehicle is not in the database.
        ConfigError: the vehicle's sources contradict each other.
    """

    def __init__(self, vehicle: Vehicle, database: CanDatabase, report: ReadReport) -> None:
        self._report = report
        self._messages: dict[tuple[int, bool], list[WantedMessage]] = {}
        for wanted in wanted_messages(vehicle, database):
            key = (wanted.layout.id, wanted.layout.extended)
            self._messages.setdefault(key, []).append(wanted)
        self._bus: dict[tuple[int, bool], int] = {}
        self.names = tuple(vehicle.signals)
        standard = sorted(number for number, extended in self._messages if not extended)
        self._extended = np.array(
            sorted(number for number, extended in self._messages if extended), np.uint32
        )
        self._slots = {(number, False): slot for slot, number in enumerate(standard)}
        for number in self._extended.tolist():
            self._slots[number, True] = len(self._slots)
        self._standard = np.full(_STANDARD_IDS, -1, np.int32)
        self._standard[standard] = np.arange(len(standard), dtype=np.int32)

    def extract(self, batch: FrameBatch) -> dict[str, Samples]:
        """The valid samples of every signal of the vehicle in the batch, in log order."""
        errors = np.count_nonzero(batch.flags & FrameFlag.ERROR)
        if errors:
            self._report.drop("error_frame", count=int(errors), place="log", detail="carries no signals")
        rows, starts = self._group(batch, int(_NO_SIGNALS))
        if np.any(batch.flags & FrameFlag.REMOTE):
            self._count_remote(batch)
        samples: dict[str, Samples] = {}
        for key, messages in self._messages.items():
            slot = self._slots[key]
            mine = rows[starts[slot] : starts[slot + 1]]
            by_bus = self._by_bus(messages, batch, mine)
            for wanted in messages:
                samples.update(self._of_message(wanted, batch, by_bus[wanted.bus]))
        return {name: samples[name] for name in self.names}

    def _group(self, batch: FrameBatch, refused: int) -> tuple[Rows, Rows]:
        rows = np.empty(len(batch), np.int64)
        starts: Rows = group_rows(batch.id, batch.flags, refused, self._standard, self._extended, rows)
        return rows, starts

    def _count_remote(self, batch: FrameBatch) -> None:
        asking = batch.select((batch.flags & _NO_SIGNALS) == FrameFlag.REMOTE)
        _, starts = self._group(asking, int(FrameFlag.ERROR))
        if starts[-1]:
            detail = "a remote frame asks for data and has none"
            self._report.drop("remote_frame", count=int(starts[-1]), place="log", detail=detail)

    def _by_bus(self, messages: list[WantedMessage], batch: FrameBatch, rows: Rows) -> dict[int | None, Rows]:
        """The rows of one id for each bus that it is wanted from; those of no wanted bus are counted."""
        if not len(rows):
            return {wanted.bus: rows for wanted in messages}
        layout = messages[0].layout
        seen = batch.bus[rows]
        first_bus = self._bus.setdefault((layout.id, layout.extended), int(seen[0]))
        wanted_buses = {one.bus: first_bus if one.bus is None else one.bus for one in messages}
        foreign = np.logical_and.reduce([seen != number for number in set(wanted_buses.values())])
        if foreign.any():
            used = " and ".join(map(str, sorted(set(wanted_buses.values()))))
            why = "the first that had the id" if None in wanted_buses else "as the vehicle's file says"
            detail = f"seen on bus {seen[int(np.argmax(foreign))]}; bus {used} is used, {why}"
            lost = int(np.count_nonzero(foreign))
            self._report.drop("other_bus", count=lost, place=layout.place, detail=detail)
        return {
            bus: rows if (seen == number).all() else rows[seen == number]
            for bus, number in wanted_buses.items()
        }

    def _of_message(
        self, wanted: WantedMessage, batch: FrameBatch, rows: Rows
    ) -> Iterator[tuple[str, Samples]]:
        if not len(rows):
            for signal in wanted.signals:
                yield signal.name, Samples.empty()
            return
        parts = [part for signal in wanted.signals for part in signal.parts]
        # The rows of a stored batch, sorted by id, are a run: a slice is several times as fast.
        run = int(rows[-1]) - int(rows[0]) + 1 == len(rows)
        at = slice(int(rows[0]), int(rows[-1]) + 1) if run else rows
        payload, length, time = batch.payload[at].copy(), batch.length[at], batch.time[at]
        decoded = decode_signals(wanted.layout, payload, length, parts)
        physical = {signal.name: _physical(signal, decoded) for signal in wanted.signals}
        no_value = {
            signal.name: sentinel_mask(signal.source, physical[signal.name]) for signal in wanted.signals
        }
        for signal in wanted.signals:
            refused = no_value[signal.name]
            for other in signal.source.invalid_with:
                refused = refused | no_value[other]
            there = self._present(wanted, signal, decoded)
            when, value = time, physical[signal.name]
            if not there.all():
                when, value, refused = when[there], value[there], refused[there]
            yield (
                signal.name,
                valid_samples(signal.name, signal.source, when, value, refused, self._report),
            )

    def _present(self, wanted: WantedMessage, signal: WantedSignal, decoded: dict[str, Decoded]) -> Mask:
        parts = [decoded[part] for part in signal.parts]
        present: Mask = np.logical_and.reduce([part.present for part in parts])
        if present.all():
            return present
        place = f"{signal.name} in {wanted.layout.place}"
        short = np.logical_or.reduce([part.too_short for part in parts])
        unknown = np.logical_or.reduce([part.unknown_multiplexer for part in parts]) & ~short
        if short.any():
            detail = "the frame ends before the signal"
            self._report.drop("too_short", count=int(np.count_nonzero(short)), place=place, detail=detail)
        if unknown.any():
            detail = "the DBC lacks the value of the multiplexer"
            count = int(np.count_nonzero(unknown))
            self._report.drop("unknown_multiplexer", count=count, place=place, detail=detail)
        return present


def _physical(signal: WantedSignal, decoded: dict[str, Decoded]) -> Floats:
    """float64[n]; the mean where the signal has several parts."""
    if len(signal.parts) == 1:
        return decoded[signal.parts[0]].value
    total = decoded[signal.parts[0]].value
    for part in signal.parts[1:]:
        total = total + decoded[part].value
    return total / len(signal.parts)
