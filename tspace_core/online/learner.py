"""The Avatar's end of the learner process: records go out, weights and losses come back; nothing waits."""

import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from tspace_core.errors import OnlineError
from tspace_core.objects.fields import PathField
from tspace_core.objects.path import AnyPath
from tspace_core.online.learner_protocol import (
    Begin,
    Decoder,
    EpisodeEnd,
    EpisodeLearned,
    Failed,
    Frame,
    LearnerReady,
    LearnerSpec,
    Saved,
    Stop,
    Stopped,
    ToAvatar,
    Waiting,
    WeightsMade,
    encode,
    encode_records,
)
from tspace_core.storage.replay import ReplayBatch
from tspace_core.supervision import Pipeline, PipelineClosed, Supervisor

_log = logging.getLogger(__name__)

OUTBOX = 256
"""Messages that wait for the learner at most: a record comes every few seconds, so minutes of them."""
READY_TIMEOUT_S = 60.0
EPISODE_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 15.0
LOG_LINES = 12


class LearnerFailed(BaseModel):
    """The learner cannot go on, or did not answer in time. The drive may go on with the last good weights."""

    model_config = ConfigDict(frozen=True)

    cause: str
    checkpoint: PathField | None
    """The last good checkpoint of the run, None if there is none."""
    alive: bool
    """Whether the process still runs: it was only late then, and what it learns still counts."""


