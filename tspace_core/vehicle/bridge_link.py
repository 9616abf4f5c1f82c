"""The agent's end of the bridge's channel: arm, propose, disarm, beat; each answer to what asked for it."""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tspace_core.errors import ChannelError
from tspace_core.link.float_buffer import to_hex
from tspace_core.link.messages import (
    Answer,
    Arm,
    Armed,
    Disarm,
    Failed,
    GuardState,
    Heartbeat,
    Message,
    MessageError,
    Observe,
    Propose,
    Welcome,
    rows_from_hex,
)
from tspace_core.link.messages import (
    State as StateMessage,
)
from tspace_core.vehicle.control import ArmReport
from tspace_core.vehicle.interface import TIMEOUT_CODE, FlashOutcomeView, RowsProposal

_log = logging.getLogger(__name__)

FLASH_TIMEOUT_S = 3.0
"""Time limit of a flash of changed cells, from the wire contract."""
ARM_TIMEOUT_S = 6.0
"""Arming may write a whole map: its time limit of 5 s, and one for the way."""
NETWORK_CODE = 3
_RECEIVE_S = 60.0


class Client(Protocol):
    """What is needed of ``link.channel.ChannelClient``."""

    welcome: Welcome

    def send(self, message: Message, timeout_s: float = 1.0) -> None:
        """Send one message or raise ``ChannelError``."""

    def receive(self, timeout_s: float) -> Message | None:
        """The next message, None on time-out; ``ChannelError`` when the channel is gone."""

    def close(self) -> None:
        """Close the connection."""


@dataclass(frozen=True)
class StateChange:
    """A change of the guard's state, and the episode that was armed last when it was heard."""

    state: GuardState
    cause: str
    episode: int


