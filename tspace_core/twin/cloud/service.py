"""The remote CAN service (simulated): both calls of the wire contract, its boxes' line, and a witness.

Besides ``POST {base}/get_signal`` and ``POST {base}/set_torque`` it has, for tests and people:

- ``GET /twin/state``: for each vin what is in effect in the vehicle and how the service was called;
- ``POST /twin/faults`` with a fault's fields or ``{"fault": "words"}``, ``DELETE /twin/faults``;
- ``POST /twin/ai_mode`` with ``{"vin", "on"}``: the driver's switch; of one vehicle, ``vin`` may be left out.

Every answer to the two calls carries ``x-service-seconds``, the time from the request to the answer.
"""

import asyncio
import hmac
import json
import math
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self, TypeGuard

import numpy as np
from numpy.typing import NDArray
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from tspace_core.config.vehicle import Vehicle
from tspace_core.errors import ObjectError, TwinError
from tspace_core.twin.cloud.answers import (
    close_connection,
    failure,
    html_response,
    spoil_content,
    spoil_response,
    to_response,
)
from tspace_core.twin.cloud.boxes import Boxes, CallerGone, Offline, TooLate, while_wanted
from tspace_core.twin.cloud.faults import INSTEAD, RemoteFault, RemoteFaults, parse_remote_fault, remote_fault
from tspace_core.twin.cloud.http_server import HttpServer
from tspace_core.twin.cloud.spoil import spoil_window
from tspace_core.twin.cloud.stored import StoredWindows
from tspace_core.twin.cloud.truck import quiet
from tspace_core.twin.cloud.windows import Place
from tspace_core.twin.live_events import Tell
from tspace_core.twin.truck import twin_parameters

AI_MODE_OFF, NO_API, WRONG_PARAMETER, OUT_OF_TIME = 2, 202, 206, 301
NOT_REGISTERED, CAR_OFFLINE, BOX_ERROR = 303, 304, 311
NO_DATA, TORQUE_SHAPE, TORQUE_RANGE = 2002, 2003, 2004
LONGEST_WINDOW_S = 60.0
SECONDS_HEADER = "x-service-seconds"
LOOP_TURNS = 10
"""Of the event loop, in which the end of a connection is noticed; three were enough when this was tried."""

Work = Callable[[Vehicle, dict[str, Any], Sequence[RemoteFault]], Awaitable[dict[str, Any]]]


class _Refused(Exception):  # noqa: N818 - an outcome
    """The call fails with a code."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


@dataclass(frozen=True)
class ServiceOptions:
    """How the service answers.

    Attributes:
        host: address it listens at.
        port: 0: a free one.
        base: path before the names of the calls, e.g. ``/api``.
        answer: the window itself, or a link to it where the box uploaded it.
        authorization: value that the Authorization header must have; None: none is asked for.
        certificate: PEM file; with ``key`` it speaks https.
        key: PEM file.
        signals_margin_s: longest wait for a window beyond its duration, s.
        torque_s: longest wait for the box to set a torque, s.
        faults: simulated faults.
    """

    host: str = "127.0.0.1"
    port: int = 0
    base: str = ""
    answer: Literal["body", "link"] = "body"
    authorization: str | None = field(default=None, repr=False)
    certificate: Path | None = None
    key: Path | None = None
    signals_margin_s: float = 5.0
    torque_s: float = 20.0
    faults: tuple[RemoteFault, ...] = ()


@dataclass
class _Calls:
    """How one vehicle's calls went."""

    made: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    now: int = 0
    most: int = 0


