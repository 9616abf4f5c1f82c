"""``tspace ingest`` with what goes wrong in the field: one clear line, pure JSON, never a traceback."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tspace_core.cli import app
from tspace_core.config.settings import settings
from tspace_core.storage.lake import Lake

COMMAND = [sys.executable, "-m", "tspace_core.cli", "ingest"]
REAL = {
    "leaf_gen1": (
        "can/derived/leaf_on_wotind_off.blf",
        "can/derived/leaf_on_wotind_off.asc",
        "can/derived/leaf_on_wotind_off.log",
        "can/leaf_gen1/leaf_on_wotind_off.txt",
        "can/leaf_gen1/leafon_reverse10m_stop_leafoff.csv",
    ),
    "leaf_eplus62": ("can/leaf_eplus62/EV-CANepluseco.log",),
    "bmw_i3": ("trips_bmw_i3/TripB13.csv",),
}


def ingest(*arguments: str | Path, vehicle: str, lake: Path) -> tuple[int, list[dict[str, Any]], str]:
    """Exit code, files of the JSON object, and what a person reads meanwhile."""
    result = CliRunner().invoke(
        app, ["ingest", *map(str, arguments), "--vehicle", vehicle, "--json", "--data-dir", str(lake)]
    )
    assert "Traceback" not in result.stderr
    assert "please report it" not in result.stderr

    def refuse(constant: str) -> None:
        pytest.fail(f"{constant} is no JSON")

    return result.exit_code, json.loads(result.stdout, parse_constant=refuse)["files"], result.stderr


@pytest.mark.parametrize(("vehicle", "name"), [(one, name) for one, names in REAL.items() for name in names])
def test_real_logs_cut_anywhere(shared_data: Path, tmp_path: Path, vehicle: str, name: str) -> None:
    content = (shared_data / name).read_bytes()
    folder = tmp_path / "logs"
    folder.mkdir()
    sizes = [0, 1, 10, 50, 150, 1000, 5000, len(content) // 7]
    for size in sizes:
        (folder / f"{size:08d}_{Path(name).name}").write_bytes(content[:size])
    code, files, told = ingest(folder, vehicle=vehicle, lake=tmp_path / "lake")
    assert code == 1
    assert len(files) == len(sizes)
    assert "is empty" in files[0]["error"]
    assert files[-1]["frames"] > 0
    for entry in files:
        if "error" in entry:
            assert Path(entry["path"]).name in entry["error"]
            assert entry["error"] in told
        else:
            read = sum(found["count"] for found in entry["signals"].values())
            assert read or entry["dropped"], "an empty result says why"


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("page.blf", b"<!DOCTYPE html><html><title>404</title></html>", "begins with b'<!DOCTYPE html>"),
        ("noise.asc", bytes(range(255, 0, -1)) * 40, "has no known log format"),
        ("log.mf4", b"MDF     4.11    " + bytes(100), "export the CAN frames as BLF or ASC first"),
        ("head.blf", b"LOGG" + bytes(6), "copy the log again"),
        ("it's.log", b"(1.0) can0 123#00\n", "cannot be a file name in the lake"),
    ],
)
def test_foreign_files(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    (tmp_path / name).write_bytes(content)
    code, (entry,), told = ingest(tmp_path / name, vehicle="twin_truck", lake=tmp_path / "lake")
    assert code == 1
    assert words in entry["error"]
    assert name in entry["error"]
    assert "1 of 1 files failed" in told


def test_a_file_that_vanishes_costs_only_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tspace_core.storage.ingest as module

    (tmp_path / "a.log").write_text("(1.0) can0 123#00\n")
    monkeypatch.setattr(module, "find_logs", lambda _: [tmp_path / "gone.log", tmp_path / "a.log"])
    code, (gone, there), _ = ingest(tmp_path, vehicle="twin_truck", lake=tmp_path / "lake")
    assert code == 1
    assert gone["error"] == f"no log at {tmp_path / 'gone.log'}: give the path of a file"
    assert there["frames"] == 1


def test_a_path_that_is_missing_costs_only_itself(tmp_path: Path) -> None:
    (tmp_path / "a.log").write_text("(1.0) can0 123#00\n")
    paths = (tmp_path / "gone.log", tmp_path / "a.log", tmp_path / "gone")
    code, rows, told = ingest(*paths, vehicle="twin_truck", lake=tmp_path / "lake")
    assert code == 1
    assert [row["path"] for row in rows] == [str(path) for path in paths]
    assert rows[0]["error"] == f"no such file or folder: {paths[0]}"
    assert rows[1]["frames"] == 1
    assert "error" in rows[2]
    assert "2 of 3 files failed" in told


def test_losses_are_told_beside_the_json(tmp_path: Path) -> None:
    (tmp_path / "a.log").write_text("(1.0) can0 123#00\n(1.2) can0 123#0\n(1.19) can0 123#00\n")
    code, (entry,), told = ingest(tmp_path / "a.log", vehicle="twin_truck", lake=tmp_path / "lake")
    assert code == 0
    assert entry["dropped"]["foreign line"] == 1
    assert "dropped: 1 foreign line (first: " in told
    assert "line 2: " in told


def test_the_table_says_why_there_is_no_episode_and_what_stands_in(shared_data: Path, tmp_path: Path) -> None:
    log = shared_data / "can" / "derived" / "leaf_on_wotind_off.log"
    lines = log.read_text().splitlines(keepends=True)
    lines[100], lines[101] = lines[101], lines[100]
    (tmp_path / "a.log").write_text("".join(lines[:4000]))
    arguments = ["ingest", str(tmp_path / "a.log"), "--vehicle", "leaf_gen1", "--data-dir", str(tmp_path)]
    table = CliRunner().invoke(app, arguments).stdout
    assert "  0 episodes, 0 records" in table
    assert "in 1 stretches too short for an episode" in table
    assert "noted: 1 late_frame (first: " in table
    assert "substitute for thrust: torque request" in table


def test_the_table_tells_of_the_clock_and_the_dbc(shared_data: Path, tmp_path: Path) -> None:
    log = next((shared_data / "can" / "ioniq28").iterdir())
    code, (entry,), _ = ingest(log, vehicle="ioniq28", lake=tmp_path)
    assert code == 0
    assert entry["dropped"] == {"clock_step_back": 1, "dbc_signal": 1}
    arguments = ["ingest", str(log), "--vehicle", "ioniq28", "--data-dir", str(tmp_path)]
    table = CliRunner().invoke(app, arguments).stdout
    assert "dropped: 1 clock_step_back" in table
    assert "the clock steps back, from 172" in table
    assert "loses signal Split_Stat: it overlaps uwe_accpedal" in table


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("actions:", "colour: red\nactions:", "colour: no such field"),
        ("twin.dbc", "nowhere.dbc", "DBC file 'nowhere.dbc' not found in"),
        ("drag_area_m2:", "drag_area_m2: .nan #", "finite number (value seen: nan)"),
        ("site:", "site: atlantis #", "no site named 'atlantis'"),
        ("driver:", "driver: nobody #", "no driver named 'nobody'"),
    ],
)
def test_a_wrong_config(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: str, new: str, words: str
) -> None:
    conf = tmp_path / "conf"
    shutil.copytree(settings().conf_dir, conf)
    file = conf / "vehicles" / "twin_truck.yaml"
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new, 1))
    (tmp_path / "a.log").write_text("(1.0) can0 123#00\n")
    monkeypatch.setenv("TSPACE_CONF_DIR", str(conf))
    done = subprocess.run(
        [*COMMAND, str(tmp_path / "a.log"), "--vehicle", "twin_truck", "--data-dir", str(tmp_path / "lake")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in (1, 2)
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_a_name_of_foreign_bytes_leaves_stdout_pure(tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    for name in (b"bad\xff.log", b"good.log"):
        Path(os.fsdecode(os.fsencode(folder) + b"/" + name)).write_text("(1.0) can0 123#00\n")
    done = subprocess.run(
        [*COMMAND, str(folder), "--vehicle", "twin_truck", "--json", "--data-dir", str(tmp_path / "lake")],
        capture_output=True,
        check=False,
        env={**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0"},
    )
    assert done.returncode == 1
    bad, good = json.loads(done.stdout)["files"]
    assert "cannot be a file name" in bad["error"]
    assert good["frames"] == 1


def lake_files(lake: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(lake)): path.read_bytes()
        for path in sorted(lake.rglob("*"))
        if path.is_file() and not path.name.startswith(".") and not path.name.endswith(".origin.json")
    }


def test_killed_at_every_stage_and_run_again(shared_data: Path, tmp_path: Path) -> None:
    log = shared_data / "can" / "derived" / "leaf_on_wotind_off.blf"
    arguments = [str(log), "--vehicle", "leaf_gen1", "--driver", "tracker", "--json", "--data-dir"]
    for stage in ("raw", "signals", "episodes"):
        with subprocess.Popen(
            [*COMMAND, *arguments, str(tmp_path / "killed")],
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
        ) as process:
            assert process.stderr is not None
            while line := process.stderr.readline():
                if line.strip() == stage:
                    process.send_signal(signal.SIGKILL)
        found = Lake(tmp_path / "killed")
        assert all(path.stat().st_size for path in found.episodes())
    again, fresh = (
        subprocess.run(
            [*COMMAND, *arguments, str(tmp_path / name)], capture_output=True, text=True, check=True
        ).stdout
        for name in ("killed", "fresh")
    )
    assert json.loads(again) == json.loads(fresh)
    assert lake_files(tmp_path / "killed") == lake_files(tmp_path / "fresh")


def test_two_at_once_agree(shared_data: Path, tmp_path: Path) -> None:
    log = shared_data / "can" / "derived" / "leaf_on_wotind_off.blf"
    command = [*COMMAND, str(log), "--vehicle", "leaf_gen1", "--json", "--data-dir", str(tmp_path)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(2)]
    answers = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert answers[0] == answers[1]
    assert len(Lake(tmp_path).episodes()) == 1


def test_a_wrong_vehicle_file_is_named_and_the_others_are_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    conf = tmp_path / "conf"
    shutil.copytree(settings().conf_dir, conf)
    wrong = conf / "vehicles" / "ioniq28.yaml"
    wrong.write_text(wrong.read_text().replace("site:", "sight:"))
    monkeypatch.setenv("TSPACE_CONF_DIR", str(conf))
    done = subprocess.run(
        [sys.executable, "-m", "tspace_core.cli", "vehicles"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "ioniq28.yaml" in done.stderr
    assert "sight: no such field" in done.stderr
    assert "twin_truck" in done.stdout
