"""Forward and backward passes of dense layers into memory that is kept between steps.

The gradients are those of autograd; without its graph, its allocations and the gradients that nobody asked
for, a step is nearly all matrix products.
"""

from collections.abc import Sequence
from enum import Enum

import torch
from torch import Tensor, nn

from tspace_core.agents.networks import Actor, Critic


class Activation(Enum):
    """What follows the affine part of a layer."""

    NONE = "none"
    RELU = "relu"
    TANH = "tanh"


class Memory:
    """What layers write to, by place and shape: one memory for passes of which one follows the other.

    A live network and its target then work in the same memory, which stays in the processor's cache. The
    outputs of a pass, and what it needs to go backward, hold until the next pass over the same place.
    """

    def __init__(self) -> None:
        self._tensors: dict[tuple[str, tuple[int, ...]], Tensor] = {}

    def take(self, place: str, like: Tensor, *shape: int) -> Tensor:
        """The tensor of this place and shape, of the type and device of ``like``."""
        key = place, shape
        if key not in self._tensors:
            self._tensors[key] = like.new_empty(shape)
        return self._tensors[key]


class DenseLayer:
    """One affine layer with its activation; ``output`` and ``gradient`` are (batch, outputs)."""

    def __init__(self, layer: nn.Linear, activation: Activation, output: Tensor, gradient: Tensor) -> None:
        self._weight, self._bias = layer.weight.data, layer.bias.data
        self._transposed = self._weight.t()
        self._weight_gradient, self._bias_gradient = layer.weight.grad, layer.bias.grad
        self._activation = activation
        self.output, self.gradient = output, gradient
        self._input = output

    def forward(self, x: Tensor) -> Tensor:
        """(batch, inputs) to (batch, outputs)."""
        self._input = x
        torch.addmm(self._bias, x, self._transposed, out=self.output)
        if self._activation is Activation.RELU:
            self.output.relu_()
        elif self._activation is Activation.TANH:
            self.output.tanh_()
        return self.output

    def backward(
        self, gradient: Tensor, *, learn: bool, to: Tensor | None, columns: slice = slice(None)
    ) -> None:
        """Pass a gradient back; ``gradient`` is overwritten.

        Args:
            gradient: (batch, outputs), of the loss by this layer's output.
            learn: Store the gradients of weight and bias.
            to: (batch, inputs in ``columns``), takes the gradient by the input; None if nobody needs it.
            columns: The inputs that ``to`` stands for.
        """
        if self._activation is Activation.RELU:
            torch.ops.aten.threshold_backward.grad_input(gradient, self.output, 0.0, grad_input=gradient)
        elif self._activation is Activation.TANH:
            torch.ops.aten.tanh_backward.grad_input(gradient, self.output, grad_input=gradient)
        if learn:
            torch.mm(gradient.t(), self._input, out=self._weight_gradient)
            torch.sum(gradient, 0, out=self._bias_gradient)
        if to is not None:
            torch.mm(gradient, self._weight[:, columns], out=to)


class DenseChain:
    """Layers one after the other."""

    def __init__(self, layers: Sequence[DenseLayer]) -> None:
        self._layers = list(layers)

    @property
    def gradient(self) -> Tensor:
        """Memory for the gradient by the chain's output."""
        return self._layers[-1].gradient

    def forward(self, x: Tensor) -> Tensor:
        """Output of the last layer."""
        for layer in self._layers:
            x = layer.forward(x)
        return x

    def backward(
        self,
        gradient: Tensor,
        *,
        learn: bool,
        to: Tensor | None = None,
        columns: slice = slice(None),
    ) -> None:
        """Pass a gradient back through all layers, see ``DenseLayer.backward``."""
        for before, layer in zip(self._layers[-2::-1], self._layers[:0:-1], strict=True):
            layer.backward(gradient, learn=learn, to=before.gradient)
            gradient = before.gradient
        self._layers[0].backward(gradient, learn=learn, to=to, columns=columns)


