"""The control loop against a vehicle interface that follows a script."""

import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from tests.agents.batches import SMALL
from tests.online.builders import BEGIN_NS, small_vehicle, window
from tests.online.fake_car import Answer, FakeCar, applied, begun, ended, episode, refused, windows
from tspace_core.agents import DDPG
from tspace_core.config import TorqueMap, Vehicle, load_site
from tspace_core.errors import AgentError
from tspace_core.online import cruncher as control_loop
from tspace_core.online.cruncher import LATE_FLASH, LATE_WINDOW, Cruncher, CruncherSetup, FinishedEpisode
from tspace_core.online.driver_agent import DriverAgent, Successor
from tspace_core.online.recording import Record
from tspace_core.records.episode import RecordFlag
from tspace_core.vehicle.interface import FlashOutcomeView, RowsProposal
from tspace_core.vehicle.stream import RunEnded, StreamItem

DIM = 9


class Lessons:
    """Notes what the control loop hands over."""

    def __init__(self) -> None:
        self.begun: list[tuple[int, str]] = []
        self.records: list[Record] = []
        self.episodes: list[FinishedEpisode] = []
        self.new_weights: list[Successor] = []
        self.new_release: list[Successor] = []
        self.asked = 0

    def began(self, number: int, note: str) -> None:
        self.begun.append((number, note))

    def record(self, record: Record) -> None:
        self.records.append(record)

    def finished(self, episode: FinishedEpisode) -> None:
        self.episodes.append(episode)

    def weights(self, wait_s: float = 0.0) -> Successor | None:
        self.asked += 1
        return self.new_weights.pop(0) if self.new_weights else None

    def release(self, wait_s: float = 0.0) -> Successor | None:
        return self.new_release.pop(0) if self.new_release else None


class SteadyAgent(DriverAgent):
    """Always the same action, and counts the states it saw."""

    def __init__(self, value: float) -> None:
        super().__init__(DDPG(SMALL, DIM, 68, seed=1), explore=False)
        self.value = value
        self.states: list[np.ndarray] = []
        self.begins = 0

    def begin_episode(self) -> None:
        self.begins += 1

    def act(self, state: np.ndarray, reward: float | None = None) -> np.ndarray:
        self.states.append(state)
        return np.full(68, self.value, np.float32)


def crunch(
    vehicle: Vehicle,
    script: list[StreamItem],
    *,
    agent: DriverAgent | None = None,
    answer: Answer = applied,
    lessons: Lessons | None = None,
    first_number: int = 1,
    resume: TorqueMap | None = None,
) -> tuple[Cruncher, FakeCar, Lessons]:
    lessons = lessons or Lessons()
    car = FakeCar(vehicle, script, answer=answer, resume=lambda: cruncher.resume)
    setup = CruncherSetup(vehicle, load_site(vehicle.site), vehicle.driver, agent, first_number, resume)
    cruncher = Cruncher(car, setup, lessons)
    player = threading.Thread(target=car.play)
    player.start()
    try:
        cruncher.filter()
    finally:
        car.stop()
        player.join(10)
    return cruncher, car, lessons


def test_an_episode_flashes_at_every_state_window_but_the_first() -> None:
    vehicle = small_vehicle()
    agent = SteadyAgent(-0.2)
    cruncher, car, lessons = crunch(vehicle, episode(vehicle, 1, 9), agent=agent)
    assert [int(state[1]) for state in agent.states] == [202, 204, 206, 208]
    assert len(car.proposals) == 4
    (found,) = lessons.episodes
    (piece,) = found.episodes
    assert piece.meta.episode_id.startswith("twin_truck/2026-01-05/online-")
    assert piece.meta.episode_id.endswith("-0001#0000")
    assert piece.meta.end_reason == found.reason == "end_valid"
    assert [RecordFlag(flag) for flag in piece.flags.tolist()] == [
        RecordFlag.FIRST | RecordFlag.HELD, *([RecordFlag.FLASHED] * 3)
    ]  # fmt: skip
    default = vehicle.default_map()
    rows = piece.rows.tolist()
    assert rows == [default.first_row(50.0)] * 4
    wanted = np.maximum(-0.2 * 250, -250) / 250
    assert np.allclose(piece.actions[1:], wanted, atol=1e-5)
    assert [record.time_ns for record in lessons.records] == piece.times[:-1].tolist()
    assert [decision.result for decision in found.decisions] == ["HELD", *(["APPLIED"] * 4)]
    assert len(cruncher.latency) == 4
    assert 0 < cruncher.latency.largest_s < 10