class BridgeLink:
    """One run's conversation with the bridge. ``run`` is one task's; the rest is any thread's.

    Args:
        client: the open channel.
        columns: pedal columns of the map.
        on_state: called from ``run`` for each change of the guard's state.
        flash_timeout_s: longest wait for the answer to a proposal.
        arm_timeout_s: longest wait for the answer to arming.

    Attributes:
        state: the guard's state as heard last.
        cause: why it is so.
    """

    def __init__(
        self,
        client: Client,
        columns: int,
        on_state: Callable[[StateChange], None],
        *,
        flash_timeout_s: float,
        arm_timeout_s: float,
    ) -> None:
        self._client, self._columns, self._on_state = client, columns, on_state
        self._flash_timeout_s, self._arm_timeout_s = flash_timeout_s, arm_timeout_s
        self._changed = threading.Condition(threading.Lock())
        self._answers: dict[int, Answer | Failed | None] = {}
        self._arming: int | None = None
        self._given_up: str | None = None
        self._called_off: str | None = None
        self._unanswered = 0  # questions for flashes whose answer was not waited for
        self._armed: Armed | Failed | None = None
        self._armed_episode = 0
        self._ids = 0
        self._beats = 0
        self._gone: str | None = None
        self.state: GuardState = client.welcome.state
        self.cause = client.welcome.cause

    def run(self) -> None:
        """Task: take what the bridge sends until the channel is closed.

        Raises:
            ChannelError: the bridge is gone, and nobody closed the channel from here.
        """
        while True:
            try:
                message = self._client.receive(_RECEIVE_S)
            except MessageError as error:
                _log.warning("the bridge sent something else than agreed: %s", error)
                continue
            except ChannelError as error:
                closed = self._gone is not None
                self.abort(str(error))
                if closed:
                    return
                raise
            if message is not None:
                self._take(message)

    def arm(self, episode: int, by: str, token: str | None, resume: NDArray[np.float32] | None) -> ArmReport:
        """Ask for flashes and wait for the answer.

        Raises:
            ChannelError: the bridge is gone.
        """
        if self._given_up is not None:
            return ArmReport(ok=False, reason=self._given_up, wanted=False)
        self._expect_armed(episode)
        self._client.send(Arm(by=by, token=token, resume=None if resume is None else to_hex(resume)))
        with self._changed:
            self._changed.wait_for(
                lambda: self._armed or self._given_up or self._called_off or self._gone, self._arm_timeout_s
            )
            answer, self._arming = self._armed, None
            if answer is None:
                self._unanswered += 1
        if answer is None:
            person = self._given_up or self._called_off
            reason = self._gone or person or f"the bridge did not answer within {self._arm_timeout_s:g} s"
            return ArmReport(ok=False, reason=reason, wanted=self._gone is not None or person is None)
        if isinstance(answer, Failed):
            return ArmReport(ok=False, reason=answer.reason)
        try:
            live = rows_from_hex(answer.live, self._columns)
        except MessageError as error:
            reason = answer.reason if not answer.ok else f"the bridge told no map: {error}"
            return ArmReport(ok=False, reason=reason)
        return ArmReport(answer.ok, answer.reason, live, answer.resumed)

    def propose(self, proposal: RowsProposal) -> FlashOutcomeView:
        """Ask for a flash and wait for what became of it; asked once, never again. Never raises."""
        began = time.monotonic()
        with self._changed:
            self._ids += 1
            number = self._ids
            self._answers[number] = None
        age_ms = max(time.monotonic_ns() - proposal.decided_ns, 0) / 1e6
        message = Propose(id=number, first_row=proposal.first_row, rows=to_hex(proposal.rows), age_ms=age_ms)
        try:
            self._client.send(message)
        except ChannelError as error:
            with self._changed:
                del self._answers[number]
            return FlashOutcomeView.without_answer(proposal, "UNKNOWN", NETWORK_CODE, str(error))
        with self._changed:
            self._changed.wait_for(
                lambda: self._answers[number] is not None or self._gone is not None, self._flash_timeout_s
            )
            answer = self._answers.pop(number)
        took = time.monotonic() - began
        if answer is not None:
            return self._outcome(proposal, answer, took)
        if self._gone is not None:
            return FlashOutcomeView.without_answer(proposal, "UNKNOWN", NETWORK_CODE, self._gone, took)
        reason = f"the bridge did not answer within {self._flash_timeout_s:g} s"
        return FlashOutcomeView.without_answer(proposal, "UNKNOWN", TIMEOUT_CODE, reason, took)

    def disarm(self, cause: str) -> None:
        """Ask for the reference map; a bridge that is gone brings it back by itself. Never raises."""
        try:
            self._client.send(Disarm(cause=cause[:2000]))
        except ChannelError as error:
            _log.warning("disarm (%s) did not reach the bridge: %s", cause, error)

    def observe(self, seen: Observe) -> None:
        """Tell the bridge what was seen of the vehicle last. Never raises."""
        try:
            self._client.send(seen)
        except ChannelError as error:
            _log.warning("what was observed did not reach the bridge: %s", error)

    def arm_no_more(self, cause: str) -> None:
        """End the wait of ``arm``, now and from now on; what the bridge may still answer is nobody's."""
        with self._changed:
            self._given_up = self._given_up or cause
            self._changed.notify_all()

    def stop_arming(self, cause: str) -> None:
        """End the wait of the ``arm`` that waits now, if one does."""
        with self._changed:
            if self._arming is not None:
                self._called_off = cause
                self._changed.notify_all()

    def beat(self) -> None:
        """Tell the bridge that the agent is alive.

        Raises:
            ChannelError: the bridge is gone.
        """
        self._client.send(Heartbeat(n=self._beats))
        self._beats += 1

    def abort(self, cause: str) -> None:
        """End all waiting for answers."""
        with self._changed:
            self._gone = self._gone or cause
            self._changed.notify_all()

    def close(self) -> None:
        """Close the channel; ``run`` ends."""
        self.abort("the channel is closed")
        self._client.close()

    def _expect_armed(self, episode: int) -> None:
        with self._changed:
            self._arming, self._armed, self._called_off = episode, None, None

    def _take(self, message: Message) -> None:
        if isinstance(message, StateMessage):
            self.state, self.cause = message.state, message.cause
            self._on_state(StateChange(message.state, message.cause, self._armed_episode))
            return
        with self._changed:
            if isinstance(message, Armed) and self._unanswered:
                # Answers come in order: this is that to an earlier question, which nobody waits for any more.
                self._unanswered -= 1
            elif isinstance(message, Armed | Failed) and self._arming is not None and self._armed is None:
                self._armed = message
                if isinstance(message, Armed) and message.ok:
                    # From here on, and not before, what the bridge says of its state is about this episode.
                    self._armed_episode = self._arming
                    self.state = "ARMED"
            elif isinstance(message, Answer) and message.id in self._answers:
                self._answers[message.id] = message
            elif isinstance(message, Failed) and self._answers:
                # It names no proposal, and one is under way at a time.
                self._answers = dict.fromkeys(self._answers, message)
            elif isinstance(message, Failed) and self._unanswered:
                self._unanswered -= 1
            else:
                _log.warning("the bridge sent %r, which nobody waits for", message.kind)
            self._changed.notify_all()

    def _outcome(self, proposal: RowsProposal, answer: Answer | Failed, took: float) -> FlashOutcomeView:
        if isinstance(answer, Failed):
            return FlashOutcomeView.without_answer(proposal, "REFUSED", 0, answer.reason, took)
        try:
            rows = rows_from_hex(answer.rows, self._columns)
        except MessageError as error:
            reason = f"the bridge's answer is wrong: {error}"
            return FlashOutcomeView.without_answer(proposal, "UNKNOWN", NETWORK_CODE, reason, took)
        if rows.shape != proposal.rows.shape or answer.first_row != proposal.first_row:
            reason = (
                f"the bridge answered about {rows.shape} rows from {answer.first_row}, asked were "
                f"{proposal.rows.shape} from {proposal.first_row}"
            )
            return FlashOutcomeView.without_answer(proposal, "UNKNOWN", NETWORK_CODE, reason, took)
        return FlashOutcomeView(
            result=answer.result,
            code=answer.code,
            reason=answer.reason,
            first_row=answer.first_row,
            rows=rows,
            effect_ns=answer.effect_ns,
            duration_s=took,
            clipped=dict(answer.clipped),
        )
