"""A2L files as they come from build tools: what is read from them, and what is refused by name and line."""

import time
from pathlib import Path

import numpy as np
import pytest

from tests.link.test_calibration import MAP, a2l_folder, direct, table_of, truck_a2l
from tests.link.xcp_doubles import truck
from tspace_core.config.settings import find_a2l
from tspace_core.errors import ConfigError, XcpProtocolError
from tspace_core.link.a2l import A2lParameter, read_parameters
from tspace_core.link.float_buffer import to_bytes
from tspace_core.twin.xcp_slave import XcpSlave

FRAME = """ASAP2_VERSION 1 71
/begin PROJECT p ""
/begin MODULE m "It's a \\"module\\" // no comment /* none either"
{body}
/end MODULE
/end PROJECT
"""
LAYOUTS = """
/begin RECORD_LAYOUT ROWS FNC_VALUES 1 FLOAT32_IEEE ROW_DIR DIRECT /end RECORD_LAYOUT
/begin RECORD_LAYOUT COLUMNS FNC_VALUES 1 FLOAT32_IEEE COLUMN_DIR DIRECT /end RECORD_LAYOUT
/begin RECORD_LAYOUT STANDARD
  NO_AXIS_PTS_X 1 UBYTE NO_AXIS_PTS_Y 2 UBYTE
  AXIS_PTS_X 3 SWORD INDEX_INCR DIRECT
  AXIS_PTS_Y 4 UBYTE INDEX_INCR DIRECT
  FNC_VALUES 5 FLOAT32_IEEE ROW_DIR DIRECT
/end RECORD_LAYOUT
/begin RECORD_LAYOUT AXIS_F AXIS_PTS_X 1 FLOAT32_IEEE INDEX_INCR DIRECT /end RECORD_LAYOUT
/begin COMPU_METHOD TAB "" TAB_INTP "%3" "" COMPU_TAB_REF t /end COMPU_METHOD
/begin COMPU_METHOD CM_ONE "" IDENTICAL "%5.1" "" /end COMPU_METHOD
/begin COMPU_METHOD CM_KMH "" RAT_FUNC "%5.1" "km/h" COEFFS 0 10 0 0 0 1 /end COMPU_METHOD
/begin COMPU_METHOD CM_PEDAL "" LINEAR "%5.1" "%" COEFFS_LINEAR 0.5 -1 /end COMPU_METHOD
"""


def odd_layout(values: str) -> str:
    layout = f"/begin RECORD_LAYOUT ODD FNC_VALUES 2 FLOAT32_IEEE {values} /end RECORD_LAYOUT\n"
    return layout + '/begin CHARACTERISTIC M "" VALUE 1 ODD 0 NO_COMPU_METHOD 0 1 /end CHARACTERISTIC'


def read(folder: Path, body: str, name: str = "M") -> A2lParameter:
    path = folder / "x.a2l"
    path.write_text(FRAME.format(body=LAYOUTS + body), encoding="utf-8")
    return read_parameters(path, [name])[name]


def test_the_simulated_trucks() -> None:
    found = read_parameters(find_a2l("twin_truck.a2l"), [MAP, "VCU_VIN"])
    assert list(found) == [MAP, "VCU_VIN"]
    assert (found[MAP].address, found[MAP].shape, found[MAP].length) == (0x80010000, (14, 17), 952)
    assert (found["VCU_VIN"].address, found["VCU_VIN"].length, found["VCU_VIN"].kind) == (
        0x80000000,
        17,
        "text",
    )


def test_axes_in_the_record_before_the_values(tmp_path: Path) -> None:
    found = read(
        tmp_path,
        """/begin CHARACTERISTIC M "" MAP 0x1000 STANDARD 0 NO_COMPU_METHOD -10 10
        ECU_ADDRESS_EXTENSION 0x2 BYTE_ORDER MSB_LAST
        /begin AXIS_DESCR STD_AXIS PEDAL CM_PEDAL 3 0 100 /end AXIS_DESCR
        /begin AXIS_DESCR STD_AXIS SPEED CM_KMH 5 0 100 /end AXIS_DESCR
        /end CHARACTERISTIC""",
    )
    # 2 counts, 3 words at 0x1002, 5 bytes at 0x1008, then float32 aligned to 4.
    assert found.address == 0x1010
    assert found.extension == 2
    assert found.shape == (5, 3)
    assert found.big_endian is False
    rows, columns = found.axes
    assert rows is not None
    assert columns is not None
    assert rows.stored is not None
    assert columns.stored is not None
    assert (rows.stored.address, rows.stored.datatype, rows.stored.count) == (0x1008, "UBYTE", 5)
    assert (columns.stored.address, columns.stored.datatype, columns.stored.extension) == (0x1002, "SWORD", 2)
    assert rows.stored.conversion.physical(700) == pytest.approx(70.0)
    assert columns.stored.conversion.physical(202) == pytest.approx(100.0)
    assert (rows.unit, columns.unit) == ("km/h", "%")


