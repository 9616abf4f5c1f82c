"""Requests for online episodes: a durable spool a vehicle, a JSON file a request.

::

    <folder>/<vehicle>/requests/pending/<id>.json    asked for, nothing has come of it yet
    <folder>/<vehicle>/requests/done/<id>.json       over; "outcome" says how

The bridge writes, since it hears the HMI while no run is up, or a person does (``tspace request``); who
starts runs reads. A request is written under a temporary name, synced and renamed: it is there whole or not
at all.
"""

import json
import os
import secrets
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tspace_core.errors import LinkError

KEPT = 200
"""Requests that are over and kept for looking back."""


class RequestOptions(BaseModel):
    """What the run shall do."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    infer: bool = Field(default=False, description="drive with the released agent, learn nothing")
    observe: bool = Field(default=False, description="flash nothing: record only")
    episodes: int | None = Field(default=None, ge=1, description="end after so many; None: at the HMI's exit")


class Request(BaseModel):
    """Somebody wants a vehicle driven online."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str = Field(pattern=r"^\d{20}-[0-9a-f]{8}$", description="UTC ns and a random part: ordered by time")
    vehicle_id: str
    source: Literal["hmi", "command"]
    event: Literal["begin", "start"] = Field(
        description="begin: the HMI began an episode; start: a run is wanted that waits for the HMI"
    )
    at: datetime
    options: RequestOptions = RequestOptions()
    outcome: str | None = None


class Spool:
    """The requests of one vehicle.

    Args:
        root: folder of online state, a folder a vehicle.
        vehicle_id: whose.
    """

    def __init__(self, root: Path, vehicle_id: str) -> None:
        self.vehicle_id = vehicle_id
        self.folder = root / vehicle_id
        self._pending = self.folder / "requests" / "pending"
        self._done = self.folder / "requests" / "done"

    def write(
        self, source: Literal["hmi", "command"], event: Literal["begin", "start"], options: RequestOptions
    ) -> Request:
        """Ask for a run.

        Raises:
            LinkError: it could not be stored; names the folder and why.
        """
        now = datetime.now(UTC)
        number = f"{int(now.timestamp() * 1e6) * 1000:020d}-{secrets.token_hex(4)}"
        request = Request(
            id=number, vehicle_id=self.vehicle_id, source=source, event=event, at=now, options=options
        )
        try:
            self._store(self._pending, request)
        except OSError as error:
            message = (
                f"{self._pending}: the request of {self.vehicle_id} could not be stored ({error}); make room"
            )
            raise LinkError(message) from error
        return request

    def pending(self) -> list[Request]:
        """Requests that nothing has come of yet, the oldest first; a file that is none is set aside."""
        found = []
        for path in sorted(self._pending.glob("*.json")) if self._pending.is_dir() else []:
            try:
                found.append(Request.model_validate_json(path.read_bytes()))
            except FileNotFoundError:  # finished by another process meanwhile
                continue
            except ValidationError:
                path.replace(path.with_suffix(".damaged"))
        return found

    def finish(self, request: Request, outcome: str) -> None:
        """Settle a request; a second time changes nothing."""
        source = self._pending / f"{request.id}.json"
        if not source.is_file():
            return
        self._store(self._done, request.model_copy(update={"outcome": outcome}))
        source.unlink(missing_ok=True)
        for old in sorted(self._done.glob("*.json"))[:-KEPT]:
            old.unlink(missing_ok=True)

    def withdraw(self, reason: str) -> list[Request]:
        """Settle all pending requests because who asked does not want them any more."""
        found = self.pending()
        for request in found:
            self.finish(request, f"withdrawn: {reason}")
        return found

    def done(self) -> list[Request]:
        """Requests that are over, the oldest first."""
        paths = sorted(self._done.glob("*.json")) if self._done.is_dir() else []
        return [Request.model_validate_json(path.read_bytes()) for path in paths]

    @staticmethod
    def _store(folder: Path, request: Request) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        temporary = folder / f".{request.id}.{os.getpid()}.tmp"
        with temporary.open("w", encoding="utf-8") as file:
            json.dump(request.model_dump(mode="json"), file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(folder / f"{request.id}.json")
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
