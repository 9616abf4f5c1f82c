"""The champion: which checkpoint is released for a vehicle.

::

    <lake>/checkpoints/champion/<vehicle>.json          the champion, and those before it
    <lake>/checkpoints/champion/<vehicle>/<content>/    copies of released checkpoints, immutable

A released checkpoint is copied, because a training run keeps only its newest ones. The pointer is replaced
atomically and names the content by hash: a champion is the files that were released, or an error. Who
releases at the same time as another waits for the other one; in a bucket, where nobody can wait, the second
is told so and decides anew.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from tspace_core.config import Vehicle
from tspace_core.errors import CheckpointError, ObjectExistsError, ObjectMissingError
from tspace_core.objects.fields import PathField
from tspace_core.objects.path import AnyPath, local_folder
from tspace_core.storage.files import atomic_directory, sha256
from tspace_core.storage.folders import remove_directory
from tspace_core.storage.lake import Lake
from tspace_core.storage.pointer import Pointer, open_pointer

AGENT = "champion"
MANIFEST = "manifest.json"


class Grounds(BaseModel):
    """Why a checkpoint may drive."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    evaluated: datetime | None = None
    """When it was evaluated and found good enough."""
    figures: dict[str, float] = {}
    """What the evaluation found, by name with its unit."""
    without_evaluation: str | None = None
    """The reason that somebody gave for a release without one."""


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
    checkpoint: PathField
    """Folder of the copy."""
    grounds: Grounds | None = None
    """None: released before grounds were kept."""


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
    lake: Lake,
    vehicle: Vehicle,
    checkpoint: AnyPath,
    *,
    by: str,
    loads: Callable[[AnyPath], object],
    grounds: Grounds | None = None,
) -> Champion:
    """Make a checkpoint the champion of a vehicle.

    Args:
        lake: where the champion is kept.
        vehicle: whose states and actions the agent must have.
        checkpoint: folder of the checkpoint.
        by: who releases it.
        loads: loads the checkpoint as an agent and raises if that fails; storage itself knows no agents.
        grounds: why it may drive.

    Returns:
        The champion; releasing the present champion's content again changes nothing.

    Raises:
        CheckpointError: it cannot be loaded, is of other dimensions, or somebody else releases meanwhile; the
            champion stays as it was.
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
    copy = _folder(lake, vehicle.id) / content[:16]
    with open_pointer(_pointer(lake, vehicle.id)) as pointer:
        releases = _releases(lake, vehicle.id, pointer.text)
        present = releases.champion
        if present is not None and present.sha256 == content and _intact(present):
            return present
        if copy.exists() and content_sha256(copy) != content:
            remove_directory(copy)  # damaged: what is to be released is at hand, so it is copied anew
        if not copy.exists():
            with atomic_directory(copy) as temporary:
                shutil.copytree(local_folder(checkpoint), temporary, dirs_exist_ok=True)
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
            grounds=grounds,
        )
        history = (*releases.history, *([present] if present else []))
        _replace(pointer, releases.model_copy(update={"champion": champion, "history": history}))
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
        CheckpointError: there is no champion, none before it, that one's files are damaged, or somebody else
            releases meanwhile.
    """
    with open_pointer(_pointer(lake, vehicle_id)) as pointer:
        releases = _releases(lake, vehicle_id, pointer.text)
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
        _replace(pointer, changed)
    return before


def read_releases(lake: Lake, vehicle_id: str) -> Releases:
    """All releases of a vehicle.

    Raises:
        CheckpointError: the pointer is damaged.
    """
    path = _pointer(lake, vehicle_id)
    try:
        pointer = Pointer(path)
    except OSError as error:
        raise _damaged(path, error) from error
    return _releases(lake, vehicle_id, pointer.text)


def content_sha256(checkpoint: AnyPath) -> str:
    """Hash of the names and contents of all files of a checkpoint, hex."""
    folder = local_folder(checkpoint)
    lines = [f"{path.name} {sha256(path)}\n" for path in sorted(folder.iterdir()) if path.is_file()]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _releases(lake: Lake, vehicle_id: str, text: str | None) -> Releases:
    if text is None:
        return Releases()
    try:
        content = json.loads(text)
        for item in _champions(content):
            item["checkpoint"] = _folder(lake, vehicle_id) / item["sha256"][:16]
        return Releases.model_validate(content)
    except (ValidationError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(_pointer(lake, vehicle_id), error) from error


def _damaged(path: AnyPath, error: Exception) -> CheckpointError:
    return CheckpointError(f"{path} is damaged ({error}): delete it and release a checkpoint again")


def _replace(pointer: Pointer, releases: Releases) -> None:
    content = releases.model_dump(mode="json")
    for item in _champions(content):
        del item["checkpoint"]  # follows from the lake's root, which may be moved
    try:
        pointer.replace(json.dumps(content, indent=1))
    except ObjectExistsError as error:
        message = (
            "somebody else has released or withdrawn a champion at the same time, so nothing was changed: "
            f"see what is released now (tspace release --show), then do it again ({error})"
        )
        raise CheckpointError(message) from error


def _champions(content: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if content.get("champion") is not None:
        yield content["champion"]
    yield from content.get("history", ())
    for item in content.get("withdrawn", ()):
        yield item["champion"]


def _manifest(checkpoint: AnyPath) -> dict[str, Any]:
    path = checkpoint / MANIFEST
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, ObjectMissingError) as error:
        message = f"{path}: no checkpoint's manifest ({error}); name the folder of a checkpoint"
        raise CheckpointError(message) from error
    if not isinstance(content, dict) or not {"agent", "step"} <= content.keys():
        message = f"{path}: no checkpoint's manifest; name the folder of a checkpoint"
        raise CheckpointError(message)
    return content


def _check_copy(copy: AnyPath, content: str) -> None:
    found = content_sha256(copy) if copy.is_dir() else "none"
    if found != content:
        message = (
            f"{copy}: its files hash to {found[:12]}, released was {content[:12]}: gone or changed; "
            "release the checkpoint again or roll back"
        )
        raise CheckpointError(message)


def _intact(present: Champion) -> bool:
    return present.checkpoint.is_dir() and content_sha256(present.checkpoint) == present.sha256


def _relative(lake: Lake, checkpoint: AnyPath) -> str:
    return str(checkpoint.resolve()).removeprefix(f"{lake.root}/")


def _pointer(lake: Lake, vehicle_id: str) -> AnyPath:
    return lake.checkpoints(AGENT, f"{vehicle_id}.json")


def _folder(lake: Lake, vehicle_id: str) -> AnyPath:
    return lake.checkpoints(AGENT, vehicle_id)
