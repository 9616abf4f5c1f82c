"""What an encoder of driving situations is: windows of signals in, vectors of unit length out.

An encoder at rest is a folder::

    manifest.json          kind, window, signals, parameters, what training said, hash of the arrays
    encoder.safetensors    its arrays by name

Nothing is pickled. Its id is its kind and the beginning of its arrays' hash: equal weights, equal id.
"""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from tspace_core import __version__
from tspace_core.config.embeddings import EmbeddingParameters
from tspace_core.errors import CheckpointError, RecordError
from tspace_core.objects.path import AnyPath
from tspace_core.storage.bucket_folder import MANIFEST

Float = NDArray[np.float32]
ARRAYS = "encoder.safetensors"
BLOCK = 4096
"""Windows that are encoded at a time: what bounds the memory."""


class EncoderManifest(BaseModel):
    """What a stored encoder is of."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str
    dim: int
    window: int
    signals: tuple[str, ...]
    rate_hz: float
    parameters: EmbeddingParameters
    sha256: str
    losses: dict[str, tuple[float, ...]] = {}
    software_version: str = __version__


class Encoder(ABC):
    """One kind of encoder; siblings differ in what they learn, not in how they are used.

    Args:
        parameters: of conf/hyperparameters/embeddings.yaml.
        window: samples of a window.
        signals: names, in the order of the state.
        rate_hz: of the samples.
    """

    kind: ClassVar[str]

    def __init__(
        self, parameters: EmbeddingParameters, *, window: int, signals: tuple[str, ...], rate_hz: float
    ) -> None:
        self.parameters = parameters
        self.window = window
        self.signals = signals
        self.rate_hz = rate_hz
        self.losses: dict[str, tuple[float, ...]] = {}

    @property
    @abstractmethod
    def dim(self) -> int:
        """Length of a vector."""

    @abstractmethod
    def fit(self, runs: Iterable[Float]) -> None:
        """Learn from runs of consecutive windows, each (n, window, signals) float32 and of one episode.

        Equal runs and parameters give an equal encoder.

        Raises:
            RecordError: there is no window, or one is of another shape or holds NaN.
        """

    @abstractmethod
    def arrays(self) -> dict[str, NDArray[Any]]:
        """All that was learned."""

    @abstractmethod
    def restore(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Take what ``arrays`` gave.

        Raises:
            KeyError, ValueError: an array is missing or has another shape.
        """

    @abstractmethod
    def _encode(self, states: Float) -> Float:
        """(n, dim) vectors of at most ``BLOCK`` checked windows; their length is of no matter."""

    @property
    def id(self) -> str:
        """``<kind>-<12 hex digits of the arrays' hash>``."""
        return f"{self.kind}-{_hash(self.arrays())[:12]}"

    def encode(self, states: Float) -> Float:
        """Vectors of unit length of windows.

        Args:
            states: (n, window, signals) or (n, window * signals) float32, in physical units.

        Returns:
            (n, dim) float32.

        Raises:
            RecordError: the windows are of another shape, or one holds a value that is not finite.
        """
        windows = self._checked(states)
        vectors = np.empty((len(windows), self.dim), np.float32)
        for first in range(0, len(windows), BLOCK):
            block = self._encode(windows[first : first + BLOCK])
            length = np.linalg.norm(block, axis=1, keepdims=True)
            vectors[first : first + BLOCK] = block / np.maximum(length, 1e-12)
        return vectors

    def fits(self, window: int, signals: tuple[str, ...], rate_hz: float) -> bool:
        """Whether windows of this layout can be encoded."""
        return (window, signals, rate_hz) == (self.window, self.signals, self.rate_hz)

    def save(self, folder: Path) -> EncoderManifest:
        """Write the encoder into a folder that exists."""
        from safetensors.numpy import save

        content = save({name: np.ascontiguousarray(array) for name, array in self.arrays().items()})
        (folder / ARRAYS).write_bytes(content)
        manifest = EncoderManifest(
            kind=self.kind,
            dim=self.dim,
            window=self.window,
            signals=self.signals,
            rate_hz=self.rate_hz,
            parameters=self.parameters,
            sha256=hashlib.sha256(content).hexdigest(),
            losses=self.losses,
        )
        (folder / MANIFEST).write_text(manifest.model_dump_json(indent=1) + "\n", encoding="utf-8")
        return manifest

    def _checked(self, states: Float) -> Float:
        shape = (self.window, len(self.signals))
        if states.ndim == 2 and states.shape[1] == shape[0] * shape[1]:
            states = states.reshape(-1, *shape)
        if states.ndim != 3 or states.shape[1:] != shape:
            message = (
                f"windows of shape {states.shape[1:]} cannot be encoded, expected {shape[0]} samples of "
                f"{', '.join(self.signals)}: use an encoder that was trained on such windows"
            )
            raise RecordError(message)
        if not np.isfinite(states).all():
            bad = int(np.flatnonzero(~np.isfinite(states).all(axis=(1, 2)))[0])
            message = f"window {bad} of {len(states)} holds a value that is not finite: leave it out"
            raise RecordError(message)
        return np.asarray(states, np.float32)

    def _collected(self, runs: Iterable[Float]) -> list[Float]:
        found = [self._checked(run) for run in runs]
        if not sum(map(len, found)):
            message = f"the {self.kind} encoder was given no window to learn from: store episodes first"
            raise RecordError(message)
        return [run for run in found if len(run)]


def read_manifest(folder: AnyPath) -> EncoderManifest:
    """The manifest of a stored encoder.

    Raises:
        CheckpointError: it is missing or damaged.
    """
    path = folder / MANIFEST
    try:
        return EncoderManifest.model_validate(json.loads(path.read_bytes()))
    except (OSError, ValueError, ValidationError) as error:
        raise _unusable(path, error) from error


def restore(encoder: Encoder, manifest: EncoderManifest, content: bytes, path: AnyPath) -> None:
    """Give an encoder the arrays of its file.

    Raises:
        CheckpointError: the file is cut off, changed, or of another shape.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    found = hashlib.sha256(content).hexdigest()
    if found != manifest.sha256:
        reason = f"sha256 {found[:12]}..., its manifest says {manifest.sha256[:12]}...: cut off or changed"
        raise _unusable(path, reason)
    try:
        encoder.restore(load(content))
    except (SafetensorError, KeyError, ValueError, RuntimeError) as error:
        raise _unusable(path, error) from error
    if encoder.dim != manifest.dim:
        raise _unusable(path, f"vectors of {encoder.dim}, its manifest says {manifest.dim}")
    encoder.losses = dict(manifest.losses)


def _unusable(path: AnyPath, reason: object) -> CheckpointError:
    return CheckpointError(
        f"{path}: no usable encoder ({reason}); train it again: materialize situation_encoder, "
        "or `tspace embed --train`"
    )


def _hash(arrays: Mapping[str, NDArray[Any]]) -> str:
    from safetensors.numpy import save

    return hashlib.sha256(
        save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
    ).hexdigest()