class RemoteCanService:
    """Serves the vehicles given, from ``start`` to ``stop``; a context manager does both.

    Args:
        vehicles: those that are registered.
        options: how it answers.
        place: where windows lie that the boxes upload; needed to answer with the body of such a window.
        tell: gets an event ``call`` for each call and ``fault`` for each that a fault hit.

    Attributes:
        faults: its simulated faults; more can be added.

    Raises:
        TwinError: the address cannot be listened at, or two vehicles have one vin.
    """

    def __init__(
        self,
        vehicles: Iterable[Vehicle],
        options: ServiceOptions | None = None,
        *,
        place: Place | None = None,
        tell: Tell = quiet,
    ) -> None:
        self._options = options or ServiceOptions()
        vehicles = list(vehicles)
        self._vehicles = {vehicle.vin: vehicle for vehicle in vehicles}
        if len(self._vehicles) < len(vehicles):
            message = f"of {len(vehicles)} vehicles only {len(self._vehicles)} have a vin of their own"
            raise TwinError(message)
        self._stored = StoredWindows(place)
        self._tell = tell
        self.faults = RemoteFaults(self._options.faults)
        self._calls = {vin: _Calls() for vin in self._vehicles}
        self._stopping = asyncio.Event()
        self._boxes = Boxes(list(self._vehicles), self._stopping)
        base = self._options.base.rstrip("/")
        routes = [
            Route(f"{base}/get_signal", self._get_signal, methods=["POST"]),
            Route(f"{base}/set_torque", self._set_torque, methods=["POST"]),
            Route("/box/{vin}/next", self._boxes.next, methods=["GET"]),
            Route("/box/{vin}/result", self._boxes.result, methods=["POST"]),
            Route("/box/{vin}/state", self._boxes.take_state, methods=["POST"]),
            Route("/twin/state", self._state, methods=["GET"]),
            Route("/twin/faults", self._change_faults, methods=["POST", "DELETE"]),
            Route("/twin/ai_mode", self._ai_mode, methods=["POST"]),
        ]
        app: ASGIApp = Starlette(routes=routes, exception_handlers={404: _no_api, 405: _no_api})
        if self._options.authorization is not None:
            app = _Authorized(app, self._options.authorization)
        options = self._options
        self._server = HttpServer(app, options.host, options.port, options.certificate, options.key)
        self.root = self._server.url
        self.url = self.root + base

    def start(self) -> None:
        """Serve from now on (errors as ``HttpServer.start``)."""
        self._server.start()

    def stop(self) -> None:
        """End every call that waits and close the socket; again is no matter."""
        self._server.call(self._stopping.set)
        self._server.stop()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    async def _get_signal(self, request: Request) -> Response:
        return await self._call(request, "get_signal", self._signals)

    async def _set_torque(self, request: Request) -> Response:
        return await self._call(request, "set_torque", self._torque)

    async def _call(self, request: Request, name: str, work: Work) -> Response:
        """One call, counted, with the faults that hit it."""
        began = time.monotonic()
        content = await _json(request)
        vin = content.get("vin") if content is not None else None
        calls = self._calls.get(vin) if isinstance(vin, str) else None
        await _others_noticed()
        if calls is not None:
            calls.made[name] += 1
            calls.now += 1
            calls.most = max(calls.most, calls.now)
        hits = self.faults.hit(name)
        for fault in hits:
            self._tell("fault", call=name, kind=fault.kind, value=fault.value)
        try:
            answer = await self._answer(request, name, work, content, hits)
        except CallerGone:
            self._tell("call", call=name, vin=vin, code="gone", seconds=round(time.monotonic() - began, 4))
            return Response()
        finally:
            if calls is not None:
                calls.now -= 1
        seconds = time.monotonic() - began
        code = _code_of(answer)
        if calls is not None and code != "0":
            calls.failures[code] += 1
        self._tell("call", call=name, vin=vin, code=code, seconds=round(seconds, 4))
        answer.headers[SECONDS_HEADER] = f"{seconds:.6f}"
        return answer

    async def _answer(
        self,
        request: Request,
        name: str,
        work: Work,
        content: dict[str, Any] | None,
        hits: Sequence[RemoteFault],
    ) -> Response:
        for fault in hits:
            if fault.kind in INSTEAD:
                return await self._instead(request, fault)
        body: object
        try:
            body = await while_wanted(request, self._stopping, self._done(work, content, hits))
        except _Refused as refused:
            body = failure(refused.code)
        else:
            for fault in hits:
                if isinstance(body, dict):
                    body = spoil_content(body, fault, name)
        response = to_response(body)
        for fault in hits:
            if fault.kind == "slow":
                await while_wanted(request, self._stopping, asyncio.sleep(fault.number))
            elif fault.kind == "lost_answer":
                return await close_connection(request)
            response = spoil_response(request, response, fault)
        return response

    async def _done(
        self, work: Work, content: dict[str, Any] | None, hits: Sequence[RemoteFault]
    ) -> dict[str, Any]:
        if content is None or not isinstance(content.get("vin"), str):
            raise _Refused(WRONG_PARAMETER)
        vehicle = self._vehicles.get(content["vin"])
        if vehicle is None:
            raise _Refused(NOT_REGISTERED)
        try:
            return await work(vehicle, content, hits)
        except Offline:
            raise _Refused(CAR_OFFLINE) from None
        except TooLate:
            raise _Refused(OUT_OF_TIME) from None

    async def _instead(self, request: Request, fault: RemoteFault) -> Response:
        match fault.kind:
            case "code":
                return to_response(failure(round(fault.number)))
            case "ai_mode_off":
                return to_response(failure(AI_MODE_OFF))
            case "status":
                return Response("simulated", status_code=round(fault.number))
            case "html":
                return html_response()
            case "drop":
                return await close_connection(request)
        await while_wanted(request, self._stopping, asyncio.Event().wait())
        return Response()

    async def _signals(
        self, vehicle: Vehicle, content: dict[str, Any], hits: Sequence[RemoteFault]
    ) -> dict[str, Any]:
        seconds = content.get("signal_duration")
        if not _is_number(seconds) or not 1.0 <= seconds <= LONGEST_WINDOW_S:
            raise _Refused(WRONG_PARAMETER)
        found = await self._boxes.ask(
            vehicle.vin,
            {"do": "signals", "seconds": math.ceil(seconds)},
            seconds + self._options.signals_margin_s,
        )
        _check(found)
        window, link = found.get("result"), found.get("link")
        try:
            if link is not None and self._options.answer == "link":
                return {"success": True, "oss_link": await self._stored.spoilt(vehicle.vin, link, hits)}
            if window is None:
                window = await self._stored.window(str(link))
        except (ObjectError, ValueError) as error:
            raise _Refused(NO_DATA) from error
        for fault in hits:
            window = spoil_window(window, fault)
        return {"success": True, "result": window}

    async def _torque(
        self, vehicle: Vehicle, content: dict[str, Any], hits: Sequence[RemoteFault]
    ) -> dict[str, Any]:
        del hits
        first_row, switch = content.get("start_line"), content.get("abswitch")
        if type(first_row) is not int or type(switch) is not bool:
            raise _Refused(WRONG_PARAMETER)
        rows = _rows(content.get("torque"), len(vehicle.torque_map.pedal_axis))
        speeds = len(vehicle.torque_map.speed_axis_kmh)
        if len(rows) > speeds:
            raise _Refused(TORQUE_SHAPE)
        most = twin_parameters(vehicle).torque_max_nm * 1.001
        if first_row < 0 or first_row + len(rows) > speeds or not np.all(np.abs(rows) <= most):
            raise _Refused(TORQUE_RANGE)
        command = {"do": "torque", "first_row": first_row, "rows": rows.tolist(), "abswitch": switch}
        _check(await self._boxes.ask(vehicle.vin, command, self._options.torque_s))
        return {"success": True}

    async def _state(self, request: Request) -> Response:
        del request
        found = {}
        for vin, calls in self._calls.items():
            found[vin] = {
                **self._boxes.state(vin),
                "connected": self._boxes.connected(vin),
                "calls": dict(calls.made),
                "failures": dict(calls.failures),
                "calls_now": calls.now,
                "connections_at_once": calls.most,
            }
        return JSONResponse({"vehicles": found})

    async def _change_faults(self, request: Request) -> Response:
        if request.method == "DELETE":
            self.faults.clear()
            return JSONResponse({})
        content = await _json(request)
        if content is None:
            return JSONResponse({"error": "send a fault's fields, or its words as fault"}, 400)
        try:
            words = content.get("fault")
            self.faults.add(parse_remote_fault(words) if isinstance(words, str) else remote_fault(content))
        except TwinError as error:
            return JSONResponse({"error": str(error)}, 400)
        return JSONResponse({})

    async def _ai_mode(self, request: Request) -> Response:
        content = await _json(request) or {}
        vin = content.get("vin", next(iter(self._vehicles)) if len(self._vehicles) == 1 else None)
        if vin not in self._vehicles or type(content.get("on")) is not bool:
            return JSONResponse({"error": "send the vin of a registered vehicle and on: true or false"}, 400)
        try:
            await self._boxes.ask(vin, {"do": "ai_mode", "on": content["on"]}, self._options.torque_s)
        except (Offline, TooLate):
            return JSONResponse({"error": "the box is not connected"}, 409)
        return JSONResponse({})