def test_column_order_turns_the_table_round(tmp_path: Path) -> None:
    body = """/begin CHARACTERISTIC M "" MAP 0x1000 {layout} 0 NO_COMPU_METHOD -10 10
        /begin AXIS_DESCR FIX_AXIS NO_INPUT_QUANTITY NO_COMPU_METHOD 3 0 100
        FIX_AXIS_PAR 10 2 3 /end AXIS_DESCR
        /begin AXIS_DESCR FIX_AXIS NO_INPUT_QUANTITY NO_COMPU_METHOD 2 0 9
        FIX_AXIS_PAR_DIST 5 3 2 /end AXIS_DESCR
        /end CHARACTERISTIC"""
    by_rows = read(tmp_path, body.format(layout="ROWS"))
    by_columns = read(tmp_path, body.format(layout="COLUMNS"))
    assert (by_rows.shape, by_columns.shape) == ((2, 3), (3, 2))
    assert [axis.values for axis in by_rows.axes if axis] == [(5, 8), (10, 14, 18)]
    assert [axis.values for axis in by_columns.axes if axis] == [(10, 14, 18), (5, 8)]


def test_common_axes_are_found_where_they_are_stored(tmp_path: Path) -> None:
    found = read(
        tmp_path,
        """/begin AXIS_PTS SPEEDS "" 0x2000 SPEED AXIS_F 0 NO_COMPU_METHOD 4 0 120
        BYTE_ORDER MSB_FIRST /end AXIS_PTS
        /begin CHARACTERISTIC M "" CURVE 0x1000 ROWS 0 NO_COMPU_METHOD -10 10
        /begin AXIS_DESCR COM_AXIS SPEED NO_COMPU_METHOD 6 0 120 AXIS_PTS_REF SPEEDS /end AXIS_DESCR
        /end CHARACTERISTIC""",
    )
    axis = found.axes[1]
    assert found.shape == (1, 4)
    assert axis is not None
    assert axis.name == "SPEEDS"
    assert axis.stored is not None
    assert (axis.stored.address, axis.stored.count, axis.stored.big_endian) == (0x2000, 4, True)


