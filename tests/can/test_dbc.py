"""DBC files as they are in the field: broken in parts, and only these parts are lost."""

import hashlib
from pathlib import Path

import pytest

from tspace_core.can.dbc import CanDatabase, load_database
from tspace_core.errors import DatabaseError

HEAD = 'VERSION ""\n\nNS_ :\n    NS_DESC_\n\nBS_:\nBU_: X\n\n'


def load(tmp_path: Path, *texts: str) -> CanDatabase:
    paths = []
    for number, text in enumerate(texts):
        paths.append(tmp_path / f"file{number}.dbc")
        paths[-1].write_bytes(text.encode("cp1252"))
    return load_database(paths)


def bo(number: int, name: str, *signals: str, length: int = 8) -> str:
    lines = [f"BO_ {number} {name}: {length} X", *(f' SG_ {one} [0|0] "" X' for one in signals)]
    return "\n".join(lines) + "\n\n"


def test_a_clean_file_loses_nothing(tmp_path: Path) -> None:
    text = HEAD + bo(0x80000123, "Ext", "A : 7|16@0- (0.5,-3)") + bo(0x10, "Std", "B : 0|8@1+ (1,0)")
    database = load(tmp_path, text)
    assert database.dropped == []
    assert set(database.layouts) == {(0x123, True), (0x10, False)}
    signal = database.find("Ext").signal("A")
    assert (signal.start, signal.length, signal.little_endian, signal.signed) == (7, 16, False, True)
    assert (signal.scale, signal.offset, signal.first_bit, signal.end_bit) == (0.5, -3, 0, 16)
    digest = hashlib.sha256(hashlib.sha256(text.encode()).digest()).hexdigest()
    assert database.fingerprint == digest


def test_of_overlapping_signals_the_longer_stays(tmp_path: Path) -> None:
    signals = ("Flag : 32|1@1+ (1,0)", "Pedal : 32|8@1+ (1,0)", "Other : 40|8@1+ (1,0)")
    database = load(tmp_path, HEAD + bo(0x200, "VCU", *signals) + bo(0x201, "Fine", "A : 0|8@1+ (1,0)"))
    assert list(database.find(0x200).signals) == ["Pedal", "Other"]
    assert database.lost == database.dropped
    assert list(database.find("Fine").signals) == ["A"]
    assert database.dropped == [
        "file0.dbc: message 0x200 VCU loses signal Flag: it overlaps Pedal, which is longer or comes first"
    ]


def test_of_equally_long_signals_the_first_stays(tmp_path: Path) -> None:
    database = load(tmp_path, HEAD + bo(1, "M", "First : 0|8@1+ (1,0)", "Second : 7|8@0+ (1,0)"))
    assert list(database.find(1).signals) == ["First"]


def test_a_multiplexer_stays_and_branches_may_share_bits(tmp_path: Path) -> None:
    signals = (
        "Mode M : 0|4@1+ (1,0)",
        "Long : 0|16@1+ (1,0)",
        "A m0 : 16|8@1+ (1,0)",
        "B m1 : 16|8@1+ (1,0)",
        "C m1 : 20|2@1+ (1,0)",
    )
    database = load(tmp_path, HEAD + bo(1, "M", *signals))
    layout = database.find(1)
    assert list(layout.signals) == ["Mode", "A", "B"]
    assert layout.multiplexer_ids == {"Mode": frozenset({0, 1})}
    assert [sentence.split(": ")[1] for sentence in database.dropped] == [
        "message 0x1 M loses signal Long",
        "message 0x1 M loses signal C",
    ]


def test_signals_that_do_not_fit_go(tmp_path: Path) -> None:
    signals = ("Fits : 8|8@1+ (1,0)", "Over : 12|8@1+ (1,0)", "Beyond : 23|16@0+ (1,0)")
    database = load(tmp_path, HEAD + bo(1, "M", *signals, length=2))
    assert list(database.find(1).signals) == ["Fits"]
    assert (
        "loses signal Over: it needs 20 bits, the message has 16" in database.dropped[0] + database.dropped[1]
    )


def test_a_float_of_an_impossible_length_goes(tmp_path: Path) -> None:
    text = (
        bo(12, "M", "A : 0|20@1+ (1,0)", "B : 32|32@1- (1,0)")
        + "SIG_VALTYPE_ 12 A : 1;\nSIG_VALTYPE_ 12 B : 1;\n"
    )
    database = load(tmp_path, HEAD + text)
    assert list(database.find(12).signals) == ["B"]
    assert "a float has 16, 32 or 64 bits, this one 20" in database.dropped[0]


