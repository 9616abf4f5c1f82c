"""Both calls of the remote CAN service, to the letter of the wire contract, through a plain HTTP client."""

import json
import re
from collections.abc import Callable

import numpy as np
import pytest

from tests.twin.cloud.told import ask, code_of, four_rows, get_signal, hang_up, set_torque
from tspace_core.config import Vehicle
from tspace_core.twin.cloud.live_cloud import CloudTwin

LISTS = {
    "list_speed_1s": 50,
    "list_pedal_1s": 50,
    "list_brake_pressure_1s": 50,
    "list_current_1s": 50,
    "list_voltage_1s": 50,
    "list_gears": 2,
}


@pytest.mark.parametrize("units", [1, 4])
def test_get_signal_answers_with_whole_units(twin: CloudTwin, vehicle: Vehicle, units: int) -> None:
    answer = get_signal(twin.url, vehicle.vin, units)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.json().keys() == {"success", "result"}
    assert answer.json()["success"] is True
    result = answer.json()["result"]
    assert result.keys() == {"timestamps", *LISTS}
    assert len(result["timestamps"]) == units
    for stamp in result["timestamps"]:
        assert re.fullmatch(r"\d{12}\d{2,6}", stamp)
    for key, samples in LISTS.items():
        assert [len(unit) for unit in result[key]] == [samples] * units
        assert all(isinstance(value, float | int) for unit in result[key] for value in unit)


def test_set_torque_puts_rows_into_effect(twin: CloudTwin, vehicle: Vehicle) -> None:
    before = twin.state()
    rows = four_rows(vehicle, 2)
    answer = set_torque(twin.url, vehicle.vin, rows.tolist(), 2)
    assert (answer.status_code, answer.json()) == (200, {"success": True})
    state = twin.state()
    assert state["page"] == "live"
    assert state["flashes_applied"] == before["flashes_applied"] + 1
    table = np.array(state["rows"], dtype=np.float32)
    np.testing.assert_array_equal(table[2:6], rows)
    reference = vehicle.default_map().table
    assert set_torque(twin.url, vehicle.vin, reference.tolist()).json() == {"success": True}
    state = twin.state()
    assert (state["page"], state["map_sha256"]) == ("reference", vehicle.default_map().sha256())
    assert state["rows_applied"] == before["rows_applied"] + 1, "the whole map is no decision"


def test_torque_as_decimal_strings_and_with_the_switch(twin: CloudTwin, vehicle: Vehicle) -> None:
    rows = four_rows(vehicle, 9, 3.5)
    texts = [[str(value) for value in row] for row in rows]
    assert set_torque(twin.url, vehicle.vin, texts, 9, switch=True).json() == {"success": True}
    np.testing.assert_array_equal(np.array(twin.state()["rows"][9:13], dtype=np.float32), rows)


def test_the_service_tells_its_own_delay(twin: CloudTwin, vehicle: Vehicle) -> None:
    answer = get_signal(twin.url, vehicle.vin, 1)
    seconds = float(answer.headers["x-service-seconds"])
    assert 0.0 < seconds <= answer.elapsed.total_seconds()


def _changed_cell(value: object) -> Callable[[Vehicle], list[list[object]]]:
    def make(vehicle: Vehicle) -> list[list[object]]:
        rows: list[list[object]] = four_rows(vehicle).tolist()
        rows[1][3] = value
        return rows

    return make


SHAPES: dict[str, Callable[[Vehicle], object]] = {
    "no rows": lambda vehicle: [],
    "no list": lambda vehicle: "rows",
    "missing": lambda vehicle: None,
    "flat": lambda vehicle: [0.0] * 68,
    "a column missing": lambda vehicle: four_rows(vehicle)[:, 1:].tolist(),
    "ragged": lambda vehicle: [*four_rows(vehicle)[:3].tolist(), [0.0] * 16],
    "too many rows": lambda vehicle: [[0.0] * 17] * 15,
}


@pytest.mark.parametrize("name", SHAPES)
def test_rows_of_a_wrong_shape(twin: CloudTwin, vehicle: Vehicle, name: str) -> None:
    before = twin.state()["map_sha256"]
    assert code_of(set_torque(twin.url, vehicle.vin, SHAPES[name](vehicle), 2)) == "2003"
    assert twin.state()["map_sha256"] == before


@pytest.mark.parametrize("value", [None, "x", "nan", "inf", 1e9, -1e9, [1]])
def test_a_cell_out_of_range(twin: CloudTwin, vehicle: Vehicle, value: object) -> None:
    before = twin.state()["map_sha256"]
    assert code_of(set_torque(twin.url, vehicle.vin, _changed_cell(value)(vehicle), 2)) == "2004"
    assert twin.state()["map_sha256"] == before


