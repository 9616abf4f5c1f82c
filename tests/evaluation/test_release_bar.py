"""The release bar: each rule stops an agent by itself, and evidence speaks for exactly the files it is on."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest

from tests.agents.batches import SMALL
from tests.evaluation.conftest import Drives
from tspace_core.agents import DDPG
from tspace_core.config import Vehicle, load_vehicle
from tspace_core.config.release import ReleaseBar, load_release_bar
from tspace_core.errors import CheckpointError, ReleaseError, StorageError
from tspace_core.evaluation.comparison import Comparison
from tspace_core.evaluation.release_bar import (
    Evidence,
    approve,
    evidence_on,
    find_evidence,
    judge_release,
    latest_evidence,
    passed,
    write_evidence,
)
from tspace_core.storage.files import write_text
from tspace_core.storage.lake import Lake
from tspace_core.twin.fleet_guard import GuardCount

BAR = ReleaseBar()
CLEAN = GuardCount(proposals=9)
Made = Callable[..., Evidence]


@pytest.fixture
def evidence_of(drives_of: Drives) -> Made:
    """Evidence on an agent that saves 1 %, with changes."""

    def make(*, guard: GuardCount | None = CLEAN, guarded: bool = True, **drives: object) -> Evidence:
        saving = drives.pop("saving", lambda driver, seed: 1.0 + 0.01 * seed)
        other = {name: drives.pop(name) for name in ("drivers", "seeds") if name in drives}
        own = drives_of("ddpg", saving, **other, **drives)
        summary = Comparison.of_drives(
            pl.concat([drives_of("default", **other), own]),
            vehicle_id="twin_truck",
            cycle="route",
            guard={"ddpg": guard} if guard is not None and guarded else {} if guarded else None,
        ).summary
        return Evidence(
            vehicle_id="twin_truck",
            agent="ddpg",
            run="run",
            step=5,
            checkpoint="checkpoints/ddpg/run/00000005",
            sha256="a" * 64,
            reference_sha256=load_vehicle("twin_truck").default_map().sha256(),
            at=datetime.now(UTC),
            cycle="route",
            drivers=summary.drivers,
            seeds=summary.seeds,
            guarded=summary.guarded,
            candidate=summary.candidate("ddpg"),
            reference=summary.candidate("default"),
            software_version="1",
        )

    return make


def broken(evidence: Evidence) -> list[str]:
    findings = judge_release(evidence, BAR)
    assert passed(findings) is all(finding.passed for finding in findings)
    return [finding.rule for finding in findings if not finding.passed]


def test_the_bar_of_this_installation_is_that_of_the_design() -> None:
    assert load_release_bar() == ReleaseBar(
        guard_violations=0, trip_time_percent=1, quality_percent=10, saving_percent=0, drivers=3, seeds=5
    )


def test_an_agent_that_saves_clears_the_bar(evidence_of: Made) -> None:
    found = evidence_of()
    assert broken(found) == []
    figures = found.figures()
    assert figures["saving_percent"] == pytest.approx(1.02)
    assert figures["saving_low_percent"] > 1.0
    assert figures["guard_violations"] == 0
    assert figures["speed_rmse_percent"] == pytest.approx(0.0)


def test_each_rule_stops_an_agent_by_itself(evidence_of: Made) -> None:
    default = 0.5, 0.4, 0.15
    cases: dict[str, dict[str, object]] = {
        "guard_violations": {"guard": GuardCount(proposals=9, violations={"contradiction": 1})},
        "speed_rmse": {"speed_rmse_kmh": default[0] * 1.101},
        "acceleration": {"mean_acceleration_mps2": default[1] * 1.101},
        "acceleration_rate": {"mean_acceleration_rate_mps3": default[2] * 1.101},
        "saving": {"saving": lambda driver, seed: float(seed - 1.9)},
        "seeds": {"seeds": 4},
        "drivers": {"drivers": 2},
    }
    for rule, changes in cases.items():
        assert broken(evidence_of(**changes)) == [rule], rule
    # A saving bought with time counts as none, too.
    for percent in (1.01, -1.01):
        slow = evidence_of(trip_time=lambda driver, seed, percent=percent: percent)
        assert broken(slow) == ["trip_time", "saving"]
    for rule, name, value in (
        ("speed_rmse", "speed_rmse_kmh", default[0] * 1.099),
        ("acceleration_rate", "mean_acceleration_rate_mps3", default[2] * 0.5),
    ):
        assert broken(evidence_of(**{name: value})) == [], f"{rule} within its limit"


def test_what_is_not_known_does_not_pass(evidence_of: Made) -> None:
    assert broken(evidence_of(guarded=False)) == ["guard_violations"]
    assert broken(evidence_of(guard=None)) == ["guard_violations"]
    lost = evidence_of(finished=False)
    assert {"comparable drives", "trip_time", "speed_rmse", "saving"} <= set(broken(lost))
    assert broken(evidence_of(speed_rmse_kmh=float("nan"))) == ["speed_rmse"]


def test_clipped_cells_are_no_violation(evidence_of: Made) -> None:
    found = evidence_of(
        guard=GuardCount(proposals=9, clipped={"budget": 500}, held_back={"state": 3}, cells=612)
    )
    assert broken(found) == []
    assert found.figures()["guard_clipped_share"] == pytest.approx(500 / 612)


def test_evidence_is_on_exactly_the_files_that_were_driven(
    tmp_path: Path, evidence_of: Made, vehicle: Vehicle, drives_of: Drives
) -> None:
    lake = Lake(tmp_path)
    checkpoint = lake.checkpoints("ddpg", "run") / "00000005"
    DDPG(SMALL, 90, 68, seed=5).save(checkpoint, step=5)
    with pytest.raises(ReleaseError, match="was not evaluated for twin_truck: materialize policy_evaluation"):
        approve(lake, vehicle, checkpoint, BAR)
    with pytest.raises(CheckpointError, match="missing"):
        approve(lake, vehicle, lake.checkpoints("ddpg", "run") / "00000006", BAR)
    summary = Comparison.of_drives(
        pl.concat([drives_of("default"), drives_of("ddpg", lambda driver, seed: 1.0 + 0.01 * seed)]),
        vehicle_id=vehicle.id,
        cycle="route",
        guard={"ddpg": GuardCount(proposals=9)},
    ).summary
    found = evidence_on(summary, lake, vehicle, checkpoint, candidate="ddpg")
    assert (found.agent, found.run, found.step) == ("ddpg", "run", 5)
    assert found.checkpoint == "checkpoints/ddpg/run/00000005"
    write_evidence(lake, vehicle.id, [found])
    assert latest_evidence(lake, vehicle.id) == (found,)
    grounds = approve(lake, vehicle, checkpoint, BAR)
    assert grounds.evaluated == found.at
    assert grounds.figures == found.figures()
    with pytest.raises(ReleaseError, match=r"below the release bar: lower bound .* above 2 %"):
        approve(lake, vehicle, checkpoint, ReleaseBar(saving_percent=2.0))
    other = found.model_copy(update={"reference_sha256": "0" * 64})
    write_evidence(lake, vehicle.id, [other])
    with pytest.raises(ReleaseError, match="another default map"):
        approve(lake, vehicle, checkpoint, BAR)
    (checkpoint / "critic.json").write_text("{}")
    with pytest.raises(ReleaseError, match="was not evaluated"):
        approve(lake, vehicle, checkpoint, BAR)


def test_damaged_evidence_says_what_to_do(tmp_path: Path, evidence_of: Made) -> None:
    lake, found = Lake(tmp_path), evidence_of()
    write_evidence(lake, "twin_truck", [found])
    write_text(tmp_path / "evaluations" / "twin_truck" / f"{found.sha256[:16]}.json", '{"agent": 3}')
    with pytest.raises(StorageError, match=r"damaged(.|\n)*materialize policy_evaluation again"):
        find_evidence(lake, "twin_truck", found.sha256)
    assert find_evidence(lake, "twin_truck", "b" * 64) is None
    assert latest_evidence(lake, "bmw_i3") == ()
