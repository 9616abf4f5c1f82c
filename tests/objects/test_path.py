"""Paths in a bucket."""

import os

from tests.objects.seaweed import S3
from tspace_core.objects.path import S3Path, any_path, local_copy, local_folder


def test_round_trip(s3: S3) -> None:
    root = any_path(s3.url + "/lake")
    assert isinstance(root, S3Path)
    path = root / "a" / "b.json"
    assert not path.exists()
    path.write_text("x")
    assert path.is_file()
    assert root.is_dir()
    first = local_copy(path)
    path.write_text("y")
    assert first.read_text() == "x"
    assert local_copy(path).read_text() == "y"
    assert [str(p) for p in root.glob("*/*.json")] == [str(path)]
    assert (local_folder(root) / "a/b.json").read_text() == "y"
