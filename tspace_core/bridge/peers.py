"""What agents and operators may ask of the bridge, and how they are answered."""

import logging
import threading
import time
from collections.abc import Callable, Mapping

from tspace_core import __version__
from tspace_core.bridge.guard_task import GuardTask
from tspace_core.config.torque_map import FLASHED_ROWS, TorqueMap
from tspace_core.guard.state import FlashOutcome, Proposal, VehicleState
from tspace_core.link.channel_server import Peer
from tspace_core.link.float_buffer import to_hex
from tspace_core.link.messages import (
    Answer,
    Arm,
    Armed,
    Clear,
    Disarm,
    Failed,
    Heartbeat,
    Hello,
    Message,
    MessageError,
    Observe,
    Propose,
    Report,
    Revert,
    Status,
    Welcome,
    rows_from_hex,
)

_LOG = logging.getLogger(__name__)
_TEXT = 2000


class Peers:
    """The bridge's handler of its channel: one agent at a time, any number of operators.

    Called from the channel's thread; what takes time goes to the guard's task.

    Args:
        vehicle_id: whose bridge this is.
        task: runs the guard.
        reply: sends an answer to a peer, from any thread.
        make_way: frees the datagram address for an agent; False: it could not.
        on_agent_gone: told at once when the agent is gone and the reference map was called for.
        on_free: told when the reference map is back, so that the next agent may be welcome.
        on_flash: told of each answered proposal.
        facts: counters and present signals, for operators.
        on_observed: told of each observation of the agent; None: the bridge sees the vehicle itself.

    Attributes:
        agent: who may flash.
        heard_ns: when the agent's last heartbeat came, monotonic clock, ns.
        flashes: result -> how many.
    """

    def __init__(
        self,
        vehicle_id: str,
        task: GuardTask,
        reply: Callable[[Peer, Message], None],
        *,
        make_way: Callable[[], bool],
        on_agent_gone: Callable[[], None],
        on_free: Callable[[], None],
        on_flash: Callable[[FlashOutcome], None],
        facts: Callable[[], tuple[Mapping[str, int], Mapping[str, float | None]]],
        on_observed: Callable[[VehicleState], None] | None = None,
    ) -> None:
        self._vehicle_id, self._task, self._reply = vehicle_id, task, reply
        self._make_way, self._on_agent_gone, self._on_free = make_way, on_agent_gone, on_free
        self._on_flash, self._facts, self._on_observed = on_flash, facts, on_observed
        self._beat = threading.Event()  # a heartbeat waits for the guard
        self.heard_ns = 0
        self._proposing = threading.Event()
        self._leaving = False
        self.agent: Peer | None = None
        self.flashes: dict[str, int] = {}

    def opened(self, peer: Peer, hello: Hello) -> Welcome | Failed | None:
        """A peer says hello; None: it has to wait for ``on_agent_gone``."""
        guard = self._task.guard
        if hello.vehicle_id != self._vehicle_id:
            return Failed(reason=f"this is the bridge of {self._vehicle_id}, not of {hello.vehicle_id}")
        if self._task.ended.is_set():
            return Failed(reason="the bridge is ending")
        if peer.role == "agent":
            if self._leaving:
                return None  # the reference map of the run before is coming back
            if self.agent is not None:
                reason = f"{self.agent} flashes already, and only one agent may; end that run first"
                return Failed(reason=reason)
            if not self._make_way():
                self._on_agent_gone()
                return Failed(reason="the bridge could not free the datagram address in time; try again")
            self.agent = peer
        _LOG.info("channel: %s, version %s, is welcome", peer, hello.version)
        return Welcome(
            vehicle_id=self._vehicle_id,
            version=__version__,
            state=guard.state,
            cause=guard.cause[:_TEXT],
            reference_sha256=guard.reference.sha256(),
        )

    def closed(self, peer: Peer, cause: str) -> None:
        """A peer is gone; without its agent the vehicle drives by its reference map."""
        if peer == self.agent:
            # The next agent is not welcome before this one's end is done: it would meet that one, too.
            self.agent, self._leaving = None, True
            self._proposing.clear()
            self._task.revert(f"agent {peer.run_id} is gone: {cause}", self._left)
            self._on_agent_gone()

    def _left(self) -> None:
        self._leaving = False
        self._on_free()

    def received(self, peer: Peer, message: Message) -> Message | None:
        """One message of a welcome peer."""
        if isinstance(message, Revert):
            self._task.revert(f"revert by {message.by}", lambda: self._reply(peer, self.report()))
            return None
        if isinstance(message, Status):
            return self.report()
        if peer.role == "operator":
            return self._from_operator(peer, message)
        return self._from_agent(peer, message)

    def report(self) -> Report:
        """State, agent and counters of this moment."""
        counters, signals = self._facts()
        return Report(
            vehicle_id=self._vehicle_id,
            version=__version__,
            state=self._task.guard.state,
            cause=self._task.guard.cause[:_TEXT],
            agent=None if self.agent is None else str(self.agent),
            flashes=dict(self.flashes),
            counters=dict(counters),
            signals=dict(signals),
        )

    def _from_operator(self, peer: Peer, message: Message) -> Message | None:
        if isinstance(message, Clear):
            by = message.by

            def clear() -> None:
                self._task.guard.clear(by)
                self._reply(peer, self.report())

            return None if self._task.submit(clear) else Failed(reason="the guard is busy; try again")
        return Failed(reason=f"an operator sends revert, clear or status, not {message.kind}")

    def _from_agent(self, peer: Peer, message: Message) -> Message | None:
        match message:
            case Heartbeat():
                # As old as it is: it may wait behind a flash, during which its sender may have fallen silent.
                self._queue_heartbeat(peer)
                return None
            case Observe() if self._on_observed is not None:
                at_ns = time.monotonic_ns() - round(message.age_ms * 1e6)
                state = _state_of(message, at_ns)
                self._on_observed(state)
                self._task.submit(lambda: self._if_here(peer, lambda: self._task.guard.observe(state)))
                return None
            case Arm():
                taken = self._task.submit(lambda: self._if_here(peer, lambda: self._arm(peer, message)))
                return None if taken else Failed(reason="the guard is busy; arm again")
            case Propose():
                return self._queue_proposal(peer, message)
            case Disarm():
                cause = f"agent {peer.run_id}: {message.cause}"
                self._task.submit(lambda: self._if_here(peer, lambda: self._task.guard.trip(cause)))
                return None
            case _:
                return Failed(
                    reason=f"an agent sends heartbeat, arm, propose, disarm or revert, not {message.kind}"
                )

    def _queue_heartbeat(self, peer: Peer) -> None:
        """One waits at most, and counts from when the newest was heard: some flashes take half a minute."""
        self.heard_ns = time.monotonic_ns()
        if self._beat.is_set():
            return
        self._beat.set()

        def beat() -> None:
            self._beat.clear()
            heard_ns = self.heard_ns
            self._if_here(peer, lambda: self._task.guard.heartbeat(heard_ns))

        if not self._task.submit(beat):
            self._beat.clear()

    def _if_here(self, peer: Peer, command: Callable[[], None]) -> None:
        """What an agent that is gone had asked for is not done any more."""
        if self.agent == peer:
            command()

    def _arm(self, peer: Peer, message: Arm) -> None:
        guard = self._task.guard
        reference = guard.reference
        resume = None
        if message.resume is not None:
            try:
                table = rows_from_hex(message.resume, len(reference.pedal_axis))
                resume = TorqueMap(reference.pedal_axis, reference.speed_axis_kmh, table)
            except Exception as error:  # a map that is none: the guard arms without it or not at all
                reason = f"the map to resume from cannot be used: {error}"
                live = to_hex(guard.live.table)
                self._reply(peer, Armed(ok=False, reason=reason[:_TEXT], live=live))
                return
        result = guard.arm(by=message.by, token=message.token, resume=resume)
        self._reply(
            peer,
            Armed(
                ok=result.ok,
                reason=result.reason[:_TEXT],
                resumed=result.resumed,
                live=to_hex(result.live.table),
            ),
        )

    def _queue_proposal(self, peer: Peer, message: Propose) -> Message | None:
        """Only one waits or runs: an agent that does not wait for its answer is told so at once."""
        decided_ns = time.monotonic_ns() - round(message.age_ms * 1e6)
        if self._proposing.is_set():
            return self._refused(message, "another proposal is not answered yet; one at a time")
        try:
            rows = rows_from_hex(message.rows, len(self._task.guard.reference.pedal_axis))
        except MessageError as error:
            return self._refused(message, str(error))
        self._proposing.set()
        proposal = Proposal(message.id, message.first_row, rows, decided_ns)

        def propose() -> None:
            try:
                outcome = self._task.guard.propose(proposal)
            finally:
                self._proposing.clear()
            self._count(outcome)
            self._reply(peer, _answer(message.id, outcome))

        if self._task.submit(lambda: self._if_here(peer, propose)):
            return None
        self._proposing.clear()
        return self._refused(message, "the guard is busy")

    def _count(self, outcome: FlashOutcome) -> None:
        self.flashes[outcome.result] = self.flashes.get(outcome.result, 0) + 1
        self._on_flash(outcome)

    def _refused(self, message: Propose, reason: str) -> Answer:
        self.flashes["REFUSED"] = self.flashes.get("REFUSED", 0) + 1
        live = self._task.guard.live.table
        first = min(message.first_row, len(live) - FLASHED_ROWS)
        return Answer(
            id=message.id,
            result="REFUSED",
            code=0,
            reason=reason[:_TEXT],
            first_row=first,
            rows=to_hex(live[first : first + FLASHED_ROWS]),
        )


def _state_of(message: Observe, at_ns: int) -> VehicleState:
    return VehicleState(
        message.velocity_kmh,
        message.thrust_percent,
        message.brake_percent,
        at_ns,
        valid=message.valid,
        reason=message.reason,
    )


def _answer(number: int, outcome: FlashOutcome) -> Answer:
    effect_ns = None
    if outcome.effect_ns is not None:  # the guard's clock is monotonic; peers know UTC
        effect_ns = time.time_ns() - (time.monotonic_ns() - outcome.effect_ns)
    return Answer(
        id=number,
        result=outcome.result,
        code=outcome.code,
        reason=outcome.reason[:_TEXT],
        first_row=outcome.first_row,
        rows=to_hex(outcome.rows),
        effect_ns=effect_ns,
        duration_s=outcome.duration_s,
        clipped=outcome.clipped,
    )
