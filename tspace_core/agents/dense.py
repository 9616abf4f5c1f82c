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


class DenseLayer:
    """One affine layer with its activation, for a fixed batch size."""

    def __init__(
        self, layer: nn.Linear, activation: Activation, batch: int, output: Tensor | None = None
    ) -> None:
        self._weight, self._bias = layer.weight.data, layer.bias.data
        self._transposed = self._weight.t()
        self._weight_gradient, self._bias_gradient = layer.weight.grad, layer.bias.grad
        self._activation = activation
        shape = (batch, layer.out_features)
        self.output = torch.empty(shape, dtype=self._weight.dtype) if output is None else output
        self.gradient = torch.empty(shape, dtype=self._weight.dtype)
        self._input = self.output

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
    """Forward and backward pass of an actor for a fixed batch size."""

    def __init__(self, actor: Actor, batch: int) -> None:
        self._chain = DenseChain(
            [
                *_relu_layers(actor.hidden, batch),
                DenseLayer(actor.output, Activation.TANH, batch),
            ]
        )

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
    """Forward and backward pass of a critic for a fixed batch size."""

    def __init__(self, critic: Critic, batch: int) -> None:
        state, action = (_last(layers).out_features for layers in (critic.state, critic.action))
        dtype = critic.output.weight.dtype
        # Both branches write side by side into the input of the joint layers: nothing to concatenate.
        self._joined = torch.empty(batch, state + action, dtype=dtype)
        self._joined_gradient = torch.empty(batch, state + action, dtype=dtype)
        self._state_columns, self._action_columns = slice(0, state), slice(state, state + action)
        self._state = DenseChain(_relu_layers(critic.state, batch, self._joined[:, self._state_columns]))
        self._action = DenseChain(_relu_layers(critic.action, batch, self._joined[:, self._action_columns]))
        self._joint = DenseChain(
            [
                *_relu_layers(critic.joint, batch),
                DenseLayer(critic.output, Activation.NONE, batch),
            ]
        )

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


def _last(layers: nn.ModuleList) -> nn.Linear:
    layer = layers[-1]
    assert isinstance(layer, nn.Linear)
    return layer


def _relu_layers(layers: nn.ModuleList, batch: int, output: Tensor | None = None) -> list[DenseLayer]:
    linear = [layer for layer in layers if isinstance(layer, nn.Linear)]
    return [
        DenseLayer(layer, Activation.RELU, batch, output if layer is linear[-1] else None) for layer in linear
    ]
