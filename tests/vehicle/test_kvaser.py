"""KvaserCAN: real sockets on both sides, a bridge that does as the test says."""

import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

import numpy as np
import pytest

from tests.vehicle.contract import Behaviour, Rig, VehicleInterfaceContract
from tests.vehicle.fake_bridge import KEY, FakeBridge, applied, failing, free_udp_port, silent
from tests.vehicle.samples import drive_sample, truck
from tspace_core.config import Vehicle
from tspace_core.errors import ChannelError, LinkError, VehicleError
from tspace_core.link.datagrams import Status, encode_sample, encode_status
from tspace_core.link.endpoints import Endpoints
from tspace_core.link.float_buffer import to_hex
from tspace_core.link.messages import Answer, Arm, Armed, Disarm, Failed, Propose, State
from tspace_core.link.udp import udp_context
from tspace_core.supervision import PipelineEmpty, Supervisor
from tspace_core.vehicle.kvaser import NOT_FLASHING, KvaserCAN, KvaserOptions
from tspace_core.vehicle.stream import EpisodeBegun, EpisodeEnded, RunEnded
from tspace_core.vehicle.windows import Window

LONG_S = 30.0


def quick_truck(*, silence_s: float = 60.0, **guard: float) -> Vehicle:
    """The truck with short windows (10 samples at 200 Hz) and limits that let a burst count as real time."""
    vehicle = truck()
    return vehicle.model_copy(
        update={
            "sampling": vehicle.sampling.model_copy(update={"rate_hz": 200.0, "window": 10}),
            "guard": vehicle.guard.model_copy(update={"stale_periods": 2000, **guard}),
            "online": vehicle.online.model_copy(
                update={
                    "countdown_s": 0.02,
                    "silence_s": silence_s,
                    "watchdog": vehicle.online.watchdog.model_copy(update={"capture_failures": 5}),
                }
            ),
        }
    )


class KvaserRig(Rig):
    """KvaserCAN between a fake bridge's channel and a socket that sends as bridge and HMI."""

    def __init__(
        self,
        vehicle: Vehicle,
        *,
        observe_only: bool = False,
        hmi: str = "udp",
        flash_timeout_s: float = LONG_S,
        arm_timeout_s: float = LONG_S,
    ) -> None:
        self.vehicle = vehicle
        self.bridge = FakeBridge(vehicle)
        self.addresses = Endpoints("127.0.0.1", free_udp_port(), "127.0.0.1", self.bridge.server.port)
        self.resume: np.ndarray[tuple[int, ...], np.dtype[np.float32]] | None = None
        self.interface = self.car = KvaserCAN(
            vehicle,
            KvaserOptions(
                observe_only=observe_only,
                run_id="test",
                by="a test",
                hmi=hmi,
                addresses=self.addresses,
                key=KEY,
                resume=lambda: self.resume,
                flash_timeout_s=flash_timeout_s,
                arm_timeout_s=arm_timeout_s,
            ),
        )
        self.supervisor = Supervisor("test")
        self.sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sender.settimeout(LONG_S)
        self._began_ns = time.time_ns()
        self._seq = 0
        self._causes: list[str] = []

    def send(self, data: bytes) -> None:
        self.sender.sendto(data, (self.addresses.udp_host, self.addresses.udp_port))

    def samples(self, count: int, *, thrust: float = 20.0) -> None:
        for _ in range(count):
            values = drive_sample(self._seq) | {"thrust": thrust}
            self._seq += 1
            self.send(encode_sample(values, seq=self._seq, time_ns=self._began_ns + self._seq * 5_000_000))

    def say(self, status: Status) -> None:
        self.send(encode_status(status))

    def behave(self, how: Behaviour) -> None:
        if how == "apply":
            self.bridge.answer = applied
        elif how == "silent":
            self.bridge.answer = silent
        elif how == "refuse":
            self.bridge.answer = failing(0)
        else:
            self.bridge.answer = failing(how)

    def reference_causes(self, count: int) -> list[str]:
        while len(self._causes) < count:
            message = self.bridge.next()
            if isinstance(message, Disarm):
                self._causes.append(message.cause)
        return self._causes

    def links_closed(self) -> None:
        with udp_context(self.addresses.udp_host, self.addresses.udp_port):
            pass
        if self.bridge.came.is_set():
            assert self.bridge.gone.wait(LONG_S)

    def close(self) -> None:
        self.supervisor.stop("the test is over")
        assert self.supervisor.join(LONG_S) == []
        self.sender.close()
        self.bridge.stop()


