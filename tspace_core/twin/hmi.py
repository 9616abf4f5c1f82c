"""A training HMI: asks for the begin and end of episodes by datagram, from a script or a keyboard."""

import os
import selectors
import socket
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

from tspace_core.link.datagrams import Status, encode_status
from tspace_core.twin.live_events import Tell

KEYS: dict[str, Status] = {"b": "begin", "v": "end_valid", "i": "end_invalid", "x": "exit"}


@dataclass(frozen=True)
class HmiScript:
    """What a scripted HMI does.

    Attributes:
        episodes: so many; 0: none.
        episode_s: from ``begin`` to its end, s; where ``flashes`` is given, from the last of them on.
        pause_s: from an episode's end to the next ``begin``, s; longer than the countdown.
        delay_s: before the first ``begin``, s.
        flashes: so many page switches to a working page are awaited in each episode, since a run may take
            its time to come up.
        longest_wait_s: give up waiting for them after this long, s.
        end: how episodes end.
        exit_after: ask for the run's exit after the last pause.
    """

    episodes: int = 2
    episode_s: float = 30.0
    pause_s: float = 6.0
    delay_s: float = 0.0
    flashes: int = 0
    longest_wait_s: float = 120.0
    end: Literal["end_valid", "end_invalid"] = "end_valid"
    exit_after: bool = True


class Panel(Protocol):
    """Whatever way an HMI's requests travel."""

    def send(self, status: Status) -> None:
        """Ask for something."""


class ScriptedHmi(ABC):
    """An HMI that goes through a script and sees what is flashed.

    Args:
        tell: gets an event ``hmi`` for each request.
    """

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._flashes = 0
        self._changed = threading.Condition()

    @abstractmethod
    def send(self, status: Status) -> None:
        """Ask for something."""

    def flashed(self) -> None:
        """Count a flash of a learned map; from any thread."""
        with self._changed:
            self._flashes += 1
            self._changed.notify_all()

    def wake(self) -> None:
        """Let a script that waits see that it is to stop."""
        with self._changed:
            self._changed.notify_all()

    def run_script(self, script: HmiScript, stopping: threading.Event) -> None:
        """Go through a script, or to where ``stopping`` is set (and ``wake`` called)."""
        if not stopping.wait(script.delay_s):
            self._episodes(script, stopping)

    def _episodes(self, script: HmiScript, stopping: threading.Event) -> None:
        for _ in range(script.episodes):
            with self._changed:
                wanted = self._flashes + script.flashes
            self.send("begin")
            with self._changed:
                self._changed.wait_for(
                    lambda wanted=wanted: stopping.is_set() or self._flashes >= wanted,  # type: ignore[misc]
                    script.longest_wait_s,
                )
            if stopping.wait(script.episode_s):
                return
            self.send(script.end)
            if stopping.wait(script.pause_s):
                return
        if script.exit_after:
            self.send("exit")
        self._tell("hmi_done", episodes=script.episodes)


class Hmi(ScriptedHmi):
    """Sends an HMI's datagrams.

    Args:
        host: where they go, see ``tspace_core.link.endpoints``.
        port: the UDP port there.
        tell: gets an event ``hmi`` for each.
    """

    def __init__(self, host: str, port: int, tell: Tell) -> None:
        super().__init__(tell)
        self._address = (host, port)
        family = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0][0]
        self._socket = socket.socket(family, socket.SOCK_DGRAM)

    def send(self, status: Status) -> None:
        """Ask for something; where nobody listens it is lost, as on any network."""
        try:
            self._socket.sendto(encode_status(status), self._address)
        except OSError as error:
            self._tell("hmi_failed", status=status, reason=str(error))
        else:
            self._tell("hmi", status=status)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


class Keyboard:
    """Reads keys of a person, a line each: b begin, v end_valid, i end_invalid, x exit.

    Args:
        descriptor: of the terminal or pipe.
        show: gets a line for the person.
    """

    def __init__(self, descriptor: int, show: Callable[[str], None]) -> None:
        self._descriptor = descriptor
        self._show = show
        self._wake_reader, self._wake_writer = os.pipe()

    def run(self, hmi: Panel) -> None:
        """Send what the keys ask for until the input ends or ``stop`` is called."""
        self._show("b + Enter: begin, v: end_valid, i: end_invalid, x: exit")
        with selectors.DefaultSelector() as selector:
            selector.register(self._wake_reader, selectors.EVENT_READ)
            try:
                selector.register(self._descriptor, selectors.EVENT_READ)
            except PermissionError:
                self._show("keys cannot be read from a file; give a terminal or a pipe")
                return
            pending = b""
            while True:
                ready = {key.fd for key, _ in selector.select()}
                if self._wake_reader in ready:
                    return
                read = os.read(self._descriptor, 1024)
                if not read:
                    return
                *lines, pending = (pending + read).split(b"\n")
                for line in lines:
                    self._line(hmi, line.decode("utf-8", "replace").strip().lower())

    def stop(self) -> None:
        """End ``run``, from another thread."""
        os.write(self._wake_writer, b"x")

    def close(self) -> None:
        """Release the pipe, once ``run`` has ended."""
        os.close(self._wake_reader)
        os.close(self._wake_writer)

    def _line(self, hmi: Panel, key: str) -> None:
        if key in KEYS:
            hmi.send(KEYS[key])
        elif key:
            self._show(f"{key[:20]!r} is no key; b begin, v end_valid, i end_invalid, x exit")
