"""What stands between the learners on a cluster and the process that started them.

It lives on that process's node. Learners tell it how far they are, ask it what only that process can answer,
and hear from it whether they are to stop.
"""

import asyncio
from typing import Any, NamedTuple


class Message(NamedTuple):
    """What a learner says; ``number`` is not 0 where it waits for an answer."""

    kind: str
    content: Any
    number: int = 0


class Courier:
    """A Ray actor; all calls are short, none blocks another."""

    def __init__(self) -> None:
        self._messages: asyncio.Queue[Message] = asyncio.Queue()
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._asked = 0
        self._stopped = False
        self._over: tuple[str, str] | None = None

    async def tell(self, kind: str, content: Any) -> None:
        """Pass something on."""
        self._messages.put_nowait(Message(kind, content))

    async def ask(self, kind: str, content: Any) -> Any:
        """Pass a question on and wait for its answer; None where the learners are to stop."""
        if self._stopped:
            return None
        self._asked += 1
        number, future = self._asked, asyncio.get_running_loop().create_future()
        self._answers[number] = future
        self._messages.put_nowait(Message(kind, content, number))
        return await future

    async def answer(self, number: int, content: Any) -> None:
        """The answer to question ``number``."""
        future = self._answers.pop(number, None)
        if future is not None and not future.done():  # who asked may be dead
            future.set_result(content)

    async def messages(self, wait_s: float) -> list[Message]:
        """What was said since the last call; waits for the first of it."""
        found = []
        try:
            found.append(await asyncio.wait_for(self._messages.get(), wait_s))
        except TimeoutError:
            return []
        while not self._messages.empty():
            found.append(self._messages.get_nowait())
        return found

    async def stop(self) -> None:
        """Let the learners stop: at once those that wait for an answer, the others at their next question."""
        self._stopped = True
        for number in list(self._answers):
            await self.answer(number, None)

    async def stopped(self) -> bool:
        """Whether they are to."""
        return self._stopped

    async def fail(self, kind: str, text: str) -> None:
        """A learner cannot go on, and another try would end alike; the first cause stays."""
        self._over = self._over or (kind, text)

    async def over(self) -> tuple[str, str] | None:
        """The first cause, if there is one."""
        return self._over
