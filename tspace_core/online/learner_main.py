"""The learner process: ``python -m tspace_core.online.learner_main --fd N``, started by ``LearnerProcess``.

One thread, which waits on its socket when there is nothing to learn. It ends when it is told to, on SIGTERM
or SIGHUP, and when the Avatar is gone, however that died; each time the state is saved first. It leaves the
processor to what drives: one thread for torch, and the lowest sensible priority.
"""

import fcntl
import logging
import os
import select
import signal
import socket
import sys
from collections import deque
from typing import IO, TYPE_CHECKING

from tspace_core.errors import OnlineError, TspaceError
from tspace_core.online.learner_protocol import (
    Begin,
    Decoder,
    EpisodeEnd,
    Failed,
    Frame,
    Records,
    Stop,
    Stopped,
    ToAvatar,
    Waiting,
    encode,
)
from tspace_core.supervision.supervisor import describe

if TYPE_CHECKING:
    from tspace_core.online.learner_core import LearnerCore

_log = logging.getLogger(__name__)

NICE = 10
LOOK_FOR_PARENT_S = 1.0
"""A socket tells at once that its other end is gone, unless a forked child of the Avatar holds it open."""
LOOK_FOR_LOCK_S = 0.2
LOCK = "learner.lock"
FRAMES_WAITING = 64
"""Frames read ahead; beyond them the sender waits."""


class Inbox:
    """Frames from the Avatar, and the reasons to end: ``ending`` is the first of them, or None."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._decoder = Decoder()
        self._frames: deque[Frame] = deque()
        self._parent: int | None = None
        self.ending: str | None = None
        self._woken, self._waker = socket.socketpair()
        self._woken.settimeout(0.0)
        self._waker.settimeout(0.0)

    def watch_signals(self) -> None:
        """End on SIGTERM and SIGHUP; a SIGINT of the terminal is for the Avatar, which then stops this."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda found, _: self._end(f"signal {signal.Signals(found).name}"))
        signal.set_wakeup_fd(self._waker.fileno(), warn_on_full_buffer=False)

    def watch_parent(self, pid: int) -> None:
        """End when the process that started this one is another than ``pid``."""
        self._parent = pid

    def look(self, wait_s: float = 0.0) -> bool:
        """Read what is there, or comes within ``wait_s``; return whether it is time to end."""
        self._wait(wait_s)
        return self.ending is not None

    def next(self) -> Frame | None:
        """The next frame, waited for as long as it takes; None: it is time to end."""
        while self.ending is None:
            if self._frames:
                return self._frames.popleft()
            self._wait(LOOK_FOR_PARENT_S)
        return None

    def _wait(self, timeout_s: float) -> None:
        poll = select.poll()  # not select, which takes no descriptor beyond 1023
        poll.register(self._woken, select.POLLIN)
        if len(self._frames) < FRAMES_WAITING:
            poll.register(self._socket, select.POLLIN)
        ready = {descriptor for descriptor, _ in poll.poll(timeout_s * 1000.0)}
        if self._woken.fileno() in ready:
            self._woken.recv(1024)
        if self._socket.fileno() in ready:
            self._read()
        if self._parent is not None and os.getppid() != self._parent:
            self._end("the process that started this one is gone")

    def _read(self) -> None:
        try:
            data = self._socket.recv(1 << 16)
        except ConnectionError:
            data = b""
        if not data:
            self._end("the other end of the socket is gone")
            return
        for frame in self._decoder.feed(data):
            if isinstance(frame.message, Stop):
                self._end("told to stop")
            self._frames.append(frame)

    def _end(self, reason: str) -> None:
        self.ending = self.ending or reason


class Learner:
    """Carries out what the Avatar sends until it is time to end."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._inbox = Inbox(connection)

    def run(self) -> int:
        """Return the exit code: 0 ended as it should, 1 failed."""
        self._inbox.watch_signals()
        core: LearnerCore | None = None
        try:
            begin = self._begin()
            if begin is None:
                return 0
            with (begin.spec.folder / LOCK).open("ab") as lock:
                if self._locked(lock):
                    core = self._make(begin)
                    self._learn(core)
        except (TspaceError, OSError) as error:
            _log.exception("learner failed")
            return self._fail(describe(error), core)
        except Exception as error:
            _log.exception("learner failed in a way nobody expected")
            return self._fail(f"unexpected {type(error).__name__}: {describe(error)}", core)
        return 0

    def _begin(self) -> Begin | None:
        frame = self._inbox.next()
        if frame is None:
            return None
        if not isinstance(frame.message, Begin):
            message = f"the first message is {frame.message!r}, expected begin"
            raise OnlineError(message)
        self._inbox.watch_parent(frame.message.parent)
        frame.message.spec.folder.mkdir(parents=True, exist_ok=True)
        return frame.message

    def _make(self, begin: Begin) -> "LearnerCore":
        # Late, so that whoever started this process hears of a wrong first message without the seconds that
        # torch takes.
        import torch

        from tspace_core.online.learner_core import LearnerCore

        torch.set_num_threads(1)
        core = LearnerCore(begin.spec, self._tell)
        self._tell(core.ready())
        return core

    def _learn(self, core: "LearnerCore") -> None:
        core.learn(self._inbox.look)  # what was due when the run was stopped
        while (frame := self._inbox.next()) is not None:
            message = frame.message
            if isinstance(message, Records):
                core.take(frame.records(), frame.memory)
                core.learn(self._inbox.look)
            elif isinstance(message, EpisodeEnd):
                self._tell(core.end_episode(message, self._inbox.look))
            else:
                reason = f"{message!r} is not for a learner that is at work"
                raise OnlineError(reason)
        core.save()
        cause = self._inbox.ending or ""
        _log.info("learner ends: %s", cause)
        self._tell(Stopped(cause=cause, updates=core.updates, checkpoint=core.checkpoint))

    def _locked(self, file: IO[bytes]) -> bool:
        """Whether this is the vehicle's only learner; that of a dead Avatar may still be saving its state."""
        told = False
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if not told:
                    self._tell(Waiting(reason=f"another learner holds {file.name}"))
                    told = True
                if self._inbox.look(LOOK_FOR_LOCK_S):
                    return False
            else:
                return True

    def _fail(self, cause: str, core: "LearnerCore | None") -> int:
        self._tell(Failed(cause=cause, checkpoint=core.checkpoint if core else None))
        return 1

    def _tell(self, message: ToAvatar) -> None:
        try:
            self._socket.sendall(encode(message))
        except OSError as error:  # nobody listens; the next look at the socket ends the run
            _log.warning("%s could not be told: %s", type(message).__name__, error)


def main() -> int:
    """Run the learner on the inherited socket."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    if len(sys.argv) != 3 or sys.argv[1] != "--fd" or not sys.argv[2].isdigit():
        sys.stderr.write("usage: python -m tspace_core.online.learner_main --fd N; the Avatar starts it\n")
        return 2
    os.nice(NICE)
    with socket.socket(fileno=int(sys.argv[2])) as connection:
        return Learner(connection).run()


if __name__ == "__main__":
    CODE = main()
    logging.shutdown()
    os._exit(CODE)  # all is saved; taking torch apart would take a second more
