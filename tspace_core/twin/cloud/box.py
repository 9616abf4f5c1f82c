"""The telematics box (simulated): asks the service for commands, sends windows, puts rows into the VCU."""

import asyncio
import ssl
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from tspace_core.config.remote import UNIT_SAMPLES
from tspace_core.errors import ObjectError, TwinError
from tspace_core.twin.cloud.truck import BoxTruck, Samples, quiet
from tspace_core.twin.cloud.windows import BoxWindows, Place
from tspace_core.twin.live_events import Tell

POLL_S = 5.0
"""How long the service may hold a poll back."""
ANSWER_S = 4.0
"""A connection on which nothing came for so much longer is given up."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 2.0
RESULT_TRIES = 5
RECORDED_UNITS = 4
"""Units of a window that is recorded unasked."""


@dataclass(frozen=True)
class BoxOptions:
    """How the box works.

    Attributes:
        record: upload a window every four seconds while nobody asks for one; needs a place.
        authorization: value of the Authorization header.
        ca: PEM file of the authority, where the service's is a private one.
    """

    record: bool = False
    authorization: str | None = field(default=None, repr=False)
    ca: Path | None = None


class TelematicsBox:
    """The box of one truck: works while ``run`` does, and connects again by itself.

    Where it has a ``place`` it uploads each finished window there and hands the service the link; else the
    window itself. A window begins with the first sample after it was asked for and has whole units of 1 s. A
    window that is recorded unasked never overlaps one that was asked for.

    Args:
        truck: what it sits in.
        service: root URL of the remote CAN service.
        options: how it works.
        place: where it uploads windows.
        tell: gets the events ``box_connected``, ``box_lost``, ``window`` and ``torque``.

    Attributes:
        connected: set once the service was reached for the first time.

    Raises:
        TwinError: it is to record without a place.
    """

    def __init__(
        self,
        truck: BoxTruck,
        service: str,
        options: BoxOptions | None = None,
        *,
        place: Place | None = None,
        tell: Tell = quiet,
    ) -> None:
        self._options = options or BoxOptions()
        if self._options.record and place is None:
            message = "a box that records needs a place to upload to: give --storage s3://bucket/prefix"
            raise TwinError(message)
        self._truck = truck
        self._service = service.rstrip("/")
        self._place = place
        self._tell = tell
        self._windows = BoxWindows(truck.vehicle)
        self.connected = threading.Event()
        self._cancelled = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop = asyncio.Event()
        self._stale = asyncio.Event()
        self._asked = 0
        self._last = 0

    def run(self) -> None:
        """Serve the service until ``stop``."""
        asyncio.run(self._main())

    def stop(self) -> None:
        """End ``run``, from any thread; again is no matter."""
        self._cancelled.set()
        self._truck.wake()
        loop = self._loop
        if loop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(self._stop.set)

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        if self._cancelled.is_set():
            return
        self._truck.on_change = lambda: self._on_loop(self._stale.set)
        options = self._options
        headers = {} if options.authorization is None else {"authorization": options.authorization}
        async with (
            httpx.AsyncClient(
                base_url=f"{self._service}/box/{self._truck.vehicle.vin}/",
                headers=headers,
                timeout=httpx.Timeout(ANSWER_S, read=POLL_S + ANSWER_S),
                verify=ssl.create_default_context(cafile=options.ca),
                trust_env=False,
            ) as client,
            asyncio.TaskGroup() as group,
        ):
            tasks = [
                group.create_task(self._poll(client, group)),
                group.create_task(self._tell_state(client)),
            ]
            if options.record:
                # It ends by itself: cancelled in the middle of an upload it would not tell of that window.
                group.create_task(self._record())
            await self._stop.wait()
            for task in tasks:
                task.cancel()

    def _on_loop(self, action: Any) -> None:
        loop = self._loop
        if loop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(action)

    async def _poll(self, client: httpx.AsyncClient, group: asyncio.TaskGroup) -> None:
        """Ask for commands, again and again; each is carried out beside the next poll."""
        pause_s, connected = FIRST_PAUSE_S, False
        while True:
            try:
                if not connected:
                    (await client.post("state", json=self._truck.state())).raise_for_status()
                    connected, pause_s = True, FIRST_PAUSE_S
                    self._tell("box_connected", service=self._service)
                    self.connected.set()
                answer = await client.get("next", params={"wait": POLL_S})
                answer.raise_for_status()
                command = answer.json() if answer.status_code == httpx.codes.OK else None
            except (httpx.HTTPError, ValueError) as error:
                if connected:
                    self._tell("box_lost", reason=str(error) or type(error).__name__)
                connected = False
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
                continue
            if command is not None:
                group.create_task(self._obey(client, command))

    async def _tell_state(self, client: httpx.AsyncClient) -> None:
        """Tell the service what changed in the vehicle without its doing."""
        while True:
            await self._stale.wait()
            self._stale.clear()
            await self._post(client, "state", self._truck.state())

    async def _obey(self, client: httpx.AsyncClient, command: dict[str, Any]) -> None:
        works: dict[str, Any] = {"signals": self._signals, "torque": self._torque, "ai_mode": self._ai_mode}
        work = works.get(command["do"])
        outcome = {"code": 302} if work is None else await work(command)
        await self._post(client, "result", {"id": command["id"], **outcome, "state": self._truck.state()})

    async def _post(self, client: httpx.AsyncClient, name: str, content: dict[str, Any]) -> None:
        """Send something, with a few tries; then it is lost, as on a radio link."""
        pause_s = FIRST_PAUSE_S
        for _ in range(RESULT_TRIES):
            try:
                (await client.post(name, json=content)).raise_for_status()
            except httpx.HTTPStatusError as error:
                self._tell("box_refused", what=name, reason=str(error))
                return
            except httpx.HTTPError:
                if self._stop.is_set():
                    return
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
            else:
                return

    async def _signals(self, command: dict[str, Any]) -> dict[str, Any]:
        if not self._truck.ai_mode:
            return {"code": 2}
        self._asked += 1
        try:
            samples = await asyncio.to_thread(
                self._truck.collect, int(command["seconds"]) * UNIT_SAMPLES, self._cancelled
            )
            self._last = self._truck.count
        finally:
            self._asked -= 1
        if samples is None:
            return {"code": 2002}
        return await self._deliver(samples, asked=True)

    async def _deliver(self, samples: Samples, *, asked: bool) -> dict[str, Any]:
        """Upload a window, or hand it over."""
        window = self._windows.encode(samples)
        link = None
        if self._place is not None:
            key = self._windows.key(samples.start_ns)
            try:
                link = await asyncio.to_thread(self._place.put, key, window)
            except ObjectError as error:
                self._tell("upload_failed", key=key, reason=str(error))
                return {"code": 2002}
        self._tell(
            "window",
            asked=asked,
            link=link,
            start_ns=samples.start_ns,
            first=samples.first,
            samples=len(samples.values),
            energy_wh=samples.energy_wh,
        )
        return {"result": window} if link is None else {"link": link}

    async def _torque(self, command: dict[str, Any]) -> dict[str, Any]:
        rows = np.array(command["rows"], dtype=np.float32)
        first_row = int(command["first_row"])
        try:
            applied = await asyncio.to_thread(self._truck.flash, first_row, rows)
        except TwinError as error:
            self._tell("torque_failed", reason=str(error))
            return {"code": 311}
        self._tell(
            "torque",
            applied=applied,
            first_row=first_row,
            count=len(rows),
            abswitch=command["abswitch"],
            sha256=self._truck.state()["map_sha256"],
        )
        return {} if applied else {"code": 2}

    async def _ai_mode(self, command: dict[str, Any]) -> dict[str, Any]:
        await asyncio.to_thread(self._truck.set_ai_mode, on=bool(command["on"]))
        return {}

    async def _record(self) -> None:
        """Upload windows while nobody asks for any."""
        first = None
        while not self._cancelled.is_set():
            begin = self._truck.count if first is None else first
            samples = await asyncio.to_thread(
                self._truck.collect, RECORDED_UNITS * UNIT_SAMPLES, self._cancelled, begin
            )
            if samples is None:
                if self._cancelled.is_set() or self._truck.ended:
                    return
                first = None
            elif self._asked or begin < self._last:
                first = None
            else:
                first = begin + len(samples.values)
                await self._deliver(samples, asked=False)
