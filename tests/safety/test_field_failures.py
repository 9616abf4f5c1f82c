"""What went wrong in the field, once each, and that it cannot any more: a test a failure, named after it."""

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.bridge.world import until, world
from tests.can.test_trip_table import HEADER, row
from tests.online.builders import small_vehicle
from tests.online.fake_car import episode as episode_of
from tests.online.learners import make_records, make_replay, make_spec
from tests.online.test_cruncher import SteadyAgent, crunch
from tests.safety.bench import Bench, learned
from tests.safety.wire import Frame, nothing
from tests.vehicle.samples import drive_sample, truck
from tests.vehicle.test_intake import SENDER
from tests.vehicle.test_kvaser import KvaserRig, quick_truck
from tspace_core.agents.dpg import Losses
from tspace_core.can.report import ReadReport
from tspace_core.can.trip_table import read_trip_table
from tspace_core.config import WatchdogLimits, load_vehicle
from tspace_core.errors import LogReadError, RecordError, XcpCommandError
from tspace_core.guard.audit import read, verify
from tspace_core.guard.state import FlashOutcome, Proposal
from tspace_core.link.datagrams import encode_sample, signals_needed
from tspace_core.link.xcp_packets import Command, ErrorCode
from tspace_core.online.learner_core import LearnerCore
from tspace_core.online.learner_protocol import EpisodeEnd
from tspace_core.supervision import Pipeline, PipelineEmpty
from tspace_core.vehicle.intake import Intake
from tspace_core.vehicle.interface import FlashOutcomeView, RowsProposal
from tspace_core.vehicle.stream import EpisodeBegun, RunEnded
from tspace_core.vehicle.watchdog import Watchdog
from tspace_core.vehicle.windows import Window

ROWS = slice(5, 9)


@pytest.fixture
def bench() -> Iterator[Bench]:
    """A guard on the simulated truck's VCU, with a learned map in effect."""
    with learned("twin_truck", fd=False, block_mode=True) as made:
        yield made


def spoil_downloads(bench: Bench) -> None:
    """One bit of what the VCU's memory takes is wrong, once."""

    def tamper(frame: Frame) -> None:
        if frame.to_vcu and frame.data[0] == Command.DOWNLOAD_NEXT:
            frame.data = frame.data[:2] + bytes([frame.data[2] ^ 1]) + frame.data[3:]
            bench.wire.tamper = nothing

    bench.wire.tamper = tamper


def test_a_failed_flash_logged_as_done_and_learned_from(bench: Bench) -> None:
    """Every other flash of an episode fails in the VCU; neither the log nor a record says that it did not."""
    vehicle = small_vehicle()
    outcomes: list[FlashOutcome] = []

    def through_the_guard(proposal: RowsProposal) -> FlashOutcomeView:
        bench.drive(1.1)
        number = len(outcomes)
        if number % 2:
            spoil_downloads(bench)
        rows = bench.guard.reference.table[ROWS] - np.float32(20 + number)
        outcome = bench.guard.propose(Proposal(number, ROWS.start, rows, bench.wire.ns))
        outcomes.append(outcome)
        return FlashOutcomeView(
            outcome.result, outcome.code, outcome.reason, outcome.first_row, np.array(outcome.rows)
        )

    windows = episode_of(vehicle, 1, 15)
    _, _, lessons = crunch(vehicle, windows, agent=SteadyAgent(-0.2), answer=through_the_guard)
    assert [outcome.result for outcome in outcomes] == ["APPLIED", "REVERTED"] * 3 + ["APPLIED"]
    results = [entry["result"] for entry in read(bench.bridge.audit.path) if entry["event"] == "flash_result"]
    assert results[1:] == [outcome.result for outcome in outcomes]
    (found,) = lessons.episodes
    states = [item.start_ns for item in windows if isinstance(item, Window)][2::2]
    failed = {at for at, outcome in zip(states, outcomes, strict=False) if outcome.result != "APPLIED"}
    learned_from = {record.time_ns for record in lessons.records}
    stored = {int(at) for piece in found.episodes for at in piece.times[: len(piece)]}
    assert failed
    assert not failed & (learned_from | stored)


def test_no_read_back(bench: Bench) -> None:
    """The VCU acknowledges what its memory did not take: one bit differs, and it is never put into effect."""
    before = bench.guard.live
    spoil_downloads(bench)
    outcome = bench.flash()
    assert (outcome.result, outcome.code) == ("REVERTED", 1)
    assert "was read back and holds something else" in outcome.reason
    assert bench.in_effect == bench.guard.live == before


