"""One guard on the wire, called directly: arm, flash, and whatever goes wrong between two frames."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from tests.safety.cab import BridgeProcess, clocked
from tests.safety.killing import QUICK, vehicle_of
from tests.safety.wire import Wire
from tspace_core.config import TorqueMap
from tspace_core.guard.state import FlashOutcome, Proposal, VehicleState

TURN_NS = 50_000_000


class Bench:
    """A bridge's way to the VCU, and an agent that lives.

    ``driving``: what the driver does.
    """

    def __init__(self, wire: Wire, folder: Path) -> None:
        self.wire = wire
        self.bridge = BridgeProcess(wire, folder)
        self.guard = self.bridge.guard
        self.driving = (45.0, 30.0, 0.0)
        self._number = 0
        self._sampled_ns = wire.ns

    @property
    def state(self) -> str:
        return self.guard.state

    @property
    def in_effect(self) -> TorqueMap:
        """The map that the VCU drives by."""
        return self.wire.vcu.active

    def drive(self, seconds: float) -> None:
        """Samples, heartbeats and looks at the clock, 20 a second."""
        for _ in range(round(seconds * 20)):
            self.wire.run_until(self.wire.ns + TURN_NS)
            while (
                self._sampled_ns + TURN_NS <= self.wire.ns
            ):  # also those that waited while the guard was busy
                self._sampled_ns += TURN_NS
                self.guard.observe(VehicleState(*self.driving, self._sampled_ns))
            self.guard.heartbeat()
            self.guard.tick()

    def arm(self) -> None:
        self.drive(0.1)
        answer = self.guard.arm(by="test", token=None, resume=None)
        assert answer.ok, answer.reason

    def flash(self, first_row: int = 5) -> FlashOutcome:
        """Four rows, each time others, and never those of the reference map."""
        self._number += 1
        below = np.float32(6 + 3 * (self._number % 3))
        rows = self.guard.reference.table[first_row : first_row + 4] - below
        return self.guard.propose(Proposal(self._number, first_row, rows, self.wire.ns))


@contextmanager
def learned(vehicle: str, *, fd: bool, block_mode: bool) -> Iterator[Bench]:
    """Armed, with a map in effect that was learned."""
    wire = Wire(vehicle_of(vehicle), fd=fd, block_mode=block_mode)
    with TemporaryDirectory(dir=QUICK) as folder, clocked(wire):
        bench = Bench(wire, Path(folder))
        with closing(bench.bridge.audit):
            bench.arm()
            outcome = bench.flash()
            assert outcome.result == "APPLIED", outcome.reason
            bench.drive(1.1)
            yield bench
