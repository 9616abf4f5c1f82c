"""Fixtures that every area of the tests may use."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Before anything imports torch: the tests' networks are so small that threads only wait for each other, on a
# busy machine far longer than the work takes. The environment decides where it says something.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell's background commands ignore Ctrl-C, and so do their children: tests that send it would hang.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# How fast examples are made says something about the machine only; nothing here is a timed test.
settings.register_profile("tspace", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tspace")

PROJECT = Path(__file__).resolve().parents[1]

pytest_plugins = ["tests.objects.seaweed", "tests.storage.pools.mongo_server"]


@pytest.fixture(scope="session", autouse=True)
def _dagster_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A home of its own for Dagster, which logs what even its instances in memory do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DAGSTER_HOME", str(tmp_path_factory.mktemp("dagster")))
        yield


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real logs, trips and DBCs that nobody here wrote.

    Where it is absent the tests on it are skipped, unless TSPACE_REQUIRE_SHARED=1 (as in CI): then they fail.
    """
    folder = Path(os.environ.get("TSPACE_SHARED_DATA", PROJECT.parent / "shared" / "data"))
    if folder.is_dir():
        return folder
    reason = f"no real logs at {folder}: set TSPACE_SHARED_DATA to the folder that holds expected.json"
    if os.environ.get("TSPACE_REQUIRE_SHARED") == "1":
        pytest.fail(reason)
    pytest.skip(reason)
