"""What went wrong in the field, each with a test named after it, as far as the guard is concerned."""

from pathlib import Path

import numpy as np
import pytest

from tests.guard.vehicles import FLASHED_VEHICLES, Rig, rows_of
from tspace_core.config import load_vehicle
from tspace_core.errors import XcpTimeoutError
from tspace_core.guard.audit import read
from tspace_core.guard.state import Proposal, VehicleState

every_vehicle = pytest.mark.parametrize("name", FLASHED_VEHICLES)


def armed(folder: Path, name: str) -> Rig:
    rig = Rig(folder, load_vehicle(name))
    rig.arm()
    rig.drive(1.2)
    return rig


@every_vehicle
def test_a_failed_flash_is_not_logged_as_done(name: str, tmp_path: Path) -> None:
    rig = armed(tmp_path, name)

    def fail(_number: int, call: str) -> None:
        if call == "write":
            raise XcpTimeoutError("no answer")

    rig.target.before = fail
    outcome = rig.propose()
    assert outcome.result == "REVERTED"
    assert outcome.effect_ns is None
    assert np.array_equal(outcome.rows, rows_of(rig.guard.reference, 4)), (
        "what is live, not what was asked for"
    )
    assert list(read(rig.audit.path))[-1]["result"] == "REVERTED"


@every_vehicle
def test_no_flash_without_read_back(name: str, tmp_path: Path) -> None:
    rig = armed(tmp_path, name)
    rig.target.calls.clear()
    assert rig.propose().result == "APPLIED"
    assert rig.target.calls.index("read") < rig.target.calls.index("activate")


@every_vehicle
def test_the_budget_does_not_drift_with_each_resume(name: str, tmp_path: Path) -> None:
    """Ten runs, each resumed from the last live map and lowering pedal 0 as far as it is let."""
    saved = load_vehicle(name).default_map()
    for number in range(10):
        rig = Rig(tmp_path / str(number), load_vehicle(name))
        rig.sample = VehicleState(0.0, 0.0, 20.0, 0)
        rig.drive(0.1)
        answer = rig.guard.arm(by="test", token=None, resume=saved)
        assert answer.resumed, answer.reason
        rig.drive(1.2)
        outcome = rig.propose(-50.0, first_row=8)
        assert outcome.result == "APPLIED"
        saved = rig.guard.live
    reference = load_vehicle(name).default_map().table
    assert np.allclose(saved.table[8:12, 0], reference[8:12, 0] - 50, atol=1e-3)
    assert (np.abs(saved.table - reference) <= load_vehicle(name).torque_map.budget_nm).all()


@every_vehicle
def test_the_learned_map_is_not_left_in_the_ecu_after_a_crash(name: str, tmp_path: Path) -> None:
    rig = armed(tmp_path, name)
    assert rig.propose().result == "APPLIED"
    rig.audit.close()  # killed; the VCU's own fall-back is in the tests of the VCU
    after = Rig(tmp_path, load_vehicle(name))
    after.target.pages, after.target.active = rig.target.pages, rig.target.active
    after.drive(0.6)
    assert after.target.active == after.target.reference_page


def test_first_row_16_on_a_14_row_table_at_120_kmh(tmp_path: Path) -> None:
    rig = armed(tmp_path, "twin_truck")
    rig.sample = VehicleState(120.0, 30.0, 0.0, 0)
    rig.drive(0.1)
    outcome = rig.guard.propose(Proposal(1, 16, rows_of(rig.guard.live, 10), rig.clock()))
    assert outcome.result == "REFUSED"
    assert "first row 16 leaves no 4 rows in a map of 14" in outcome.reason
    assert rig.in_effect == rig.guard.reference
