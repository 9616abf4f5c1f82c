"""Machine code that is kept is never older than the sources it was made from."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numba

import tspace_core
from tspace_core.compiled import FOLDERS_KEPT, PACKAGES, fingerprint, keep_in

CORE = Path(tspace_core.__file__).parent


def copy_of_sources(folder: Path) -> Path:
    for package in PACKAGES:
        shutil.copytree(CORE / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def test_any_change_in_a_called_file_begins_a_new_folder(tmp_path: Path) -> None:
    root = copy_of_sources(tmp_path)
    assert fingerprint(root) == fingerprint(CORE)
    scan = root / "can" / "readers" / "scan.py"
    scan.write_text(scan.read_text() + "\n")
    assert fingerprint(root) != fingerprint(CORE)


def test_only_the_folders_used_last_are_kept(tmp_path: Path) -> None:
    for number in range(FOLDERS_KEPT + 3):
        folder = keep_in(tmp_path, f"version{number}")
        os.utime(folder, (number, number))
    keep_in(tmp_path, "version3")
    assert {path.name for path in tmp_path.iterdir()} == {
        "version3",
        "version4",
        "version5",
        "version6",
        "version7",
    }


def test_every_compiled_function_is_in_a_package_that_counts() -> None:
    users = [
        path.relative_to(CORE)
        for path in CORE.rglob("*.py")
        if "import compiled" in path.read_text() or "njit" in path.read_text()
    ]
    assert Path("compiled.py") in users
    users.remove(Path("compiled.py"))
    found = {next((package for package in PACKAGES if user.is_relative_to(package)), user) for user in users}
    assert found == set(PACKAGES)


def test_the_code_lies_in_the_users_cache(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "NUMBA_CACHE_DIR"}
    program = "import tspace_core.compiled, numba; print(numba.config.CACHE_DIR)"
    found = subprocess.run(
        [sys.executable, "-c", program],
        env={**environment, "XDG_CACHE_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert Path(found.stdout.strip()) == tmp_path / "tspace" / "numba" / fingerprint(CORE)
    assert numba.config.CACHE_DIR