class _Authorized:
    """Lets only those in who have the Authorization header's value."""

    def __init__(self, app: ASGIApp, value: str) -> None:
        self._app, self._value = app, value.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        given = dict(scope["headers"]).get(b"authorization", b"")
        if hmac.compare_digest(given, self._value):
            await self._app(scope, receive, send)
        else:
            await JSONResponse({"message": "Unauthorized"}, 401)(scope, receive, send)


async def _no_api(request: Request, error: Exception) -> Response:
    del request, error
    return to_response(failure(NO_API))


async def _json(request: Request) -> dict[str, Any] | None:
    """The body, if it is a JSON object."""
    try:
        content = json.loads(await request.body())
    except ValueError:
        return None
    return content if isinstance(content, dict) else None


def _check(found: dict[str, Any]) -> None:
    """Raise what a box says went wrong."""
    if found.get("code"):
        raise _Refused(int(found["code"]))


def _is_number(value: object) -> TypeGuard[float]:
    return type(value) in (int, float) and math.isfinite(value)  # type: ignore[arg-type]


def _rows(torque: object, columns: int) -> NDArray[np.float32]:
    """Rows x columns; numbers or decimal strings."""
    if not isinstance(torque, list) or not torque:
        raise _Refused(TORQUE_SHAPE)
    if not all(isinstance(row, list) and len(row) == columns for row in torque):
        raise _Refused(TORQUE_SHAPE)
    try:
        return np.array([[float(cell) for cell in row] for row in torque], dtype=np.float32)
    except (TypeError, ValueError, OverflowError):
        raise _Refused(TORQUE_RANGE) from None


async def _others_noticed() -> None:
    """Let the loop notice who hung up before this call came, so that the two do not count as at once."""
    for _ in range(LOOP_TURNS):
        await asyncio.sleep(0)


def _code_of(response: Response) -> str:
    """The code that an answer stands for: the contract's, ``http n``, or ``other``."""
    if response.status_code != 200:
        return f"http {response.status_code}"
    try:
        content = json.loads(bytes(response.body))
        if content["success"] is True:
            return "0"
        return "2" if content.get("AIMode") is False else str(content["reason"]["why"]["code"])
    except (AttributeError, ValueError, KeyError, TypeError):
        return "other"
