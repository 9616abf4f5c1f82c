"""Findings: units of work that were not finished, and what killed writers have left."""

import os
import re
import shutil
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from tspace_core.errors import UnitOfWorkError
from tspace_core.objects.path import AnyPath, S3Path
from tspace_core.storage import bucket_folder, unit_bucket, unit_disk
from tspace_core.storage.doctor import REPAIR, Finding, Found
from tspace_core.storage.lake import Lake
from tspace_core.storage.unit_log import UNITS, parse_record, records_in
from tspace_core.storage.unit_of_work import finish_units

OLD_S = 86_400.0
"""What nobody has written to for this time has no writer any more, s."""
_OURS = re.compile(r"\.(\d+)-[0-9a-f]{8}\.tmp$")


def units(lake: Lake) -> Iterator[Found]:
    """Units that are committed and not done, abandoned, or whose record is damaged."""
    root, healthy = lake.root, True
    finish = partial(finish_units, lake)
    committed, abandoned = [], _abandoned(root)
    for unit_id in records_in(root):
        path = root / UNITS / f"{unit_id}.json"
        try:
            record = parse_record(path, path.read_bytes())
        except FileNotFoundError:
            continue  # it has just been done
        except UnitOfWorkError as error:
            healthy = False
            todo = f"restore it or remove it, then {REPAIR}"
            yield Finding("damaged unit of work", str(path), str(error), todo), None
            continue
        if record.state == "committed":
            committed.append((path, record.name))
    for path, name in committed:
        what = f"the unit of work {name!r} is committed and not all of it is visible"
        # A damaged record stops every roll forward: a person comes first.
        yield (
            Finding("unfinished unit of work", str(path), what, REPAIR, healthy),
            finish if healthy else None,
        )
    for place in abandoned:
        what = "a unit of work has staged this and was killed before it was committed; nobody ever saw it"
        yield Finding("abandoned unit of work", place, what, REPAIR, healthy), finish if healthy else None


def _abandoned(root: AnyPath) -> list[str]:
    if isinstance(root, S3Path):
        return [str(root / UNITS / unit_id) for unit_id in unit_bucket.abandoned(root, OLD_S)]
    return [str(folder) for folder in unit_disk.abandoned(root)]


def leftovers(lake: Lake) -> Iterator[Found]:
    """Temporary files of dead writers; in a bucket folders without their manifest."""
    if isinstance(lake.root, S3Path):
        for found in bucket_folder.unfinished(lake.root, older_than_s=OLD_S):
            what = f"{len(found)} objects without the manifest that makes them visible, older than a day"
            remove = partial(lake.root.store.delete, *(path.key for path in found))
            yield Finding("staged leftover", str(found[0].parent), what, REPAIR, repairable=True), remove
    folders = {folder for folder in (lake.root, lake.local) if isinstance(folder, Path) and folder.is_dir()}
    for folder in sorted(folders):
        for path in sorted(folder.rglob(".*.tmp")):
            why = _dead(path)
            if why and UNITS not in path.relative_to(folder).parts[:1]:
                what = f"a temporary {'folder' if path.is_dir() else 'file'} of a writer that {why}"
                finding = Finding("staged leftover", str(path), what, REPAIR, repairable=True)
                yield finding, partial(_remove, path)


def _dead(path: Path) -> str:
    """Why nobody writes it any more; empty: somebody may."""
    found = _OURS.search(path.name)
    try:
        if time.time() - path.stat().st_mtime > OLD_S:
            return "has not written to it for a day"
        if found is None:
            return ""
        os.kill(int(found[1]), 0)
    except ProcessLookupError:
        return "is dead"
    except OSError:
        return ""
    return ""


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
