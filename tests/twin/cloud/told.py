"""Events that a twin tells, and a wait for one; the two calls through a plain HTTP client."""

import http.client
import json
import threading
from contextlib import closing
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray

from tests.online.stage import wait_until
from tspace_core.config import Vehicle
from tspace_core.twin.cloud.live_cloud import CloudTwin

PATIENCE_S = 60.0


class Told:
    """Events, in order; any thread."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []
        self._changed = threading.Condition()

    def __call__(self, event: str, /, **fields: Any) -> None:
        with self._changed:
            self.events.append((event, fields))
            self._changed.notify_all()

    def named(self, name: str) -> list[dict[str, Any]]:
        return [fields for event, fields in list(self.events) if event == name]

    def wait(self, name: str, count: int = 1) -> dict[str, Any]:
        """The fields of the count-th event of that name."""
        with self._changed:
            came = self._changed.wait_for(lambda: len(self.named(name)) >= count, PATIENCE_S)
        assert came, f"no {name} number {count}: {[event for event, _ in self.events]}"
        return self.named(name)[count - 1]


def ask(method: str, url: str, **more: Any) -> httpx.Response:
    """A request; without loading the authorities that plain http needs none of."""
    return httpx.request(method, url, **{"timeout": PATIENCE_S, "trust_env": False, "verify": False, **more})


def get_signal(url: str, vin: str, seconds: object = 1, **more: Any) -> httpx.Response:
    content = {"vin": vin, "signal_duration": seconds}
    return ask("POST", f"{url}/get_signal", **{"json": content, **more})


def set_torque(
    url: str, vin: str, rows: object, first_row: object = 0, *, switch: object = False, **more: Any
) -> httpx.Response:
    content = {"vin": vin, "torque": rows, "abswitch": switch, "start_line": first_row}
    return ask("POST", f"{url}/set_torque", **{"json": content, **more})


def hang_up(twin: CloudTwin, call: str, content: dict[str, object]) -> None:
    """Call, and leave without an answer as soon as the service has the call.

    After a time of its own a caller might leave before that, on a busy machine.
    """
    url = httpx.URL(f"{twin.url}/{call}")
    caller = http.client.HTTPConnection(url.host, url.port, timeout=PATIENCE_S)
    with closing(caller):
        caller.request("POST", url.path, json.dumps(content), {"content-type": "application/json"})
        wait_until(lambda: twin.state()["calls_now"] == 1, f"{call} to be heard", PATIENCE_S)


def four_rows(vehicle: Vehicle, first_row: int = 2, less_nm: float = 20.0) -> NDArray[np.float32]:
    """Rows of the default map, lowered a little."""
    return vehicle.default_map().table[first_row : first_row + 4] - np.float32(less_nm)


def code_of(answer: httpx.Response) -> str:
    """The code of a failure of the common form."""
    assert answer.status_code == 200
    content = answer.json()
    assert content.keys() == {"success", "reason"}
    assert content["success"] is False
    assert content["reason"].keys() == {"why"}
    assert content["reason"]["why"].keys() == {"code"}
    assert isinstance(content["reason"]["why"]["code"], str)
    return str(content["reason"]["why"]["code"])
