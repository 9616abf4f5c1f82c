"""Whether the kill points would notice: what protects the vehicle is taken away, one thing at a time."""

import random
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.safety.killing import InvariantError, Kill, Mutation, Setup, length_of, run_kill
from tspace_core.guard import transaction
from tspace_core.guard.commands import Commands
from tspace_core.guard.flash_guard import FlashGuard
from tspace_core.guard.journal import Journal
from tspace_core.guard.supervision import Supervision
from tspace_core.link.calibration import Calibration
from tspace_core.link.float_buffer import to_bytes
from tspace_core.link.xcp_packets import PageMode

TRIES = 150
Floats = NDArray[np.float32]


def found(
    what: str, match: str, mutation: Mutation | None, *, silence_s: float = 2.0, vehicle: str = "twin_truck"
) -> None:
    """Within some tries of one kind a run with the mutation fails, for the right reason."""
    seed = random.randrange(2**32)
    print("seed", seed)
    chance = random.Random(seed)
    for _ in range(TRIES):
        setup = Setup(vehicle, fd=True, block_mode=True, seed=chance.randrange(5))
        kill = Kill(what, chance.randint(1, length_of(setup)), chance.randrange(2**32))
        try:
            run_kill(setup, kill, mutation, silence_s=silence_s)
        except InvariantError as error:
            assert match in str(error)
            return
    pytest.fail(f"{TRIES} runs did not notice it")


def setting(owner: object, name: str, value: Callable[..., object]) -> Mutation:
    return lambda patch: patch.setattr(owner, name, value)


@pytest.mark.parametrize("vehicle", ["twin_truck", "twin_mule"])
def test_without_read_back(vehicle: str) -> None:
    def mutation(patch: pytest.MonkeyPatch) -> None:
        patch.setattr(transaction, "same_bits", lambda _one, _other: True)
        patch.setattr(Commands, "read", read_reference_only)

    def read_reference_only(self: Commands, page: int, first_row: int, rows: int) -> object:
        return read(self, page, first_row, rows) if page == self.reference_page else None

    read = Commands.read

    found("lost frame", "bytes written were not read back", mutation, vehicle=vehicle)


def test_without_checksum() -> None:
    mutation = setting(Commands, "checksum_ok", lambda _self, _page, _table: True)
    found("lost frame", "without its checksum", mutation)


@pytest.mark.parametrize("vehicle", ["twin_truck", "twin_mule"])
def test_what_is_read_back_and_summed_is_not_looked_at(vehicle: str) -> None:
    def mutation(patch: pytest.MonkeyPatch) -> None:
        patch.setattr(transaction, "same_bits", lambda _one, _other: True)
        patch.setattr(Calibration, "_checksum_ok", asked_only)

    def asked_only(self: Calibration, name: str, page: int, table: Floats) -> bool:
        checksum_ok(self, name, page, table)
        return True

    checksum_ok = Calibration._checksum_ok
    found("corrupt frame", "never accepted", mutation, vehicle=vehicle)


@pytest.mark.parametrize("vehicle", ["twin_truck", "twin_mule"])
def test_writing_the_page_in_effect(vehicle: str) -> None:
    def idle_page(self: Calibration) -> int:
        return self._config.working_pages[0]

    def write(self: Calibration, page: int, table: Floats) -> int:
        self._master.set_cal_page(PageMode.XCP, self._config.segment, page)
        self._master.set_mta(self._map.address, self._map.extension)
        self._master.download(to_bytes(table))
        return self._map.cells

    def mutation(patch: pytest.MonkeyPatch) -> None:
        patch.setattr(Calibration, "idle_page", idle_page)
        patch.setattr(Calibration, "write", write)

    found("lost frame", "was changed while it was in effect", mutation, vehicle=vehicle)


def test_a_vcu_that_does_not_watch_its_session() -> None:
    found("bridge", "is in effect, not the reference page", None, silence_s=1e6)


def test_a_guard_that_does_not_watch_the_agent() -> None:
    mutation = setting(Supervision, "agent_lost", lambda _self, _now: None)
    found("agent", "still armed", mutation)


def test_a_flash_that_is_recorded_afterwards() -> None:
    def late(self: Journal, event: str, *args: object, **fields: object) -> None:
        write(self, "flash_late" if event == "flash" else event, *args, **fields)  # type: ignore[arg-type]

    write = Journal.write
    found("lost frame", "the audit log does not say so", setting(Journal, "write", late))


def test_a_revert_that_only_says_so() -> None:
    mutation = setting(Commands, "revert", lambda _self, *, reconnect=False: None)
    found("agent", "is in effect, not the reference page", mutation, silence_s=1e6)


def test_a_revert_that_does_not_unlock_the_session() -> None:
    """A new bridge that keeps asking, and is refused, keeps the learned map in effect for ever."""

    def activate(self: Calibration, page: int) -> None:
        if not self._master.connected:
            self._connect()
        self._master.set_cal_page(PageMode.ECU, self._config.segment, page)

    def mutation(patch: pytest.MonkeyPatch) -> None:
        patch.setattr(Calibration, "activate", activate)
        patch.setattr("tspace_core.guard.flash_guard.QUIET_S", 0.5)

    found("bridge", "is in effect, not the reference page", mutation)


def test_a_bridge_that_ends_without_looking_back() -> None:
    """Not the bridge's own end is judged but what is in effect 3 s later: here by the VCU's silence."""
    mutation = setting(FlashGuard, "trip", lambda _self, _cause: None)
    found("stop", "is in effect, not the reference page", mutation, silence_s=1e6)


def test_the_runs_themselves_pass() -> None:
    """The same runs without a mutation, so that none of the above fails for another reason."""
    for seed in range(5):
        setup = Setup("twin_truck", fd=True, block_mode=True, seed=seed)
        for what in ("agent", "bridge", "stop", "lost frame", "corrupt frame"):
            run_kill(setup, Kill(what, length_of(setup) // 2 + seed, seed))
