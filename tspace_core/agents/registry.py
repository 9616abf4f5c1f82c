"""MLflow's model registry, made to say what the lake says: which agent is a vehicle's champion.

The pointer in the lake is the truth (``storage.champion``): vehicles read it, it is replaced atomically, and
it needs no server. The registry follows it: ``follow`` brings the versions, their tags and the alias in step
with all that was ever released, so doing it twice changes nothing, and what could not be told while MLflow
was out of reach is told by the next call. Nothing waits in a queue that could be lost.

::

    registered model   tspace-<vehicle>
    version            one a content that was released; its source is the copy of the checkpoint in the lake,
                       tspace-file://... at a server where the lake is on a disk (a server takes no file://)
    alias              champion
    tags of a version  state (champion, before, withdrawn), agent, run, step, sha256, released_by and _at,
                       evaluation.<figure>, without_evaluation, withdrawn_by, withdrawn_at
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tspace_core.errors import TrackingError
from tspace_core.objects.path import AnyPath

if TYPE_CHECKING:
    from tspace_core.storage.champion import Champion, Releases
    from tspace_core.storage.lake import Lake

ALIAS = "champion"
_ROUNDS = 3
_FIGURE = "evaluation."
_PASSING = frozenset({"withdrawn_by", "withdrawn_at", "without_evaluation"})
"""Tags that a version loses when released again on other grounds, as all that begin with ``_FIGURE``."""


class RegisteredChampion(NamedTuple):
    """What the alias stands at."""

    version: str
    sha256: str
    source: str


class ModelRegistry:
    """The registry at a tracking store.

    Args:
        uri: of the store or server, ``settings().tracking_uri`` by default.

    Raises:
        TrackingError: it cannot be reached.
    """

    def __init__(self, uri: str | None = None) -> None:
        from tspace_core.agents.tracking_client import client_of
        from tspace_core.config import settings

        self.uri = uri or settings().tracking_uri
        with self._reached("opened"):
            self._client: Any = client_of(self.uri)

    def champion(self, vehicle_id: str) -> RegisteredChampion | None:
        """What the alias of a vehicle stands at; None: at nothing.

        Raises:
            TrackingError: the registry cannot be reached.
        """
        with self._reached("read"):
            models = self._client.search_registered_models(f"name = '{model_name(vehicle_id)}'")
            if not models or ALIAS not in models[0].aliases:
                return None
            found = self._client.get_model_version(model_name(vehicle_id), models[0].aliases[ALIAS])
        return RegisteredChampion(str(found.version), found.tags.get("sha256", ""), found.source)

    def follow(self, vehicle_id: str, read: "Callable[[], Releases]") -> RegisteredChampion | None:
        """Bring versions, tags and alias in step with all releases of a vehicle.

        Args:
            vehicle_id: whose.
            read: reads the releases; again after each round, so that a release meanwhile is not undone.

        Returns:
            What the alias stands at now.

        Raises:
            TrackingError: the registry cannot be reached or refuses; what was told already stays, and a later
                call tells the rest.
        """
        releases = read()
        for _ in range(_ROUNDS):
            with self._reached("written"):
                self._tell(vehicle_id, releases)
            newer = read()
            if newer == releases:
                break
            releases = newer
        return self.champion(vehicle_id)

    def _tell(self, vehicle_id: str, releases: "Releases") -> None:
        name, states = model_name(vehicle_id), _states(releases)
        if not self._client.search_registered_models(f"name = '{name}'"):
            if not states:
                return
            self._create(vehicle_id)
        known: dict[str, Any] = {}
        for version in reversed(self._client.search_model_versions(f"name = '{name}'")):
            known.setdefault(version.tags.get("sha256", ""), version)  # of two alike the first one counts
        for sha256, (found, tags) in states.items():
            if sha256 not in known:
                source = self._source(found.checkpoint)
                known[sha256] = self._client.create_model_version(name, source=source, tags=tags)
                continue
            present = known[sha256]
            for key, value in tags.items():
                if present.tags.get(key) != value:
                    self._client.set_model_version_tag(name, present.version, key, value)
            for key in present.tags:
                if key not in tags and (key in _PASSING or key.startswith(_FIGURE)):
                    self._client.delete_model_version_tag(name, present.version, key)
        stands = self._client.get_registered_model(name).aliases.get(ALIAS)
        wanted = None if releases.champion is None else known[releases.champion.sha256].version
        if wanted is None and stands is not None:
            self._client.delete_registered_model_alias(name, ALIAS)
        elif wanted is not None and str(stands) != str(wanted):
            self._client.set_registered_model_alias(name, ALIAS, wanted)

    def _source(self, folder: AnyPath) -> str:
        """Where a copy lies, as the store takes it.

        A server refuses ``file://`` outside its own runs' folders, since it might hand such files out.
        """
        if not isinstance(folder, Path):
            return str(folder)
        path = folder.resolve().as_uri()
        return f"tspace-{path}" if self.uri.startswith(("http://", "https://")) else path

    def _create(self, vehicle_id: str) -> None:
        try:
            self._client.create_registered_model(
                model_name(vehicle_id),
                tags={"vehicle": vehicle_id},
                description=f"Agents released for {vehicle_id}; the alias follows the champion in the lake.",
            )
        except Exception as error:
            if getattr(error, "error_code", "") != "RESOURCE_ALREADY_EXISTS":  # somebody else was faster
                raise

    @contextmanager
    def _reached(self, what: str) -> Iterator[None]:
        """Turn whatever MLflow, its database or the network raise into one error that says what to do."""
        try:
            yield
        except Exception as error:  # MlflowException, SQLAlchemy's, the HTTP client's, OSError
            first = f"{type(error).__name__}: {error}".splitlines()[0]
            message = (
                f"the model registry at {self.uri} cannot be {what} ({first}); see that MLflow runs there "
                "(TSPACE_MLFLOW_URI), then bring it in step: tspace release --sync"
            )
            raise TrackingError(message) from error


def model_name(vehicle_id: str) -> str:
    """Name of a vehicle's registered model."""
    return f"tspace-{vehicle_id}"


