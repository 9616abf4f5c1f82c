"""What tells the content of one episode from another's."""

import hashlib
import json

import numpy as np

from tspace_core.records.episode import Episode, RecordFlag


def digest(episode: Episode) -> str:
    """Hash over every bit of an episode's numbers and its meta information, 64 hex digits.

    Meta fields that hold their default are left out, so that a field added later changes no digest.
    """
    meta = episode.meta.model_dump(mode="json", exclude_defaults=True)
    found = hashlib.sha256(json.dumps(meta, sort_keys=True).encode())
    for array, dtype in (
        (episode.times, "<i8"),
        (episode.states, "<f4"),
        (episode.actions, "<f4"),
        (episode.rows, "<i4"),
        (episode.rewards, "<f4"),
        (episode.flags, "u1"),
    ):
        found.update(np.ascontiguousarray(array, dtype).data)
    return found.hexdigest()


def zeroed(episode: Episode) -> int:
    """Records of an episode whose reward is not their action's."""
    return int(np.count_nonzero(episode.flags & int(RecordFlag.ZEROED)))
