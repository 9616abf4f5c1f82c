"""Calls that are given up leave a client that can be used, however often and whenever they are."""

import threading
from collections.abc import Iterator

import pytest

from tests.link.remote_server import RemoteServer, answer, hang
from tspace_core.config import Vehicle, load_vehicle
from tspace_core.errors import RemoteNetworkError
from tspace_core.link.remote_can import RemoteCanClient

LONG_S = 30.0
WINDOW = answer({"success": True, "result": {"a": 1}})


def quick_truck(margin_s: float) -> Vehicle:
    vehicle = load_vehicle("twin_remote")
    assert vehicle.remote is not None
    changed = {"attempts": 1, "backoff_s": 0.0, "get_signal_margin_s": margin_s}
    return vehicle.model_copy(update={"remote": vehicle.remote.model_copy(update=changed)})


@pytest.fixture
def server() -> Iterator[RemoteServer]:
    with RemoteServer(default=WINDOW) as served:
        yield served


def failed_call(
    client: RemoteCanClient, server: RemoteServer, duration_s: float = 1.0
) -> tuple[threading.Thread, list[str]]:
    """A call that hangs at the server, in a thread of its own; and why it failed, once it has."""
    why: list[str] = []

    def call() -> None:
        with pytest.raises(RemoteNetworkError) as caught:
            client.get_signals(duration_s)
        why.append(str(caught.value))

    count = len(server.requests)
    server.script(hang)
    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    server.wait_for(count + 1)
    return thread, why


def test_a_call_that_is_aborted_twice_at_once_leaves_the_connection_free(server: RemoteServer) -> None:
    """As by the end of an episode and the disarm that follows; the reference map must get through then."""
    vehicle = quick_truck(2.0)
    with RemoteCanClient(vehicle, url=server.url) as client:
        between = threading.Event()
        for number in range(12):
            thread, why = failed_call(client, server)
            client.abort("capture has stopped")
            between.wait(0.0002 * (number % 4))
            client.abort("HMI: exit")
            thread.join(LONG_S)
            assert "aborted: capture has stopped" in why[0]
            client.resume()
            assert client.get_signals(1.0) == {"a": 1}
            client.send_torque_map(0, vehicle.default_map().table)


def test_a_call_that_is_aborted_as_its_time_is_over_leaves_the_connection_free(server: RemoteServer) -> None:
    vehicle = quick_truck(0.25)  # time enough for the request to come at all
    with RemoteCanClient(vehicle, url=server.url) as client:
        between = threading.Event()
        for number in range(10):
            thread, why = failed_call(client, server, 0.05)
            between.wait(0.28 + 0.003 * number)
            client.abort("exit")
            thread.join(LONG_S)
            assert "code 1002" in why[0] or "aborted: exit" in why[0]
            client.resume()
            client.send_torque_map(0, vehicle.default_map().table)
