"""The memory of a log's way into the lake does not grow with the log: whole processes, peak resident."""

import subprocess
import sys
from pathlib import Path

import pytest

ETL = Path(__file__).parents[2] / "benchmarks" / "etl.py"
LIMIT_GB = 1.5


def peak_gb(folder: Path, frames: int) -> float:
    """Write a log of that many frames and take it through both stages in a process of its own."""
    log = folder / f"{frames}.blf"
    make = f"import sys; sys.path.insert(0, {str(ETL.parent)!r}); import synthetic, pathlib; "
    make += f"synthetic.write_blf(pathlib.Path({str(log)!r}), {frames})"
    subprocess.run([sys.executable, "-c", make], check=True)
    command = [sys.executable, str(ETL), "--one-pass", str(log)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    log.unlink()
    return float(done.stdout.split()[0])


@pytest.mark.slow
@pytest.mark.parametrize("millions", [5, 50])
def test_memory_does_not_grow_with_the_log(tmp_path: Path, millions: int) -> None:
    short, long = peak_gb(tmp_path, 10**6), peak_gb(tmp_path, millions * 10**6)
    assert long < LIMIT_GB
    assert long < short + 0.2
