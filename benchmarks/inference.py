"""How long an agent takes to decide for one vehicle, against bare runtimes with the same network.

::

    python benchmarks/inference.py [--json] [--rounds 25] [--calls 400]

State 90, action 68, the networks of the field, float32, batch 1, one thread, in turns. ``tspace`` is the door
that the control loop goes through, ``DriverAgent.act``: checks, normalisation, exploration's place, network,
limits and the check of the answer. ``torch`` is the agent's own session without export. ``numpy`` and
``onnxruntime`` are the actor alone, without any check, on preallocated memory.

Each round gives a median and a 99th percentile over its calls; of both the best round's is printed: in the
others somebody else had the processor. A recurrent agent is told a reward each step, and IDQL draws and
judges 64 actions.
"""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from interleaved import Result, arguments, show

from tspace_core.agents import DDPG, DPG, IDQL, RDPG
from tspace_core.agents.fast_actor import OnnxStep
from tspace_core.agents.normaliser import CLIP
from tspace_core.agents.onnx_export import ddpg_graph
from tspace_core.config import DDPGHyperparameters, IDQLHyperparameters, RDPGHyperparameters
from tspace_core.online.driver_agent import DriverAgent

STATE_DIM, ACTION_DIM = 90, 68
SLOW = 20
"""IDQL takes a thousand times as long as DDPG: it is called this much less often."""

Call = Callable[[np.ndarray], object]


def fitted(agent: DPG) -> DPG:
    agent.fit_normaliser(np.full(STATE_DIM, 40.0), np.full(STATE_DIM, 25.0))
    return agent


def numpy_actor(agent: DDPG) -> Call:
    layers: list[Any] = [*agent.actor.hidden, agent.actor.output]
    weights = [np.ascontiguousarray(layer.weight.detach().numpy().T) for layer in layers]
    biases = [layer.bias.detach().numpy() for layer in layers]
    mean, scale = agent.normaliser.mean.numpy(), agent.normaliser.scale.numpy()

    def act(state: np.ndarray) -> object:
        x = np.clip((state - mean) * scale, -CLIP, CLIP)
        for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
            x = np.maximum(x @ weight + bias, 0.0)
        return np.tanh(x @ weights[-1] + biases[-1])

    return act


def bare_graph(agent: DDPG) -> Call:
    step = OnnxStep(ddpg_graph(agent))
    given = step.inputs["state"]

    def act(state: np.ndarray) -> object:
        given[0] = state
        step.run()
        return step.outputs["action"]

    return act


def door(agent: DPG) -> Call:
    driver = DriverAgent(agent, explore=False)
    driver.begin_episode()
    return lambda state: driver.act(state, -20.0)


def in_torch(agent: DPG) -> Call:
    session, reward = agent.session(), np.full(1, -20.0, np.float32)
    session.begin()
    return lambda state: session.act(state[None], reward)


def subjects() -> dict[str, tuple[dict[str, Call], int]]:
    """By agent: what decides, and how much less often it is asked."""
    sizes = STATE_DIM, ACTION_DIM
    ddpg = DDPG(DDPGHyperparameters(), *sizes)
    fitted(ddpg)
    lstm = fitted(RDPG(RDPGHyperparameters(), *sizes))
    transformer = fitted(RDPG(RDPGHyperparameters(sequence_model="transformer"), *sizes))
    idql = fitted(IDQL(IDQLHyperparameters(), *sizes))
    bare = {"onnxruntime": bare_graph(ddpg), "numpy": numpy_actor(ddpg)}
    return {
        "DDPG": ({"tspace": door(ddpg), **bare, "torch": in_torch(ddpg)}, 1),
        "RDPG (LSTM)": ({"tspace": door(lstm), "torch": in_torch(lstm)}, SLOW // 2),
        "RDPG (Transformer)": ({"tspace": door(transformer), "torch": in_torch(transformer)}, SLOW // 2),
        "IDQL (N = 64)": ({"tspace": door(idql), "torch": in_torch(idql)}, SLOW * 2),
    }


def timed(call: Call, states: np.ndarray) -> tuple[float, float]:
    """Median and 99th percentile, us."""
    found = np.empty(len(states))
    for number, state in enumerate(states):
        began = time.perf_counter_ns()
        call(state)
        found[number] = time.perf_counter_ns() - began
    return float(np.median(found)) / 1e3, float(np.percentile(found, 99)) / 1e3


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--calls", type=int, default=400, help="of DDPG in a round; the others have fewer")
    options = parser.parse_args()
    torch.set_num_threads(1)
    states = np.random.default_rng(0).uniform(0, 100, (options.calls, STATE_DIM)).astype(np.float32)
    results = []
    for agent, (calls, seldom) in subjects().items():
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
        some = states[: max(10, len(states) // seldom)]
        for _ in range(options.rounds):
            for name, call in calls.items():
                times[name].append(timed(call, some))
        for name, pairs in times.items():
            for what, values in zip(("p50", "p99"), zip(*pairs, strict=True), strict=True):
                value = min(values)
                results.append(Result(f"{agent}, batch 1, {what}", name, value, "us", "lower"))
    show(results, as_json=options.json, title="Latency of a decision")


if __name__ == "__main__":
    main()
