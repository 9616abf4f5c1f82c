"""Which windows become which records, and what is said of those that do not."""

from collections import Counter
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.online.builders import BEGIN_NS, KEY, context, small_vehicle, window
from tspace_core.config import Vehicle
from tspace_core.errors import RecordError
from tspace_core.online.recording import (
    BROKEN_CHAIN,
    TOO_FEW,
    UNFINISHED,
    EpisodeBuilder,
    Phase,
    StepAction,
)
from tspace_core.records.cutting import END_OF_LENGTH
from tspace_core.records.episode import Episode, RecordFlag
from tspace_core.records.policy import ACTION_DIM
from tspace_core.records.quadruple import make_steps
from tspace_core.records.reward import REWARD_KINDS
from tspace_core.records.window import GridTable
from tspace_core.vehicle.windows import Window


def applied(vehicle: Vehicle, value: float, first_row: int = 2, lost: str | None = None) -> StepAction:
    """Rows that are ``value`` of the budget above the default's."""
    rows = vehicle.default_map().table[first_row : first_row + 4] + np.float32(
        value * vehicle.torque_map.budget_nm
    )
    return StepAction(first_row, rows, flashed=True, lost=lost)


def held(vehicle: Vehicle, first_row: int = 2) -> StepAction:
    return StepAction(first_row, vehicle.default_map().table[first_row : first_row + 4])


def drive(
    vehicle: Vehicle, windows: list[Window], actions: list[StepAction]
) -> tuple[EpisodeBuilder, list[Phase]]:
    """Push windows; the actions are told in order after each state window, the last one again and again."""
    builder, phases, told = EpisodeBuilder(context(vehicle)), [], 0
    for item in windows:
        seen = builder.window(item)
        phases.append(seen.phase)
        if seen.phase is Phase.STATE:
            builder.act(actions[min(told, len(actions) - 1)])
            told += 1
    return builder, phases


def test_state_and_half_step_alternate_and_the_last_state_is_only_a_next_one() -> None:
    vehicle = small_vehicle()
    builder, phases = drive(vehicle, [window(vehicle, k) for k in range(7)], [held(vehicle)])
    assert phases == [Phase.STATE, Phase.HALF] * 3 + [Phase.STATE]
    (episode,) = builder.finish("end_valid")
    assert len(episode) == 3
    assert episode.states[:, 1].tolist() == [0, 2, 4, 6]
    assert (episode.times - BEGIN_NS).tolist() == [0, 600_000_000, 1_200_000_000, 1_800_000_000]
    assert episode.rewards.tolist() == [-(2 + 4), -(8 + 16), -(32 + 64)]
    assert not builder.report.lost_records


def test_the_first_action_is_zero_and_others_are_what_the_bridge_answered() -> None:
    vehicle = small_vehicle()
    actions = [held(vehicle), applied(vehicle, 0.2), applied(vehicle, -0.6, first_row=3)]
    builder, _ = drive(vehicle, [window(vehicle, k) for k in range(7)], actions)
    (episode,) = builder.finish("end_valid")
    assert episode.actions[0].tolist() == [0] * ACTION_DIM
    assert np.allclose(episode.actions[1], 0.2, atol=1e-6)
    assert np.allclose(episode.actions[2], -0.6, atol=1e-6)
    assert episode.rows.tolist() == [2, 2, 3]
    flags = [RecordFlag(flag) for flag in episode.flags.tolist()]
    assert flags == [RecordFlag.FIRST | RecordFlag.HELD, RecordFlag.FLASHED, RecordFlag.FLASHED]


def test_a_first_record_on_a_resumed_map_is_zero_and_says_that_this_is_not_what_was_live() -> None:
    vehicle = small_vehicle()
    live = applied(vehicle, 0.3)
    builder, _ = drive(
        vehicle, [window(vehicle, k) for k in range(5)], [StepAction(live.first_row, live.rows), live]
    )
    (episode,) = builder.finish("end_valid")
    assert not episode.actions[0].any()
    assert episode.flags[0] == RecordFlag.FIRST | RecordFlag.HELD | RecordFlag.ZEROED
    assert np.allclose(episode.actions[1], 0.3, atol=1e-6)