def test_proposed_rows_are_the_flash_formula_on_the_live_map_against_the_default() -> None:
    vehicle = small_vehicle()
    _, car, _ = crunch(vehicle, episode(vehicle, 1, 5), agent=SteadyAgent(1.0))
    default, table = vehicle.default_map(), vehicle.torque_map
    first = int(default.first_row(50.0))
    wanted = default.flashed(
        np.ones(68), first, default, budget_nm=table.budget_nm, upper_factor=table.upper_factor
    ).table[first : first + 4]
    for proposal in car.proposals:
        assert proposal.first_row == first
        assert np.array_equal(proposal.rows, wanted)


def test_what_the_guard_clipped_is_recorded_as_it_took_effect() -> None:
    vehicle = small_vehicle()
    default = vehicle.default_map().table

    def halved(proposal: RowsProposal) -> FlashOutcomeView:
        rows = slice(proposal.first_row, proposal.first_row + 4)
        half = (proposal.rows + default[rows]) / 2
        return FlashOutcomeView(
            "APPLIED", 0, "", proposal.first_row, half.astype(np.float32), clipped={"cell rate": 68}
        )

    _, _, lessons = crunch(vehicle, episode(vehicle, 1, 7), agent=SteadyAgent(-0.8), answer=halved)
    found = lessons.episodes[0]
    assert np.allclose(found.episodes[0].actions[1:], -0.4, atol=1e-5)
    assert found.decisions[1].clipped == {"cell rate": 68}
    assert found.decisions[1].norm == pytest.approx(0.8)


@pytest.mark.parametrize("result", ["REFUSED", "REVERTED", "UNKNOWN"])
def test_a_step_whose_flash_was_not_applied_never_becomes_a_transition(result: str) -> None:
    vehicle = small_vehicle()
    calls = 0

    def sometimes(proposal: RowsProposal) -> FlashOutcomeView:
        nonlocal calls
        calls += 1
        if calls == 2:
            return FlashOutcomeView.without_answer(proposal, result, 0, "no")  # type: ignore[arg-type]
        return applied(proposal)

    _, car, lessons = crunch(vehicle, episode(vehicle, 1, 13), agent=SteadyAgent(-0.3), answer=sometimes)
    found = lessons.episodes[0]
    assert len(car.proposals) == 6
    lost = BEGIN_NS + 204 * 300_000_000
    assert lost not in [record.time_ns for record in lessons.records]
    assert all(lost not in piece.times[:-1] for piece in found.episodes)
    assert [len(piece) for piece in found.episodes] == [2, 3]
    assert found.report.lost_records == {f"flash {result}": 1}


def test_every_flash_refused_leaves_only_the_first_record() -> None:
    vehicle = small_vehicle()
    _, _, lessons = crunch(vehicle, episode(vehicle, 1, 9), agent=SteadyAgent(-0.3), answer=refused)
    found = lessons.episodes[0]
    assert [len(piece) for piece in found.episodes] == [1]
    assert found.report.lost_records["flash REFUSED"] == 4


def test_observing_proposes_nothing_and_records_zeros() -> None:
    vehicle = small_vehicle()
    script: list[StreamItem] = [begun(1, armed=False), *windows(vehicle, 7), ended(1)]
    _, car, lessons = crunch(vehicle, script)
    found = lessons.episodes[0]
    assert car.proposals == []
    assert not found.episodes[0].actions.any()
    assert [RecordFlag(flag) for flag in found.episodes[0].flags.tolist()] == [
        RecordFlag.FIRST | RecordFlag.HELD, RecordFlag.HELD, RecordFlag.HELD
    ]  # fmt: skip
    assert found.live is None


def test_an_agent_that_is_not_armed_proposes_nothing() -> None:
    vehicle = small_vehicle()
    script: list[StreamItem] = [begun(1, armed=False), *windows(vehicle, 5), ended(1, valid=False)]
    _, car, lessons = crunch(vehicle, script, agent=SteadyAgent(0.1))
    assert car.proposals == []
    assert not lessons.episodes[0].valid


def test_an_episode_that_is_thrown_away_has_no_pieces() -> None:
    vehicle = small_vehicle()
    _, _, lessons = crunch(vehicle, episode(vehicle, 1, 9, valid=False), agent=SteadyAgent(0.1))
    found = lessons.episodes[0]
    assert (found.valid, found.episodes, found.reason) == (False, [], "HMI: end_invalid")


def test_episodes_are_numbered_on_and_each_begins_anew() -> None:
    vehicle = small_vehicle()
    agent = SteadyAgent(-0.1)
    script = [item for number in (1, 2, 3) for item in episode(vehicle, number, 5, valid=number != 2)]
    cruncher, _, lessons = crunch(vehicle, script, agent=agent, first_number=41)
    assert [found.number for found in lessons.episodes] == [41, 42, 43]
    assert lessons.begun == [(41, ""), (42, ""), (43, "")]
    assert [found.key[-4:] for found in lessons.episodes] == ["0041", "0042", "0043"]
    assert agent.begins == 3
    assert cruncher.ended == RunEnded("script over", failed=False)
    assert cruncher.state == "ended"


