"""What the remote CAN service answered: the result, the place where it lies, or the error that it means."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NoReturn

from tspace_core.config.remote import RemoteConfig
from tspace_core.link.remote_codes import (
    AI_MODE_OFF,
    NO_DICTIONARY,
    NO_LINK,
    UNKNOWN_FORM,
    remote_error,
)

_SHOWN = 200
_CODE = re.compile(r"[+-]?\d{1,9}", re.ASCII)
_BOX_KEY = re.compile(r"(?:.*/)?([^/]+)/\d{4}/\d{2}/\d{2}/\d{9}\.json", re.ASCII)


@dataclass(frozen=True)
class Link:
    """An object that holds the result."""

    bucket: str
    key: str


def shortened(value: object) -> str:
    """A value as a message shows it: JSON or the text itself, one short line."""
    if isinstance(value, bytes):
        text = value[: 4 * _SHOWN].decode("utf-8", "backslashreplace")
    elif isinstance(value, list | dict) and value:
        text = f"{'a list' if isinstance(value, list) else 'an object'} of {len(value)}"
    else:
        text = value if isinstance(value, str) else json.dumps(value, default=repr)
    line = " ".join(text.split())
    return line if len(line) <= _SHOWN else f"{line[:_SHOWN]}..."


def read_json(body: bytes, what: str) -> object:
    """The content of a body.

    Args:
        body: as it came.
        what: names it in messages.

    Raises:
        RemoteFormatError: it is no JSON, or holds NaN or Infinity, which JSON does not have.
    """
    try:
        return json.loads(body.decode("utf-8"), parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        kind = "an HTML page" if body.lstrip()[:1] == b"<" else "no JSON"
        why = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        detail = f"{what} is {kind} ({why}), {len(body)} bytes: {shortened(body) or 'empty'}"
        raise remote_error(UNKNOWN_FORM, detail) from None


def require_done(body: bytes, vin: str) -> None:
    """Check that set_torque was answered with success.

    Raises:
        RemoteCanError: it was not; the error is that of the code.
    """
    _succeeded(body, vin)


def read_signals(body: bytes, config: RemoteConfig, vin: str) -> dict[str, object] | Link:
    """What get_signal was answered with.

    Raises:
        RemoteCanError: the service reports a failure, or what it gives cannot be used.
    """
    answer = _succeeded(body, vin)
    if answer.get("result") is not None:
        return _result(answer["result"], "result", vin)
    if "result" in answer and "oss_link" not in answer:
        return _result(None, "result", vin)
    link = answer.get("oss_link")
    if not isinstance(link, str) or not link:
        detail = f"oss_link is {shortened(link)}" if "oss_link" in answer else "neither result nor oss_link"
        raise remote_error(NO_LINK, f"{detail} in {shortened(body)}")
    return _allowed(link, config, vin)


def read_window(body: bytes, vin: str) -> dict[str, object]:
    """The result as it lies in object storage.

    Raises:
        RemoteFormatError: it is none, or another vehicle's.
    """
    return _result(read_json(body, "the linked object"), "the linked object", vin)


def _no_constant(name: str) -> NoReturn:
    message = f"{name} is no JSON number"
    raise ValueError(message)


def _succeeded(body: bytes, vin: str) -> dict[str, object]:
    answer = read_json(body, "the answer")
    if not isinstance(answer, dict):
        raise remote_error(UNKNOWN_FORM, f"expected an object with success, the answer is {shortened(body)}")
    success = answer.get("success")
    if success is True:
        _same_vehicle(answer, "the answer", vin)
        return answer
    if success is not False:
        detail = f"success is {shortened(success)}, expected true or false, in {shortened(body)}"
        raise remote_error(UNKNOWN_FORM, detail)
    if answer.get("AIMode") is False:
        raise remote_error(AI_MODE_OFF, "")
    code = _code(answer.get("reason"))
    if code is None:
        raise remote_error(UNKNOWN_FORM, f"a failure without reason.why.code: {shortened(body)}")
    # 0 is the code of success: a failure that carries it contradicts itself.
    raise remote_error(UNKNOWN_FORM if code == 0 else code, f"the service answered {shortened(body)}")


def _code(reason: object) -> int | None:
    """Number in reason.why.code, which services write as a string or as a number."""
    why = reason.get("why") if isinstance(reason, Mapping) else None
    code = why.get("code") if isinstance(why, Mapping) else None
    if isinstance(code, str) and _CODE.fullmatch(code.strip()):
        return int(code)
    return code if type(code) is int else None


def _result(result: object, what: str, vin: str) -> dict[str, object]:
    if not isinstance(result, dict):
        raise remote_error(NO_DICTIONARY, f"{what} is {shortened(result)}")
    _same_vehicle(result, what, vin)
    return result


def _same_vehicle(content: Mapping[str, object], what: str, vin: str) -> None:
    if content.get("vin") not in (None, vin):
        detail = f"{what} is for vin {shortened(content['vin'])}, asked for was {shortened(vin)}"
        raise remote_error(UNKNOWN_FORM, detail, next_step="have the service answer for the right vehicle")


def _allowed(link: str, config: RemoteConfig, vin: str) -> Link:
    scheme, _, place = link.partition("://")
    bucket, _, key = place.partition("/")
    if scheme != "s3" or not bucket or not key:
        raise remote_error(NO_LINK, f"oss_link is {shortened(link)}, expected s3://bucket/key")
    if bucket not in config.buckets:
        allowed = ", ".join(config.buckets) or "none"
        raise remote_error(
            NO_LINK,
            f"oss_link is {shortened(link)}, allowed buckets are: {allowed}",
            next_step="if it is right, add the bucket to the vehicle's remote.buckets",
        )
    owner = _BOX_KEY.fullmatch(key)
    if owner is not None and owner[1] != vin:
        detail = f"oss_link is {shortened(link)}, a window of another vin than {shortened(vin)}"
        raise remote_error(UNKNOWN_FORM, detail, next_step="have the service answer for the right vehicle")
    return Link(bucket, key)
