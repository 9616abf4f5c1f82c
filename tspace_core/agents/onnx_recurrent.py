"""One step of a recurrent actor as an ONNX graph: its memory goes in and comes out as the agent keeps it.

Inputs: ``state`` (1, state_dim) in physical units, ``code`` (1, basis.size) of the action before, ``reward``
(1, 1) that it earned, ``memory`` (1, model.memory_dim). Outputs: ``decided`` (1, basis.size) without noise,
``remembered`` (1, model.memory_dim).
"""

from math import sqrt
from typing import Any

import numpy as np

from tspace_core.agents.onnx_export import GraphBuilder
from tspace_core.agents.rdpg import RDPG
from tspace_core.agents.sequence_models import LSTM, Transformer

HIDDEN = -1e30
"""Added to the score of an empty slot: its weight is exactly 0, as with minus infinity."""


def rdpg_graph(agent: RDPG) -> bytes | None:
    """The actor of an RDPG agent; None: its sequence model has no export.

    Raises:
        AgentError: a weight is not finite.
    """
    model = agent.actor.model
    graph = GraphBuilder(f"{agent.name} actor")
    inputs = _inputs(graph, agent)
    if isinstance(model, LSTM):
        features, remembered = _lstm(graph, inputs, model)
    elif isinstance(model, Transformer):
        features, remembered = _transformer(graph, inputs, model)
    else:
        return None
    joined = graph.node("Concat", features, inputs, axis=1)
    hidden = graph.node("Relu", graph.linear(joined, agent.actor.hidden))
    decided = graph.node("Tanh", graph.linear(hidden, agent.actor.output))
    code, memory = (1, agent.basis.size), (1, model.memory_dim)
    return graph.finish(
        {"state": (1, agent.state_dim), "code": code, "reward": (1, 1), "memory": memory},
        {"decided": (decided, code), "remembered": (remembered, memory)},
    )


def _inputs(graph: GraphBuilder, agent: RDPG) -> str:
    scaled = graph.node("Mul", "reward", graph.constant(float(agent.hyper.reward_scale)))
    size = graph.node("Log", graph.node("Add", graph.node("Abs", scaled), graph.constant(1.0)))
    reward = graph.node("Mul", graph.node("Sign", scaled), size)
    return graph.node("Concat", "code", reward, graph.normalised("state", agent.normaliser), axis=1)


def _lstm(graph: GraphBuilder, inputs: str, model: LSTM) -> tuple[str, str]:
    """Layers as torch's: gates are input, forget, cell, output; memory is all outputs, then all cells."""
    layers, width = model.layers, model.width
    before = graph.split("memory", [width] * (2 * layers), axis=1)
    x = graph.node("Relu", graph.linear(inputs, model.entry))
    outputs, cells = [], []
    for number in range(layers):
        weights = [getattr(model.cells, f"weight_{part}_l{number}").detach().numpy() for part in ("ih", "hh")]
        biases = [getattr(model.cells, f"bias_{part}_l{number}").detach().numpy() for part in ("ih", "hh")]
        joined = graph.node("Concat", x, before[number], axis=1)
        gates = graph.affine(joined, np.concatenate(weights, axis=1), biases[0] + biases[1])
        entry, forget, new, out = graph.split(gates, [width] * 4, axis=1)
        kept = graph.node("Mul", graph.node("Sigmoid", forget), before[layers + number])
        added = graph.node("Mul", graph.node("Sigmoid", entry), graph.node("Tanh", new))
        cell = graph.node("Add", kept, added)
        x = graph.node("Mul", graph.node("Sigmoid", out), graph.node("Tanh", cell))
        outputs.append(x)
        cells.append(cell)
    return x, graph.node("Concat", *outputs, *cells, axis=1)


def _transformer(graph: GraphBuilder, inputs: str, model: Transformer) -> tuple[str, str]:
    past, width = model.window - 1, model.width
    *caches, filled = graph.split("memory", [past * 2 * width] * len(model.blocks) + [1], axis=1)
    empty = graph.node("Sub", graph.constant(float(past)), filled)
    slots = graph.constant(np.arange(past + 1, dtype=np.float32))
    mask = graph.node("Mul", graph.cast(graph.node("Less", slots, empty)), graph.constant(HIDDEN))
    x, parts = graph.linear(inputs, model.entry), []
    for block, cache in zip(model.blocks, caches, strict=True):
        x, known = _block(graph, x, graph.reshape(cache, (past, 2 * width)), mask, block, model)
        newest = graph.split(known, [1, past], axis=0)[1]
        parts.append(graph.reshape(newest, (1, past * 2 * width)))
    more = graph.node("Add", filled, graph.constant(1.0))
    filled = graph.node("Min", more, graph.constant(float(past)))
    return graph.norm(x, model.norm), graph.node("Concat", *parts, filled, axis=1)


def _block(
    graph: GraphBuilder, x: str, cache: str, mask: str, block: Any, model: Transformer
) -> tuple[str, str]:
    """Attention of one step to itself and the steps before, then the layer of GELU."""
    past, width, heads = model.window - 1, model.width, int(block.heads)
    part = width // heads
    normed = graph.norm(x, block.attention_norm)
    known = graph.node("Concat", cache, graph.linear(normed, block.known), axis=0)
    keys, values = graph.split(known, [width, width], axis=1)
    queries = graph.reshape(graph.linear(normed, block.queries), (heads, 1, part))
    by_head = [graph.reshape(rows, (past + 1, heads, part)) for rows in (keys, values)]
    keys = graph.node("Transpose", by_head[0], perm=[1, 2, 0])
    values = graph.node("Transpose", by_head[1], perm=[1, 0, 2])
    scores = graph.node("Mul", graph.node("MatMul", queries, keys), graph.constant(1 / sqrt(part)))
    bias = block.bias.detach().numpy()[:, ::-1][:, None, :]
    scores = graph.node("Add", graph.node("Add", scores, graph.constant(bias)), mask)
    mixed = graph.node("MatMul", graph.node("Softmax", scores, axis=-1), values)
    x = graph.node("Add", x, graph.linear(graph.reshape(mixed, (1, width)), block.attended))
    up = graph.linear(graph.norm(x, block.layer_norm), block.up)
    inner = graph.node("Erf", graph.node("Mul", up, graph.constant(1 / sqrt(2))))
    half = graph.node("Mul", up, graph.constant(0.5))
    gelu = graph.node("Mul", half, graph.node("Add", inner, graph.constant(1.0)))
    return graph.node("Add", x, graph.linear(gelu, block.down)), known