@pytest.mark.parametrize("first_row", [-1, 11, 14])
def test_rows_that_there_are_not(twin: CloudTwin, vehicle: Vehicle, first_row: int) -> None:
    assert code_of(set_torque(twin.url, vehicle.vin, four_rows(vehicle).tolist(), first_row)) == "2004"


@pytest.mark.parametrize("seconds", [None, "4", 0, -1, 0.5, 61, True, [4]])
def test_wrong_durations(twin: CloudTwin, vehicle: Vehicle, seconds: object) -> None:
    assert code_of(get_signal(twin.url, vehicle.vin, seconds)) == "206"


@pytest.mark.parametrize("first_row,switch", [("2", False), (2.5, False), (True, False), (2, 1), (2, None)])
def test_wrong_parameters(twin: CloudTwin, vehicle: Vehicle, first_row: object, switch: object) -> None:
    rows = four_rows(vehicle).tolist()
    assert code_of(set_torque(twin.url, vehicle.vin, rows, first_row, switch=switch)) == "206"


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"1", b"{}", b'{"vin": 5}', b"\xff\xfe"])
@pytest.mark.parametrize("call", ["get_signal", "set_torque"])
def test_bodies_that_say_nothing(twin: CloudTwin, call: str, content: bytes) -> None:
    answer = ask("POST", f"{twin.url}/{call}", content=content)
    assert code_of(answer) == "206"


def test_an_unknown_vin_and_an_unknown_call(twin: CloudTwin, vehicle: Vehicle) -> None:
    assert code_of(get_signal(twin.url, "NOBODYSVIN0000001")) == "303"
    assert code_of(set_torque(twin.url, "NOBODYSVIN0000001", four_rows(vehicle).tolist())) == "303"
    for path in ("get_signals", "", "get_signal/x"):
        answer = ask("POST", f"{twin.url}/{path}", json={})
        assert code_of(answer) == "202"
    assert code_of(ask("GET", f"{twin.url}/get_signal")) == "202"


def test_the_drivers_switch_is_code_2(twin: CloudTwin, vehicle: Vehicle) -> None:
    off = {"success": False, "AIMode": False}
    rows = four_rows(vehicle).tolist()
    assert set_torque(twin.url, vehicle.vin, rows, 2).json() == {"success": True}
    assert twin.state()["page"] == "live"
    twin.set_ai_mode(on=False)
    state = twin.state()
    assert (state["ai_mode"], state["page"]) == (False, "reference"), "the VCU drives by its own map"
    assert set_torque(twin.url, vehicle.vin, rows, 2).json() == off
    assert get_signal(twin.url, vehicle.vin, 1).json() == off
    assert twin.state()["page"] == "reference"
    twin.set_ai_mode(on=True)
    assert twin.state()["page"] == "reference", "switching on flashes nothing"
    later = four_rows(vehicle, 9)
    assert set_torque(twin.url, vehicle.vin, later.tolist(), 9).json() == {"success": True}
    table = np.array(twin.state()["rows"], dtype=np.float32)
    reference = vehicle.default_map().table
    np.testing.assert_array_equal(table[:9], reference[:9])
    np.testing.assert_array_equal(table[9:13], later)


def test_how_many_calls_there_were_at_once(twin: CloudTwin, vehicle: Vehicle) -> None:
    before = twin.state()
    assert get_signal(twin.url, vehicle.vin, 1).json()["success"] is True
    after = twin.state()
    assert after["calls"]["get_signal"] == before["calls"].get("get_signal", 0) + 1
    assert (after["calls_now"], after["connections_at_once"]) == (0, 1)


def test_a_caller_who_hung_up_is_not_there_at_once_with_the_next(twin: CloudTwin, vehicle: Vehicle) -> None:
    for _ in range(5):
        twin.fault("hang:get_signal")
        hang_up(twin, "get_signal", {"vin": vehicle.vin, "signal_duration": 1})
        assert get_signal(twin.url, vehicle.vin, 1).json()["success"] is True
        state = twin.state()
        assert (state["calls_now"], state["connections_at_once"]) == (0, 1)


def test_answers_are_plain_json(twin: CloudTwin, vehicle: Vehicle) -> None:
    def refuse(word: str) -> None:
        raise AssertionError(word)

    json.loads(get_signal(twin.url, vehicle.vin, 1).content, parse_constant=refuse)