def test_rows_beyond_the_budget_are_clipped_and_flagged() -> None:
    vehicle = small_vehicle()
    builder, _ = drive(
        vehicle, [window(vehicle, k) for k in range(5)], [held(vehicle), applied(vehicle, -1.5)]
    )
    (episode,) = builder.finish("end_valid")
    assert np.array_equal(episode.actions[1], np.full(ACTION_DIM, -1.0, np.float32))
    assert RecordFlag(int(episode.flags[1])) == RecordFlag.FLASHED | RecordFlag.CLIPPED
    assert builder.report.clipped_records == 1


@pytest.mark.parametrize("result", ["REFUSED", "REVERTED", "UNKNOWN"])
def test_field_failure_a_failed_flash_logged_as_done_and_learned_from(result: str) -> None:
    """A step whose flash was not APPLIED is in no episode, and its record is never handed out."""
    vehicle = small_vehicle()
    actions = [
        held(vehicle),
        applied(vehicle, 0.1),
        applied(vehicle, 0.5, lost=f"flash {result}"),
        applied(vehicle, 0.2),
    ]
    builder = EpisodeBuilder(context(vehicle))
    records = []
    for k in range(11):
        seen = builder.window(window(vehicle, k))
        if seen.phase is Phase.STATE:
            builder.act(actions[min(builder.steps - 1, 3)])
        records.append(seen.record)
    pieces = builder.finish("end_valid")
    assert [len(piece) for piece in pieces] == [2, 2]
    assert [piece.meta.end_reason for piece in pieces] == [f"flash {result}", "end_valid"]
    assert [piece.meta.episode_id for piece in pieces] == [f"{KEY}#0000", f"{KEY}#0001"]
    assert pieces[0].states[:, 1].tolist() == [0, 2, 4]
    assert pieces[1].states[:, 1].tolist() == [6, 8, 10]
    assert [record.time_ns for record in records if record] == [
        *pieces[0].times[:-1].tolist(), *pieces[1].times[:-1].tolist()
    ]  # fmt: skip
    assert builder.report.lost_records == Counter({f"flash {result}": 1})
    for piece in pieces:
        assert not piece.actions[0].any()
    assert RecordFlag(int(pieces[1].flags[0])) & RecordFlag.ZEROED


def test_pieces_with_too_few_records_are_counted_not_kept() -> None:
    vehicle = small_vehicle(minimum=3)
    actions = [held(vehicle), held(vehicle), applied(vehicle, 0, lost="flash REFUSED"), applied(vehicle, 0.1)]
    builder, _ = drive(vehicle, [window(vehicle, k) for k in range(13)], actions)
    (piece,) = builder.finish("end_valid")
    assert len(piece) == 3
    assert piece.meta.episode_id == f"{KEY}#0000"
    assert builder.report.lost_records == Counter({TOO_FEW: 2, "flash REFUSED": 1})
    assert builder.report.short_pieces == 1


def test_an_invalid_window_ends_the_chain_and_the_next_one_is_a_state_window() -> None:
    vehicle = small_vehicle()
    windows = [window(vehicle, k, valid=k != 3) for k in range(9)]
    builder, phases = drive(vehicle, windows, [held(vehicle)])
    S, H, L = Phase.STATE, Phase.HALF, Phase.LOST
    assert phases == [S, H, S, L, S, H, S, H, S]
    pieces = builder.finish("end_valid")
    assert [piece.states[:, 1].tolist() for piece in pieces] == [[0, 2], [4, 6, 8]]
    assert pieces[0].meta.end_reason == "invalid window: pedal outside 0..100"
    assert builder.report.invalid_windows == Counter({"pedal outside 0..100": 1})


def test_windows_with_a_gap_between_them_are_not_joined() -> None:
    vehicle = small_vehicle()
    windows = [window(vehicle, k, shift_ns=10**9 if k >= 5 else 0) for k in range(10)]
    builder, _ = drive(vehicle, windows, [held(vehicle)])
    pieces = builder.finish("end_valid")
    assert [piece.states[:, 1].tolist() for piece in pieces] == [[0, 2, 4], [5, 7, 9]]
    assert pieces[0].meta.end_reason == BROKEN_CHAIN


