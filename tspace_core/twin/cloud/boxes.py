"""The service's end of its lines to the telematics boxes: HTTP long polls, one at a time for each vin.

``GET /box/{vin}/next?wait=s`` is answered with a command, or with 204 after so long without one. A command
is ``{"id", "do": "signals", "seconds"}``, ``{"id", "do": "torque", "first_row", "rows", "abswitch"}`` or
``{"id", "do": "ai_mode", "on"}``. ``POST /box/{vin}/result`` brings ``{"id", ...}`` and
``POST /box/{vin}/state`` what is in effect in the vehicle; a result may bring that, too, as ``state``.
"""

import asyncio
import itertools
import math
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

T = TypeVar("T")

GRACE_S = 5.0
"""A box counts as connected for so long between two polls; one whose connection broke does not."""
LONGEST_POLL_S = 60.0


class CallerGone(Exception):  # noqa: N818 - an end that is expected, not an error
    """Who asked has closed the connection, or the server stops: nobody waits for the answer."""


class Offline(Exception):  # noqa: N818 - an outcome
    """No box of that vin is connected."""


class TooLate(Exception):  # noqa: N818 - an outcome
    """The box did not answer in time."""


async def while_wanted(
    request: Request, stopping: asyncio.Event, work: Coroutine[Any, Any, T], seconds: float | None = None
) -> T:
    """Do some work for a request for as long as somebody waits for it.

    Raises:
        CallerGone: the caller has gone, or the server stops.
        TimeoutError: it took longer than ``seconds``.
    """
    doing = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_gone(request))
    stop = asyncio.ensure_future(stopping.wait())
    try:
        await asyncio.wait({doing, gone, stop}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if doing.done():
            return doing.result()
        if gone.done() or stop.done():
            raise CallerGone
        raise TimeoutError
    finally:
        for task in (doing, gone, stop):
            task.cancel()
        await asyncio.gather(doing, gone, stop, return_exceptions=True)


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


@dataclass
class _Box:
    """One vin's box."""

    commands: list[dict[str, Any]] = field(default_factory=list)
    waiting: dict[int, asyncio.Future[dict[str, Any]]] = field(default_factory=dict)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    polls: int = 0
    polling: bool = False
    seen_s: float = -math.inf
    state: dict[str, Any] = field(default_factory=dict)

    def wake(self) -> None:
        self.changed.set()
        self.changed = asyncio.Event()


class Boxes:
    """All boxes that the service knows; for the service's loop alone.

    Args:
        vins: of the registered vehicles.
        stopping: ends every wait.
    """

    def __init__(self, vins: list[str], stopping: asyncio.Event) -> None:
        self._boxes = {vin: _Box() for vin in vins}
        self._numbers = itertools.count(1)
        self._stopping = stopping

    def connected(self, vin: str) -> bool:
        """Whether a box of that vin waits for commands, or did a moment ago."""
        box = self._boxes[vin]
        return box.polling or asyncio.get_running_loop().time() - box.seen_s < GRACE_S

    def state(self, vin: str) -> dict[str, Any]:
        """What the box said last of its vehicle; empty before it said anything."""
        return self._boxes[vin].state

    async def ask(self, vin: str, command: dict[str, Any], seconds: float) -> dict[str, Any]:
        """Have a box do something and wait for its result.

        Raises:
            Offline: it is not connected.
            TooLate: it did not answer within ``seconds``.
        """
        if not self.connected(vin):
            raise Offline
        box = self._boxes[vin]
        number = next(self._numbers)
        command = {"id": number, **command}
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        box.waiting[number] = answer
        box.commands.append(command)
        box.wake()
        try:
            async with asyncio.timeout(seconds):
                return await answer
        except TimeoutError:
            raise TooLate from None
        finally:
            box.waiting.pop(number, None)
            # What nobody has taken is not done later, when nobody waits for it any more.
            with suppress(ValueError):
                box.commands.remove(command)

    async def next(self, request: Request) -> Response:
        """``GET /box/{vin}/next``."""
        box = self._boxes.get(request.path_params["vin"])
        if box is None:
            return JSONResponse({"error": "no vehicle of that vin is registered"}, 404)
        try:
            seconds = min(max(float(request.query_params.get("wait", "10")), 0.0), LONGEST_POLL_S)
        except ValueError:
            return JSONResponse({"error": "wait is no number"}, 400)
        box.polls += 1
        mine = box.polls
        # An older poll of the same box is of a connection that it has given up.
        box.wake()
        box.polling = True
        try:
            command = await while_wanted(request, self._stopping, _command(box, mine), seconds)
        except TimeoutError:
            command = None
        except CallerGone:
            if box.polls == mine:
                box.polling, box.seen_s = False, -math.inf
            return Response(status_code=204)
        if box.polls == mine:
            box.polling, box.seen_s = False, asyncio.get_running_loop().time()
        return Response(status_code=204) if command is None else JSONResponse(command)

    async def result(self, request: Request) -> Response:
        """``POST /box/{vin}/result``."""
        box = self._boxes.get(request.path_params["vin"])
        if box is None:
            return JSONResponse({"error": "no vehicle of that vin is registered"}, 404)
        content = await request.json()
        box.state = content.pop("state", box.state)
        answer = box.waiting.get(content.get("id"))
        if answer is None or answer.done():
            return JSONResponse({"wanted": False})
        answer.set_result(content)
        return JSONResponse({"wanted": True})

    async def take_state(self, request: Request) -> Response:
        """``POST /box/{vin}/state``."""
        box = self._boxes.get(request.path_params["vin"])
        if box is None:
            return JSONResponse({"error": "no vehicle of that vin is registered"}, 404)
        box.state = await request.json()
        # It is about to poll.
        box.seen_s = asyncio.get_running_loop().time()
        return JSONResponse({})


async def _command(box: _Box, mine: int) -> dict[str, Any] | None:
    """The next command; None once a newer poll has taken this one's place."""
    while box.polls == mine:
        if box.commands:
            return box.commands.pop(0)
        await box.changed.wait()
    return None
