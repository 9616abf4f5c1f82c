"""Which records of a stream of episodes say something new; the others need not be drawn for training.

Both ways look at the episodes in the order given and remember what they kept, so equal episodes in equal
order give equal answers. Memory is bounded: the oldest that are remembered are forgotten, and what was like
them is kept again.
"""

import hashlib
from collections import OrderedDict
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tspace_core.config.replay import ThinParameters
from tspace_core.embeddings.base import Encoder, Float
from tspace_core.embeddings.store import latest_encoder
from tspace_core.errors import StorageError
from tspace_core.records.episode import Episode
from tspace_core.storage.lake import Lake

REMEMBERED_HASHES = 2_000_000
"""Records that exact thinning compares with at most; some 350 MB."""
_BLOCK = 1024

Bool = NDArray[np.bool_]


class Thinner(Protocol):
    """Called with each episode once, in order.

    Attributes:
        kept, left_out: records so far.
        reason: why records are left out, for people.
    """

    kept: int
    left_out: int
    reason: str

    def __call__(self, episode: Episode) -> Bool:
        """(n,) whether each record is to be drawn."""


def make_thinner(lake: Lake, vehicle_id: str, parameters: ThinParameters) -> Thinner | None:
    """What the parameters ask for; None: every record is drawn.

    Raises:
        CheckpointError: near duplicates are asked for, and no encoder was trained for the vehicle.
    """
    if parameters.kind == "exact":
        return ExactThinner()
    if parameters.kind == "near":
        return NearThinner(latest_encoder(lake, vehicle_id), parameters)
    return None


class ExactThinner:
    """Leaves out records whose state, action, first row and reward equal an earlier one's bit for bit."""

    reason = "equal to an earlier record"

    def __init__(self, remembered: int = REMEMBERED_HASHES) -> None:
        self.kept = self.left_out = 0
        self._remembered = remembered
        self._known: OrderedDict[bytes, None] = OrderedDict()

    def __call__(self, episode: Episode) -> Bool:
        """(n,) whether each record is to be drawn."""
        keep = np.ones(len(episode), np.bool_)
        parts = (episode.states, episode.actions, episode.rows, episode.rewards)
        for k in range(len(episode)):
            digest = hashlib.blake2b(digest_size=16)
            for values in parts:
                digest.update(values[k].tobytes())
            mark = digest.digest()
            if mark in self._known:
                keep[k] = False
                continue
            self._known[mark] = None
            if len(self._known) > self._remembered:
                self._known.popitem(last=False)
        self.kept += int(keep.sum())
        self.left_out += int((~keep).sum())
        return keep


class NearThinner:
    """Leaves out records that lie close to a kept one of the same vehicle with the same action.

    Args:
        encoder: of situations.
        parameters: how close, and how equal actions must be.
    """

    def __init__(self, encoder: Encoder, parameters: ThinParameters) -> None:
        self.kept = self.left_out = 0
        self.reason = f"within {parameters.distance:g} of an earlier situation with the same action"
        self._encoder = encoder
        self._limit = 1.0 - parameters.distance
        self._step = parameters.action_step
        self._most = parameters.remembered
        self._groups: OrderedDict[bytes, _Kept] = OrderedDict()
        self._count = 0

    def __call__(self, episode: Episode) -> Bool:
        """(n,) whether each record is to be drawn.

        Raises:
            StorageError: the episode's windows are other ones than the encoder's.
        """
        meta, count = episode.meta, len(episode)
        if not self._encoder.fits(meta.window, tuple(meta.signals), meta.rate_hz):
            message = (
                f"episode {meta.episode_id}: its windows are not those of encoder {self._encoder.id}, "
                "so that near duplicates cannot be told; train it again, or set thin.kind to none or exact"
            )
            raise StorageError(message)
        vectors = self._encoder.encode(episode.states[:count])
        steps = np.round(episode.actions / self._step).astype(np.int16)
        names: dict[bytes, list[int]] = {}
        for k in range(count):
            name = hashlib.blake2b(steps[k].tobytes(), digest_size=16, key=meta.vehicle_id.encode()[:64])
            name.update(int(episode.rows[k]).to_bytes(4, "little", signed=True))
            names.setdefault(name.digest(), []).append(k)
        keep = np.zeros(count, np.bool_)
        for name_of, members in names.items():
            for first in range(0, len(members), _BLOCK):
                block = np.array(members[first : first + _BLOCK])
                keep[block] = self._new(name_of, vectors[block])
        self.kept += int(keep.sum())
        self.left_out += int((~keep).sum())
        return keep

    def _new(self, name: bytes, vectors: Float) -> Bool:
        """Which vectors are not close to a kept one of their group, nor to a kept one before them."""
        group = self._groups.setdefault(name, _Kept(vectors.shape[1]))
        self._groups.move_to_end(name)
        new: Bool = np.max(vectors @ group.vectors.T, axis=1, initial=-2.0) < self._limit
        candidates = np.flatnonzero(new)
        close = vectors[candidates] @ vectors[candidates].T >= self._limit
        for place in range(len(candidates)):
            if new[candidates[place]]:
                new[candidates[place + 1 :][close[place, place + 1 :]]] = False
        group.add(vectors[new])
        self._count += int(new.sum())
        while self._count > self._most:
            self._forget()
        return new

    def _forget(self) -> None:
        """Forget the group that was met longest ago, or the older half of the only one."""
        if len(self._groups) > 1:
            _, gone = self._groups.popitem(last=False)
            self._count -= len(gone.vectors)
            return
        only = next(iter(self._groups.values()))
        self._count -= only.drop(-(-len(only.vectors) // 2))


class _Kept:
    """Vectors in the order they were kept; memory doubles as they grow."""

    def __init__(self, dim: int) -> None:
        self._array = np.empty((1, dim), np.float32)
        self._used = 0

    @property
    def vectors(self) -> Float:
        return self._array[: self._used]

    def add(self, vectors: Float) -> None:
        needed = self._used + len(vectors)
        if needed > len(self._array):
            bigger = np.empty((max(needed, 2 * len(self._array)), self._array.shape[1]), np.float32)
            bigger[: self._used] = self.vectors
            self._array = bigger
        self._array[self._used : needed] = vectors
        self._used = needed

    def drop(self, count: int) -> int:
        """Forget the oldest ``count``."""
        rest = self.vectors[count:].copy()
        self._array, self._used = rest, len(rest)
        if not len(rest):
            self._array = np.empty((1, rest.shape[1]), np.float32)
        return count
