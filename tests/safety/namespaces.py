"""Hosts of a test: each a network namespace, joined by one switch that can be unplugged."""

import contextlib
import os
import subprocess
from collections.abc import Iterator


class Network:
    """Hosts on one switch, at 10.77.0.1, 10.77.0.2, ... in the order of their names."""

    def __init__(self, *hosts: str) -> None:
        mark = f"{os.getpid() % 10_000:04d}"
        self._switch = f"ts{mark}sw"
        self._space = {host: f"ts{mark}{host}" for host in hosts}
        self.address = {host: f"10.77.0.{number}" for number, host in enumerate(hosts, 1)}

    def open(self) -> None:
        """Make namespaces, switch and cables."""
        self._ip("netns", "add", self._switch)
        self._ip("-n", self._switch, "link", "add", "sw", "type", "bridge")
        self._ip("-n", self._switch, "link", "set", "sw", "up")
        for host, space in self._space.items():
            self._ip("netns", "add", space)
            self._ip(
                "link", "add", "eth0", "netns", space, "type", "veth", "peer", host, "netns", self._switch
            )
            self._ip("-n", self._switch, "link", "set", host, "master", "sw", "up")
            self._ip("-n", space, "address", "add", f"{self.address[host]}/24", "dev", "eth0")
            self._ip("-n", space, "link", "set", "eth0", "up")
            self._ip("-n", space, "link", "set", "lo", "up")

    def close(self) -> None:
        """Remove what was made."""
        for space in (*self._space.values(), self._switch):
            with contextlib.suppress(subprocess.CalledProcessError):
                self._ip("netns", "delete", space)

    def on(self, host: str, *command: str) -> list[str]:
        """The command as it runs on that host."""
        return ["ip", "netns", "exec", self._space[host], *command]

    def unplug(self, host: str) -> None:
        """Pull the host's cable out of the switch: its packets are lost, nobody is told."""
        self._ip("-n", self._switch, "link", "set", host, "nomaster")

    def plug(self, host: str) -> None:
        """Put the cable back."""
        self._ip("-n", self._switch, "link", "set", host, "master", "sw")

    def _ip(self, *arguments: str) -> None:
        subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


def why_not() -> str | None:
    """Why this machine allows no namespaces; None: it does."""
    network = Network("probe")
    try:
        network.open()
    except FileNotFoundError:
        return "the command ip (iproute2) is missing"
    except subprocess.CalledProcessError as error:
        return str(error.stderr).strip() or str(error)
    finally:
        with contextlib.suppress(FileNotFoundError):
            network.close()
    return None


@contextlib.contextmanager
def network(*hosts: str) -> Iterator[Network]:
    """A network that is gone at the end."""
    found = Network(*hosts)
    try:
        found.open()
        yield found
    finally:
        found.close()