def test_a_download_script_s_exit_code_ignored(bench: Bench) -> None:
    """The VCU refuses a download: the guard says code 1, and a run in which that happens ends as failed."""

    def refuse(frame: Frame) -> None:
        if frame.to_vcu and frame.data[0] == Command.DOWNLOAD:
            frame.lost = True
            bench.wire.answer(bytes((0xFE, ErrorCode.ERR_GENERIC)))

    bench.wire.tamper = refuse
    with pytest.raises(XcpCommandError, match="DOWNLOAD"):
        bench.bridge.calibration.send_float_array(
            "TQD_trqTrqSetNormal_MAP_v", bench.guard.reference.table - np.float32(1), sw_diff=True
        )
    outcome = bench.flash()
    assert (outcome.result, outcome.code) == ("REVERTED", 1)
    rig = KvaserRig(truck())
    try:
        rig.interface.ignite(rig.supervisor)
        rig.begin()
        rig.behave(outcome.code)
        assert not rig.interface.consume(rig.proposal()).applied
        over = rig.rest()[-1]
        assert isinstance(over, RunEnded)
        assert over.failed
        assert "code 1" in over.cause
    finally:
        rig.close()


def test_the_budget_drifting_with_each_resume(bench: Bench) -> None:
    """A run goes down as far as it may, is saved, and goes on from there, again and again."""
    guard, budget = bench.guard, load_vehicle("twin_truck").torque_map.budget_nm
    reference = guard.reference
    for _ in range(6):
        for _ in range(3):
            bench.drive(5.1)  # the rate over 10 s allows it
            wanted = reference.table[ROWS] - np.float32(1.9 * budget)
            guard.propose(Proposal(1, ROWS.start, wanted, bench.wire.ns))
        saved = guard.live
        guard.trip("the run is over")
        bench.driving = (0.0, 0.0, 20.0)
        bench.drive(2.0)
        resumed = guard.arm(by="test", token=None, resume=saved)
        assert resumed.resumed, resumed.reason
        bench.driving = (45.0, 30.0, 0.0)
        assert guard.reference == reference
        below = reference.table - bench.in_effect.table
        assert 0 < below.max() <= budget
    assert np.array_equal(bench.in_effect.table, saved.table), "it has long been at its limit"


def test_the_learned_map_left_in_the_ecu_after_a_crash(bench: Bench) -> None:
    wire = bench.wire
    assert wire.vcu.page != wire.vcu.reference_page
    bench.bridge.life.alive = False  # kill -9: nothing of it reaches the VCU any more
    wire.run_until(wire.ns + 3_000_000_000)
    assert wire.vcu.page == wire.vcu.reference_page
    assert bench.in_effect == load_vehicle("twin_truck").default_map()


def test_the_learned_map_left_in_the_ecu_by_a_bridge_that_takes_over(bench: Bench) -> None:
    """The new bridge's questions keep the session alive: so it must bring the reference map back itself."""
    wire = bench.wire
    bench.bridge.life.alive = False
    again = Bench(wire, bench.bridge.audit.path.parent)
    again.drive(3.0)
    assert wire.vcu.page == wire.vcu.reference_page
    again.bridge.audit.close()
    assert verify(again.bridge.audit.path).ok


def test_first_row_16_on_a_14_row_table_at_120_km_h(bench: Bench) -> None:
    table = bench.guard.reference
    assert len(table.speed_axis_kmh) == 14
    assert [int(row) for row in table.first_row([119.9, 120.0, 121.0, 200.0])] == [10, 10, 10, 10]
    rows = np.array(table.table[10:14])
    outcome = bench.guard.propose(Proposal(1, 16, rows, bench.wire.ns))
    assert outcome.result == "REFUSED"
    assert "first row 16 leaves no 4 rows in a map of 14" in outcome.reason


def test_a_watchdog_that_only_counts_once_a_nap() -> None:
    """A burst counts in full, at once: no time passes and nobody looks in between."""
    dog = Watchdog(WatchdogLimits(), now=lambda: 5.0)
    for _ in range(29):
        dog.capture_failure("refused datagram")
    assert dog.wait(0) is None
    dog.capture_failure("refused datagram")
    tripped = dog.wait(0)
    assert tripped is not None
    assert tripped.startswith("watchdog: 30 capture failures")