def test_the_live_map_goes_on_from_the_last_valid_episode() -> None:
    vehicle = small_vehicle()
    agents = SteadyAgent(-0.4)
    script = [item for number in (1, 2, 3) for item in episode(vehicle, number, 5, valid=number != 2)]
    cruncher, car, lessons = crunch(vehicle, script, agent=agents)
    assert car.resumed[0] is None
    assert car.resumed[1] == lessons.episodes[0].live
    assert car.resumed[2] == lessons.episodes[0].live
    assert cruncher.resume == lessons.episodes[2].live != vehicle.default_map()


def test_the_first_record_on_a_resumed_map_says_so() -> None:
    vehicle = small_vehicle()
    default = vehicle.default_map()
    live = TorqueMap(default.pedal_axis, default.speed_axis_kmh, default.table - np.float32(20))
    _, car, lessons = crunch(vehicle, episode(vehicle, 1, 5), agent=SteadyAgent(-0.4), resume=live)
    assert car.resumed == [live]
    assert lessons.records[0].flags & RecordFlag.ZEROED
    assert not lessons.records[0].truthful
    assert lessons.records[1].truthful


def test_a_window_that_comes_late_is_not_decided_on() -> None:
    """With the next window there already, a flash would fall into the wrong half step."""
    vehicle = small_vehicle()
    lessons = Lessons()
    car = FakeCar(vehicle, [])
    setup = CruncherSetup(vehicle, load_site(vehicle.site), vehicle.driver, SteadyAgent(0.1), 1)
    script: list[StreamItem] = [begun(1, live=vehicle.default_map().table), *windows(vehicle, 7), ended(1)]
    for item in script:
        car.stream.put(item)
    car.stream.close()
    Cruncher(car, setup, lessons).filter()
    found = lessons.episodes[0]
    assert car.proposals == []
    assert {decision.reason for decision in found.decisions[1:]} == {LATE_WINDOW}
    assert found.report.lost_records[LATE_WINDOW] >= 2


def test_a_flash_that_takes_longer_than_its_half_step_is_not_learned_from() -> None:
    vehicle = small_vehicle()
    vehicle = vehicle.model_copy(update={"online": vehicle.online.model_copy(update={"late_flash_s": None})})
    waiting = threading.Event()

    def slow(proposal: RowsProposal) -> FlashOutcomeView:
        waiting.wait(1.2 * vehicle.sampling.window_s)
        return applied(proposal)

    _, _, lessons = crunch(vehicle, episode(vehicle, 1, 7), agent=SteadyAgent(-0.1), answer=slow)
    assert lessons.episodes[0].report.lost_records[LATE_FLASH] == 3


def test_a_vehicle_may_take_longer_to_flash_than_a_window_lasts() -> None:
    vehicle = small_vehicle()
    vehicle = vehicle.model_copy(update={"online": vehicle.online.model_copy(update={"late_flash_s": 30.0})})
    waiting = threading.Event()

    def slow(proposal: RowsProposal) -> FlashOutcomeView:
        waiting.wait(1.2 * vehicle.sampling.window_s)
        return applied(proposal)

    _, _, lessons = crunch(vehicle, episode(vehicle, 1, 7), agent=SteadyAgent(-0.1), answer=slow)
    assert lessons.episodes[0].report.lost_records[LATE_FLASH] == 0
    assert len(lessons.episodes[0].records) == 3


def test_an_invalid_window_is_not_decided_on() -> None:
    vehicle = small_vehicle()
    agent = SteadyAgent(-0.1)
    script: list[StreamItem] = [begun(1, live=None), *windows(vehicle, 9, invalid=(2, 3)), ended(1)]
    _, car, lessons = crunch(vehicle, script, agent=agent)
    assert [int(state[1]) for state in agent.states] == [4, 6, 8]
    assert len(car.proposals) == 3
    assert [len(piece) for piece in lessons.episodes[0].episodes] == [2]


def weights_at(vehicle: Vehicle, border: str) -> Vehicle:
    online = vehicle.online.model_copy(update={"weights": border})
    return vehicle.model_copy(update={"online": online})


