"""Run as a process of its own: answers each frame of a bus with its id and bytes turned, until it hears STOP.

It prints ``ready``, and at the end a JSON object: frames heard and sent, memory early and late in bytes.
"""

import json
import sys
import threading

import can
import psutil

from tspace_core.config.link import BusConfig
from tspace_core.link.bus import SharedBus

STOP = 0x7EE
ANSWER = 0x400
EARLY = 4000


def main() -> None:
    stopped = threading.Event()
    memory: list[int] = []
    process = psutil.Process()

    def answer(frame: can.Message) -> None:
        if frame.arbitration_id == STOP:
            memory.append(process.memory_info().rss)
            stopped.set()
            return
        bus.send(frame.arbitration_id + ANSWER, bytes(frame.data[::-1]))
        if bus.counters.rx == EARLY:
            memory.append(process.memory_info().rss)

    with SharedBus(BusConfig.model_validate_json(sys.argv[1])) as bus:
        bus.subscribe(answer)
        print("ready", flush=True)
        stopped.wait(120)
        counters = bus.counters
    print(json.dumps({"rx": counters.rx, "tx": counters.tx, "memory": memory}))


if __name__ == "__main__":
    main()
