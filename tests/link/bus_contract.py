"""What every CAN interface promises through SharedBus; a test class an interface inherits it."""

import contextlib
import random
import secrets
import threading
from collections.abc import Iterator

import can
import pytest

from tspace_core.config.link import BusConfig
from tspace_core.errors import BusError
from tspace_core.link.bus import FD_LENGTHS, SharedBus
from tspace_core.link.opening import open_bus

PATIENCE_S = 20.0
LAST = 0x7EF
"""Id of the frame that ends a test's traffic."""

Sent = tuple[int, bytes, bool]


class Ear:
    """A subscriber that keeps what it hears and can be waited for."""

    def __init__(self) -> None:
        self.frames: list[can.Message] = []
        self.errors: list[BusError] = []
        self._came = threading.Condition()

    def __call__(self, frame: can.Message) -> None:
        with self._came:
            self.frames.append(frame)
            self._came.notify_all()

    def on_error(self, error: BusError) -> None:
        with self._came:
            self.errors.append(error)
            self._came.notify_all()

    def wait(self, count: int) -> list[can.Message]:
        with self._came:
            assert self._came.wait_for(lambda: len(self.frames) >= count, PATIENCE_S), self.frames
            return list(self.frames)

    def wait_last(self) -> list[Sent]:
        """All until the frame LAST, without it."""
        with self._came:
            came = self._came.wait_for(
                lambda: any(one.arbitration_id == LAST for one in self.frames), PATIENCE_S
            )
            assert came, self.frames
            return [sent(one) for one in self.frames if one.arbitration_id != LAST]

    def wait_error(self) -> BusError:
        with self._came:
            assert self._came.wait_for(lambda: bool(self.errors), PATIENCE_S)
            return self.errors[0]


def sent(frame: can.Message) -> Sent:
    return frame.arbitration_id, bytes(frame.data), frame.is_extended_id


