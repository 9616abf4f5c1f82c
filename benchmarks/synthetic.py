"""A synthetic log, its DBC and its vehicle: 10 ids at 100 Hz with 64 signals of all kinds.

Four messages are little-endian with 11-bit ids, four big-endian with 29-bit ids, one holds two float32, one
is multiplexed. Signals are signed and unsigned, scaled and with offset; payloads change as measured values
do: slowly, with noise in the lowest bits. The BLF is made by numpy and isal, not by the code that it tests.
"""

import os
import struct
from pathlib import Path
from typing import BinaryIO

import numpy as np
from isal import isal_zlib

from tspace_core.config import Vehicle, load_vehicle
from tspace_core.config.settings import settings
from tspace_core.config.vehicle import Sampling, SignalSource

IDS = 10
RATE_HZ = 100
SIGNALS = 64
CONTAINER = 128 * 1024
EXTENDED_BIT = 0x80000000
CAN_IDS = [0x100, 0x101, 0x102, 0x103, *(EXTENDED_BIT | 0x18FF0004 + n for n in range(4)), 0x108, 0x109]
# one BLF object with a CAN_MESSAGE, 48 bytes
OBJECT = np.dtype(
    [
        ("signature", "S4"),
        ("header", "<u2"),
        ("version", "<u2"),
        ("size", "<u4"),
        ("type", "<u4"),
        ("unit", "<u4"),
        ("client", "<u2"),
        ("object_version", "<u2"),
        ("ticks", "<u8"),
        ("channel", "<u2"),
        ("flags", "u1"),
        ("dlc", "u1"),
        ("id", "<u4"),
        ("data", "u1", (8,)),
    ]
)
START = (2026, 3, 4, 5, 6, 7, 8, 0)
_LENGTHS = (16, 16, 8, 8, 8, 8)
_NAMED = ("velocity", "thrust", "brake", "current", "voltage", "gear")


def signal_names(message: int) -> list[str]:
    """Names of the DBC signals of message 0 to 9."""
    if message < 8:
        return list(_NAMED) if message == 0 else [f"S{message}_{index}" for index in range(6)]
    if message == 8:
        return ["F_0", "F_1"]
    return ["Mux", "Beside", *(f"M{mode}_{index}" for mode in range(4) for index in range(3))]


def dbc_text() -> str:
    """The DBC."""
    lines = ['VERSION ""', "", "NS_ :", "", "BS_:", "", "BU_: XXX", ""]
    for message, can_id in enumerate(CAN_IDS):
        lines.append(f"BO_ {can_id} Message_{message}: 8 XXX")
        names = signal_names(message)
        if message < 8:
            start = 0
            for index, (name, length) in enumerate(zip(names, _LENGTHS, strict=True)):
                order, first = ("1", start) if message < 4 else ("0", start + 7)
                sign = "-" if index % 2 else "+"
                lines.append(
                    f' SG_ {name} : {first}|{length}@{order}{sign} (0.{index + 1},-{index}) [0|0] "" XXX'
                )
                start += length
        elif message == 8:
            lines += [f' SG_ {name} : {32 * n}|32@1- (1,0) [0|0] "" XXX' for n, name in enumerate(names)]
        else:
            lines.append(' SG_ Mux M : 0|8@1+ (1,0) [0|0] "" XXX')
            lines.append(' SG_ Beside : 8|8@1+ (0.5,0) [0|0] "" XXX')
            for mode in range(4):
                for index in range(3):
                    name = f"M{mode}_{index}"
                    lines.append(f' SG_ {name} m{mode} : {16 + 16 * index}|16@1- (0.25,0) [0|0] "" XXX')
        lines.append("")
    lines += [f"SIG_VALTYPE_ {CAN_IDS[8]} F_{index} : 1;" for index in range(2)]
    return "\n".join(lines) + "\n"


def payloads(count: int, first: int = 0) -> np.ndarray[tuple[int, int], np.dtype[np.uint8]]:
    """Payloads uint8[count, 8] of the frames from number `first` on; `first` is a multiple of 10."""
    cycles = -(-count // IDS)
    time = (first // IDS + np.arange(cycles)) / RATE_HZ
    noise = np.random.default_rng(first).integers(0, 4, (cycles, IDS, 4), np.uint16)
    words = np.empty((cycles, IDS, 4), "<u2")
    for message in range(IDS):
        for word in range(4):
            wave = 20_000 + 8_000 * np.sin(time / (7 + 3 * message + word))
            words[:, message, word] = wave.astype(np.uint16) + noise[:, message, word]
    out = words.view(np.uint8).reshape(cycles, IDS, 8)
    floats = np.stack([np.sin(time / 5), 100 * np.cos(time / 9)], axis=1).astype("<f4")
    out[:, 8] = floats.view(np.uint8).reshape(cycles, 8)
    out[:, 9, 0] = np.arange(first // IDS, first // IDS + cycles) % 4
    return out.reshape(-1, 8)[:count]


def write_blf(path: Path, frames: int) -> None:
    """Write a BLF log of that many frames, a block at a time."""
    per_block = 1_000_000
    inflated = 0
    with path.open("wb") as file:
        file.write(bytes(144))
        rest = b""
        for first in range(0, frames, per_block):
            count = min(per_block, frames - first)
            number = np.arange(first, first + count)
            block = np.zeros(count, OBJECT)
            block["signature"], block["header"], block["version"] = b"LOBJ", 32, 1
            block["size"], block["type"], block["unit"], block["channel"], block["dlc"] = 48, 1, 2, 1, 8
            # the ten frames of a cycle follow one another at 0.2 ms, as on a bus of 500 kbit/s
            block["ticks"] = number // IDS * (10**9 // RATE_HZ) + number % IDS * 200_000
            block["id"] = np.array(CAN_IDS, np.uint32)[number % IDS]
            block["data"] = payloads(count, first)
            data = rest + block.tobytes()
            whole = len(data) // CONTAINER * CONTAINER if first + count < frames else len(data)
            for start in range(0, whole, CONTAINER):
                inflated += _write_container(file, data[start : min(start + CONTAINER, whole)])
            rest = data[whole:]
        size = file.tell()
        header = struct.pack(
            "<4sL8BQQLL8H8H", b"LOGG", 144, *([0] * 8), size, 144 + inflated, frames, 0, *START, *START
        )
        file.seek(0)
        file.write(header)


def _write_container(file: BinaryIO, content: bytes) -> int:
    data = isal_zlib.compress(content, 1)
    size = 32 + len(data)
    head = struct.pack("<4sHHLL", b"LOBJ", 16, 1, size, 10) + struct.pack("<H6xL4x", 2, len(content))
    file.write(head + data + bytes(size % 4))
    return 32 + len(content)


def vehicle(folder: Path, rate_hz: float) -> Vehicle:
    """The twin truck with all 64 signals of the synthetic DBC, which is written to `folder`."""
    (folder / "synthetic.dbc").write_text(dbc_text())
    os.environ["TSPACE_DBC_PATH"] = f'["{folder}"]'
    settings.cache_clear()
    sources = {}
    for message in range(IDS):
        for name in signal_names(message):
            key = name if name in _NAMED else name.lower()
            sources[key] = SignalSource(message=f"Message_{message}", signal=name, unit="-", max_age_s=0.5)
    truck = load_vehicle("twin_truck")
    sampling = Sampling(rate_hz=rate_hz, window=30, signals=truck.sampling.signals)
    return truck.model_copy(update={"signals": sources, "dbc": ("synthetic.dbc",), "sampling": sampling})
