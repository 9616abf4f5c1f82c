"""The person's requests come through a message queue, from a training HMI anywhere."""

import threading
from functools import partial

from tspace_core.config import Vehicle
from tspace_core.link.rocketmq import QueueServers
from tspace_core.link.rocketmq_hmi import Ears, HmiQueue
from tspace_core.link.rocketmq_messages import group_of, topic_of
from tspace_core.supervision import PipelineClosed
from tspace_core.vehicle.hmi import EVENTS, HmiPort, HmiSource
from tspace_core.vehicle.states import Event


def rmq_source(vehicle: Vehicle) -> HmiSource:
    """The source of a vehicle's topic; see ``tspace_core.link.rocketmq_hmi`` for what it hears.

    Raises:
        ConfigError: ``TSPACE_ROCKETMQ__*`` name no queue that may be used, or the vehicle's names do not fit.
    """
    servers = QueueServers.from_settings()
    topic_of(vehicle)
    group_of(vehicle)
    return HmiSource(partial(hmi_capture_from_rmq, vehicle, servers), at_stop=Event.STOP, attended=True)


def hmi_capture_from_rmq(vehicle: Vehicle, servers: QueueServers, port: HmiPort) -> None:
    """Requests come as messages in the vehicle's topic.

    An ``exit`` in a datagram is heard all the same, where the vehicle hears datagrams: on its CAN bus.
    """
    ears = Ears(
        heard=lambda status: port.post(EVENTS[status], f"HMI: {status}, by message queue"),
        failed=port.failed,
        ignored=port.ignored,
    )
    queue = HmiQueue(vehicle, ears, servers=servers)
    beside = threading.Thread(target=_datagrams, args=(port, queue), name="hmi datagrams", daemon=True)
    beside.start()
    queue.run()
    beside.join()


def _datagrams(port: HmiPort, queue: HmiQueue) -> None:
    """What comes by datagram beside the queue; ends the queue with the run."""
    try:
        while True:
            status = port.requests.get()
            if status == "exit":
                port.post(Event.EXIT, "HMI: exit")
            else:
                port.ignored(f"HMI: {status} in a datagram is not followed while hmi.source is rmq")
    except PipelineClosed:
        return
    finally:
        queue.end()