@pytest.mark.parametrize(("gap_s", "pieces"), [(2.0, 1), (3.0, 1), (3.1, 2), (-0.6, 2)])
def test_a_vehicle_behind_a_box_may_have_gaps_between_its_windows(gap_s: float, pieces: int) -> None:
    vehicle = small_vehicle()
    vehicle = vehicle.model_copy(update={"online": vehicle.online.model_copy(update={"window_gap_s": 3.0})})
    shift_ns = round(gap_s * 1e9)
    windows = [window(vehicle, k, shift_ns=shift_ns if k >= 5 else 0) for k in range(10)]
    builder, _ = drive(vehicle, windows, [held(vehicle)])
    assert len(builder.finish("end_valid")) == pieces


def test_samples_that_jitter_break_no_chain() -> None:
    vehicle = small_vehicle()
    jitter = np.random.default_rng(1).integers(-20_000_000, 20_000_000, 9).tolist()
    windows = [window(vehicle, k, shift_ns=shift) for k, shift in enumerate(jitter)]
    builder, _ = drive(vehicle, windows, [held(vehicle)])
    assert [len(piece) for piece in builder.finish("end_valid")] == [4]


def test_long_runs_go_on_in_another_episode() -> None:
    vehicle = small_vehicle(maximum=2)
    builder, _ = drive(vehicle, [window(vehicle, k) for k in range(11)], [held(vehicle)])
    pieces = builder.finish("end_valid")
    assert [piece.states[:, 1].tolist() for piece in pieces] == [[0, 2, 4], [4, 6, 8], [8, 10]]
    assert [piece.meta.end_reason for piece in pieces] == [END_OF_LENGTH, END_OF_LENGTH, "end_valid"]


def test_a_step_that_the_end_cuts_off_is_counted() -> None:
    vehicle = small_vehicle()
    builder, _ = drive(vehicle, [window(vehicle, k) for k in range(4)], [held(vehicle)])
    assert [len(piece) for piece in builder.finish("end_valid")] == [1]
    assert builder.report.lost_records == Counter({UNFINISHED: 1})


def test_no_window_no_episode() -> None:
    builder = EpisodeBuilder(context(small_vehicle()))
    assert builder.finish("end_valid") == []


def test_what_every_episode_carries() -> None:
    vehicle = small_vehicle()
    builder, _ = drive(vehicle, [window(vehicle, k) for k in range(5)], [held(vehicle)])
    meta = builder.finish("interrupted: code 4")[0].meta
    assert (meta.vehicle_id, meta.driver_id, meta.site_id) == ("twin_truck", "tracker", "proving_ground")
    assert (meta.action_source, meta.time_source, meta.log_key) == ("agent", "clock", KEY)
    assert (meta.end_reason, meta.reward_kind) == ("interrupted: code 4", "energy")
    assert (meta.energy_wh, meta.distance_m) == (2 + 4 + 8 + 16, 4.0)
    assert meta.duration_s == pytest.approx(1.4)
    assert meta.default_map_sha256 == vehicle.default_map().sha256()


def test_an_action_is_told_once_after_each_state_window() -> None:
    vehicle = small_vehicle()
    builder = EpisodeBuilder(context(vehicle))
    with pytest.raises(RecordError, match="an action is told once after each state window"):
        builder.act(held(vehicle))
    builder.window(window(vehicle, 0))
    builder.act(held(vehicle))
    with pytest.raises(RecordError, match="none waits"):
        builder.act(held(vehicle))


def test_a_valid_window_of_another_shape_is_refused() -> None:
    vehicle = small_vehicle()
    with pytest.raises(RecordError, match=r"a window of \(3, 3\) samples, twin_truck has \(5, 3\)"):
        sampling = vehicle.sampling.model_copy(update={"window": 5})
        other = vehicle.model_copy(update={"sampling": sampling})
        EpisodeBuilder(context(other)).window(window(vehicle, 0))


