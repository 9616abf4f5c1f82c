"""Which runs of cells go out: all that changed, in the fewest frames."""

import itertools
import random

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.link.xcp_doubles import IntoVcu, config_of, simulated_vcu, truck
from tspace_core.errors import LinkError
from tspace_core.link.float_buffer import from_hex, to_bytes, to_hex
from tspace_core.link.map_pages import DownloadCost, MapPages, runs
from tspace_core.link.xcp import XcpMaster

CLASSIC_BLOCKS = DownloadCost(payload=6, block=6 * 42)
CLASSIC = DownloadCost(payload=6, block=6)
FD = DownloadCost(payload=62, block=255)
COSTS = [CLASSIC_BLOCKS, CLASSIC, FD]


def mask(text: str) -> NDArray[np.bool_]:
    return np.array([letter == "#" for letter in text])


def words(*numbers: float) -> NDArray[np.uint32]:
    return np.array(numbers, dtype="<f4").view("<u4").astype(np.uint32)


@pytest.mark.parametrize("cost", COSTS)
def test_nothing_changed_is_no_run_and_all_changed_is_one(cost: DownloadCost) -> None:
    assert runs(mask("......"), cost) == []
    assert runs(mask("######"), cost) == [(0, 6)]


def test_a_small_gap_is_sent_a_large_one_is_not() -> None:
    assert runs(mask("##.##"), CLASSIC_BLOCKS) == [(0, 5)]
    assert runs(mask("#" + 30 * "." + "#"), CLASSIC_BLOCKS) == [(0, 1), (31, 32)]
    assert runs(mask("#" + 13 * "." + "#"), FD) == [(0, 15)]  # 60 bytes are one FD frame


def test_the_frames_are_the_fewest_there_can_be() -> None:
    """Against all ways to join changed parts."""
    seed = random.randrange(2**32)
    print("seed", seed)
    chance = random.Random(seed)
    for _ in range(300):
        cost = chance.choice(COSTS)
        changed = mask(
            "".join(chance.choices("#.", (1, chance.choice((1, 4, 9))), k=chance.randrange(1, 60)))
        )
        edges = np.flatnonzero(np.diff(np.concatenate(([False], changed, [False])))).reshape(-1, 2)
        parts = edges.tolist()[:11]
        if not parts:
            continue
        changed[parts[-1][1] :] = False
        found = runs(changed, cost)
        covered = np.zeros_like(changed)
        for start, stop in found:
            covered[start:stop] = True
        assert not (changed & ~covered).any(), f"seed {seed}"
        best = min(
            sum(cost.frames(4 * (group[-1][1] - group[0][0])) for group in split(parts, cuts))
            for cuts in itertools.product((False, True), repeat=len(parts) - 1)
        )
        assert sum(cost.frames(4 * (stop - start)) for start, stop in found) == best, f"seed {seed}"


def split(parts: list[list[int]], cuts: tuple[bool, ...]) -> list[list[list[int]]]:
    groups = [[parts[0]]]
    for part, cut in zip(parts[1:], cuts, strict=True):
        if cut:
            groups.append([part])
        else:
            groups[-1].append(part)
    return groups


@pytest.mark.parametrize(("block_mode", "max_cto"), [(True, 8), (False, 8), (True, 64), (False, 64)])
def test_the_computed_frames_are_those_really_sent(block_mode: bool, max_cto: int) -> None:
    vehicle = truck(block_mode=block_mode)
    _, slave = simulated_vcu(vehicle, max_cto=max_cto)
    link = IntoVcu(slave, max_cto)
    master = XcpMaster(link, config_of(vehicle))
    master.connect()
    master.unlock_resource(master.slave.resources, _key_of)
    master.set_cal_page(2, 0, 1)  # type: ignore[arg-type]
    cost = DownloadCost.of(master.slave, master.block_mode)
    for size in (4, 8, 12, 60, 64, 252, 256, 272, 952):
        before = link.frames
        master.set_mta(0x80010000)
        master.download(bytes(size))
        assert link.frames - before == cost.frames(size), size


def _key_of(seed: bytes, resource: int) -> bytes:
    from tspace_core.twin.seed_and_key import key_of

    return key_of(seed, resource)


def test_cells_are_compared_by_their_bits() -> None:
    pages = MapPages(0, 0, (1, 3))
    pages.holds(1, 0, words(0.0, float("nan"), 1.0))
    assert pages.changed(1, words(-0.0, float("nan"), 1.0)).tolist() == [True, False, False]


def test_what_is_not_known_counts_as_changed() -> None:
    pages = MapPages(0, 0, (2, 2))
    table = words(1, 2, 3, 4)
    assert pages.changed(1, table).all()
    pages.holds(1, 0, table)
    assert not pages.changed(1, table).any()
    assert pages.changed(2, table).all()
    pages.forget(1, 1, 3)
    assert pages.changed(1, table).tolist() == [False, True, True, False]
    pages.forget_all()
    assert pages.changed(1, table).all()


def test_the_hex_form_is_the_fields() -> None:
    assert to_hex([[1.0, -2.5]]) == "0000803f000020c0"
    table = np.random.default_rng(1).normal(size=(4, 17)).astype(np.float32)
    assert to_bytes(from_hex(to_hex(table), 17)) == to_bytes(table)
    assert to_bytes(from_hex(to_hex(table).upper(), 17)) == to_bytes(table)


@pytest.mark.parametrize(
    ("text", "columns"), [("0000803", 1), ("0000803g", 1), ("0000803f" * 3, 2), ("00", 0)]
)
def test_a_hex_form_that_is_none(text: str, columns: int) -> None:
    with pytest.raises(LinkError, match=r"hex digits a cell|whole number of rows"):
        from_hex(text, columns)
