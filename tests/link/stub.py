"""Build the libcanlib of canlib_stub.c, and an environment whose programs find it."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SOURCE = Path(__file__).with_name("canlib_stub.c")


def build(folder: Path) -> Path:
    """Compile the stub into ``folder``; the tests that need it fail where there is no C compiler."""
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        pytest.fail("no C compiler found: the README asks for one (apt install gcc), or set CC")
    library = folder / "libcanlib.so"
    command = [compiler, "-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-pthread", "-o"]
    done = subprocess.run([*command, library, SOURCE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return library


def environment(library: Path, **settings: str) -> dict[str, str]:
    """Variables for a program that is to find the stub, with settings of the stub (see its head)."""
    return {**os.environ, "LD_LIBRARY_PATH": str(library.parent), **settings}