@pytest.mark.parametrize("kind", REWARD_KINDS)
def test_rewards_are_those_that_a_log_of_the_same_drive_gives(kind: str) -> None:
    vehicle = small_vehicle()
    vehicle = vehicle.model_copy(update={"reward": vehicle.reward.model_copy(update={"kind": kind})})
    length, count = vehicle.sampling.window, 9
    rows = length * count
    generator = np.random.default_rng(11)
    values = {name: generator.uniform(0, 90, rows).astype(np.float32) for name in vehicle.sampling.signals}
    time = BEGIN_NS + np.arange(rows) * vehicle.sampling.period_ns
    energy, distance = generator.normal(1, 2, rows), generator.uniform(0, 3, rows)
    table = GridTable(time, time, np.zeros(rows, np.uint16), values, energy, np.full(rows, 0.1), distance)
    steps = make_steps(table, 0, 4, vehicle)
    samples = np.stack([values[name] for name in vehicle.sampling.signals], axis=-1)
    windows = []
    for k in range(count):
        part = slice(k * length, (k + 1) * length)
        windows.append(
            Window(
                start_ns=int(time[part.start]),
                samples=samples[part],
                energy_wh=float(energy[part].sum()),
                distance_m=float(distance[part].sum()),
                top_speed_kmh=float(samples[part, 0].max()),
                valid=True,
                reason="",
                end_ns=int(time[part.stop - 1]),
            )
        )
    builder, _ = drive(vehicle, windows, [held(vehicle)])
    (episode,) = builder.finish("end_valid")
    assert np.allclose(episode.rewards, steps.rewards, rtol=1e-6)
    assert np.array_equal(episode.states, steps.states)
    assert episode.meta.energy_wh == pytest.approx(steps.energy_wh.sum())


@dataclass
class Event:
    """What may happen to a window."""

    valid: bool
    gap: bool
    lost: bool


EVENTS = st.lists(
    st.builds(
        Event,
        valid=st.sampled_from([True, True, True, True, False]),
        gap=st.sampled_from([False, False, False, False, False, True]),
        lost=st.sampled_from([False, False, False, True]),
    ),
    max_size=40,
)


@settings(max_examples=300, deadline=None)
@given(events=EVENTS, minimum=st.integers(1, 3), maximum=st.integers(3, 6))
def test_only_whole_applied_steps_become_records_and_every_step_is_accounted_for(
    events: list[Event], minimum: int, maximum: int
) -> None:
    vehicle = small_vehicle(minimum=minimum, maximum=maximum)
    builder = EpisodeBuilder(context(vehicle))
    shift, handed = 0, []
    phases: list[Phase] = []
    for number, event in enumerate(events):
        shift += 10**9 if event.gap else 0
        seen = builder.window(window(vehicle, number, valid=event.valid, shift_ns=shift))
        phases.append(seen.phase)
        assert builder.waiting == (seen.phase is Phase.STATE)
        if seen.phase is Phase.STATE:
            builder.act(applied(vehicle, 0.25, lost="flash REFUSED" if event.lost else None))
        if seen.record is not None:
            handed.append(seen.record)
    pieces = builder.finish("end_valid")
    whole = _whole_steps(events, phases)
    assert [int(record.state[1]) for record in handed] == whole
    kept = [int(state[1]) for piece in pieces for state in piece.states[:-1]]
    assert set(kept) <= set(whole)
    assert len(kept) == len(set(kept)) == len(whole) - builder.report.lost_records[TOO_FEW]
    _check_pieces(pieces, minimum, maximum)


def _whole_steps(events: list[Event], phases: list[Phase]) -> list[int]:
    """Told from the definition: state, half and next state valid, without a gap, and applied."""
    found = []
    for k in range(len(events) - 2):
        after = events[k + 1 : k + 3]
        joined = all(event.valid and not event.gap for event in after)
        if phases[k] is Phase.STATE and joined and not events[k].lost:
            found.append(k)
    return found


def _check_pieces(pieces: list[Episode], minimum: int, maximum: int) -> None:
    for number, piece in enumerate(pieces):
        assert minimum <= len(piece) <= maximum
        assert piece.meta.episode_id == f"{KEY}#{number:04d}"
        assert np.diff(piece.states[:, 1]).tolist() == [2] * len(piece)
        assert not piece.actions[0].any()
        assert piece.flags[0] & RecordFlag.FIRST
        assert not (piece.flags[1:] & RecordFlag.FIRST).any()
        assert np.allclose(piece.actions[1:], 0.25, atol=1e-6)