RigMaker = Callable[..., KvaserRig]


@pytest.fixture
def make() -> Iterator[RigMaker]:
    made: list[KvaserRig] = []

    def build(
        vehicle: Vehicle | None = None,
        *,
        observe_only: bool = False,
        hmi: str = "udp",
        flash_timeout_s: float = LONG_S,
        arm_timeout_s: float = LONG_S,
    ) -> KvaserRig:
        made.append(
            KvaserRig(
                quick_truck() if vehicle is None else vehicle,
                observe_only=observe_only,
                hmi=hmi,
                flash_timeout_s=flash_timeout_s,
                arm_timeout_s=arm_timeout_s,
            )
        )
        return made[-1]

    yield build
    for rig in made:
        rig.close()


class TestKvaserKeepsTheContract(VehicleInterfaceContract):
    """Every promise of a vehicle interface."""

    @pytest.fixture
    def rig(self, make: RigMaker) -> Iterator[Rig]:
        yield make(flash_timeout_s=2.0)  # most of these flashes are answered, whatever the machine does

    @pytest.fixture
    def impatient_rig(self, make: RigMaker) -> Iterator[Rig]:
        yield make(quick_truck(silence_s=0.2))


def test_arming_passes_on_who_asks_and_the_map_to_go_on_from(make: RigMaker) -> None:
    rig = make()
    rig.resume = rig.vehicle.default_map().table - np.float32(10)
    rig.bridge.armed = Armed(ok=True, resumed=True, live=to_hex(rig.resume))
    rig.interface.ignite(rig.supervisor)
    begun = rig.begin()
    arm = rig.bridge.next()
    assert isinstance(arm, Arm)
    assert (arm.by, arm.resume) == ("a test", to_hex(rig.resume))
    assert begun.resumed
    assert begun.live is not None
    np.testing.assert_array_equal(begun.live, rig.resume)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (Armed(ok=False, reason="LOCKED: a person clears it", live=""), "LOCKED: a person clears it"),
        (Armed(ok=True, live=""), "the bridge told no map"),
        (Failed(reason="no campaign"), "no campaign"),
        (None, "the bridge did not answer within 0.3 s"),
    ],
)
def test_arming_that_is_refused_leaves_an_interrupted_episode(
    make: RigMaker, answer: Armed | Failed | None, reason: str
) -> None:
    rig = make() if answer is not None else make(arm_timeout_s=0.3)
    rig.bridge.armed = answer
    rig.interface.ignite(rig.supervisor)
    begun = rig.begin()
    assert not begun.armed
    assert begun.reason.startswith(reason)
    assert rig.reference_causes(1)[0].startswith("not armed: ")
    assert not rig.interface.control.capturing
    assert rig.interface.watchdog.counts["flash"] == 1


@pytest.mark.parametrize("state", ["LOCKED", "DISARMED"])
def test_a_bridge_that_disarms_itself_interrupts_the_episode_with_its_cause(
    make: RigMaker, state: str
) -> None:
    rig = make()
    rig.interface.ignite(rig.supervisor)
    rig.begin()
    pushed = State(state="LOCKED" if state == "LOCKED" else "DISARMED", cause="the driver braked")
    rig.bridge.server.push(pushed)
    assert rig.reference_causes(1) == [f"the bridge is {state}: the driver braked"]
    assert not rig.interface.control.capturing