@pytest.mark.parametrize(
    ("head", "missing"),
    [
        ('VERSION ""\n\nNS_ :\n  NS_DESC_\n\n', "no BS_: and no BU_:"),
        ('VERSION ""\n\nNS_ :\n  NS_DESC_\n\nBS_:\n', "no BU_:"),
        ("", "no BS_: and no BU_:"),
    ],
)
def test_missing_sections_are_mended(tmp_path: Path, head: str, missing: str) -> None:
    database = load(tmp_path, head + bo(1, "M", "A : 0|8@1+ (1,0)"))
    assert list(database.find(1).signals) == ["A"]
    assert database.dropped == [f"file0.dbc: has {missing}; read as if it had an empty one"]


def test_a_message_that_is_refused_costs_only_itself(tmp_path: Path) -> None:
    text = HEAD + bo(5000, "Wrong", "A : 0|8@1+ (1,0)") + bo(1, "Fine", "A : 0|8@1+ (1,0)")
    database = load(tmp_path, text)
    assert set(database.layouts) == {(1, False)}
    assert "message Wrong is left out" in database.dropped[0]
    assert "more than 11 bits" in database.dropped[0]
    with pytest.raises(DatabaseError, match=r"no message 'Wrong' .*is left out"):
        database.find("Wrong")


def test_the_first_file_wins_for_an_id(tmp_path: Path) -> None:
    first = HEAD + bo(1, "Mine", "A : 0|8@1+ (1,0)")
    second = HEAD + bo(1, "Theirs", "A : 0|16@1+ (1,0)") + bo(2, "More", "B : 0|8@1+ (1,0)")
    database = load(tmp_path, first, second)
    assert database.find(1).name == "Mine"
    assert database.find("More").file == "file1.dbc"
    assert database.dropped == [
        "file1.dbc: message 0x1 Theirs is defined before in file0.dbc as Mine; that definition is used"
    ]
    assert database.fingerprint != load(tmp_path, second, first).fingerprint


def test_eleven_and_29_bit_ids_are_different_messages(tmp_path: Path) -> None:
    text = HEAD + bo(0x80000001, "Long", "A : 0|8@1+ (1,0)") + bo(1, "Short", "A : 0|8@1+ (1,0)")
    database = load(tmp_path, text)
    assert database.find(1).name == "Short"
    assert database.find(1, extended=True).name == "Long"
    with pytest.raises(DatabaseError, match="no message 'Long'"):
        database.find("Long", extended=False)


def test_an_unreadable_file_is_named_with_its_line(tmp_path: Path) -> None:
    broken = HEAD + 'BO_ 1 M: 8 X\n SG_ A : 0|8@1+ (1,0) [0|1 "" X\n'
    with pytest.raises(DatabaseError, match=r"file0\.dbc: not readable as DBC: .*line 10.*correct the file"):
        load(tmp_path, broken)
    with pytest.raises(DatabaseError, match=r"missing\.dbc: cannot be read .*correct its name"):
        load_database([tmp_path / "missing.dbc"])


def test_unknown_names_get_near_ones(tmp_path: Path) -> None:
    database = load(tmp_path, HEAD + bo(0x1DB, "Battery", "Current : 0|8@1+ (1,0)"))
    with pytest.raises(DatabaseError, match="did you mean 'Battery'"):
        database.find("Batery")
    with pytest.raises(DatabaseError, match="no message id 0x1DC"):
        database.find(0x1DC)
    with pytest.raises(DatabaseError, match="did you mean 'Current'"):
        database.find(0x1DB).signal("Curent")


def test_published_files_that_cantools_refuses(shared_data: Path) -> None:
    ioniq = load_database([shared_data / "dbc/ioniq/hyundai_Ioniq28Motor.dbc"])
    assert "uwe_accpedal" in ioniq.find(0x200).signals
    assert [sentence.split(" loses ")[1].split(":")[0] for sentence in ioniq.dropped] == ["signal Split_Stat"]
    leaf = load_database([shared_data / "dbc/leaf/EV-can_ZE1.dbc"])
    hurt = {sentence.split("message ")[1].split()[0] for sentence in leaf.dropped}
    assert hurt == {"0x5BC", "0x59E", "0x3B9"}
    kona = load_database([shared_data / "dbc/kona/pcan.dbc"])
    assert kona.find("Batt_HV_Status").signal("VBatt").unit == "V"
    assert kona.dropped == ["pcan.dbc: has no BS_: and no BU_:; read as if it had an empty one"]


def test_every_published_file_loads(shared_data: Path) -> None:
    files = sorted((shared_data / "dbc").rglob("*.dbc"))
    assert files
    for path in files:
        assert load_database([path]).layouts