class ActorPass:
    """Forward and backward pass of an actor for a fixed batch size; by default in memory of its own."""

    def __init__(self, actor: Actor, batch: int, memory: Memory | None = None) -> None:
        linear = [*_linear(actor.hidden), actor.output]
        self._chain = _chain("actor", linear, Activation.TANH, batch, memory or Memory())

    @property
    def gradient(self) -> Tensor:
        """(batch, action_dim), memory for the gradient by the actions."""
        return self._chain.gradient

    def forward(self, state: Tensor) -> Tensor:
        """Actions for normalised states."""
        return self._chain.forward(state)

    def backward(self) -> None:
        """Store the gradients of all weights from the gradient by the actions."""
        self._chain.backward(self._chain.gradient, learn=True)


class CriticPass:
    """Forward and backward pass of a critic for a fixed batch size; by default in memory of its own."""

    def __init__(self, critic: Critic, batch: int, memory: Memory | None = None) -> None:
        memory = memory or Memory()
        state, action, joint = (_linear(layers) for layers in (critic.state, critic.action, critic.joint))
        widths = state[-1].out_features, action[-1].out_features
        like = critic.output.weight.data
        # Both branches write side by side into the input of the joint layers: nothing to concatenate.
        self._joined = memory.take("joined", like, batch, sum(widths))
        self._joined_gradient = memory.take("gradient of joined", like, batch, sum(widths))
        self._state_columns, self._action_columns = slice(0, widths[0]), slice(widths[0], sum(widths))
        relu = Activation.RELU
        columns = self._joined[:, self._state_columns], self._joined[:, self._action_columns]
        self._state = _chain("critic state", state, relu, batch, memory, columns[0])
        self._action = _chain("critic action", action, relu, batch, memory, columns[1])
        self._joint = _chain("critic", [*joint, critic.output], Activation.NONE, batch, memory)

    @property
    def gradient(self) -> Tensor:
        """(batch, 1), memory for the gradient by the values."""
        return self._joint.gradient

    def forward(self, state: Tensor, action: Tensor) -> Tensor:
        """(batch, 1) values of actions in normalised states."""
        self._state.forward(state)
        self._action.forward(action)
        return self._joint.forward(self._joined)

    def backward(self) -> None:
        """Store the gradients of all weights from the gradient by the values."""
        self._joint.backward(self._joint.gradient, learn=True, to=self._joined_gradient)
        self._state.backward(self._joined_gradient[:, self._state_columns], learn=True)
        self._action.backward(self._joined_gradient[:, self._action_columns], learn=True)

    def action_gradient(self, to: Tensor) -> None:
        """Write the gradient by the actions into ``to``; no weight's gradient is computed."""
        part = self._joined_gradient[:, self._action_columns]
        self._joint.backward(self._joint.gradient, learn=False, to=part, columns=self._action_columns)
        self._action.backward(part, learn=False, to=to)


def _linear(layers: nn.ModuleList) -> list[nn.Linear]:
    return [layer for layer in layers if isinstance(layer, nn.Linear)]


def _chain(
    name: str,
    linear: Sequence[nn.Linear],
    last: Activation,
    batch: int,
    memory: Memory,
    output: Tensor | None = None,
) -> DenseChain:
    """ReLU layers and one with the activation ``last``, which writes to ``output`` if that is given.

    Gradients of hidden layers are used up as soon as they are passed on, so all chains share them.
    """
    layers = []
    for number, layer in enumerate(linear):
        after, like, shape = len(linear) - 1 - number, layer.weight.data, (batch, layer.out_features)
        layers.append(
            DenseLayer(
                layer,
                Activation.RELU if after else last,
                memory.take(f"{name} {number}", like, *shape) if after or output is None else output,
                memory.take(f"gradient {after}" if after else f"gradient of {name}", like, *shape),
            )
        )
    return DenseChain(layers)
