"""IDQL's sampler as an ONNX graph: noise is turned into codes, and the critics judge each of them.

Inputs: ``state`` (1, state_dim) in physical units, ``noise`` (steps, samples, basis.size), which decides the
draw wholly. Outputs: ``drawn`` (samples, basis.size) and ``values`` (samples, 1), the smaller of the two.
"""

from math import sqrt
from typing import Any

from tspace_core.agents.idql import IDQL
from tspace_core.agents.onnx_export import GraphBuilder
from tspace_core.agents.perceptron import Perceptron


def idql_graph(agent: IDQL) -> bytes:
    """What an IDQL agent acts by: the averages of its actor and critics.

    Raises:
        AgentError: a weight is not finite.
    """
    steps, samples, size = agent.hyper.diffusion_steps, agent.hyper.samples, agent.basis.size
    graph = GraphBuilder(f"{agent.name} sampler")
    state = graph.normalised("state", agent.normaliser)
    drawn = _sampled(graph, state, agent)
    critics = (agent.target_critic.first, agent.target_critic.second)
    values = graph.node("Min", *(_value(graph, state, drawn, critic, agent.state_dim) for critic in critics))
    return graph.finish(
        {"state": (1, agent.state_dim), "noise": (steps, samples, size)},
        {"drawn": (drawn, (samples, size)), "values": (values, (samples, 1))},
    )


def _sampled(graph: GraphBuilder, state: str, agent: IDQL) -> str:
    actor, schedule = agent.target_actor, agent.schedule
    samples, size = agent.hyper.samples, agent.basis.size
    noise = [
        graph.reshape(part, (samples, size)) for part in graph.split("noise", [1] * schedule.steps, axis=0)
    ]
    part = graph.node("MatMul", state, graph.constant(actor.state.weight.t()))
    x = noise[0]
    for step in range(schedule.steps - 1, -1, -1):
        alpha, hat = float(schedule.alphas[step]), float(schedule.alpha_hats[step])
        added = graph.node("Add", part, graph.constant(actor.step[step]))
        inside = graph.node("Add", graph.linear(x, actor.action), added)
        for block in actor.blocks:
            inside = _block(graph, inside, block)
        seen = graph.linear(graph.node("Relu", inside), actor.output)
        share = graph.constant((1.0 - alpha) / (1.0 - hat) ** 0.5)
        cleaned = graph.node("Sub", x, graph.node("Mul", seen, share))
        x = graph.node("Div", cleaned, graph.constant(sqrt(alpha)))
        if step > 0:
            fresh = graph.node("Mul", noise[step], graph.constant(sqrt(float(schedule.betas[step]))))
            x = graph.node("Add", x, fresh)
        x = graph.clip(x, 1.0)
    return x


def _block(graph: GraphBuilder, x: str, block: Any) -> str:
    inner = graph.node("Relu", graph.linear(graph.norm(x, block.norm), block.inner))
    return graph.node("Add", x, graph.linear(inner, block.outer))


def _value(graph: GraphBuilder, state: str, codes: str, critic: Perceptron, state_dim: int) -> str:
    """Values of the codes; the state's share of the first layer is computed once for all of them."""
    layers: list[Any] = list(critic.layers)
    first, *more = layers
    of_state = graph.affine(state, first.weight[:, :state_dim], first.bias)
    of_codes = graph.node("MatMul", codes, graph.constant(first.weight[:, state_dim:].t()))
    x = graph.node("Relu", graph.node("Add", of_codes, of_state))
    for layer in more:
        x = graph.node("Relu", graph.linear(x, layer))
    return graph.linear(x, critic.output)