@pytest.mark.parametrize(
    ("kind", "tail", "shape"),
    [
        ("VAL_BLK", "MATRIX_DIM 17 14 1", (14, 17)),
        ("VAL_BLK", "MATRIX_DIM 17 14", (14, 17)),
        ("VAL_BLK", "NUMBER 5", (1, 5)),
        ("VALUE", "", (1, 1)),
    ],
)
def test_values_without_axes(tmp_path: Path, kind: str, tail: str, shape: tuple[int, int]) -> None:
    found = read(
        tmp_path,
        f'/begin CHARACTERISTIC M "" {kind} 16 ROWS 0 NO_COMPU_METHOD 0 1 {tail} /end CHARACTERISTIC',
    )
    assert found.shape == shape
    assert found.axes == (None, None)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_the_encodings_of_the_field(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "x.a2l"
    text = FRAME.format(
        body=LAYOUTS
        + '/begin CHARACTERISTIC M "Höchstwert, °C" VALUE 0x10 ROWS 0 CM_ONE 0 1 /end CHARACTERISTIC'
    )
    path.write_bytes(text.replace("\n", "\r\n").encode(encoding))
    assert read_parameters(path, ["M"])["M"].address == 16


def test_what_is_not_understood_is_passed_over(tmp_path: Path) -> None:
    found = read(
        tmp_path,
        """/begin A2ML block "IF_DATA" taggedunion { "XCP" struct { uint; }; /* "unclosed */ }; /end A2ML
        /* /begin CHARACTERISTIC M "in a comment" VALUE 1 ROWS 0 NO_COMPU_METHOD 0 1 /end CHARACTERISTIC */
        // /begin CHARACTERISTIC M
        /begin IF_DATA XCP
        /begin SEGMENT 0x01 2 0 0 0 /begin PAGE 0x01 ECU_ACCESS_DONT_CARE /end PAGE /end SEGMENT
        /end IF_DATA
        /begin FUTURE_BLOCK x /begin INNER "/end FUTURE_BLOCK" /end INNER /end FUTURE_BLOCK
        /begin MEASUREMENT M "same name, another kind" UBYTE NO_COMPU_METHOD 0 0 0 1 /end MEASUREMENT
        /begin CHARACTERISTIC OTHER "ECU_ADDRESS_EXTENSION 9" MAP 1 GONE 0 GONE 0 1 /end CHARACTERISTIC
        /begin CHARACTERISTIC M "NUMBER ""9"" " VAL_BLK 0x20 ROWS 0 NO_COMPU_METHOD 0 1
        DISPLAY_IDENTIFIER x NUMBER 3
        /begin ANNOTATION ANNOTATION_LABEL "NUMBER 7" /end ANNOTATION
        /end CHARACTERISTIC""",
    )
    assert (found.address, found.shape) == (32, (1, 3))


def test_included_files(tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "maps.a2l").write_text(
        '/begin CHARACTERISTIC M "" VALUE 0x30 ROWS 0\n/include "limits.a2l"\n/end CHARACTERISTIC',
        encoding="utf-8",
    )
    (tmp_path / "parts" / "limits.a2l").write_text("NO_COMPU_METHOD -1 1", encoding="utf-8")
    found = read(tmp_path, '/include "parts\\maps.a2l"')
    assert found.address == 0x30
    assert found.limits == (-1.0, 1.0)
    assert "maps.a2l, line 1" in found.where


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ('/include "gone.a2l"', r"x\.a2l, line \d+: .*gone\.a2l cannot be read"),
        ('/include "x.a2l"', "include each other"),
        ("/begin GROUP g", "closes nothing, GROUP"),
        ("/end GROUP", "/end GROUP closes nothing"),
        ("/* never ends", "is never closed"),
        ("/begin A2ML x", "A2ML has no end"),
        ("/begin CHARACTERISTIC /end CHARACTERISTIC", "has no name"),
        ('/begin CHARACTERISTIC M "" VALUE 0x10 /end CHARACTERISTIC', "ends before its record layout"),
        (
            '/begin CHARACTERISTIC M "" VALUE abc ROWS 0 NO_COMPU_METHOD 0 1 /end CHARACTERISTIC',
            "'abc' where a whole",
        ),
        (
            '/begin CHARACTERISTIC M "" VALUE 1 ROWS 0 NO_COMPU_METHOD 0 nan /end CHARACTERISTIC',
            "'nan' where a number",
        ),
        (
            '/begin CHARACTERISTIC M "" VALUE 1 NONE 0 NO_COMPU_METHOD 0 1 /end CHARACTERISTIC',
            "no RECORD_LAYOUT NONE",
        ),
        ('/begin CHARACTERISTIC M "" VALUE 1 ROWS 0 NONE 0 1 /end CHARACTERISTIC', "no COMPU_METHOD NONE"),
        ('/begin CHARACTERISTIC M "" CUBOID 1 ROWS 0 NO_COMPU_METHOD 0 1 /end CHARACTERISTIC', "is a CUBOID"),
        (
            '/begin CHARACTERISTIC M "" MAP 1 ROWS 0 NO_COMPU_METHOD 0 1 /end CHARACTERISTIC',
            "with 0 axes, expected 2",
        ),
        (
            '/begin CHARACTERISTIC M "" ASCII 1 ROWS 0 NO_COMPU_METHOD 0 1 /end CHARACTERISTIC',
            "length is not given",
        ),
        (
            '/begin CHARACTERISTIC M "" VAL_BLK 1 ROWS 0 CM_ONE 0 1 MATRIX_DIM 2 2 2 /end CHARACTERISTIC',
            "more than two dimensions",
        ),
        ('/begin CHARACTERISTIC M "" VALUE 1 ROWS 0 CM_KMH 0 1 /end CHARACTERISTIC', "physical unit"),
        (
            odd_layout("ROW_DIR DIRECT OFFSET_X 1 UBYTE"),
            "OFFSET_X",
        ),
        (
            odd_layout("ALTERNATE_WITH_X DIRECT"),
            "ALTERNATE_WITH_X",
        ),
        (
            '/begin CHARACTERISTIC M "" VALUE 1 ROWS 0 TAB 0 1 /end CHARACTERISTIC',
            "not linear",
        ),
        (
            """/begin CHARACTERISTIC M "" CURVE 1 ROWS 0 CM_ONE 0 1
            /begin AXIS_DESCR CURVE_AXIS x CM_ONE 2 0 1 CURVE_AXIS_REF c /end AXIS_DESCR
            /end CHARACTERISTIC""",
            "CURVE_AXIS",
        ),
        ('/begin CHARACTERISTIC M "" VALUE 1 ROWS 0 NO_COMPU_METHOD 0 1 /end CHARACTERISTIC ' * 2, "2 times"),
        (
            '/begin CHARACTERISTIC M1 "" VALUE 1 ROWS 0 NO_COMPU_METHOD 0 1 /end CHARACTERISTIC',
            "no CHARACTERISTIC M;",
        ),
    ],
)
def test_what_cannot_be_read_is_refused(tmp_path: Path, body: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as refused:
        read(tmp_path, body)
    assert "x.a2l" in str(refused.value)


def test_a_file_that_is_missing() -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        read_parameters(Path("no_such.a2l"), ["M"])


def test_damage_anywhere_is_an_error_or_harmless(tmp_path: Path) -> None:
    text = truck_a2l()
    whole = read_parameters(find_a2l("twin_truck.a2l"), [MAP])[MAP]
    path = tmp_path / "x.a2l"
    chance = np.random.default_rng(3)
    for _ in range(300):
        cut = int(chance.integers(0, len(text)))
        size = int(chance.integers(1, 80))
        path.write_text(text[:cut] + text[cut + size :], encoding="utf-8")
        try:
            found = read_parameters(path, [MAP])[MAP]
        except ConfigError:
            continue
        assert found.length == found.shape[0] * found.shape[1] * 4
        assert found.kind == whole.kind


def test_a_large_file_is_read_in_seconds(tmp_path: Path) -> None:
    """20 MB with 50,000 other parameters, the size of a production file."""
    other = (
        '/begin CHARACTERISTIC P{0} "Some parameter of the software, in a sentence" VALUE 0x{0:X} ROWS 0 '
        "NO_COMPU_METHOD -1E10 1E10 /begin IF_DATA X " + "0x0 " * 60 + "/end IF_DATA /end CHARACTERISTIC\n"
    )
    path = tmp_path / "large.a2l"
    path.write_text(
        truck_a2l().replace("/end MODULE", "".join(map(other.format, range(50_000))) + "/end MODULE")
    )
    assert path.stat().st_size > 20e6
    begun = time.monotonic()
    assert read_parameters(path, [MAP])[MAP].address == 0x80010000
    assert time.monotonic() - begun < 60.0


def test_axes_in_the_vcus_memory_are_compared_with_the_vehicles(tmp_path: Path) -> None:
    vehicle = truck(a2l="vcu.a2l")
    speeds = np.asarray(vehicle.torque_map.speed_axis_kmh)
    text = (
        truck_a2l()
        .replace(
            "/begin AXIS_DESCR FIX_AXIS NO_INPUT_QUANTITY CM_SPEED 14 0 120",
            "/begin AXIS_DESCR COM_AXIS NO_INPUT_QUANTITY CM_SPEED 14 0 120 AXIS_PTS_REF SPEEDS",
        )
        .replace(
            "/end MODULE",
            "/begin RECORD_LAYOUT AXIS AXIS_PTS_X 1 FLOAT32_IEEE INDEX_INCR DIRECT /end RECORD_LAYOUT\n"
            '/begin AXIS_PTS SPEEDS "" 0x80020000 SPEED AXIS 0 NO_COMPU_METHOD 14 0 1 /end AXIS_PTS\n'
            "/end MODULE",
        )
    )
    with a2l_folder(tmp_path, text):
        vcu, calibration, link = direct(vehicle)
        keep_in_memory(link.slave, speeds)
        calibration.send_float_array(MAP, table_of(vehicle, 1), sw_diff=True)
        assert to_bytes(vcu.active.table) == to_bytes(table_of(vehicle, 1))

        vcu, calibration, link = direct(vehicle)
        keep_in_memory(link.slave, np.where(speeds == 30, 35, speeds))
        with pytest.raises(XcpProtocolError, match=r"axis SPEEDS is \[0\.0, 7\.0, 10\.0, 20\.0, 35\.0"):
            calibration.open()
        assert not calibration._master.connected  # so that nobody writes in this session
        vcu.select(1)
        calibration.activate(calibration.reference_page)  # which fits whatever the axes are
        assert vcu.page == vcu.reference_page


def keep_in_memory(slave: XcpSlave, speeds: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> None:
    slave._memory._texts[0x80020000, 0] = speeds.astype("<f4").tobytes()
