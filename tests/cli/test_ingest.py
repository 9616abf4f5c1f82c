"""``tspace ingest`` as a user calls it, on published logs, against the figures of an independent loop."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tspace_core.cli import app, main
from tspace_core.storage.lake import Lake

FOLDERS = {
    "leaf_gen1": ("can/leaf_gen1", "can/derived"),
    "leaf_eplus62": ("can/leaf_eplus62",),
    "ioniq28": ("can/ioniq28",),
    "bmw_i3": ("trips_bmw_i3",),
}
# Name there: (our name, factor on the value there)
NAMES = {
    "hv_voltage_V": ("voltage", 1),
    "speed_kmh": ("velocity", 1),
    "motor_torque_Nm": ("motor_torque", 1),
    "torque_request_Nm": ("torque_request", 1),
    "motor_rpm": ("motor_speed", 1),
    "gear_raw": ("gear", 1),
    "soc_pct": ("soc", 1),
    "elevation_m": ("elevation", 1),
    "accel_pedal_pct": ("thrust", 1),
    "accel_pedal_raw": ("thrust", 100 / 254),
    "brake_pressed": ("brake", 100),
    "regen_flag": ("brake", 100),
    "brake_pedal_force_raw": ("brake", 0.1),
}


def invoke(*arguments: str | Path) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def ingested(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """All files of the four published vehicles, by their path below the shared data."""
    lake = tmp_path_factory.mktemp("lake")
    found = {}
    for vehicle, folders in FOLDERS.items():
        result = invoke(
            "ingest",
            *(shared_data / one for one in folders),
            "--vehicle",
            vehicle,
            "--json",
            "--data-dir",
            lake,
        )
        assert result.exit_code == 0, result.stderr
        for entry in json.loads(result.stdout)["files"]:
            found[str(Path(entry["path"]).relative_to(shared_data))] = entry
    return found


def expected(shared_data: Path) -> dict[str, dict[str, Any]]:
    content = json.loads((shared_data / "expected.json").read_text())["files"]
    folders = tuple(f"{folder}/" for folders in FOLDERS.values() for folder in folders)
    return {name: figures for name, figures in content.items() if name.startswith(folders)}


def test_every_published_file_gives_the_expected_figures(
    shared_data: Path, ingested: dict[str, dict[str, Any]]
) -> None:
    wanted = expected(shared_data)
    assert set(ingested) == set(wanted)
    assert len(wanted) == 14
    for name, figures in wanted.items():
        entry = ingested[name]
        assert entry["frames"] == figures.get("frames", figures.get("rows")), name
        assert entry["t_first"] == pytest.approx(figures["t_first"], abs=1e-9), name
        assert entry["t_last"] == pytest.approx(figures["t_last"], abs=1e-9), name
        assert entry["energy_wh"] == pytest.approx(figures["energy_Wh"], rel=1e-9), name
        for theirs, (ours, factor) in NAMES.items():
            if theirs in figures["signals"]:
                there = figures["signals"][theirs]
                assert entry["signals"][ours]["count"] == there["count"], (name, ours)
                for key in ("min", "max", "mean"):
                    assert entry["signals"][ours][key] == pytest.approx(there[key] * factor, rel=1e-9), (
                        name,
                        ours,
                    )


def test_current_is_positive_on_discharge(shared_data: Path, ingested: dict[str, dict[str, Any]]) -> None:
    for name, figures in expected(shared_data).items():
        there, entry = figures["signals"]["hv_current_A"], ingested[name]["signals"]["current"]
        sign = 1 if "ioniq" in name else -1
        assert entry["count"] == there["count"]
        assert entry["mean"] == pytest.approx(sign * there["mean"], rel=1e-9)
        extremes = sorted((sign * there["min"], sign * there["max"]))
        assert [entry["min"], entry["max"]] == pytest.approx(extremes, rel=1e-9)


def test_sentinels_are_counted_as_dropped(shared_data: Path, ingested: dict[str, dict[str, Any]]) -> None:
    for name, figures in expected(shared_data).items():
        invalid = 2 * figures.get("invalid_1DB_frames", 0) + figures.get("invalid_rpm_frames", 0)
        assert ingested[name]["dropped"].get("sentinel", 0) == invalid, name


def test_the_program_prints_one_json_object_and_nothing_else(shared_data: Path, tmp_path: Path) -> None:
    log = shared_data / "can" / "derived" / "leaf_on_wotind_off.blf"
    command = [sys.executable, "-m", "tspace_core.cli", "ingest", str(log), "--vehicle", "leaf_gen1"]
    done = subprocess.run(
        [*command, "--json", "--data-dir", str(tmp_path)], capture_output=True, text=True, check=True
    )
    content = json.loads(done.stdout)
    assert list(content) == ["files"]
    (entry,) = content["files"]
    assert list(entry) == ["path", "format", "frames", "t_first", "t_last", "signals", "energy_wh", "dropped"]
    assert entry["path"] == str(log)
    assert entry["format"] == "blf"
    assert list(entry["signals"]["velocity"]) == ["count", "min", "max", "mean"]
    assert "frames" in done.stderr
    assert len(Lake(tmp_path).episodes()) == 1


def test_a_failed_file_costs_only_itself(shared_data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    shutil.copy(shared_data / "can" / "derived" / "leaf_on_wotind_off.log", folder / "b_good.log")
    (folder / "a_notes.txt").write_text("not a log\n")
    result = invoke("ingest", folder, "--vehicle", "leaf_gen1", "--json", "--data-dir", tmp_path / "lake")
    assert result.exit_code == 1
    bad, good = json.loads(result.stdout)["files"]
    assert bad["path"].endswith("a_notes.txt")
    assert "a_notes.txt" in bad["error"]
    assert good["frames"] == 22424
    assert "1 of 2 files failed" in result.stderr


def test_the_table_shows_what_a_person_asks_for(shared_data: Path, tmp_path: Path) -> None:
    log = shared_data / "can" / "leaf_gen1" / "leafon_reverse10m_stop_leafoff.csv"
    result = invoke("ingest", log, "--vehicle", "leaf_gen1", "--data-dir", tmp_path)
    assert result.exit_code == 0
    for words in ("20449 frames", "velocity", "energy 5.763 Wh", "records", "dropped: 34 sentinel", "stale"):
        assert words in result.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("ingest", "/no/such/log", "--vehicle", "leaf_gen1"), "no such file or folder: /no/such/log"),
        (("ingest", "/", "--vehicle", "leaf_gen9"), "known: bmw_i3"),
        (("catalogue", "SELECT x FROM frames"), "cannot answer"),
        (("twin", "record", "--vehicle", "twin_truk", "--out", "/tmp"), "twin_truck"),
    ],
)
def test_errors_are_one_line_and_exit_code_2(
    arguments: tuple[str, ...],
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    extra = () if arguments[0] == "twin" else ("--data-dir", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["tspace", *arguments, *extra])
    with pytest.raises(SystemExit) as end:
        main()
    captured = capsys.readouterr()
    assert end.value.code == 2
    assert captured.err.startswith("error: ")
    assert words in captured.err
    assert "Traceback" not in captured.err
    assert captured.out == ""


def test_an_empty_folder_is_an_error(tmp_path: Path) -> None:
    result = invoke("ingest", tmp_path, "--vehicle", "leaf_gen1", "--data-dir", tmp_path / "lake")
    assert result.exit_code == 1
    assert "no files" in str(result.exception)


def test_the_twins_log_goes_the_whole_way(tmp_path: Path) -> None:
    recorded = invoke(
        "twin", "record", "--vehicle", "twin_truck", "--driver", "habitual", "--cycle", "us06",
        "--seed", "3", "--count", "2", "--out", tmp_path / "logs",
    )  # fmt: skip
    assert recorded.exit_code == 0, recorded.output
    assert len(list((tmp_path / "logs").glob("*.blf"))) == 2
    lines = recorded.stdout.splitlines()
    assert len(lines) == 2
    for words in ("_0003.blf: twin_truck, habitual, us06, seed 3: ", " frames, ", " km, ", " Wh, 0 flashes"):
        assert words in lines[0]
    lake = tmp_path / "lake"
    result = invoke(
        "ingest",
        tmp_path / "logs",
        "--vehicle",
        "twin_truck",
        "--driver",
        "habitual",
        "--json",
        "--data-dir",
        lake,
    )
    assert result.exit_code == 0, result.output
    assert [entry["format"] for entry in json.loads(result.stdout)["files"]] == ["blf", "blf"]
    asked = invoke("catalogue", "SELECT driver, records FROM episodes", "--data-dir", lake, "--json")
    rows = [json.loads(line) for line in asked.stdout.splitlines()]
    assert [row["driver"] for row in rows] == ["habitual", "habitual"]
    assert all(row["records"] > 150 for row in rows)
    wide = invoke("catalogue", "SELECT * FROM episodes LIMIT 1", "--data-dir", lake).stdout
    assert re.search(r"^  driver +habitual$", wide, re.MULTILINE), (
        "a row wider than the terminal is one line a column"
    )
    narrow = invoke("catalogue", "SELECT driver FROM episodes LIMIT 1", "--data-dir", lake).stdout
    assert "│ habitual │" in narrow


def test_vehicles_and_version() -> None:
    listed = invoke("vehicles")
    assert listed.exit_code == 0
    for name in ("twin_truck", "twin_mule", *FOLDERS):
        assert name in listed.stdout
    assert invoke("--version").stdout.startswith("tspace ")


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from tspace_core.cli import app; "
        "heavy = {'polars', 'numpy', 'torch', 'duckdb', 'pandera', 'numba', 'can', 'cantools', 'mlflow'}; "
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
