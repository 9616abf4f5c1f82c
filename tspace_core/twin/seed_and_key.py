"""Seed and key of the simulated VCU: an invented transformation, open to everyone, that protects nothing.

It exists so that the exchange of seed and key is exercised. A real VCU's function comes from its maker and is
named in the vehicle's config (``xcp.unlock``); it is never part of this repository.
"""

SEED_BYTES = 8
"""Longer than a classical CAN frame carries, so that seed and key travel in two parts."""


def key_of(seed: bytes, resource: int) -> bytes:
    """Key that opens ``resource`` of the simulated VCU.

    ``key[i] = rotate_left(seed[-1 - i] xor (0x5A + resource), 3) + i``, bytes modulo 256.

    Args:
        seed: as the VCU gave it, any length.
        resource: bit of the resource as in XCP's GET_SEED, 1 for calibration and paging.

    Returns:
        As many bytes as the seed has.
    """
    mask = (0x5A + resource) & 0xFF
    key = bytearray()
    for number, value in enumerate(reversed(seed)):
        mixed = value ^ mask
        key.append((((mixed << 3) | (mixed >> 5)) + number) & 0xFF)
    return bytes(key)
