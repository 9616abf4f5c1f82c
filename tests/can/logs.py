"""Messages of all kinds, and small writers of log formats that python-can cannot write."""

import random
from collections.abc import Iterable, Sequence
from pathlib import Path

import can
import numpy as np

from tspace_core.can.frames import FrameBatch, FrameFlag
from tspace_core.can.readers import open_log
from tspace_core.can.report import ReadReport

GAP_US = 30_000_000
FD_LENGTHS = (0, 1, 5, 8, 12, 16, 20, 24, 32, 48, 64)
Row = tuple[int, int, int, int, int, bytes]


def random_messages(
    count: int,
    seed: int,
    *,
    start_s: float,
    step_us: int = 250,
    kinds: Sequence[str] = ("data",),
    buses: int = 1,
    with_tx: bool = False,
) -> list[can.Message]:
    """Messages of the given kinds (data, fd, remote, error); their clock stands still and jumps at times."""
    generator = random.Random(seed)
    messages = []
    start_us = round(start_s * 1e6)
    time_us = start_us
    for index in range(count):
        kind = generator.choice(list(kinds)) if index else "data"
        extended = generator.random() < 0.5
        length = generator.choice(FD_LENGTHS) if kind == "fd" else generator.randint(0, 8)
        channel = generator.randrange(buses)
        is_tx = with_tx and generator.random() < 0.3
        data = b"" if kind in ("remote", "error") else generator.randbytes(length)
        messages.append(
            can.Message(
                timestamp=time_us / 1e6,
                arbitration_id=0 if kind == "error" else generator.getrandbits(29 if extended else 11),
                is_extended_id=extended or kind == "error",
                is_fd=kind == "fd",
                is_remote_frame=kind == "remote",
                is_error_frame=kind == "error",
                bitrate_switch=kind == "fd" and generator.random() < 0.5,
                error_state_indicator=kind == "fd" and generator.random() < 0.5,
                is_rx=not is_tx or kind == "error",
                dlc=length if kind != "error" else 0,
                data=data,
                channel=channel,
            )
        )
        if index in (count // 3, count // 2):
            time_us = max(start_us, time_us - 10 * step_us)
        elif index == count // 4:
            time_us += GAP_US
        elif generator.random() < 0.8:
            time_us += step_us
    return messages


def flags_of(message: can.Message) -> int:
    """The flags that a batch must show for python-can's message."""
    flags = FrameFlag(0)
    flags |= FrameFlag.EXTENDED if message.is_extended_id else FrameFlag(0)
    flags |= FrameFlag.REMOTE if message.is_remote_frame else FrameFlag(0)
    flags |= FrameFlag.ERROR if message.is_error_frame else FrameFlag(0)
    flags |= FrameFlag.FD if message.is_fd else FrameFlag(0)
    flags |= FrameFlag.BRS if message.bitrate_switch else FrameFlag(0)
    flags |= FrameFlag.ESI if message.error_state_indicator else FrameFlag(0)
    flags |= FrameFlag.TX if not message.is_rx else FrameFlag(0)
    return int(flags)


def channel_of(message: can.Message) -> int:
    """The channel of a message that has a numbered one."""
    assert isinstance(message.channel, int)
    return message.channel


def read_all(
    path: Path, *, max_frames: int = 1 << 20, format: str | None = None
) -> tuple[FrameBatch, ReadReport]:
    """All frames of a log, and its report."""
    reader = open_log(path, format=format)
    return FrameBatch.concat(reader.batches(max_frames)), reader.report


def rows(batch: FrameBatch) -> list[Row]:
    """A batch as plain tuples: time, bus, id, flags, length, payload."""
    payloads = [
        bytes(payload[:length]) for payload, length in zip(batch.payload, batch.length.tolist(), strict=True)
    ]
    columns = (batch.time, batch.bus, batch.id, batch.flags, batch.length)
    return list(zip(*(column.tolist() for column in columns), payloads, strict=True))


def assert_same(batch: FrameBatch, other: FrameBatch) -> None:
    """Both hold the same frames in the same order."""
    for name in ("time", "bus", "id", "flags", "length"):
        np.testing.assert_array_equal(getattr(batch, name), getattr(other, name), err_msg=name)
    assert rows(batch) == rows(other)


def write_candump(path: Path, messages: Iterable[can.Message]) -> None:
    """`candump -L`, as can-utils 2023 writes it (python-can's writer bends a clock that jumps back)."""
    lines = []
    for message in messages:
        identifier = (
            f"{message.arbitration_id:08X}" if message.is_extended_id else f"{message.arbitration_id:03X}"
        )
        if message.is_error_frame:
            frame = "20000080#0000000000000000"
        elif message.is_remote_frame:
            frame = f"{identifier}#R{message.dlc}"
        elif message.is_fd:
            bits = int(message.bitrate_switch) + 2 * int(message.error_state_indicator)
            frame = f"{identifier}##{bits:X}{message.data.hex().upper()}"
        else:
            frame = f"{identifier}#{message.data.hex().upper()}"
        direction = "R" if message.is_rx else "T"
        lines.append(f"({message.timestamp:.6f}) can{message.channel} {frame} {direction}\n")
    path.write_text("".join(lines))


def write_crtd(path: Path, messages: Iterable[can.Message]) -> None:
    """OVMS' CRTD with the bus before the record type."""
    lines = ["0.000000 CXX written by a test\n"]
    for message in messages:
        kind = ("R" if message.is_rx else "T") + ("29" if message.is_extended_id else "11")
        data = message.data.hex(" ").upper()
        head = f"{message.timestamp:.6f} {channel_of(message) + 1}{kind} {message.arbitration_id:X}"
        lines.append(f"{head} {data}\n" if data else f"{head}\n")
    path.write_text("".join(lines))


def write_gvret(path: Path, messages: Iterable[can.Message]) -> None:
    """SavvyCAN's csv with the direction column."""
    lines = ["Time Stamp,ID,Extended,Dir,Bus,LEN,D1,D2,D3,D4,D5,D6,D7,D8\n"]
    for message in messages:
        cells = [
            f"{round(message.timestamp * 1e6)}",
            f"{message.arbitration_id:08X}",
            str(message.is_extended_id).lower(),
            "Rx" if message.is_rx else "Tx",
            f"{message.channel}",
            f"{message.dlc}",
            *(f"{byte:02X}" for byte in message.data.ljust(max(8, message.dlc), b"\0")),
        ]
        lines.append(",".join(cells) + ",\n")
    path.write_text("".join(lines))


def write_tab_log(path: Path, messages: Iterable[can.Message]) -> None:
    """The tab-separated log; an id is extended where it needs to be."""
    lines = ["ParserFlags\tCh\tCounter\tT/R\tTime\tFlags\tCAN ID\tLen\tData\tParser Name\tdefault\n"]
    for number, message in enumerate(messages):
        direction = "RX" if message.is_rx else "TX"
        data = "".join(f"0x{byte:02x} " for byte in message.data)
        time = round(message.timestamp * 1e3)
        lines.append(
            f"1\t{message.channel}\t{number}\t{direction}\t{time}\t\t0x{message.arbitration_id:08x}\t"
            f"{message.dlc}\t{data}\tDefault Parser\t\n"
        )
    path.write_text("".join(lines))