class LearnerProcess:
    """A vehicle's learner in a process of its own.

    ``add`` and ``weights`` never wait; the others do, with a time-out, and belong between episodes. Any
    thread may call them. What goes wrong in the process is never raised here, but told as ``LearnerFailed``.
    After a failure or ``stop`` it may be started again: it goes on from its last checkpoint and is sent the
    records of the episode going on once more.

    Args:
        spec: what it learns from, and how.
        outbox: messages that wait for it at most.
        tell: is told of each message of the process, in a thread of its own; must not wait.

    Attributes:
        spec: as given.
        dropped: records that found the queue full, or no process.
    """

    def __init__(
        self,
        spec: LearnerSpec,
        *,
        outbox: int = OUTBOX,
        tell: Callable[[ToAvatar], None] = lambda message: None,
    ) -> None:
        self.spec = spec
        self.dropped = 0
        self._tell = tell
        self._outbox_size = outbox
        self._changed = threading.Condition()
        self._process: subprocess.Popen[bytes] | None = None
        self._episode: deque[bytes] = deque(maxlen=spec.live_capacity)
        self._supervisor: Supervisor | None = None
        self._ready: LearnerReady | None = None
        self._learned: EpisodeLearned | None = None
        self._weights: WeightsMade | None = None
        self._wake: Callable[[], None] = lambda: None
        self._failure: LearnerFailed | None = None
        self._checkpoint: AnyPath | None = None
        self._waiting = ""
        self._stopping = False
        self._ended = True

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def log(self) -> Path:
        """What the process says on its standard error."""
        return self.spec.folder / "learner.log"

    @property
    def pid(self) -> int | None:
        """Id of the process, also after its end; None before the first start."""
        return self._process.pid if self._process else None

    @property
    def failure(self) -> LearnerFailed | None:
        """Why the process ended before it was told to, None while all is well."""
        return self._failure

    @property
    def checkpoint(self) -> AnyPath | None:
        """The newest checkpoint that it told of."""
        return self._checkpoint

    def start(self) -> None:
        """Start the process; what is added from now on reaches it when it is ready.

        Raises:
            OnlineError: it runs already, or could not be started.
        """
        if self._process is not None and not self._ended:
            message = f"the learner of {self.spec.vehicle_id} runs already as process {self.pid}; stop it"
            raise OnlineError(message)
        self._end_threads()
        self._ready = self._learned = self._weights = self._failure = self._checkpoint = None
        self._waiting, self._stopping = "", False
        self.spec.folder.mkdir(parents=True, exist_ok=True)
        ours, theirs = socket.socketpair()
        with theirs, self.log.open("wb") as log:
            command = [sys.executable, "-m", "tspace_core.online.learner_main", "--fd", str(theirs.fileno())]
            try:
                self._process = subprocess.Popen(  # noqa: S603 - our own module
                    command,
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    # Set before torch is loaded: its pools would take the processor from what drives.
                    env={**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
                )
            except OSError as error:
                ours.close()
                message = f"the learner process could not be started ({error}): {' '.join(command)}"
                raise OnlineError(message) from error
        self._socket = ours
        self._ended = False
        self._outbox: Pipeline[bytes] = Pipeline("learner outbox", self._outbox_size)
        first = [encode(Begin(spec=self.spec, parent=os.getpid())), *self._episode]
        self._supervisor = Supervisor(f"learner of {self.spec.vehicle_id}")
        self._supervisor.on_stop("close outbox", self._outbox.close)
        self._supervisor.start("send", lambda: self._send(first))
        self._supervisor.start("receive", self._receive)

    def wait_ready(self, timeout_s: float = READY_TIMEOUT_S) -> LearnerReady | LearnerFailed:
        """Wait until the process has loaded its state."""
        with self._changed:
            self._changed.wait_for(lambda: self._ready or self._ended, timeout_s)
            if self._ready is not None:
                return self._ready
            return self._failure or self._late(f"was not ready within {timeout_s:g} s{self._waiting}")

    def require_ready(self) -> LearnerReady:
        """Wait until it can learn; where it cannot, or the waiting is interrupted, it is ended.

        Raises:
            OnlineError: it cannot; says why.
        """
        try:
            ready = self.wait_ready()
        except BaseException:
            self.stop()
            raise
        if isinstance(ready, LearnerFailed):
            self.stop()
            message = f"the learner of {self.spec.vehicle_id} cannot begin: {ready.cause}"
            raise OnlineError(message)
        return ready

    def add(self, records: ReplayBatch, memory: NDArray[np.float32] | None = None) -> bool:
        """Hand over records of steps that were APPLIED; never waits.

        Args:
            records: in their order.
            memory: (records, memory_dim) what a recurrent agent remembered before each.

        Returns:
            False if they are lost to the learner: it is too far behind, or has ended.
        """
        frame = encode_records(records, memory)
        try:
            taken = not self._ended and self._outbox.put(frame, timeout_s=0.0)
        except PipelineClosed:
            taken = False
        self._episode.append(frame)
        if not taken:
            if not self.dropped:
                _log.warning("the learner takes no more records; they are counted and not learned from")
            self.dropped += len(records.rewards)
        return taken

    def end_episode(
        self, number: int, *, valid: bool, timeout_s: float = EPISODE_TIMEOUT_S
    ) -> EpisodeLearned | LearnerFailed:
        """Tell that an episode has ended and wait for what it taught.

        Args:
            number: of the episode.
            valid: False: its records are forgotten.
            timeout_s: longest wait. An answer that comes later is dropped; what was learned stays.
        """
        self._episode.clear()
        if not self._ended:
            try:
                self._outbox.put(encode(EpisodeEnd(number=number, valid=valid)), timeout_s)
            except PipelineClosed:
                _log.info("episode %d ends without a learner", number)
        with self._changed:
            self._changed.wait_for(lambda: self._told_of(number) or self._ended, timeout_s)
            if self._told_of(number) and self._learned is not None:
                return self._learned.model_copy(update={"dropped": self.dropped})
            return self._failure or self._late(f"did not answer within {timeout_s:g} s at episode {number}")

    def weights(self) -> Path | None:
        """The newest complete version of weights, once; None if there is no newer one than the last time.

        ``DPG.take_policy(Checkpoint(path))`` takes them over, ``agents.weights.read_info`` says what
        they are.
        """
        with self._changed:
            made, self._weights = self._weights, None
        return made.path if made else None

    def on_weights(self, wake: Callable[[], None]) -> None:
        """Call this in a thread of its own, which must not wait, whenever ``weights`` has something new."""
        self._wake = wake

    def stop(self, timeout_s: float = STOP_TIMEOUT_S) -> AnyPath | None:
        """Let the process save its state and end; after the time-out it is ended, at last by force.

        Returns:
            The newest checkpoint.
        """
        if self._process is None:
            return None
        if not self._ended:
            self._stopping = True
            try:
                self._outbox.put(encode(Stop()), timeout_s=1.0)
            except PipelineClosed:
                _log.info("the learner ends already")
            for number in (signal.SIGTERM, signal.SIGKILL):
                with self._changed:
                    if self._changed.wait_for(lambda: self._ended, timeout_s):
                        break
                _log.warning("the learner has not ended after %g s: %s", timeout_s, number.name)
                self._process.send_signal(number)
            with self._changed:
                self._changed.wait_for(lambda: self._ended, timeout_s)
        self._end_threads()
        return self._checkpoint

    def _end_threads(self) -> None:
        if self._supervisor is not None:
            self._supervisor.stop("stopped")
            self._supervisor.join()

    def _told_of(self, number: int) -> bool:
        return self._learned is not None and self._learned.number == number

    def _late(self, what: str) -> LearnerFailed:
        cause = f"the learner {what}; see {self.log}"
        _log.warning("%s", cause)
        return LearnerFailed(cause=cause, checkpoint=self._checkpoint, alive=not self._ended)

    def _send(self, first: list[bytes]) -> None:
        try:
            for frame in first:
                self._socket.sendall(frame)
            while True:
                self._socket.sendall(self._outbox.get())
        except PipelineClosed:
            return
        except OSError as error:  # the receiving task learns how the process ended
            _log.info("nothing more can be sent to the learner: %s", error)

    def _receive(self) -> None:
        decoder = Decoder()
        trouble = ""
        try:
            while data := self._socket.recv(1 << 16):
                for frame in decoder.feed(data):
                    self._take(frame)
        except (OSError, OnlineError) as error:
            trouble = f" ({error})"
        finally:
            self._end(trouble)

    def _take(self, frame: Frame) -> None:
        message = frame.message
        with self._changed:
            match message:
                case LearnerReady():
                    self._ready, self._checkpoint = message, message.checkpoint
                case Waiting():
                    self._waiting = f" ({message.reason})"
                case Saved():
                    self._checkpoint = message.checkpoint
                case WeightsMade():
                    self._weights = message
                case EpisodeLearned():
                    self._learned = message
                case Failed():
                    self._failure = LearnerFailed(
                        cause=message.cause,
                        checkpoint=message.checkpoint or self._checkpoint,
                        alive=False,
                    )
                case Stopped():
                    self._checkpoint = message.checkpoint
                    _log.info("the learner has ended: %s", message.cause)
                case _:
                    reason = f"{message!r} is not for the Avatar"
                    raise OnlineError(reason)
            self._changed.notify_all()
        if isinstance(message, WeightsMade):
            self._wake()
        self._tell(message)

    def _end(self, trouble: str) -> None:
        """The socket is closed: the process has ended, or is of no more use."""
        process = self._process
        assert process is not None
        try:
            code = process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            code = process.wait()
        with self._changed:
            if self._failure is None and not (self._stopping and code == 0):
                self._failure = LearnerFailed(
                    cause=f"the learner process ended with {_how(code)}{trouble}{self._last_words()}",
                    checkpoint=self._checkpoint,
                    alive=False,
                )
            if self._failure is not None:
                _log.error("learner failed: %s", self._failure.cause)
            self._ended = True
            self._changed.notify_all()
        self._outbox.close()
        self._outbox.clear()
        self._socket.close()

    def _last_words(self) -> str:
        try:
            lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            return ""
        return "; its last lines:\n  " + "\n  ".join(lines[-LOG_LINES:]) if lines else ""


def _how(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"signal {signal.Signals(-code).name}"
    except ValueError:
        return f"signal {-code}"