def test_word_of_the_last_disarm_does_not_interrupt_the_next_episode(make: RigMaker) -> None:
    rig = make()
    rig.interface.ignite(rig.supervisor)
    for _ in range(20):
        rig.begin()
        rig.say("end_invalid")
        rig.say("begin")
        assert isinstance(rig.next(), EpisodeEnded)
        assert isinstance(rig.next(), EpisodeBegun)
        assert rig.interface.consume(rig.proposal()).applied
        rig.say("end_invalid")
        assert isinstance(rig.next(), EpisodeEnded)


def test_a_bridge_that_dies_ends_the_run_with_that_cause(make: RigMaker) -> None:
    rig = make()
    rig.interface.ignite(rig.supervisor)
    rig.begin()
    rig.bridge.stop()
    over = rig.rest()[-1]
    assert isinstance(over, RunEnded)
    assert over.failed
    assert "bridge" in over.cause


class Terminated(BaseException):
    """What Dagster raises in the main thread when a person presses Terminate: no Exception."""


def test_terminate_in_the_main_thread_brings_the_reference_map_back_and_ends_every_task(
    make: RigMaker,
) -> None:
    rig = make()

    def handler(number: int, frame: FrameType | None) -> None:
        raise Terminated("terminated in the UI")

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        with pytest.raises(Terminated), rig.supervisor:
            rig.interface.ignite(rig.supervisor)
            rig.begin()
            rig.supervisor.start("killer", lambda: os.kill(os.getpid(), signal.SIGUSR1))
            rig.supervisor.wait()
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert rig.rest()[-1] == RunEnded("terminated in the UI", failed=False)
    assert rig.reference_causes(1) == ["terminated in the UI"]
    rig.links_closed()


def test_a_bridge_that_dies_during_a_flash_is_no_endless_wait(
    make: RigMaker,
) -> None:
    rig = make()
    rig.interface.ignite(rig.supervisor)
    rig.begin()
    rig.behave("silent")
    outcomes: list[str] = []
    thread = threading.Thread(
        target=lambda: outcomes.append(rig.interface.consume(rig.proposal()).result), daemon=True
    )
    thread.start()
    while not isinstance(rig.bridge.next(), Propose):
        pass
    rig.bridge.stop()
    thread.join(LONG_S)
    assert outcomes == ["UNKNOWN"]
    rig.rest()


def test_a_second_flash_while_one_is_under_way_is_refused(
    make: RigMaker,
) -> None:
    rig = make()
    rig.interface.ignite(rig.supervisor)
    rig.begin()
    rig.behave("silent")
    thread = threading.Thread(target=lambda: rig.interface.consume(rig.proposal()), daemon=True)
    thread.start()
    while not isinstance(rig.bridge.next(), Propose):
        pass
    with pytest.raises(VehicleError, match="one at a time"):
        rig.interface.consume(rig.proposal())
    rig.supervisor.stop("enough")
    thread.join(LONG_S)
    assert not thread.is_alive()
    assert rig.bridge.counts["propose"] == 1


def test_a_proposal_is_sent_once_and_never_again(make: RigMaker) -> None:
    rig = make(flash_timeout_s=0.2)
    rig.interface.ignite(rig.supervisor)
    rig.begin()
    rig.behave("silent")
    rig.interface.consume(rig.proposal())
    rig.reference_causes(1)
    assert rig.bridge.counts["propose"] == 1


def test_a_late_answer_is_not_taken_for_that_of_the_next_flash(make: RigMaker) -> None:
    rig = make(flash_timeout_s=2.0)
    rig.interface.ignite(rig.supervisor)
    rig.begin()
    rig.behave("silent")
    assert rig.interface.consume(rig.proposal(1.0)).code == 4
    rig.say("begin")
    assert isinstance(rig.next(), EpisodeEnded)
    assert isinstance(rig.next(), EpisodeBegun)

    def late_and_then_in_time(propose: Propose) -> Answer:
        old = applied(propose).model_copy(update={"id": propose.id - 1, "rows": to_hex(np.zeros((4, 17)))})
        rig.bridge.server.push(old)
        return applied(propose)

    rig.bridge.answer = late_and_then_in_time
    for torque in (2.0, 3.0):
        outcome = rig.interface.consume(rig.proposal(torque))
        assert outcome.applied
        np.testing.assert_array_equal(outcome.rows, rig.proposal(torque).rows)


