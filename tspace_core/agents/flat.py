"""All weights of a network in one piece of memory: one optimizer step and one target step a network."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

_ALIGN = 16
"""Floats between the starts of two tensors are a multiple of this: 64 bytes, one cache line."""
_BETAS = (0.9, 0.999)
_EPSILON = 1e-8


class FlatParameters:
    """Moves a module's parameters and gradients into two flat tensors; the module then works on their views.

    The gaps between tensors hold zeros in values and gradients and stay zero.
    """

    def __init__(self, module: nn.Module) -> None:
        self._places: dict[str, tuple[int, torch.Size]] = {}
        size = 0
        for name, parameter in module.named_parameters():
            self._places[name] = (size, parameter.shape)
            size += -(-parameter.numel() // _ALIGN) * _ALIGN
        first = next(module.parameters()).data
        self.values = nn.Parameter(first.new_zeros(size))
        self.values.grad = first.new_zeros(size)
        weights, gradients = self.named(self.values.data), self.named(self.values.grad)
        for name, parameter in module.named_parameters():
            weights[name].copy_(parameter.data)
            parameter.data = weights[name]
            parameter.grad = gradients[name]

    def named(self, flat: Tensor) -> dict[str, Tensor]:
        """Views of a flat tensor of this layout by parameter name."""
        return {
            name: flat[start : start + shape.numel()].view(shape)
            for name, (start, shape) in self._places.items()
        }

    def shapes(self) -> Iterator[tuple[str, torch.Size]]:
        """Parameter names and shapes in order."""
        return ((name, shape) for name, (_, shape) in self._places.items())

    def clear(self) -> None:
        """Set the gradient to zero."""
        assert self.values.grad is not None
        self.values.grad.zero_()

    @torch.no_grad()
    def copy(self, other: "FlatParameters") -> None:
        """Take over all values of a network of the same layout."""
        self.values.copy_(other.values)

    @torch.no_grad()
    def approach(self, other: "FlatParameters", share: float) -> None:
        """``values += share * (other - values)``."""
        self.values.lerp_(other.values, share)


class FlatAdam:
    """Adam (Kingma and Ba 2015) on a flat network; torch's fused kernel corrects the bias in float64.

    The kernel is called directly: torch's optimizers load torch's compiler, which takes more than a second of
    every process that makes an agent.
    """

    def __init__(self, parameters: FlatParameters, learning_rate: float) -> None:
        self._parameters = parameters
        self._learning_rate = learning_rate
        values = parameters.values.data
        self._state = {
            "step": values.new_zeros((), dtype=torch.float32),
            "exp_avg": torch.zeros_like(values),
            "exp_avg_sq": torch.zeros_like(values),
        }

    @torch.no_grad()
    def step(self) -> None:
        """One update from the gradients that lie in the flat gradient."""
        values, state = self._parameters.values, self._state
        assert values.grad is not None
        state["step"].add_(1.0)
        torch._fused_adam_(  # as torch.optim.Adam(fused=True) calls it
            [values.data],
            [values.grad],
            [state["exp_avg"]],
            [state["exp_avg_sq"]],
            [],
            [state["step"]],
            lr=self._learning_rate,
            beta1=_BETAS[0],
            beta2=_BETAS[1],
            weight_decay=0.0,
            eps=_EPSILON,
            amsgrad=False,
            maximize=False,
        )

    @property
    def steps(self) -> int:
        """Updates done."""
        return int(self._state["step"])

    def tensors(self) -> dict[str, Tensor]:
        """Moments by ``<moment>.<parameter>``, and the step count."""
        named = {
            f"{moment}.{name}": view
            for moment in ("exp_avg", "exp_avg_sq")
            for name, view in self._parameters.named(self._state[moment]).items()
        }
        return {"step": self._state["step"], **named}
