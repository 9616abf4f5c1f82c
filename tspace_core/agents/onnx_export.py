"""Policies as ONNX graphs: physical states go in, actions come out, nothing is left to do around them.

A graph holds all that the policy of a checkpoint is: the state's normaliser, the network, the noise's place,
the limits and the action basis. It is made in memory from an agent's weights, in milliseconds, and never
stored: the checkpoint stays the one truth.

Inputs of an agent without memory: ``state`` (1, state_dim) in physical units and ``noise`` (1, basis.size),
exploration that is added to the code, zeros for none. Output: ``action`` (1, action_dim) in [-1, 1].
``onnx_recurrent`` and ``onnx_diffusion`` say what theirs are.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from tspace_core.agents.ddpg import DDPG
from tspace_core.agents.dpg import DPG
from tspace_core.agents.normaliser import CLIP, Normaliser
from tspace_core.errors import AgentError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor, nn

OPSET = 17
IR_VERSION = 9
"""What opset 17 came with; newer runtimes read it."""


class GraphBuilder:
    """Nodes of a graph as they are added; each method returns the name of its result.

    A weight that is not finite is refused: runtimes clip NaN to a limit, and a policy that has diverged would
    look like one that decides.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._nodes: list[Any] = []
        self._constants: list[Any] = []
        self._known: dict[float, str] = {}
        self._weights: dict[int, str] = {}

    def node(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Result of an operator with one output."""
        return self.nodes(kind, inputs, 1, **attributes)[0]

    def nodes(self, kind: str, inputs: tuple[str, ...], outputs: int, **attributes: Any) -> list[str]:
        """Results of an operator."""
        from onnx import helper

        names = [f"v{len(self._nodes)}_{number}" for number in range(outputs)]
        self._nodes.append(helper.make_node(kind, list(inputs), names, **attributes))
        return names

    def constant(self, values: "Tensor | NDArray[Any] | float") -> str:
        """A constant; floats become float32. A network's weight that is used again is there only once.

        Raises:
            AgentError: it is not finite.
        """
        from onnx import numpy_helper

        if isinstance(values, float) and values in self._known:
            return self._known[values]
        # Weights live as long as their agent; other tensors are views of a moment, whose id may come again.
        weight = isinstance(values, torch.nn.Parameter)
        if weight and id(values) in self._weights:
            return self._weights[id(values)]
        array = values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)
        if array.dtype.kind == "f":
            array = array.astype(np.float32)
        if not np.isfinite(array).all():
            message = (
                f"{int((~np.isfinite(array)).sum())} weights of the {self._name} are not finite: it has "
                "diverged; drive with an older checkpoint"
            )
            raise AgentError(message)
        name = f"c{len(self._constants)}"
        self._constants.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        if isinstance(values, float):
            self._known[values] = name
        if weight:
            self._weights[id(values)] = name
        return name

    def linear(self, x: str, layer: "nn.Module") -> str:
        """An affine layer."""
        assert isinstance(layer, torch.nn.Linear)
        return self.affine(x, layer.weight, layer.bias)

    def affine(
        self, x: str, weight: "Tensor | NDArray[np.float32]", bias: "Tensor | NDArray[np.float32]"
    ) -> str:
        """``x @ weight.T + bias`` of (n, inputs)."""
        return self.node("Gemm", x, self.constant(weight), self.constant(bias), transB=1)

    def norm(self, x: str, layer: "nn.Module") -> str:
        """Layer normalisation over the last axis."""
        assert isinstance(layer, torch.nn.LayerNorm)
        scale, bias = self.constant(layer.weight), self.constant(layer.bias)
        return self.node("LayerNormalization", x, scale, bias, axis=-1, epsilon=layer.eps)

    def split(self, x: str, sizes: Sequence[int], *, axis: int) -> list[str]:
        """Parts of these sizes along an axis."""
        return self.nodes("Split", (x, self.constant(np.array(sizes, np.int64))), len(sizes), axis=axis)

    def reshape(self, x: str, shape: tuple[int, ...]) -> str:
        """The same numbers in another shape."""
        # Sizes of 0 are meant as such: what a Transformer of one step remembers is nothing.
        return self.node("Reshape", x, self.constant(np.array(shape, np.int64)), allowzero=1)

    def cast(self, x: str) -> str:
        """Truths as 0.0 and 1.0."""
        from onnx import TensorProto

        return self.node("Cast", x, to=TensorProto.FLOAT)

    def clip(self, x: str, limit: float) -> str:
        """Limited to -limit .. limit."""
        return self.node("Clip", x, self.constant(-limit), self.constant(limit))

    def normalised(self, x: str, normaliser: Normaliser) -> str:
        """A state as the network knows it."""
        if not normaliser.fitted:
            return x
        centred = self.node("Sub", x, self.constant(normaliser.mean))
        return self.clip(self.node("Mul", centred, self.constant(normaliser.scale)), CLIP)

    def explored(self, codes: str) -> str:
        """The code with noise, within its limits."""
        return self.clip(self.node("Add", codes, "noise"), 1.0)

    def expanded(self, codes: str, agent: DPG) -> str:
        """The action that a code stands for."""
        if agent.basis.matrix is None:
            return codes
        return self.clip(self.node("MatMul", codes, self.constant(agent.basis.matrix)), 1.0)

    def finish(
        self, inputs: Mapping[str, tuple[int, ...]], outputs: Mapping[str, tuple[str, tuple[int, ...]]]
    ) -> bytes:
        """The graph as a serialised model.

        Args:
            inputs: shapes by name.
            outputs: by name, whose result it is and its shape.
        """
        from onnx import TensorProto, helper

        def info(name: str, shape: tuple[int, ...]) -> Any:
            return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

        named = [helper.make_node("Identity", [result], [name]) for name, (result, _) in outputs.items()]
        graph = helper.make_graph(
            [*self._nodes, *named],
            self._name,
            [info(*item) for item in inputs.items()],
            [info(name, shape) for name, (_, shape) in outputs.items()],
            self._constants,
        )
        imports = [helper.make_opsetid("", OPSET)]
        model = helper.make_model(graph, opset_imports=imports, ir_version=IR_VERSION)
        found: bytes = model.SerializeToString()
        return found


def ddpg_graph(agent: DDPG) -> bytes:
    """The actor of a DDPG agent.

    Raises:
        AgentError: a weight is not finite.
    """
    graph = GraphBuilder(f"{agent.name} actor")
    x = graph.normalised("state", agent.normaliser)
    for layer in agent.actor.hidden:
        x = graph.node("Relu", graph.linear(x, layer))
    codes = graph.explored(graph.node("Tanh", graph.linear(x, agent.actor.output)))
    action = graph.expanded(codes, agent)
    return graph.finish(
        {"state": (1, agent.state_dim), "noise": (1, agent.basis.size)},
        {"action": (action, (1, agent.action_dim))},
    )
