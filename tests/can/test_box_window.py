"""Windows of a telematics box: what is encoded comes back, and whatever is wrong is said, never raised."""

import copy
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tspace_core.can.box_window import (
    GEAR_SAMPLES,
    KEYS,
    SIGNALS,
    BoxWindow,
    decode_window,
    encode_window,
)
from tspace_core.config import RemoteConfig, Vehicle, load_vehicle, settings
from tspace_core.errors import RecordError

# The last four are shifted by 30 minutes, at midnight, by whole days once, and twice a year for Ramadan.
ZONES = (
    "UTC", "Europe/Berlin", "America/New_York", "America/St_Johns", "Asia/Shanghai", "Asia/Kathmandu",
    "Australia/Lord_Howe", "America/Havana", "Pacific/Apia", "Africa/Casablanca",
)  # fmt: skip
BERLIN = ZoneInfo("Europe/Berlin")
SECOND = 1_000_000_000
STEP = 20_000_000
MORNING = int(datetime(2026, 6, 1, 6, 30, tzinfo=UTC).timestamp()) * SECOND + 123_000_000


@pytest.fixture(scope="module", autouse=True)
def _sites(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A site in each zone."""
    truck()
    folder = tmp_path_factory.mktemp("conf")
    (folder / "sites").mkdir()
    for zone in ZONES:
        name = site_in(zone)
        text = f"id: {name}\nname: somewhere\ntimezone: {zone}\n"
        Path(folder, "sites", f"{name}.yaml").write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TSPACE_CONF_DIR", str(folder))
        settings.cache_clear()
        yield
    settings.cache_clear()


def site_in(zone: str) -> str:
    return zone.lower().replace("/", "_")


@cache
def truck() -> Vehicle:
    return load_vehicle("twin_remote")


def vehicle_in(zone: str, **remote: Any) -> Vehicle:
    return truck().model_copy(update={"site": site_in(zone), "remote": RemoteConfig(**remote)})


def samples(seed: int, units: int) -> NDArray[np.float64]:
    """Whole units of six signals of all sizes; the gear changes at half and full seconds only."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(units * 50, 6)) * 10.0 ** rng.integers(-6, 9, (units * 50, 6))
    values[rng.random(values.shape) < 0.1] = 0.0
    values[:, 5] = np.repeat(rng.integers(0, 13, units * GEAR_SAMPLES), 50 // GEAR_SAMPLES)
    return values


def sent(
    units: int = 4, start_ns: int = MORNING, zone: ZoneInfo = BERLIN, *, as_strings: bool = False
) -> Any:
    """A valid window as it comes from JSON."""
    window = encode_window(samples(1, units), start_ns, zone, as_strings=as_strings)
    return json.loads(json.dumps(window))


def decoded(window: object, near_ns: int = MORNING + 5 * SECOND, units: int | None = 4) -> BoxWindow:
    return decode_window(window, vehicle_in("Europe/Berlin"), near_ns=near_ns, units=units)


def assert_unusable(window: BoxWindow, *parts: str) -> None:
    for part in parts:
        assert part in window.reason
    assert window.time_ns.shape == (0,)
    assert window.values.shape == (0, 6)


@cache
def changes(zone: str) -> list[int]:
    """When the clocks of a zone were or will be changed in some years, s UTC."""

    def changed(at: datetime, later: datetime) -> bool:
        return at.astimezone(ZoneInfo(zone)).utcoffset() != later.astimezone(ZoneInfo(zone)).utcoffset()

    found, half_hour, day = [], timedelta(minutes=30), timedelta(days=1)
    for year in (2011, 2016, 2024, 2026, 2033):
        days = [datetime(year, 1, 1, tzinfo=UTC) + day * number for number in range(366)]
        for at in (at for at in days if changed(at, at + day)):
            times = [at + half_hour * number for number in range(48)]
            found += [int((t + half_hour).timestamp()) for t in times if changed(t, t + half_hour)]
    return found


@st.composite
def starts(draw: st.DrawFn, zone: str) -> int:
    """Any instant of the century, or one near a change of the clocks or an hour from one, ns UTC."""
    first, last = datetime(2000, 1, 3, tzinfo=UTC), datetime(2099, 12, 29, tzinfo=UTC)
    any_time = st.integers(int(first.timestamp() * 1e9), int(last.timestamp() * 1e9))
    if not changes(zone):
        return draw(any_time)
    away = st.tuples(st.sampled_from((-3600, -1800, 0, 1800, 3600)), st.integers(-7 * SECOND, 7 * SECOND))
    near = st.tuples(st.sampled_from(changes(zone)), away).map(lambda t: (t[0] + t[1][0]) * SECOND + t[1][1])
    return draw(st.one_of(any_time, near))


@given(data=st.data(), zone=st.sampled_from(ZONES), seed=st.integers(0, 2**32 - 1), units=st.integers(1, 6))
def test_what_is_encoded_comes_back(data: st.DataObject, zone: str, seed: int, units: int) -> None:
    start_ns = data.draw(starts(zone))
    digits = data.draw(st.integers(2, 6))
    noticed_ns = start_ns + units * SECOND + data.draw(st.integers(-SECOND, 600 * SECOND))
    values = samples(seed, units)
    sent = encode_window(
        values, start_ns, ZoneInfo(zone), as_strings=data.draw(st.booleans()), fraction_digits=digits
    )
    window = decode_window(json.loads(json.dumps(sent)), vehicle_in(zone), near_ns=noticed_ns, units=units)
    assert window.reason == ""
    assert np.array_equal(window.values, values)
    # Stamps are cut off after their last digit; from there on a sample every 20 ms.
    assert 0 <= start_ns - window.time_ns[0] < 10 ** (9 - digits)
    assert np.array_equal(window.time_ns - window.time_ns[0], np.arange(units * 50) * STEP)


@given(data=st.data(), seed=st.integers(0, 2**32 - 1), as_strings=st.booleans())
def test_short_units_are_stretched_and_long_ones_cut(
    data: st.DataObject, seed: int, as_strings: bool
) -> None:
    values = samples(seed, 4)
    window = json.loads(json.dumps(encode_window(values, MORNING, BERLIN, as_strings=as_strings)))
    expected = values.copy()
    for column, name in enumerate(SIGNALS[:5]):
        for unit in range(4):
            length = data.draw(st.integers(2, 60), label=f"{name} {unit}")
            row = window[KEYS[name]][unit]
            whole = [float(value) for value in row]
            row[:] = row[:length] + [7.0] * (length - 50)
            if length < 50:
                places = [i * (length - 1) / 49 for i in range(50)]
                low = [min(int(place), length - 2) for place in places]
                expected[unit * 50 : unit * 50 + 50, column] = [
                    whole[k] + (whole[k + 1] - whole[k]) * (place - k)
                    for k, place in zip(low, places, strict=True)
                ]
    window["list_gears"][1] = window["list_gears"][1][:1]
    window["list_gears"][2] += [99]
    expected[75:100, 5] = expected[50, 5]
    got = decoded(window)
    assert got.reason == ""
    scale = np.abs(values).max()
    assert np.allclose(got.values, expected, rtol=1e-9, atol=1e-9 * scale)
    assert (got.values[::50] == expected[::50]).all()


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["260601083000123", "1", "nan", 10**400]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(data=st.data(), new=JSON)
def test_nothing_that_json_can_hold_raises(data: st.DataObject, new: object) -> None:
    assert decoded(new).reason
    window = sent(units=2)
    key = data.draw(st.sampled_from(sorted(window)))
    depth = data.draw(st.integers(0, 2 if key != "timestamps" else 1))
    if depth == 0:
        window[key] = new
    elif depth == 1:
        window[key][1] = new
    else:
        window[key][1][1] = new
    got = decoded(window, units=2)
    if got.reason:
        assert_unusable(got)
    else:
        assert np.isfinite(got.values).all()
        assert (np.diff(got.time_ns) > 0).all()


@pytest.mark.parametrize(
    "wrong", [True, None, "nan", "inf", "1e999", "", " ", "1_000", "0x10", "١", [1.0], {}]
)
@pytest.mark.parametrize("key", ["list_speed_1s", "list_voltage_1s", "list_gears"])
def test_a_sample_that_is_no_number_is_named(key: str, wrong: object) -> None:
    window = sent()
    window[key][2][1] = wrong
    assert_unusable(decoded(window), key, "expected a finite number or a decimal string")


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -float("inf"), 10**400])
def test_a_number_that_is_none_is_refused(wrong: float) -> None:
    window = sent()
    window["list_current_1s"][3][49] = wrong
    assert_unusable(decoded(window), "list_current_1s", "finite")
    window = sent()
    window["list_current_1s"][3][48:] = [wrong, "12.5"]
    assert_unusable(decoded(window), "list_current_1s", "finite")