def test_busy_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bridge on a silent bus and a run that waits for its HMI: for two seconds both hardly use the CPU."""
    with world(tmp_path, monkeypatch) as bridge:
        bridge.truck.rolling.clear()
        until(lambda: bridge.bridge._standby is not None, "the HMI's socket")
        rig = KvaserRig(truck())
        try:
            rig.interface.ignite(rig.supervisor)
            threading.Event().wait(0.5)  # what starting costs is over
            threads, before = threading.active_count(), time.process_time()
            threading.Event().wait(2.0)
            used = time.process_time() - before
        finally:
            rig.close()
    print(f"{threads} idle threads used {used:.3f} s of CPU in 2 s")
    assert threads > 8, "the tasks run"
    assert used < 0.4, f"{threads} idle threads used {used:.2f} s of CPU in 2 s"


def test_a_queue_s_clear_calling_itself() -> None:
    """More items than Python nests calls, and an empty queue, and one whose reader waits."""
    queue: Pipeline[int] = Pipeline("test", 10_000)
    for number in range(10_000):
        queue.put(number)
    assert queue.clear() == 10_000
    assert queue.clear() == 0
    with pytest.raises(PipelineEmpty):
        queue.get(timeout_s=0)
    assert queue.put(1)
    assert queue.get() == 1


def test_a_bad_datagram_parsed_for_ever() -> None:
    """It is refused, counted and answered once; the good ones behind it are taken."""
    rig = KvaserRig(quick_truck())
    try:
        rig.interface.ignite(rig.supervisor)
        begun = rig.begin()
        assert isinstance(begun, EpisodeBegun)
        rig.send(b'{"data": {"velocity": 10,')
        answer = json.loads(rig.sender.recv(4096))
        assert "no JSON" in json.dumps(answer)
        rig.samples(11)
        while not isinstance(item := rig.next(), Window):
            pass
        assert item.valid
        assert rig.interface.watchdog.counts["capture"] == 1
        assert list(rig.interface.watchdog.reasons.values()) == [1]
    finally:
        rig.close()


def test_7_columns_named_by_6_names(tmp_path: Path) -> None:
    """Wherever values get their names, one name too few is an error that says both numbers."""
    path = tmp_path / "trip.csv"
    short = ";".join(name for k, name in enumerate(HEADER.split(";")) if k != 5)
    path.write_text("\n".join([short, row("0"), row("0.1"), ""]), encoding="latin-1")
    with pytest.raises(LogReadError, match="line 2 has 12 cells, line 1 names 11 columns"):
        read_trip_table(path, load_vehicle("bmw_i3"), ReadReport())
    path.write_text("\n".join([HEADER, row("0"), row("0.1") + ";7", ""]), encoding="latin-1")
    report = ReadReport()
    assert read_trip_table(path, load_vehicle("bmw_i3"), report).rows == 1
    assert report.dropped == {"more cells than names": 1}

    vehicle = small_vehicle()
    _, _, lessons = crunch(vehicle, episode_of(vehicle, 1, 9))
    (piece,) = lessons.episodes[0].episodes
    assert piece.meta.signals == vehicle.sampling.signals
    meta = piece.meta.model_copy(update={"signals": piece.meta.signals[:-1]})
    with pytest.raises(RecordError, match=r"states is float32\(5, 9\), expected float32\(5, 6\)"):
        replace(piece, meta=meta)

    intake = Intake(truck())
    sample = drive_sample(1)
    taken = intake.take(encode_sample(sample), SENDER)
    assert taken.observation is not None
    assert dict(zip(signals_needed(truck()), taken.observation.values, strict=True)) == sample
    less = json.loads(encode_sample(sample))
    del less["data"]["V"]
    refused = intake.take(json.dumps(less).encode(), SENDER).refused
    assert refused is not None
    assert "V" in refused


def test_a_training_step_returning_two_values_where_three_are_unpacked(tmp_path: Path) -> None:
    """The learner goes the whole way with the real agent, and every number of a step arrives by its name."""
    make_replay(tmp_path)
    core = LearnerCore(make_spec(tmp_path, learning="episode_end"))
    core.take(make_records(0, 4))
    learned_now = core.end_episode(EpisodeEnd(number=1, valid=True))
    assert learned_now.updates > 0
    assert learned_now.critic_loss is not None
    step = core.agent.train(make_records(1, 8))
    assert isinstance(step, Losses)
    assert step._fields == ("critic", "actor", "mean_q", "saturated")
    assert np.isfinite(step).all()
