"""Manifests of file-based pools: which episodes of a log are visible.

They are the lake's ``<log>.episodes.json``, written by the pipelines and by pools alike. A pool keeps the
fingerprint of the manifest it changes: the stage that made it finds its work done and brings back nothing
that was deleted, and an online episode that is offered again is known. Where the stage's inputs have changed
it makes its episodes anew and keeps those that a pool has added.
"""

import json
import secrets
from typing import Any

from tspace_core.errors import ObjectMissingError, PoolError
from tspace_core.objects.path import AnyPath
from tspace_core.storage.episodes_stage import totals
from tspace_core.storage.files import read_version
from tspace_core.storage.lake import EPISODES_SUFFIX, Lake
from tspace_core.storage.summaries import EpisodesSummary, from_metadata, to_metadata

FINGERPRINT = "pool"
"""Of a manifest that no stage has made."""
_META = ("episode_id", "vehicle_id", "driver_id", "site_id", "action_source", "window", "signals")
Content = dict[str, Any]


def manifest_of(lake: Lake, area: str, key: str) -> AnyPath:
    """Where the manifest of a log lies in an area.

    Raises:
        StorageError: ``key`` has not the form vehicle/YYYY-MM-DD/name.
    """
    log = lake.log_of(key)
    return (
        lake.root / area / f"vehicle={log.vehicle_id}" / f"date={log.date}" / f"{log.name}{EPISODES_SUFFIX}"
    )


def key_of(manifest: AnyPath) -> str:
    """Key of the log that a manifest is of."""
    vehicle, day = (part.partition("=")[2] for part in manifest.parts[-3:-1])
    return f"{vehicle}/{day}/{manifest.name.removesuffix(EPISODES_SUFFIX)}"


def read_manifest(manifest: AnyPath) -> tuple[Content | None, str | None]:
    """Content of a manifest, and what its replacement must still find; None, None: there is none.

    Raises:
        PoolError: it is damaged.
        ObjectError: it cannot be read now.
    """
    try:
        text, seen = read_version(manifest)
    except (FileNotFoundError, NotADirectoryError, ObjectMissingError):
        return None, None
    except OSError as error:
        raise _damaged(manifest, str(error)) from error
    return parse(manifest, text), seen


def parse(manifest: AnyPath, text: bytes) -> Content:
    """Content of a manifest.

    Raises:
        PoolError: it is damaged.
    """
    try:
        content = json.loads(text)
        for entry in content["episodes"]:
            for name in ("file", "records", "start_ns", "end_ns"):
                entry[name]
            for name in _META:
                entry["meta"][name]
        dict(content["summary"])
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged(manifest, f"{type(error).__name__}: {error}") from error
    found: Content = content
    return found


def with_episodes(lake: Lake, manifest: AnyPath, content: Content | None, episodes: list[Content]) -> str:
    """Text of a manifest that names these episodes, its sums agreeing; ``content`` is what it was before."""
    folder, sums = manifest.parent, totals(manifest.parent, episodes)
    if content is None:
        sources = {str(entry["meta"]["action_source"]) for entry in episodes}
        summary = EpisodesSummary(
            key=key_of(manifest), fingerprint=FINGERPRINT, **sums, rows=0, unusable_rows={}, short_runs=0,
            short_rows=0, left_rows=0, lost_records={}, action_source=sources.pop(),
        )  # fmt: skip
    else:
        try:
            before = EpisodesSummary(**from_metadata(content["summary"], lake.root))
        except (ValueError, TypeError) as error:
            raise _damaged(folder / manifest.name, str(error)) from error
        summary = before.model_copy(update={**sums, "reused": False})
    # No two versions are ever equal: who has seen an earlier one does not take a later one for it.
    found = {
        "revision": secrets.token_hex(8),
        "summary": to_metadata(summary, lake.root),
        "episodes": episodes,
    }
    return json.dumps(found, indent=1)


def _damaged(manifest: AnyPath, why: str) -> PoolError:
    return PoolError(
        f"{manifest} is no manifest of episodes ({why}): what it named cannot be found; move it away, then "
        "run the stage of its log again or store its episodes again"
    )