@pytest.mark.parametrize("key", ["timestamps", *KEYS.values()])
def test_a_missing_or_empty_part_is_named(key: str) -> None:
    window = sent()
    del window[key]
    assert_unusable(decoded(window), f"{key} is missing")
    for wrong in (None, "1", 1, {"0": [1.0]}):
        window[key] = wrong
        assert_unusable(decoded(window), key, "expected a list of units")
    window = sent()
    window[key] = window[key][:3]
    assert_unusable(decoded(window), "3 units")
    if key != "timestamps":
        window = sent()
        window[key][1] = []
        assert_unusable(decoded(window), f"{key}, unit 1 has 0 samples")
        window[key][1] = "1.0"
        assert_unusable(decoded(window), f"{key}, unit 1", "list of samples")


def test_one_sample_cannot_be_interpolated_but_a_gear_is_held() -> None:
    window = sent()
    window["list_pedal_1s"][0] = [50.0]
    assert_unusable(decoded(window), "list_pedal_1s, unit 0 has 1 samples, at least 2")
    window = sent()
    window["list_gears"] = [[3]] * 4
    assert decoded(window).values[:, 5].tolist() == [3.0] * 200


def test_the_number_of_units_is_the_callers_or_any() -> None:
    assert_unusable(decoded(sent(units=3)), "3 units, expected 4")
    assert len(decoded(sent(units=3), units=None).time_ns) == 150
    empty: dict[str, list[object]] = {key: [] for key in sent()}
    assert_unusable(decoded(empty, units=None), "0 units")