@pytest.mark.parametrize(("border", "taken_after"), [("step", 1), ("episode", 4)])
def test_weights_are_taken_over_at_the_border_that_the_vehicle_says(
    tmp_path: Path, border: str, taken_after: int
) -> None:
    vehicle = weights_at(small_vehicle(), border)
    DDPG(SMALL, DIM, 68, seed=9).save_policy(tmp_path / "w")
    lessons, taken = Lessons(), []

    class Watching(SteadyAgent):
        def take_over(self, successor: Successor) -> None:
            taken.append(len(self.states))
            super().take_over(successor)

    agent = Watching(0.1)
    weights = agent.prepare(tmp_path / "w")
    assert weights is not None

    def answer(proposal: RowsProposal) -> FlashOutcomeView:
        if not taken and not lessons.new_weights:
            lessons.new_weights.append(weights)
        return applied(proposal)

    script = [*episode(vehicle, 1, 9), *episode(vehicle, 2, 5)]
    crunch(vehicle, script, agent=agent, answer=answer, lessons=lessons)
    assert taken[0] == taken_after


def test_a_release_is_taken_over_at_the_next_episode(tmp_path: Path) -> None:
    vehicle = weights_at(small_vehicle(), "step")
    DDPG(SMALL, DIM, 68, seed=9).save_policy(tmp_path / "champion")
    lessons, agent = Lessons(), SteadyAgent(0.1)
    champion = agent.prepare(tmp_path / "champion")
    assert champion is not None

    def answer(proposal: RowsProposal) -> FlashOutcomeView:
        if not lessons.episodes and not lessons.new_release:
            lessons.new_release.append(champion)
        return applied(proposal)

    crunch(
        vehicle,
        [*episode(vehicle, 1, 9), *episode(vehicle, 2, 5)],
        agent=agent,
        answer=answer,
        lessons=lessons,
    )
    assert [found.agent for found in lessons.episodes] == [None, tmp_path / "champion"]


def test_an_episode_s_begin_waits_once_for_all_that_may_drive_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A look that takes all the time leaves none for the next: two would be longer than a first window."""
    waits, now = [], [50.0]
    clock = SimpleNamespace(
        monotonic=lambda: now[0], monotonic_ns=time.monotonic_ns, perf_counter_ns=time.perf_counter_ns
    )
    monkeypatch.setattr(control_loop, "time", clock)

    class Slow(Lessons):
        def weights(self, wait_s: float = 0.0) -> Successor | None:
            waits.append(wait_s)
            now[0] += wait_s
            return None

        release = weights

    vehicle = weights_at(small_vehicle(), "episode")
    crunch(vehicle, episode(vehicle, 1, 5), agent=SteadyAgent(0.1), lessons=Slow())
    assert waits == [control_loop.BEGIN_S, 0.0]


def test_a_policy_that_diverges_ends_the_loop_and_throws_the_episode_away() -> None:
    vehicle = small_vehicle()

    class Diverging(SteadyAgent):
        def act(self, state: np.ndarray, reward: float | None = None) -> np.ndarray:
            message = "68 values that are not finite"
            raise AgentError(message)

    lessons = Lessons()
    with pytest.raises(AgentError, match="not finite"):
        crunch(vehicle, episode(vehicle, 1, 9), agent=Diverging(0.1), lessons=lessons)
    assert [(found.valid, found.reason) for found in lessons.episodes] == [
        (False, "control loop: 68 values that are not finite")
    ]


def test_a_stream_that_closes_in_an_episode_throws_it_away() -> None:
    vehicle = small_vehicle()
    script: list[StreamItem] = [
        begun(1),
        *windows(vehicle, 5),
        RunEnded("watchdog: 30 failures", failed=True),
    ]
    cruncher, _, lessons = crunch(vehicle, script, agent=SteadyAgent(0.1))
    assert [(found.valid, found.reason) for found in lessons.episodes] == [(False, "watchdog: 30 failures")]
    assert cruncher.ended == RunEnded("watchdog: 30 failures", failed=True)


def test_a_window_outside_an_episode_is_left_out() -> None:
    vehicle = small_vehicle()
    _, car, lessons = crunch(vehicle, [window(vehicle, 0), *episode(vehicle, 1, 5)], agent=SteadyAgent(0.1))
    assert len(lessons.episodes) == 1
    assert lessons.episodes[0].report.windows == 5
    assert len(car.proposals) == 2


@pytest.mark.parametrize("speed", [0.0, 7.0, 19.9, 20.0, 29.9, 30.0, 110.0, 119.9, 120.0, 140.0])
def test_field_failure_first_row_16_on_a_14_row_table_at_120_km_h(speed: float) -> None:
    vehicle = small_vehicle()
    script: list[StreamItem] = [begun(1), *(window(vehicle, k, speed=speed) for k in range(5)), ended(1)]
    _, car, lessons = crunch(vehicle, script, agent=SteadyAgent(-0.1))
    rows = len(vehicle.default_map().speed_axis_kmh)
    assert car.proposals
    assert all(0 <= proposal.first_row <= rows - 4 for proposal in car.proposals)
    assert lessons.episodes[0].episodes[0].rows.max() <= rows - 4
