"""Calls of the remote CAN service that are given up at any moment: the next one must get through."""

import threading

import numpy as np

from tests.link.remote_clients import client
from tests.link.remote_server import LIMIT_S, OK, RemoteServer, late
from tspace_core.errors import RemoteNetworkError


def test_a_call_given_up_while_its_answer_comes_leaves_the_next_one_free() -> None:
    """httpx counts a connection as taken for ever where a request is cancelled at a bad moment."""
    table = np.zeros((14, 17), np.float32)
    pause = threading.Event()

    def call() -> None:
        try:
            service.send_torque_map(0, table)
        except RemoteNetworkError as error:
            given_up.append(error)

    given_up: list[RemoteNetworkError] = []
    with RemoteServer() as server, client(server, set_torque_s=LIMIT_S / 4) as service:
        for number in range(60):
            count = len(server.requests)
            server.script(late(0.002 * (number % 2), OK))
            calling = threading.Thread(target=call)
            calling.start()
            server.wait_for(count + 1)
            pause.wait(0.00025 * (number % 16))
            service.abort("the reference map was called for")
            calling.join(LIMIT_S)
            assert not calling.is_alive()
            service.resume()
            service.send_torque_map(0, table)
    assert given_up, "none was met in time"