@pytest.mark.parametrize(
    "stamp",
    [
        "260601083000", "2606010830001", "2606010830001234567", "260631083000123", "260601243000123",
        "260601086000123", "260601083060123", " 260601083000123", "26060108300012a", "٢٦٠٦٠١٠٨٣٠٠٠١٢٣",
        260601083000123, 1.5, None, True, ["260601083000123"],
    ],
)  # fmt: skip
def test_a_stamp_of_another_form_is_refused(stamp: object) -> None:
    window = sent()
    window["timestamps"][0] = stamp
    assert_unusable(decoded(window), "timestamps, unit 0", "yymmddHHMMSS")


@pytest.mark.parametrize("late_ms", [-1000, -101, 101, 500, 1000, 86_400_000])
def test_units_that_do_not_follow_each_other_are_refused(late_ms: int) -> None:
    window, moved = sent(), sent(start_ns=MORNING + late_ms * 1_000_000)
    window["timestamps"][2:] = moved["timestamps"][2:]
    assert_unusable(decoded(window), "unit 2", "expected 1 s")


@pytest.mark.parametrize("late_ms", [-100, -20, -1, 1, 20, 100])
def test_a_little_jitter_is_spread_over_the_unit(late_ms: int) -> None:
    window, moved = sent(), sent(start_ns=MORNING + late_ms * 1_000_000)
    window["timestamps"][2] = moved["timestamps"][2]
    got = decoded(window)
    assert got.reason == ""
    assert got.time_ns[100] == MORNING + 2 * SECOND + late_ms * 1_000_000
    assert got.time_ns[150] == MORNING + 3 * SECOND
    steps = np.diff(got.time_ns)
    assert steps.min() >= 0.9 * STEP - 1
    assert steps.max() <= 1.1 * STEP + 1