def nonsense(propose: Propose) -> Answer:
    return applied(propose).model_copy(update={"rows": propose.rows[:-8]})


def elsewhere(propose: Propose) -> Answer:
    return applied(propose).model_copy(update={"first_row": propose.first_row + 1})


@pytest.mark.parametrize("answer", [nonsense, elsewhere])
def test_an_answer_that_fits_not_is_no_applied_flash(
    make: RigMaker, answer: Callable[[Propose], Answer]
) -> None:
    rig = make()
    rig.interface.ignite(rig.supervisor)
    rig.begin()
    rig.bridge.answer = answer
    outcome = rig.interface.consume(rig.proposal())
    assert (outcome.result, outcome.code) == ("UNKNOWN", 3)


def test_the_heart_beats_only_while_the_control_thread_lives(make: RigMaker) -> None:
    rig = make(quick_truck(no_flash_after_s=1.0, heartbeat_hz=50.0))
    rig.interface.ignite(rig.supervisor)
    with pytest.raises(PipelineEmpty):
        rig.bridge.beats.get(0.2)  # nobody controls yet
    waiting = threading.Thread(target=lambda: rig.interface.stream.get(LONG_S), daemon=True)
    waiting.start()
    first = [rig.bridge.beats.get(LONG_S) for _ in range(20)]
    assert first == list(range(20))
    rig.say("begin")  # the control thread takes the item and is never seen again
    waiting.join(LONG_S)
    quiet = threading.Event()
    while not quiet.is_set():
        try:
            rig.bridge.beats.get(2.0)
        except PipelineEmpty:
            quiet.set()
    rig.interface.tick()
    rig.bridge.beats.get(LONG_S)


def test_another_reference_map_at_the_bridge_is_refused(make: RigMaker) -> None:
    rig = make()
    assert not isinstance(rig.bridge.welcome, Failed)
    rig.bridge.welcome = rig.bridge.welcome.model_copy(update={"reference_sha256": "0" * 64})
    with pytest.raises(VehicleError, match=r"reference map 000000000000.*same conf/"):
        rig.interface.ignite(rig.supervisor)
    rig.links_closed()


def test_without_a_bridge_the_run_says_how_to_start_one(make: RigMaker) -> None:
    rig = make()
    rig.bridge.stop()
    with pytest.raises(ChannelError, match="tspace bridge --vehicle twin_truck"):
        rig.interface.ignite(rig.supervisor)


def test_a_taken_datagram_address_leaves_no_channel_open(make: RigMaker) -> None:
    rig = make()
    with (
        udp_context(rig.addresses.udp_host, rig.addresses.udp_port),
        pytest.raises(LinkError, match="is taken"),
    ):
        rig.interface.ignite(rig.supervisor)
    rig.links_closed()


def test_why_a_datagram_was_refused_is_seen_by_its_sender(make: RigMaker) -> None:
    """As `nc -u 127.0.0.1 8002` shows it."""
    rig = make()
    rig.interface.ignite(rig.supervisor)
    rig.send(b'{"status": "start"}\n')
    answer = json.loads(rig.sender.recv(4096))
    assert answer == {
        "refused": "status is not known",
        "value": '"start"',
        "what_to_do": "send one of begin, end_valid, end_invalid, exit",
    }
    assert rig.interface.watchdog.counts["capture"] == 1


GARBAGE = [
    b"",
    b"\n",
    b"\xff" * 100,
    b"[" * 2000,
    b'{"data": {}}',
    b'{"data": {"velocity": NaN}}',
    b"x" * 10_000,
    b'{"data": {"velocity": "fast", "pedal": 1, "brake_pressure": 0, "A": 1, "V": 2}}',
]