def follow_champion(lake: "Lake", vehicle_id: str, *, uri: str | None = None) -> RegisteredChampion | None:
    """Bring the registry in step with the releases in a lake.

    Returns:
        What the alias stands at now.

    Raises:
        TrackingError: the registry cannot be reached; the lake's champion is not touched, and drives.
        CheckpointError: the lake's pointer is damaged.
    """
    from tspace_core.storage.champion import read_releases

    return ModelRegistry(uri).follow(vehicle_id, lambda: read_releases(lake, vehicle_id))


def _states(releases: "Releases") -> "dict[str, tuple[Champion, Mapping[str, str]]]":
    """By content, in the order of the first release: the newest release of it and its tags."""
    found: dict[str, tuple[Champion, Mapping[str, str]]] = {}
    for gone in releases.withdrawn:
        more = {"withdrawn_by": gone.withdrawn_by, "withdrawn_at": gone.at.isoformat(timespec="seconds")}
        found[gone.champion.sha256] = (gone.champion, {**_tags(gone.champion, "withdrawn"), **more})
    for item in releases.history:
        found[item.sha256] = (item, _tags(item, "before"))
    if releases.champion is not None:
        found[releases.champion.sha256] = (releases.champion, _tags(releases.champion, ALIAS))
    return dict(sorted(found.items(), key=lambda pair: pair[1][0].at))


def _tags(item: "Champion", state: str) -> dict[str, str]:
    grounds = item.grounds
    figures = {} if grounds is None else grounds.figures
    reason = None if grounds is None else grounds.without_evaluation
    return {
        "state": state,
        "vehicle": item.vehicle_id,
        "agent": item.agent,
        "run": item.run,
        "step": str(item.step),
        "sha256": item.sha256,
        "copied_from": item.source,
        "released_by": item.released_by,
        "released_at": item.at.isoformat(timespec="seconds"),
        **{f"{_FIGURE}{name}": f"{value:.6g}" for name, value in figures.items()},
        **({} if reason is None else {"without_evaluation": reason}),
    }
