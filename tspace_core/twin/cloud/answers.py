"""What the remote CAN service answers: the contract's bodies, and those that simulated faults ask for."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response, StreamingResponse

from tspace_core.twin.cloud.faults import RemoteFault
from tspace_core.twin.cloud.spoil import OTHER_VIN

_BLOCK = 1 << 16
_PAGE = "<!DOCTYPE html><html><head><title>Sign in</title></head><body><h1>Sign in</h1></body></html>"
_JSON = "application/json"


def failure(code: int) -> dict[str, Any]:
    """The body of a failure; code 2 has a form of its own."""
    if code == 2:
        return {"success": False, "AIMode": False}
    return {"success": False, "reason": {"why": {"code": str(code)}}}


def to_response(content: object) -> Response:
    """HTTP 200 with JSON; a bare NaN passes, as some services let it."""
    return Response(json.dumps(content, separators=(",", ":")), media_type=_JSON)


def html_response() -> Response:
    """HTTP 200 with a page, as a proxy's login page."""
    return HTMLResponse(_PAGE)


def spoil_content(content: dict[str, Any], fault: RemoteFault, call: str) -> object:
    """The body as the fault wants it."""
    link = content.get("oss_link")
    if call == "set_torque" and fault.kind in ("no_link", "foreign_link", "missing_object"):
        return content
    match fault.kind:
        case "unknown_form":
            return {"status": "ok", "data": None}
        case "not_dict":
            return {"success": True, "result": [1, 2, 3]} if call == "get_signal" else ["ok"]
        case "no_link":
            return {"success": True}
        case "foreign_link":
            key = str(link or "s3://x/window.json").removeprefix("s3://").partition("/")[2]
            return {"success": True, "oss_link": f"s3://somebody-elses-bucket/{key}"}
        case "missing_object":
            return {"success": True, "oss_link": f"{link or 's3://missing/window.json'}.gone"}
        case "wrong_vin" if link is None:
            return {**content, "vin": OTHER_VIN}
    return content


async def close_connection(request: Request) -> Response:
    """Close the caller's connection without an answer."""
    _transport(request).abort()
    while (await request.receive())["type"] != "http.disconnect":
        pass
    return Response()


def spoil_response(request: Request, response: Response, fault: RemoteFault) -> Response:
    """The answer on the wire as the fault wants it."""
    if isinstance(response, StreamingResponse):
        return response
    text = bytes(response.body)
    match fault.kind:
        case "truncated":
            return Response(text[: len(text) // 2], media_type=_JSON)
        case "cut":
            return StreamingResponse(
                _cut(request, text), headers={"content-length": str(len(text))}, media_type=_JSON
            )
        case "huge" | "huge_stream":
            blocks = round(fault.number * 1e6) // _BLOCK
            length = blocks * _BLOCK + len(text)
            headers = {"content-length": str(length)} if fault.kind == "huge" else None
            return StreamingResponse(_huge(text, blocks), headers=headers, media_type=_JSON)
    return response


async def _cut(request: Request, text: bytes) -> AsyncIterator[bytes]:
    yield text[: len(text) // 2]
    _transport(request).close()
    # Until the server has seen that the connection is gone, or it would say what is missing.
    await asyncio.Event().wait()


async def _huge(text: bytes, blocks: int) -> AsyncIterator[bytes]:
    """The valid answer after so many blocks of white space."""
    block = b" " * _BLOCK
    for _ in range(blocks):
        yield block
    yield text


def _transport(request: Request) -> asyncio.Transport:
    transport: asyncio.Transport = request.scope["state"]["transport"]
    return transport
