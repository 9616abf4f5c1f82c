"""What is in use and therefore stays, whatever the rules say.

Where a file that names what is in use is damaged, nothing of what it may name goes.
"""

import json
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from tspace_core.errors import StorageError, TspaceError
from tspace_core.objects.path import AnyPath, S3Path
from tspace_core.storage.champion import AGENT as CHAMPIONS
from tspace_core.storage.champion import read_releases
from tspace_core.storage.lake import Lake, read_json
from tspace_core.storage.replay_manifest import MANIFEST
from tspace_core.storage.retention_items import Item

_TRAINING = "training.json"
SCORES = "scores"


@dataclass
class InUse:
    """Names of items by area, each with what uses it; and what could not be found out."""

    users: dict[tuple[str, str], str] = field(default_factory=dict)
    doubts: dict[str, str] = field(default_factory=dict)
    """By area: a damaged file; nothing of the area goes until it is looked after."""

    def add(self, area: str, name: str, user: str) -> None:
        """Note a user; the first one is told."""
        self.users.setdefault((area, name), user)

    def why(self, item: Item) -> str | None:
        """Why an item stays; None: nothing uses it."""
        doubt = self.doubts.get(item.area)
        if doubt is not None:
            return f"cannot be told: {doubt}"
        if item.area == "policy_actions":  # <log>.<content of the checkpoint>
            return self.users.get((SCORES, item.name.rpartition(".")[2]))
        return self.users.get((item.area, item.name))


def in_use(lake: Lake, areas: Iterable[str]) -> InUse:
    """What is in use in these areas of a lake."""
    found = InUse()
    wanted = set(areas)
    for needed, look in _LOOKS.items():
        if wanted & set(needed):
            try:
                look(lake, found)
            except (TspaceError, OSError, KeyError, TypeError, ValueError, AttributeError) as error:
                text = str(error) if isinstance(error, TspaceError) else f"{type(error).__name__}: {error}"
                for area in needed:
                    found.doubts.setdefault(area, text)
    return found


def _names(folder: AnyPath, pattern: str) -> list[AnyPath]:
    if isinstance(folder, S3Path):
        return sorted(path for path, _ in folder.objects(pattern))
    return sorted(path for path in folder.glob(pattern) if path.is_file())


def _agents(lake: Lake, found: InUse) -> None:
    """The latest agent of each vehicle, and the replay version that it and the report are made from."""
    for path in _names(lake.root / "checkpoints", "*/*.json"):
        if path.parent.name == CHAMPIONS:
            continue
        content = read_json(path)
        vehicle = path.name.removesuffix(".json")
        found.add("checkpoints", f"{path.parent.name}/{content['run']}", f"the latest agent of {vehicle}")
        summary = content.get("summary") or {}
        if summary.get("replay_version"):
            name = f"{summary.get('replay', vehicle)}/{summary['replay_version']}"
            found.add("replay", name, f"the latest agent of {vehicle} was trained on it")


def _releases(lake: Lake, found: InUse) -> None:
    for path in _names(lake.root / "checkpoints" / CHAMPIONS, "*.json"):
        vehicle = path.name.removesuffix(".json")
        releases = read_releases(lake, vehicle)
        present = () if releases.champion is None else (releases.champion,)
        for champion in (*present, *releases.history):
            what = "the champion" if champion in present else "a champion before"
            copy = champion.sha256[:16]
            found.add("checkpoints", f"{CHAMPIONS}/{vehicle}/{copy}", f"{what} of {vehicle}")
            found.add("checkpoints", f"{champion.agent}/{champion.run}", f"{what} of {vehicle} comes from it")
            found.add(SCORES, copy, f"{what} of {vehicle}")


def _online(lake: Lake, found: InUse) -> None:
    """Online runs of this machine: what their learner goes on from, and what drove last."""
    for path in _names(lake.local / "online", "*/run.json"):
        content = read_json(path)
        user = f"online runs of {path.parent.name}"
        if content.get("learner_run"):
            agent = content.get("learner_agent", "ddpg")
            found.add("checkpoints", f"{agent}/{content['learner_run']}", user)
        parts = str(content.get("agent") or "").split("/")
        if "checkpoints" in parts and len(parts) - parts.index("checkpoints") > 3:
            agent, run, step = parts[parts.index("checkpoints") + 1 :][:3]
            found.add("checkpoints", f"{agent}/{run}" + (f"/{step}" if agent == CHAMPIONS else ""), user)


def _replays(lake: Lake, found: InUse) -> None:
    """The replay versions that checkpoints were trained on: a run goes on only with the same content."""
    newest: dict[tuple[str, str], AnyPath] = {}
    for path in _names(lake.root / "checkpoints", f"*/*/*/{_TRAINING}"):
        agent, run, step = path.parts[-4:-1]
        if agent != CHAMPIONS and step.isdigit():
            newest[agent, run] = path  # in order of the steps
    trained = {}
    for (agent, run), path in newest.items():
        with suppress(FileNotFoundError):
            trained[str(read_json(path)["values"]["replay_sha256"])] = f"{agent}/{run}"
    for path in _names(lake.root / "replay", f"*/*/{MANIFEST}"):
        name, version = path.parts[-3:-1]
        if version.isdigit():
            content = str(_manifest(path).get("content_sha256"))
            if content in trained:
                found.add("replay", f"{name}/{version}", f"the checkpoints of {trained[content]} name it")


def _manifest(path: AnyPath) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except ValueError:
        return {}  # no one can have been trained on it
    return content if isinstance(content, dict) else {}


def _embeddings(lake: Lake, found: InUse) -> None:
    for path in _names(lake.root / "embeddings", "*.json"):
        content = read_json(path)
        vehicle, table, encoder = path.name.removesuffix(".json"), content["table"], content["encoder"]
        if not isinstance(table, str) or not isinstance(encoder, str):
            message = f"{path} names no table and encoder: embed the vehicle's episodes again"
            raise StorageError(message)
        found.add("embeddings", f"{table.removesuffix('.lance')}.lance", f"situations of {vehicle}")
        found.add("embeddings", f"encoders/{vehicle}/{encoder}", f"situations of {vehicle}")
    for path in _names(lake.root / "embeddings" / "encoders", "*.json"):
        vehicle = path.name.removesuffix(".json")
        name = f"encoders/{vehicle}/{read_json(path)['encoder']}"
        found.add("embeddings", name, f"the latest encoder of {vehicle}")


_LOOKS: dict[tuple[str, ...], Callable[[Lake, InUse], None]] = {
    ("replay", "checkpoints"): _agents,
    ("checkpoints", "policy_actions"): _releases,
    ("checkpoints",): _online,
    ("replay",): _replays,
    ("embeddings",): _embeddings,
}
