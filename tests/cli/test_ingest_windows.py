"""``tspace ingest`` takes a log of a telematics box's windows as any other log."""

import gzip
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.storage.boxes import MONDAY_NS, drive_values
from tspace_core.can.box_window import encode_window
from tspace_core.can.window_log import to_line
from tspace_core.cli import app
from tspace_core.config import load_site, load_vehicle, settings
from tspace_core.storage.lake import Lake


def test_windows_become_episodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vehicle = load_vehicle("twin_remote")
    zone = load_site(vehicle.site).zone
    lines = []
    for number in range(20):
        begin = MONDAY_NS + number * 4 * 10**9
        window = encode_window(drive_values(number * 4, 4), begin, zone, as_strings=True)
        lines.append(to_line(f"v/{number}.json", "e", begin + 5 * 10**9, json.dumps(window).encode()))
    path = tmp_path / "mine.windows.jsonl.gz"
    path.write_bytes(gzip.compress(b"".join(lines)))
    monkeypatch.setenv("TSPACE_DATA_DIR", str(tmp_path / "data"))
    settings.cache_clear()
    try:
        done = CliRunner().invoke(app, ["ingest", str(path), "--vehicle", "twin_remote", "--json"])
    finally:
        monkeypatch.undo()
        settings.cache_clear()
    assert done.exit_code == 0, done.output
    lake = Lake(tmp_path / "data")
    (log,) = lake.raw_logs("twin_remote")
    assert log.date == "2026-01-05", "the day of its first window"
    assert len(lake.episodes(log)) == 1
