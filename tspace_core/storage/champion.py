"""The champion: which checkpoint is released for a vehicle.

::

    <lake>/checkpoints/champion/<vehicle>.json          the champion, and those before it
    <lake>/checkpoints/champion/<vehicle>/<content>/    copies of released checkpoints, immutable

A released checkpoint is copied, because a training run keeps only its newest ones. The pointer is replaced
atomically and names the content by hash: a champion is the files that were released, or an error.
"""

import fcntl
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from tspace_core.config import Vehicle
from tspace_core.errors import CheckpointError
from tspace_core.storage.files import atomic_directory, sha256, write_text
from tspace_core.storage.lake import Lake

AGENT = "champion"
MANIFEST = "manifest.json"


class Champion(BaseModel):
    """A checkpoint that was released for a vehicle."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    vehicle_id: str
    agent: str
    run: str
    step: int
    sha256: str
    """Of all files of the checkpoint, see ``content_sha256``."""
    source: str
    """Where it was copied from; below the lake's root where it lay there."""
    released_by: str
    at: datetime
    checkpoint: Path
    """Folder of the copy."""


class Withdrawal(BaseModel):
    """A champion that was taken back."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    champion: Champion
    withdrawn_by: str
    at: datetime


class Releases(BaseModel):
    """All that was ever released for a vehicle."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    champion: Champion | None = None
    history: tuple[Champion, ...] = ()
    """Champions before this one, the oldest first."""
    withdrawn: tuple[Withdrawal, ...] = ()


def release(
    lake: Lake, vehicle: Vehicle, checkpoint: Path, *, by: str, loads: Callable[[Path], object]
) -> Champion:
    """Make a checkpoint the champion of a vehicle.

    Args:
        lake: where the champion is kept.
        vehicle: whose states and actions the agent must have.
        checkpoint: folder of the checkpoint.
        by: who releases it.
        loads: loads the checkpoint as an agent and raises if that fails; storage itself knows no agents.

    Returns:
        The champion; releasing the present champion's content again changes nothing.

    Raises:
        CheckpointError: it cannot be loaded, or is of other dimensions; the champion stays as it was.
    """
    manifest = _manifest(checkpoint)
    wanted = {"state_dim": vehicle.sampling.state_dim, "action_dim": vehicle.action_dim}
    for name, value in wanted.items():
        if manifest.get(name) != value:
            message = (
                f"{checkpoint}: its {name} is {manifest.get(name)}, {vehicle.id} has {value}; "
                "release an agent trained for this vehicle"
            )
            raise CheckpointError(message)
    content = content_sha256(checkpoint)
    loads(checkpoint)
    folder = _folder(lake, vehicle.id)
    copy = folder / content[:16]
    with _alone(folder):
        releases = read_releases(lake, vehicle.id)
        present = releases.champion
        if present is not None and present.sha256 == content and _intact(present):
            return present
        if copy.exists() and content_sha256(copy) != content:
            shutil.rmtree(copy)  # damaged: what is to be released is at hand, so it is copied anew
        if not copy.exists():
            with atomic_directory(copy) as temporary:
                shutil.copytree(checkpoint, temporary, dirs_exist_ok=True)
        _check_copy(copy, content)
        champion = Champion(
            vehicle_id=vehicle.id,
            agent=str(manifest["agent"]),
            run=checkpoint.resolve().parent.name,
            step=int(manifest["step"]),
            sha256=content,
            source=_relative(lake, checkpoint),
            released_by=by,
            at=datetime.now(UTC),
            checkpoint=copy,
        )
        history = (*releases.history, *([present] if present else []))
        _write(lake, vehicle.id, releases.model_copy(update={"champion": champion, "history": history}))
    return champion


def champion(lake: Lake, vehicle_id: str) -> Champion | None:
    """The champion of a vehicle, None if nothing is released.

    Raises:
        CheckpointError: its files are gone or are not those that were released.
    """
    found = read_releases(lake, vehicle_id).champion
    if found is not None:
        _check_copy(found.checkpoint, found.sha256)
    return found


def rollback(lake: Lake, vehicle_id: str, *, by: str) -> Champion:
    """Withdraw the champion and make the one before it the champion again.

    Raises:
        CheckpointError: there is no champion, none before it, or that one's files are damaged.
    """
    with _alone(_folder(lake, vehicle_id)):
        releases = read_releases(lake, vehicle_id)
        if releases.champion is None or not releases.history:
            state = "nothing is released" if releases.champion is None else "it is the first release"
            message = f"{vehicle_id}: no champion to go back to, {state}; release another checkpoint instead"
            raise CheckpointError(message)
        before = releases.history[-1]
        _check_copy(before.checkpoint, before.sha256)
        gone = Withdrawal(champion=releases.champion, withdrawn_by=by, at=datetime.now(UTC))
        changed = Releases(
            champion=before, history=releases.history[:-1], withdrawn=(*releases.withdrawn, gone)
        )
        _write(lake, vehicle_id, changed)
    return before


def read_releases(lake: Lake, vehicle_id: str) -> Releases:
    """All releases of a vehicle.

    Raises:
        CheckpointError: the pointer is damaged.
    """
    path = _pointer(lake, vehicle_id)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        for item in _champions(content):
            item["checkpoint"] = _folder(lake, vehicle_id) / item["sha256"][:16]
        return Releases.model_validate(content)
    except FileNotFoundError:
        return Releases()
    except (ValidationError, ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        message = f"{path} is damaged ({error}): delete it and release a checkpoint again"
        raise CheckpointError(message) from error


def content_sha256(checkpoint: Path) -> str:
    """Hash of the names and contents of all files of a checkpoint, hex."""
    lines = [f"{path.name} {sha256(path)}\n" for path in sorted(checkpoint.iterdir()) if path.is_file()]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _write(lake: Lake, vehicle_id: str, releases: Releases) -> None:
    content = releases.model_dump(mode="json")
    for item in _champions(content):
        del item["checkpoint"]  # follows from the lake's root, which may be moved
    write_text(_pointer(lake, vehicle_id), json.dumps(content, indent=1))


def _champions(content: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if content.get("champion") is not None:
        yield content["champion"]
    yield from content.get("history", ())
    for item in content.get("withdrawn", ()):
        yield item["champion"]


def _manifest(checkpoint: Path) -> dict[str, Any]:
    path = checkpoint / MANIFEST
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        message = f"{path}: no checkpoint's manifest ({error}); name the folder of a checkpoint"
        raise CheckpointError(message) from error
    if not isinstance(content, dict) or not {"agent", "step"} <= content.keys():
        message = f"{path}: no checkpoint's manifest; name the folder of a checkpoint"
        raise CheckpointError(message)
    return content


def _check_copy(copy: Path, content: str) -> None:
    found = content_sha256(copy) if copy.is_dir() else "none"
    if found != content:
        message = (
            f"{copy}: its files hash to {found[:12]}, released was {content[:12]}: gone or changed; "
            "release the checkpoint again or roll back"
        )
        raise CheckpointError(message)


def _intact(present: Champion) -> bool:
    return present.checkpoint.is_dir() and content_sha256(present.checkpoint) == present.sha256


def _relative(lake: Lake, checkpoint: Path) -> str:
    path = checkpoint.resolve()
    return str(path.relative_to(lake.root) if path.is_relative_to(lake.root) else path)


def _pointer(lake: Lake, vehicle_id: str) -> Path:
    return lake.checkpoints(AGENT, f"{vehicle_id}.json")


def _folder(lake: Lake, vehicle_id: str) -> Path:
    return lake.checkpoints(AGENT, vehicle_id)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One release at a time, across processes: each adds to the history of the one before."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
