"""Sessions that decide in tens of microseconds: one place, one thread, ONNX Runtime instead of torch.

The rule: an agent that has an export (``FAST``) drives by it, any other in torch; both are a ``Session`` and
decide alike within rounding (tests hold it to 1e-5).

Nothing of the runtime disturbs a control loop: it computes in the calling thread (no pool, no spinning), its
inputs and outputs are arrays of ours, and it asks for memory as a graph needs it instead of keeping an arena.
"""

from collections.abc import Callable
from copy import copy
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tspace_core.agents.ddpg import DDPG
from tspace_core.agents.dpg import DPG
from tspace_core.agents.idql import IDQL
from tspace_core.agents.onnx_diffusion import idql_graph
from tspace_core.agents.onnx_export import ddpg_graph
from tspace_core.agents.onnx_recurrent import rdpg_graph
from tspace_core.agents.rdpg import RDPG
from tspace_core.agents.session import Session

if TYPE_CHECKING:
    from onnxruntime import SessionOptions

WARM_UP = 3
"""Runs before the first real one: the first ones take longest."""


class OnnxStep:
    """A graph of fixed shapes, its inputs and outputs in arrays that are made once.

    Args:
        model: serialised, as ``onnx_export`` makes it.

    Attributes:
        inputs: float32 arrays by name, to be written before ``run``.
        outputs: the same, written by ``run``.
    """

    def __init__(self, model: bytes) -> None:
        from onnxruntime import InferenceSession

        self._session = InferenceSession(model, _options(), providers=["CPUExecutionProvider"])
        self._binding = self._session.io_binding()
        self.inputs: dict[str, NDArray[np.float32]] = {}
        self.outputs: dict[str, NDArray[np.float32]] = {}
        for item in self._session.get_inputs():
            array = self.inputs[item.name] = np.zeros(item.shape, np.float32)
            self._binding.bind_input(item.name, "cpu", 0, np.float32, array.shape, array.ctypes.data)
        for item in self._session.get_outputs():
            array = self.outputs[item.name] = np.zeros(item.shape, np.float32)
            self._binding.bind_output(item.name, "cpu", 0, np.float32, array.shape, array.ctypes.data)
        for _ in range(WARM_UP):
            self.run()

    def run(self) -> None:
        """Compute the outputs from the inputs."""
        self._session.run_with_iobinding(self._binding)


class FastSession(Session):
    """An agent without memory acting in one place, by its weights as they are when this is made."""

    def __init__(self, agent: DPG, model: bytes, *, explore: bool = False, seed: int = 0) -> None:
        super().__init__(agent, explore=explore, seed=seed)
        self._step = OnnxStep(model)
        self._state, self._added = self._step.inputs["state"], self._step.inputs["noise"]

    def act(
        self, states: NDArray[np.float32], rewards: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        """See ``Session``."""
        self._state[:] = self._checked(states)
        if self.explore:
            self._added[:] = self._noise.sample()
        self._step.run()
        return self._step.outputs["action"].copy()


def _fast_ddpg(agent: DPG, explore: bool, seed: int) -> Session:  # noqa: FBT001 - a row of a table
    assert isinstance(agent, DDPG)
    return FastSession(agent, ddpg_graph(agent), explore=explore, seed=seed)


def _fast_rdpg(agent: DPG, explore: bool, seed: int) -> Session:  # noqa: FBT001
    """The agent's own session on a copy of it whose step is the graph's."""
    assert isinstance(agent, RDPG)
    model = rdpg_graph(agent)
    fast = copy(agent)
    if model is not None:
        graph = OnnxStep(model)
        given, found = graph.inputs, graph.outputs

        def step(
            states: NDArray[np.float32],
            codes: NDArray[np.float32],
            rewards: NDArray[np.float32],
            memory: Tensor | None,
            *,
            target: bool = False,
        ) -> tuple[NDArray[np.float32], Tensor]:
            if target or memory is None:
                return agent.step(states, codes, rewards, memory, target=target)
            given["state"][:] = states
            given["code"][:] = codes
            given["reward"][0, 0] = rewards[0]
            given["memory"][:] = memory.numpy()
            graph.run()
            return found["decided"].copy(), torch.from_numpy(found["remembered"].copy())

        fast.step = step  # type: ignore[method-assign]
    return fast.session(1, explore=explore, seed=seed)


def _fast_idql(agent: DPG, explore: bool, seed: int) -> Session:  # noqa: FBT001
    """The agent's own session on a copy of it whose draw is the graph's."""
    assert isinstance(agent, IDQL)
    graph = OnnxStep(idql_graph(agent))
    given, found = graph.inputs, graph.outputs
    fast = copy(agent)

    def judged(states: NDArray[np.float32], noise: Tensor) -> tuple[Tensor, Tensor]:
        given["state"][:] = states
        given["noise"][:] = noise.numpy().reshape(given["noise"].shape)
        graph.run()
        drawn, values = (torch.from_numpy(found[name].copy()) for name in ("drawn", "values"))
        return drawn[None], values.view(1, -1)

    fast._judged = judged  # type: ignore[method-assign]
    return fast.session(1, explore=explore, seed=seed)


FAST: dict[str, Callable[[DPG, bool, int], Session]] = {
    DDPG.name: _fast_ddpg,
    RDPG.name: _fast_rdpg,
    IDQL.name: _fast_idql,
}
"""By the agent's name; a new export is one line here."""


def fast_session(agent: DPG, *, explore: bool = False, seed: int = 0) -> Session:
    """What drives one vehicle with an agent: by its export where there is one, else in torch.

    The weights are those that the agent has now: after they change, make another one and ``restore`` it.

    Raises:
        AgentError: a weight is not finite.
    """
    make = FAST.get(agent.name)
    return agent.session(1, explore=explore, seed=seed) if make is None else make(agent, explore, seed)


@cache
def _options() -> "SessionOptions":
    from onnxruntime import ExecutionMode, SessionOptions, disable_telemetry_events

    disable_telemetry_events()
    options = SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.execution_mode = ExecutionMode.ORT_SEQUENTIAL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.enable_cpu_mem_arena = False
    options.log_severity_level = 3
    return options
