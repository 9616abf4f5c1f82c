"""The bridge starts fast and small: nothing of learning, data frames or pipelines comes with it."""

import subprocess
import sys

HEAVY = ("torch", "dagster", "polars", "numba", "mlflow", "pandas", "scipy", "asammdf", "matplotlib")


def test_the_bridge_imports_nothing_heavy() -> None:
    code = (
        "import sys; import tspace_core.bridge.bridge, tspace_core.cli.bridge, tspace_core.link.calibration; "
        "import tspace_core.bridge.choice, tspace_core.bridge.remote, tspace_core.link.remote_can; "
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_mf4_logs_can_still_be_read_where_asammdf_is_installed() -> None:
    code = (
        "import importlib.util, sys; import tspace_core.bridge; "
        "print('asammdf' in sys.modules, importlib.util.find_spec('asammdf') is None)"
    )
    plain = "import importlib.util; print(False, importlib.util.find_spec('asammdf') is None)"
    found, expected = (
        subprocess.run([sys.executable, "-c", one], capture_output=True, text=True, timeout=120).stdout
        for one in (code, plain)
    )
    assert found == expected
