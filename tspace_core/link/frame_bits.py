"""How long frames occupy a CAN bus: their bits, stuff bits included, and the frames that writing a map takes.

Bit counts are exact for the frame given (ISO 11898-1; the fixed stuff bits of FD's CRC field too), so a
limit computed from frames really sent is the bus' own, not a rule of thumb.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain

from tspace_core.config.link import BusConfig, XcpConfig
from tspace_core.link import xcp_packets as packets
from tspace_core.link.xcp_can import filled
from tspace_core.link.xcp_packets import BlockMode, Pid, SlaveInfo

_TAIL_BITS = 13  # CRC delimiter, acknowledgement and its delimiter, end of frame 7, gap between frames 3
_CRC_15 = 0x4599
_SAME_BITS = 5  # after so many equal bits a stuff bit follows
_FD_LENGTHS_CODED = (0, 1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 20, 24, 32, 48, 64)
_CRC_17_BYTES = 16


@dataclass(frozen=True)
class Frame:
    """A data frame."""

    id: int
    data: bytes
    extended: bool = False
    fd: bool = False


@dataclass(frozen=True)
class Bits:
    """Bits of a frame at the bitrate of the arbitration, and at that of FD's data phase."""

    nominal: int
    fast: int = 0

    def seconds(self, bus: BusConfig) -> float:
        """Time on that bus."""
        return self.nominal / bus.bitrate + self.fast / (bus.data_bitrate or bus.bitrate)


def bits_of(frame: Frame) -> Bits:
    """Bits of one frame until the next may begin."""
    return _fd_bits(frame) if frame.fd else _classic_bits(frame)


def most_bits(length: int, *, extended: bool = False) -> int:
    """Bits of a classic frame of ``length`` bytes with the worst stuffing there can be."""
    stuffed = (54 if extended else 34) + 8 * length
    return stuffed + (stuffed - 1) // (_SAME_BITS - 1) + _TAIL_BITS


def seconds_on_bus(frames: Iterable[Frame], bus: BusConfig) -> float:
    """Time that these frames need on an otherwise empty bus, back to back."""
    return sum(bits_of(frame).seconds(bus) for frame in frames)


def frames_for(
    data: bytes, address: int, slave: SlaveInfo, block: BlockMode, config: XcpConfig, *, fd: bool = False
) -> list[Frame]:
    """The frames of one run of bytes, with the VCU's answers: SET_MTA, then DOWNLOADs.

    Args:
        data: what is written.
        address: where.
        slave: sizes and order, as CONNECT tells.
        block: block mode in use; ``BlockMode()`` for none.
        config: ids.
        fd: CAN FD frames.
    """
    most = slave.download_bytes
    if block.offered:
        most = min(most * block.max_bs, packets.MOST_ELEMENTS * slave.granularity)
    groups: list[Sequence[bytes]] = [[packets.set_mta(slave, address, 0)]]
    groups += [packets.download(slave, data[at : at + most]) for at in range(0, len(data), most)]
    answer = Frame(config.response_id, filled(bytes((Pid.RESPONSE,))), config.extended, fd)
    return list(
        chain.from_iterable(
            [*(Frame(config.request_id, filled(one), config.extended, fd) for one in group), answer]
            for group in groups
        )
    )


def crc_15(bits: Iterable[int]) -> int:
    """Classic CAN's checksum over bits."""
    crc = 0
    for bit in bits:
        crc = (crc << 1) & 0x7FFF ^ (_CRC_15 if bit ^ (crc >> 14) else 0)
    return crc


def _field(value: int, width: int) -> list[int]:
    return [value >> at & 1 for at in range(width - 1, -1, -1)]


def _head(frame: Frame) -> list[int]:
    """Start of frame and arbitration, as far as the bit that says which kind of id it is."""
    if frame.extended:
        return [0, *_field(frame.id >> 18, 11), 1, 1, *_field(frame.id & 0x3FFFF, 18), 0]
    return [0, *_field(frame.id, 11), 0, 0]


def _stuff_bits(bits: Sequence[int]) -> list[int]:
    """After how many of the bits a stuff bit follows, for each stuff bit."""
    found = []
    same, last = 0, -1
    for count, bit in enumerate(bits, start=1):
        same = same + 1 if bit == last else 1
        last = bit
        if same == _SAME_BITS:
            found.append(count)
            same, last = 1, 1 - bit
    return found


def _classic_bits(frame: Frame) -> Bits:
    bits = [*_head(frame), *([0, 0] if frame.extended else [0]), *_field(len(frame.data), 4)]
    bits += chain.from_iterable(_field(byte, 8) for byte in frame.data)
    bits += _field(crc_15(bits), 15)
    return Bits(len(bits) + len(_stuff_bits(bits)) + _TAIL_BITS)


def _fd_bits(frame: Frame) -> Bits:
    arbitration = [*_head(frame), 1, 0, 1]  # FDF, reserved, BRS
    data = [0, *_field(_FD_LENGTHS_CODED.index(len(frame.data)), 4)]  # ESI, DLC
    data += chain.from_iterable(_field(byte, 8) for byte in frame.data)
    stuffed = _stuff_bits([*arbitration, *data])
    early = sum(at <= len(arbitration) for at in stuffed)
    crc = 4 + (17 if len(frame.data) <= _CRC_17_BYTES else 21)  # with the stuff count
    fixed = -(-crc // 4)
    return Bits(len(arbitration) + early + _TAIL_BITS, len(data) + len(stuffed) - early + crc + fixed)
