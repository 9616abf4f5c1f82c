"""What the stores are held against: the same on a disk and in a bucket."""

from pathlib import Path

import pytest

from tspace_core.objects.path import AnyPath, any_path


@pytest.fixture(params=["disk", "bucket"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> AnyPath:
    """An empty place for a lake, on a disk and in a bucket of a real server."""
    if request.param == "disk":
        return tmp_path / "place"
    return any_path(str(request.getfixturevalue("s3_folder")))
