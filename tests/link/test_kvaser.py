"""Kvaser's channels through the real `canlib` package and python-can's backend, on a stub of libcanlib.

The library is found on LD_LIBRARY_PATH, which a process reads when it starts: so the tests run others.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.link import stub

PROJECT = Path(__file__).resolve().parents[2]
PATIENCE_S = 120


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stub.build(tmp_path_factory.mktemp("canlib"))


def python(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        env=environment,
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


OPEN = """
from tspace_core.config.link import BusConfig
from tspace_core.errors import BusError
from tspace_core.link.bus import SharedBus
from tspace_core.link.kvaser import find_channels
try:
    with SharedBus(BusConfig(interface="kvaser", channel="0")) as bus:
        print("open", bus.name)
except BusError as error:
    print(error)
try:
    print(len(find_channels()), "channels")
except BusError as error:
    print(error)
"""


def said(environment: dict[str, str]) -> list[str]:
    """What a program that opens a channel and lists the channels says, a line each, and nothing else."""
    done = python(environment, "-W", "error", "-c", OPEN)
    assert (done.returncode, done.stderr) == (0, ""), done
    return done.stdout.splitlines()


def test_the_contract_holds_on_kvaser_channels(library: Path) -> None:
    done = python(
        stub.environment(library),
        "-m",
        "pytest",
        "-x",
        "-p",
        "no:cacheprovider",
        "tests/link/kvaser_cases.py",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed is not None, done.stdout
    assert int(passed[1]) >= 50


def test_without_the_library_one_sentence_says_what_to_install(tmp_path: Path) -> None:
    sentences = said({**os.environ, "LD_LIBRARY_PATH": str(tmp_path)})
    assert len(sentences) == 2
    assert len(set(sentences)) == 1
    assert sentences[0].startswith("Kvaser's library libcanlib is not found: install Kvaser's Linux drivers")


def test_a_library_that_is_no_library_is_told_alike(tmp_path: Path) -> None:
    (tmp_path / "libcanlib.so").write_text("not a library")
    assert all("libcanlib is not found" in one for one in said(stub.environment(tmp_path / "libcanlib.so")))
