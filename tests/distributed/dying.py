"""An environment whose process dies once, in mid-episode."""

import os
from pathlib import Path
from typing import Any

import gymnasium


class DyingEnv(gymnasium.Wrapper):  # type: ignore[misc]
    """Pendulum that kills its process at its 28th step, unless the file ``mark`` is there."""

    def __init__(self, mark: str) -> None:
        super().__init__(gymnasium.make("Pendulum-v1", disable_env_checker=True))
        self._mark = Path(mark)
        self._steps = 0

    def step(self, action: Any) -> Any:
        self._steps += 1
        if self._steps == 28 and not self._mark.exists():
            self._mark.touch()
            os._exit(1)
        return self.env.step(action)


gymnasium.register(id="Dying-v0", entry_point="tests.distributed.dying:DyingEnv")