def test_the_doubled_hour_is_told_by_what_time_it_is() -> None:
    first = int(datetime(2026, 10, 25, 0, 30, tzinfo=UTC).timestamp()) * SECOND
    second = first + 3600 * SECOND
    assert sent(start_ns=first)["timestamps"] == sent(start_ns=second)["timestamps"]
    for start_ns in (first, second):
        got = decoded(sent(start_ns=start_ns), near_ns=start_ns + 60 * SECOND)
        assert got.time_ns[0] == start_ns


def test_the_doubled_hour_is_told_by_the_units_next_to_it() -> None:
    change = int(datetime(2026, 10, 25, 1, 0, tzinfo=UTC).timestamp()) * SECOND
    for start_ns in (change - 3600 * SECOND, change, change + 3600 * SECOND):
        for near_ns in (0, MORNING, change - 3000 * SECOND, change + 9000 * SECOND):
            # Two units before it and two after it: what time it is must not matter.
            got = decoded(sent(start_ns=start_ns - 2 * SECOND), near_ns=near_ns)
            assert got.time_ns[0] == start_ns - 2 * SECOND
            assert got.time_ns[-1] == start_ns + 2 * SECOND - STEP


def test_a_time_that_does_not_exist_is_refused() -> None:
    window = sent()
    window["timestamps"] = [f"26032902300{second}00" for second in range(4)]
    assert_unusable(decoded(window), "timestamps, unit 0", "does not exist in Europe/Berlin")
    window["timestamps"] = ["26032901595800", "26032901595900", "26032903000000", "26032903000100"]
    assert decoded(window).reason == ""
    window["timestamps"][2] = "26032902000000"
    assert_unusable(decoded(window), "timestamps, unit 2", "does not exist")


def test_signs_are_the_vehicles() -> None:
    window = sent()
    plain = decoded(window)
    vehicle = vehicle_in("Europe/Berlin", sign={"current": -1, "brake": 1})
    turned = decode_window(window, vehicle, near_ns=MORNING)
    assert np.array_equal(turned.values * [1, 1, 1, -1, 1, 1], plain.values)


def test_a_window_is_not_changed_by_reading_it() -> None:
    window = sent()
    window["list_speed_1s"][0] += [1.0] * 3
    before = copy.deepcopy(window)
    decoded(window)
    assert window == before


def test_a_refusal_shows_little_of_a_large_value() -> None:
    for wrong in ("9" * 10_000, [[1.0] * 1000] * 10, {"x": "y" * 10_000}):
        window = sent()
        window["list_speed_1s"][0] = wrong
        assert len(decoded(window).reason) < 300
        window["list_speed_1s"][0] = ["1.5", wrong]
        assert len(decoded(window).reason) < 300


@pytest.mark.parametrize(
    ("values", "digits"),
    [
        (np.zeros((49, 6)), 3),
        (np.zeros((0, 6)), 3),
        (np.zeros((50, 5)), 3),
        (np.zeros(50), 3),
        (np.full((50, 6), np.nan), 3),
        (np.zeros((50, 6)), 1),
        (np.zeros((50, 6)), 7),
    ],
)
def test_what_is_no_window_is_not_encoded(values: NDArray[np.float64], digits: int) -> None:
    with pytest.raises(RecordError, match=r"expected|finite"):
        encode_window(values, MORNING, BERLIN, fraction_digits=digits)