@pytest.mark.parametrize("data", GARBAGE, ids=range(len(GARBAGE)))
def test_garbage_is_a_counted_failure_and_enough_of_it_ends_the_run(make: RigMaker, data: bytes) -> None:
    rig = make()
    rig.interface.ignite(rig.supervisor)
    rig.begin()
    for _ in range(4):
        rig.send(data)
    rig.samples(10)
    assert isinstance(rig.next(), Window), "samples after garbage are taken"
    assert rig.interface.watchdog.counts["capture"] == 4
    rig.send(data)
    over = rig.rest()[-1]
    assert isinstance(over, RunEnded)
    assert over.failed
    assert "refused" in over.cause


def test_a_flood_of_garbage_is_answered_once_a_second_only(make: RigMaker) -> None:
    rig = make(observe_only=True)
    rig.interface.ignite(rig.supervisor)
    for _ in range(4):
        rig.send(b"{")
    rig.say("exit")
    rig.rest()
    rig.sender.recv(4096)
    rig.sender.settimeout(0.05)
    with pytest.raises(TimeoutError):
        rig.sender.recv(4096)


def test_a_bridge_written_by_others_is_enough_to_observe(make: RigMaker) -> None:
    """It speaks the datagrams only, in decimal strings, without stamps, and nothing is ever flashed."""
    rig = make(quick_truck(window_rate_min=0.0001), observe_only=True)
    rig.interface.ignite(rig.supervisor)
    assert not rig.begin().armed
    for number in range(20):
        sample = drive_sample(number)
        data = {
            "velocity": f"{sample['velocity']:.3f}",
            "pedal": f"{sample['thrust']:.3f}",
            "brake_pressure": "0",
            "A": sample["current"],
            "V": str(sample["voltage"]),
            "unheard_of": True,
        }
        rig.send(json.dumps({"data": data, "vendor": "someone else"}).encode())
    first, second = rig.next(), rig.next()
    assert isinstance(first, Window)
    assert isinstance(second, Window)
    assert (first.valid, second.valid) == (True, True), (first.reason, second.reason)
    outcome = rig.interface.consume(rig.proposal())
    assert (outcome.result, outcome.code, outcome.reason) == ("REFUSED", 0, NOT_FLASHING)
    assert rig.interface.watchdog.counts == {"capture": 0, "flash": 0}
    rig.say("end_valid")
    ended = rig.next()
    assert isinstance(ended, EpisodeEnded)
    assert ended.valid
    assert not rig.bridge.came.is_set()


def test_without_a_person_it_begins_at_start_and_keeps_the_episode_at_the_stop(make: RigMaker) -> None:
    rig = make(hmi="dummy")
    rig.interface.ignite(rig.supervisor)
    assert isinstance(rig.next(), EpisodeBegun)
    rig.samples(10)
    assert isinstance(rig.next(), Window)
    rig.supervisor.stop("signal SIGINT")
    ended, over = rig.rest()
    assert isinstance(ended, EpisodeEnded)
    assert ended.valid
    assert over == RunEnded("signal SIGINT", failed=False)


def test_a_bridge_whose_datagrams_come_late_or_twice_costs_no_window(make: RigMaker) -> None:
    rig = make()
    rig.interface.ignite(rig.supervisor)
    rig.begin()
    now = time.time_ns()
    datagrams = [encode_sample(drive_sample(n), seq=n, time_ns=now + n * 5_000_000) for n in range(10)]
    for data in [*datagrams[:5], datagrams[2], *datagrams[4:]]:
        rig.send(data)
    window = rig.next()
    assert isinstance(window, Window)
    assert window.valid
    np.testing.assert_array_equal(
        window.samples[:, 0], np.array([drive_sample(n)["velocity"] for n in range(10)], np.float32)
    )
    assert dict(rig.car.builder.dropped) == {"out of order": 1, "duplicate": 1}


def test_a_run_with_the_key_of_another_installation_is_refused(make: RigMaker) -> None:
    rig = make()
    other = KvaserCAN(
        rig.vehicle, KvaserOptions(hmi="udp", addresses=rig.addresses, key=b"some other key of 16+")
    )
    with pytest.raises(ChannelError):
        other.ignite(rig.supervisor)
    rig.links_closed()
