"""Checkpoints: a safetensors file and a JSON manifest a component, visible only as a whole.

::

    <lake>/checkpoints/<agent>/<run>/00000500/
        manifest.json       agent, step, dimensions, hyperparameters, names of the components
        actor.safetensors   tensors by name
        actor.json          their shapes, the file's sha256, plain values and their sha256
        ...

Nothing is pickled: a checkpoint from elsewhere can hold wrong numbers but no code.
"""

import hashlib
import json
import logging
import secrets
import shutil
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from tspace_core import __version__
from tspace_core.agents.made_for import MadeFor
from tspace_core.errors import CheckpointError, ObjectMissingError
from tspace_core.objects.path import AnyPath, local_folder
from tspace_core.storage.bucket_folder import MANIFEST
from tspace_core.storage.files import atomic_directory, sha256, sweep
from tspace_core.storage.folders import remove_directory
from tspace_core.storage.writer import DIRECT, Writer

if TYPE_CHECKING:
    from pathlib import Path

    from tspace_core.agents.dpg import DPG

_log = logging.getLogger(__name__)

M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True)
class Component:
    """One part of an agent's state: tensors by name, and plain JSON values."""

    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    values: Mapping[str, Any] = field(default_factory=dict)


class CheckpointManifest(BaseModel):
    """What a checkpoint is of."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    agent: str
    step: int
    state_dim: int
    action_dim: int
    seed: int
    hyperparameters: dict[str, Any]
    components: tuple[str, ...] = ()
    created: datetime = datetime.min
    software_version: str = __version__
    made_for: MadeFor | None = None
    """Type of vehicle; None: not one, such as a public task, or of before this was kept."""


class _ComponentManifest(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    component: str
    sha256: str
    shapes: dict[str, tuple[int, ...]]
    values: dict[str, Any]
    values_sha256: str | None = None
    """None in checkpoints from before the values were hashed."""


def _hash(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def write_checkpoint(
    directory: AnyPath,
    manifest: CheckpointManifest,
    components: Mapping[str, Component],
    *,
    writer: Writer = DIRECT,
) -> None:
    """Write a checkpoint; ``directory`` appears whole or not at all.

    Raises:
        StorageError: ``directory`` exists already.
    """
    with writer.directory(directory) as folder:
        for name, component in components.items():
            path = folder / f"{name}.safetensors"
            save_file({key: tensor.detach().clone() for key, tensor in component.tensors.items()}, path)
            part = _ComponentManifest(
                component=name,
                sha256=sha256(path),
                shapes={key: tuple(tensor.shape) for key, tensor in component.tensors.items()},
                values=dict(component.values),
                values_sha256=_hash(component.values),
            )
            (folder / f"{name}.json").write_text(json.dumps(part.model_dump(), indent=1) + "\n")
        whole = manifest.model_copy(
            update={"components": tuple(components), "created": datetime.now(UTC)},
        )
        (folder / MANIFEST).write_text(whole.model_dump_json(indent=1) + "\n")


class Checkpoint:
    """A checkpoint, opened for reading; one in a bucket is read from a copy on this machine."""

    def __init__(self, directory: AnyPath) -> None:
        self.directory = directory
        self._folder = _local(directory)
        self.manifest = self._parse(CheckpointManifest, MANIFEST)

    def component(self, name: str, keys: Collection[str] = ()) -> Component:
        """Read one component and compare it with its manifest.

        Args:
            name: of the component.
            keys: Plain values that it must have.

        Raises:
            CheckpointError: a file is missing, cut off or changed, or a value is missing.
        """
        if name not in self.manifest.components:
            message = (
                f"{self.directory}: has no component {name!r}, only {', '.join(self.manifest.components)}; "
                "load another checkpoint"
            )
            raise CheckpointError(message)
        part = self._parse(_ComponentManifest, f"{name}.json")
        self._check_values(part, keys)
        path, file = self.directory / f"{name}.safetensors", self._folder / f"{name}.safetensors"
        if not file.is_file():
            message = f"{path}: missing; load another checkpoint of {self.directory.parent}"
            raise CheckpointError(message)
        found = sha256(file)
        if found != part.sha256:
            message = (
                f"{path}: sha256 {found[:12]}..., its manifest says {part.sha256[:12]}...: "
                f"the file is cut off or changed; load another checkpoint of {self.directory.parent}"
            )
            raise CheckpointError(message)
        try:
            tensors = load_file(file)
        except (SafetensorError, OSError) as error:
            message = f"{path}: not readable ({error}); load another checkpoint of {self.directory.parent}"
            raise CheckpointError(message) from error
        return Component(tensors, part.values)

    def verify(self) -> None:
        """Read every component.

        Raises:
            CheckpointError: names the file that is missing, cut off or changed.
        """
        for name in self.manifest.components:
            self.component(name)

    def _parse(self, model: type[M], name: str) -> M:
        path = self.directory / name  # as people know it
        try:
            return model.model_validate(json.loads((self._folder / name).read_text(encoding="utf-8")))
        except FileNotFoundError as error:
            message = f"{path}: missing; load another checkpoint"
            raise CheckpointError(message) from error
        except (ValidationError, ValueError, OSError) as error:
            message = f"{path}: not a checkpoint's manifest ({error}); load another checkpoint"
            raise CheckpointError(message) from error

    def _check_values(self, part: _ComponentManifest, keys: Collection[str]) -> None:
        path = self.directory / f"{part.component}.json"
        if part.values_sha256 not in (None, _hash(part.values)):
            message = (
                f"{path}: its values are not those it was written with: the file was changed; "
                f"load another checkpoint of {self.directory.parent}"
            )
            raise CheckpointError(message)
        missing = [key for key in keys if key not in part.values]
        if missing:
            message = (
                f"{path}: lacks the value {missing[0]!r}; load another checkpoint of {self.directory.parent}"
            )
            raise CheckpointError(message)

    def check_shapes(self, name: str, found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
        """Compare names and shapes of a component's tensors with those they are to be copied into.

        Raises:
            CheckpointError: they differ.
        """
        wanted = {key: tuple(tensor.shape) for key, tensor in expected.items()}
        given = {key: tuple(tensor.shape) for key, tensor in found.items()}
        if wanted != given:
            odd = sorted(key for key in wanted.keys() | given.keys() if wanted.get(key) != given.get(key))
            message = (
                f"{self.directory / name}.safetensors: {odd[0]} is {given.get(odd[0], 'missing')}, expected "
                f"{wanted.get(odd[0], 'no such tensor')} ({len(odd)} tensors differ); "
                "the networks have other sizes: use the hyperparameters in the checkpoint's manifest.json"
            )
            raise CheckpointError(message)


def _local(directory: AnyPath) -> "Path":
    try:
        return local_folder(directory)
    except ObjectMissingError as error:
        message = f"{directory / MANIFEST}: missing; load another checkpoint"
        raise CheckpointError(message) from error


class CheckpointStore:
    """The checkpoints of one run, ``<lake>/checkpoints/<agent>/<run>``; the newest ``keep`` of them stay."""

    def __init__(self, root: AnyPath, *, keep: int = 10, every: int = 500) -> None:
        if keep < 1 or every < 1:
            message = f"keep is {keep} and every is {every}, both must be at least 1"
            raise CheckpointError(message)
        self.root = root
        self.keep = keep
        self.every = every

    def due(self, step: int) -> bool:
        """Whether a checkpoint belongs after this step."""
        return step % self.every == 0

    def steps(self) -> list[int]:
        """Steps of the complete checkpoints, ascending."""
        complete = (manifest.parent.name for manifest in self.root.glob(f"*/{MANIFEST}"))
        return sorted(int(name) for name in complete if name.isdigit())

    def path(self, step: int) -> AnyPath:
        """Folder of the checkpoint after that step."""
        return self.root / f"{step:08d}"

    def latest(self) -> AnyPath:
        """Folder of the newest checkpoint.

        Raises:
            CheckpointError: there is none.
        """
        steps = self.steps()
        if not steps:
            message = f"{self.root}: holds no checkpoint; train first, or correct agent and run"
            raise CheckpointError(message)
        return self.path(steps[-1])

    def save(
        self,
        agent: "DPG",
        step: int,
        extra: Mapping[str, Component] | None = None,
        *,
        writer: Writer = DIRECT,
    ) -> AnyPath:
        """Save the agent, with further components beside its own, then remove what is older than the newest.

        With a unit of work as the writer, the checkpoint is there at the unit's commit; those that are there
        before stay as many as are kept.

        Raises:
            CheckpointError: the run has a checkpoint of that step already.
        """
        path = self.path(step)
        if (path / MANIFEST).is_file():
            message = f"{path}: exists already; resume the run from its latest checkpoint or choose a new run"
            raise CheckpointError(message)
        agent.save(path, step=step, extra=extra, writer=writer)
        self.trim()
        return path

    def trim(self) -> None:
        """Remove what is older than the newest ``keep``."""
        for old in self.steps()[: -self.keep]:
            remove_directory(self.path(old))

    def clear(self) -> None:
        """Remove what killed writers left unfinished; only for the one process that writes this run."""
        if not self.root.is_dir():
            return
        sweep(self.root, older_than_s=0.0)
        complete = self.steps()
        for folder in self.root.iterdir():
            if folder.name.isdigit() and int(folder.name) not in complete:
                remove_directory(folder)

    def last_good(self, tell: Callable[[str], object] = _log.warning) -> Checkpoint | None:
        """The newest checkpoint that can be read, None without one: what a run goes on from.

        Those after it are put aside as ``damaged-...``, so that the run may come to their steps again.

        Args:
            tell: is told each that was put aside, and why.
        """
        for step in reversed(self.steps()):
            try:
                checkpoint = Checkpoint(self.path(step))
                checkpoint.verify()
            except CheckpointError as error:
                aside = self._put_aside(step)
                tell(f"went back behind a checkpoint that cannot be read, now {aside.name}: {error}")
                continue
            return checkpoint
        return None

    def _put_aside(self, step: int) -> AnyPath:
        path, aside = self.path(step), self.root / f"damaged-{step:08d}-{secrets.token_hex(4)}"
        with atomic_directory(aside) as temporary:
            shutil.copytree(local_folder(path), temporary, dirs_exist_ok=True)
        remove_directory(path)
        return aside
