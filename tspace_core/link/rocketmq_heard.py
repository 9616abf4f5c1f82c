"""What has been heard of a vehicle's HMI, handed from the process that listened to the one that listens next.

Bridge and run take turns in one consumer group. What was never heard by the one waits for the other, and
must not be taken for history; what was acted on must not be acted on again, even where it is delivered twice.
"""

import logging
import os
import time
from collections import OrderedDict
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

_LOG = logging.getLogger(__name__)

FILE = "hmi_queue.json"
HANDOVER_S = 60.0
"""Whoever begins to listen later than this after the other ended takes what waited for history."""
KEPT = 256
"""Ids of messages that were acted on, the newest."""


class _Kept(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")

    topic: str
    since_s: float = Field(description="messages stored earlier were history, s UTC")
    until_s: float = Field(description="end of the listening, s UTC")
    acted: tuple[str, ...] = Field(description="ids of messages that were acted on, the oldest first")


class Heard:
    """What was heard in one topic.

    Args:
        topic: its name.
        since_s: messages stored earlier are history, s UTC.
        acted: ids of messages that were acted on.
    """

    def __init__(self, topic: str, since_s: float, acted: tuple[str, ...] = ()) -> None:
        self.topic = topic
        self._before_s, self._made_s = max(time.time() - since_s, 0.0), time.monotonic()
        self._acted: OrderedDict[str, None] = OrderedDict.fromkeys(acted)

    @property
    def since_s(self) -> float:
        """Messages stored earlier are history, s UTC by the clock as it is now.

        A clock that is set back while somebody listens makes history of nothing.
        """
        return time.time() - self._before_s - (time.monotonic() - self._made_s)

    @classmethod
    def taken_over(cls, folder: Path, topic: str) -> Self:
        """Go on where another process has just ended, else begin now.

        Args:
            folder: of the vehicle's online state.
            topic: the vehicle's.
        """
        now = time.time()
        path = folder / FILE
        try:
            kept = _Kept.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return cls(topic, now)
        except (OSError, ValidationError) as error:
            _LOG.warning(
                "%s: not what was heard before (%s); what waits in the queue is dropped", path, error
            )
            return cls(topic, now)
        if kept.topic != topic or not 0 <= now - kept.until_s <= HANDOVER_S:
            return cls(topic, now, kept.acted if kept.topic == topic else ())
        return cls(topic, kept.since_s, kept.acted)

    def hand_over(self, folder: Path) -> None:
        """Keep it for who listens next; should that fail, they take what waited for history."""
        kept = _Kept(topic=self.topic, since_s=self.since_s, until_s=time.time(), acted=tuple(self._acted))
        path = folder / FILE
        temporary = path.with_name(f".{FILE}.{os.getpid()}.tmp")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            temporary.write_text(kept.model_dump_json())
            temporary.replace(path)
        except OSError as error:
            _LOG.warning("%s: could not be written (%s)", path, error)

    def is_new(self, message_id: str) -> bool:
        """Remember a message; False: it has been acted on already."""
        if message_id in self._acted:
            return False
        self._acted[message_id] = None
        while len(self._acted) > KEPT:
            self._acted.popitem(last=False)
        return True