class BusContract:
    """Siblings say how two ends of a bus are configured and how the left one's hardware goes away."""

    fd = False

    def configs(self) -> tuple[BusConfig, BusConfig]:
        raise NotImplementedError

    def cut(self, bus: SharedBus) -> None:
        raise NotImplementedError

    def rates(self) -> dict[str, object]:
        return {"fd": True, "data_bitrate": 2_000_000} if self.fd else {}

    @pytest.fixture
    def ends(self) -> tuple[BusConfig, BusConfig]:
        return self.configs()

    @pytest.fixture
    def buses(self, ends: tuple[BusConfig, BusConfig]) -> Iterator[tuple[SharedBus, SharedBus]]:
        with SharedBus(ends[0]) as left, SharedBus(ends[1]) as right:
            yield left, right

    @pytest.fixture
    def raw(self, ends: tuple[BusConfig, BusConfig]) -> Iterator[can.BusABC]:
        """The right end as python-can gives it, to send what SharedBus would not."""
        bus = open_bus(ends[1])
        yield bus
        bus.shutdown()

    def test_frames_arrive_unchanged_and_in_order(self, buses: tuple[SharedBus, SharedBus]) -> None:
        seed = secrets.randbelow(2**32)
        print(f"seed {seed}")
        dice = random.Random(seed)
        left, right = buses
        ear = Ear()
        left.subscribe(ear)
        frames: list[Sent] = []
        for _ in range(300):
            extended = dice.random() < 0.5
            length = dice.choice(FD_LENGTHS if self.fd else range(9))
            id = dice.randrange(0x20000000) if extended else dice.randrange(LAST)
            frames.append((id, dice.randbytes(length), extended))
            right.send(id, frames[-1][1], extended=extended)
        right.send(LAST, b"")
        assert ear.wait_last() == [one for one in frames if one[0] != LAST]
        assert all(one.is_fd == self.fd and one.bitrate_switch == self.fd for one in ear.frames)
        assert right.counters.tx == len(frames) + 1
        assert left.counters.rx == len(frames) + 1
        assert left.counters.last_error == ""

    def test_frames_carry_the_time_of_day_in_order(self, buses: tuple[SharedBus, SharedBus]) -> None:
        left, right = buses
        ear = Ear()
        left.subscribe(ear)
        for number in range(50):
            right.send(number, b"")
        times = [one.timestamp for one in ear.wait(50)]
        assert times == sorted(times)
        assert times[0] > 1.7e9

    def test_own_frames_are_not_heard(self, buses: tuple[SharedBus, SharedBus]) -> None:
        left, right = buses
        ear = Ear()
        left.subscribe(ear)
        for number in range(20):
            left.send(number, b"own")
        right.send(0x100, b"other")
        right.send(LAST, b"")
        assert ear.wait_last() == [(0x100, b"other", False)]

    def test_all_of_a_second_of_full_bus_is_heard(self, buses: tuple[SharedBus, SharedBus]) -> None:
        left, right = buses
        ear = Ear()
        left.subscribe(ear)
        for number in range(4000):
            right.send(number % 0x700, number.to_bytes(8, "little"))
            if number % 200 == 199:
                ear.wait(number + 1)
        heard = [int.from_bytes(one.data, "little") for one in ear.wait(4000)]
        assert heard == list(range(4000))

    def test_a_bus_hears_only_its_ids(self, ends: tuple[BusConfig, BusConfig]) -> None:
        for ids in ({0x123, LAST}, {LAST}, {0x123, 0x18DA1234, LAST}):
            with SharedBus(ends[0], ids=ids) as left, SharedBus(ends[1]) as right:
                ear = Ear()
                left.subscribe(ear)
                for id in (0x122, 0x123, 0x323, 0x7EE, LAST - 1):
                    right.send(id, b"x")
                for id in (0x18DA1234, 0x18DA1235):
                    right.send(id, b"x", extended=True)
                right.send(LAST, b"")
                assert {id for id, _, _ in ear.wait_last()} == ids - {LAST}

    def test_a_subscriber_hears_only_its_ids_until_it_cancels(
        self, buses: tuple[SharedBus, SharedBus]
    ) -> None:
        left, right = buses
        some, everything, gone = Ear(), Ear(), Ear()
        left.subscribe(some, ids=[0x10, 0x12, LAST])
        left.subscribe(everything)
        subscription = left.subscribe(gone, ids=[0x10])
        subscription.cancel()
        subscription.cancel()
        for id in (0x10, 0x11, 0x12, LAST):
            right.send(id, b"")
        assert [id for id, _, _ in some.wait_last()] == [0x10, 0x12]
        assert [id for id, _, _ in everything.wait_last()] == [0x10, 0x11, 0x12]
        assert gone.frames == []

    def test_impossible_frames_are_refused_before_they_go_out(
        self, buses: tuple[SharedBus, SharedBus]
    ) -> None:
        left, right = buses
        ear = Ear()
        left.subscribe(ear)
        for id, data, extended, words in (
            (0x800, b"", False, "outside 0..0x7ff"),
            (-1, b"", False, "outside"),
            (0x20000000, b"", True, "outside 0..0x1fffffff"),
            (1, bytes(65), False, "65 bytes"),
            (1, bytes(9), False, "9 bytes"),
        ):
            with pytest.raises(BusError, match=words):
                right.send(id, data, extended=extended)
        right.send(LAST, b"")
        assert ear.wait_last() == []
        assert right.counters.tx == 1

    def test_fd_frames_need_an_fd_bus(self, buses: tuple[SharedBus, SharedBus]) -> None:
        left, right = buses
        if self.fd:
            ear = Ear()
            left.subscribe(ear)
            right.send(1, bytes(8), fd=False)
            assert not ear.wait(1)[0].is_fd
        else:
            with pytest.raises(BusError, match="classic bus: set fd and data_bitrate"):
                right.send(1, bytes(8), fd=True)

    def test_error_and_remote_frames_are_counted_and_not_given_on(
        self, ends: tuple[BusConfig, BusConfig], raw: can.BusABC
    ) -> None:
        with SharedBus(ends[0]) as left:
            ear = Ear()
            left.subscribe(ear)
            for _ in range(3):
                raw.send(can.Message(arbitration_id=1, is_error_frame=True, is_extended_id=False))
                raw.send(can.Message(arbitration_id=2, is_remote_frame=True, is_extended_id=False))
            raw.send(can.Message(arbitration_id=LAST, is_extended_id=False))
            assert ear.wait_last() == []
            assert (left.counters.error_frames, left.counters.remote_frames) == (3, 3)
            assert left.counters.rx == 1

    def test_a_subscriber_that_fails_costs_the_others_nothing(
        self, buses: tuple[SharedBus, SharedBus]
    ) -> None:
        left, right = buses
        bad, good = Ear(), Ear()

        def fail(frame: can.Message) -> None:
            message = f"cannot take {frame.arbitration_id}"
            raise ZeroDivisionError(message)

        left.subscribe(fail, on_error=bad.on_error)
        left.subscribe(good, on_error=good.on_error)
        right.send(5, b"")
        right.send(6, b"")
        right.send(LAST, b"")
        assert [id for id, _, _ in good.wait_last()] == [5, 6]
        assert [str(one) for one in bad.errors] == [
            f"{left.name}: this subscriber failed and hears no more: cannot take 5"
        ]
        assert good.errors == []
        assert left.error is None
        assert left.counters.callbacks_failed == 1

    def test_a_subscriber_may_answer_from_its_callback(self, buses: tuple[SharedBus, SharedBus]) -> None:
        left, right = buses
        ear = Ear()
        left.subscribe(lambda frame: left.send(frame.arbitration_id + 1, bytes(frame.data)))
        right.subscribe(ear)
        right.send(0x20, b"question")
        assert sent(ear.wait(1)[0]) == (0x21, b"question", False)

    def test_a_lost_bus_is_told_once_with_the_first_cause(self, buses: tuple[SharedBus, SharedBus]) -> None:
        left, _ = buses
        first, second, late = Ear(), Ear(), Ear()
        left.subscribe(first, on_error=first.on_error)
        left.subscribe(second, on_error=second.on_error)
        self.cut(left)
        error = first.wait_error()
        second.wait_error()
        assert left.error is error
        assert str(error).startswith(f"{left.name} is lost: ")
        left.subscribe(late, on_error=late.on_error)
        for _ in range(2):
            with pytest.raises(BusError, match=r"not sent: .* is lost: "):
                left.send(1, b"")
        left.close()
        assert [first.errors, second.errors, late.errors] == [[error]] * 3

    def test_close_works_twice_from_any_thread_and_tells_nobody(
        self, ends: tuple[BusConfig, BusConfig]
    ) -> None:
        bus = SharedBus(ends[0])
        ear = Ear()
        bus.subscribe(ear, on_error=ear.on_error)
        threads = [threading.Thread(target=bus.close) for _ in range(4)]
        for one in threads:
            one.start()
        for one in threads:
            one.join(PATIENCE_S)
            assert not one.is_alive()
        bus.close()
        with pytest.raises(BusError, match="closed: open it again"):
            bus.send(1, b"")
        with pytest.raises(BusError, match="closed: open it again"):
            bus.subscribe(ear)
        assert ear.errors == []
        with SharedBus(ends[0]) as again, SharedBus(ends[1]) as right:
            again.subscribe(ear)
            right.send(1, b"again")
            assert sent(ear.wait(1)[0]) == (1, b"again", False)

    def test_a_callback_may_close_the_bus(self, ends: tuple[BusConfig, BusConfig]) -> None:
        closed = threading.Event()
        with SharedBus(ends[0]) as left, SharedBus(ends[1]) as right:

            def close(frame: can.Message) -> None:
                left.close()
                closed.set()

            left.subscribe(close)
            right.send(1, b"")
            assert closed.wait(PATIENCE_S)
        with pytest.raises(BusError, match="closed"):
            left.send(1, b"")

    def test_many_threads_may_send(self, buses: tuple[SharedBus, SharedBus]) -> None:
        left, right = buses
        ear = Ear()
        left.subscribe(ear)

        def send(id: int) -> None:
            for number in range(50):
                right.send(id, bytes([number]))

        threads = [threading.Thread(target=send, args=(id,)) for id in range(6)]
        for one in threads:
            one.start()
        frames = ear.wait(300)
        for one in threads:
            one.join(PATIENCE_S)
        for id in range(6):
            assert [one.data[0] for one in frames if one.arbitration_id == id] == list(range(50))


@contextlib.contextmanager
def without_modules(*names: str) -> Iterator[None]:
    """As if these packages were not installed."""
    import sys

    hidden = {
        one: module for one, module in sys.modules.items() if any(one.split(".")[0] == n for n in names)
    }
    gone = set(hidden) | set(names)
    for one in gone:
        sys.modules[one] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        for one in gone:
            sys.modules.pop(one, None)
        sys.modules.update(hidden)
