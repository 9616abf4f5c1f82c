"""The learned encoder: a small dilated convolution that must foretell what comes next.

From the vector alone, a *linear* decoder has to give the window itself and the one after it (no labels: the
recording is its own teacher). Because it is linear, vectors that lie close together stand for signals that
are close together, which is what a search wants. A contrast between neighbours and others was not chosen:
most of a drive is cruising or standing, so the "others" it would push apart are often the same situation.

A window is seen and foretold at two scales: its level, and what it does around that level. Without this the
error of the speed's level would drown how the speed changes. 600 updates take some seconds on one core.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tspace_core.embeddings.base import Encoder, Float

_DILATIONS = (1, 2, 4)
_SHAPE_WEIGHT = 2.0


class _Network(nn.Module):
    """(n, 2 * signals, window) -> (n, dim) of unit length."""

    def __init__(self, signals: int, hidden: int, dim: int) -> None:
        super().__init__()
        widths = [2 * signals] + [hidden] * len(_DILATIONS)
        self.layers = nn.ModuleList(
            nn.Conv1d(before, after, 3, padding=dilation, dilation=dilation)
            for before, after, dilation in zip(widths, widths[1:], _DILATIONS, strict=False)
        )
        self.head = nn.Linear(2 * hidden + signals, dim)

    def forward(self, windows: Tensor) -> Tensor:
        level = windows[:, : windows.shape[1] // 2, 0]
        hidden = windows
        for layer in self.layers:
            hidden = nn.functional.gelu(layer(hidden))
        # How the window is, on the whole, and how it ends.
        pooled = torch.cat([hidden.mean(dim=2), hidden[:, :, -1], level], dim=1)
        return nn.functional.normalize(self.head(pooled), dim=1, eps=1e-6)


class SequenceEncoder(Encoder):
    """Learned by foretelling; deterministic under its seed, on one thread."""

    kind: ClassVar[str] = "sequence"
    _network: _Network
    _scales: dict[str, Float]

    @property
    def dim(self) -> int:
        """As the parameters say."""
        return self.parameters.dim

    def fit(self, runs: Iterable[Float]) -> None:
        """Train network and decoder; the decoder is not kept."""
        found = self._collected(runs)
        windows = np.concatenate(found)
        ends = np.cumsum([len(run) for run in found])
        # The last window of a run has no next one: it foretells itself.
        after = np.arange(len(windows)) + 1
        after[ends - 1] -= 1
        self._scales = _scales(windows)
        generator = torch.Generator().manual_seed(self.parameters.seed)
        with _one_thread():
            seen = self._seen(windows)
            self._train(seen, torch.from_numpy(after), generator)

    def _train(self, seen: Tensor, after: Tensor, generator: torch.Generator) -> None:
        chosen = self.parameters
        signals = len(self.signals)
        self._network = _Network(signals, chosen.hidden, chosen.dim)
        width = signals + signals * self.window
        decoder = nn.Linear(chosen.dim, 2 * width)
        for parameter in [*self._network.parameters(), *decoder.parameters()]:
            spread = 1.0 / np.sqrt(parameter[0].numel()) if parameter.ndim > 1 else 0.0
            with torch.no_grad():
                parameter.uniform_(-1.0, 1.0, generator=generator).mul_(spread)
        weights = [*self._network.parameters(), *decoder.parameters()]
        optimiser = torch.optim.Adam(weights, lr=chosen.learning_rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, chosen.updates)
        own, following = [], []
        for _ in range(chosen.updates):
            batch = torch.randint(len(seen), (chosen.batch_size,), generator=generator)
            decoded = decoder(self._network(seen[batch]))
            errors = [
                _error(decoded[:, :width], seen[batch], signals),
                _error(decoded[:, width:], seen[after[batch]], signals),
            ]
            loss = errors[0] + chosen.next_weight * errors[1]
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
            own.append(float(errors[0].detach()))
            following.append(float(errors[1].detach()))
        self.losses = {"own_window": tuple(own), "next_window": tuple(following)}

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Weights of the network and scales of the signals."""
        weights = {f"network.{name}": tensor.numpy() for name, tensor in self._network.state_dict().items()}
        return {**weights, **{f"scale.{name}": value for name, value in self._scales.items()}}

    def restore(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Take weights and scales."""
        network = _Network(len(self.signals), self.parameters.hidden, self.parameters.dim)
        weights = {name: torch.from_numpy(arrays[f"network.{name}"].copy()) for name in network.state_dict()}
        network.load_state_dict(weights)
        scales = {name: arrays[f"scale.{name}"] for name in ("level_mean", "level_std", "shape_std")}
        for name, value in scales.items():
            if value.shape != (len(self.signals),):
                message = f"{name} is of shape {value.shape}, expected one value a signal"
                raise ValueError(message)
        self._network, self._scales = network, scales

    def _encode(self, states: Float) -> Float:
        with _one_thread(), torch.inference_mode():
            vectors: Float = self._network(self._seen(states)).numpy()
        return vectors

    def _seen(self, states: Float) -> Tensor:
        """(n, 2 * signals, window): level of each signal, in all samples, and what it does around it."""
        level = states.mean(axis=1, keepdims=True)
        scales = self._scales
        levels = (level - scales["level_mean"]) / scales["level_std"]
        shapes = (states - level) / scales["shape_std"]
        both = np.concatenate([np.broadcast_to(levels, shapes.shape), shapes], axis=2)
        return torch.from_numpy(np.ascontiguousarray(both.transpose(0, 2, 1), np.float32))


def _scales(windows: Float) -> dict[str, Float]:
    level = windows.mean(axis=1, dtype=np.float64)
    shape = windows - level[:, None]
    found = {
        "level_mean": level.mean(axis=0),
        "level_std": level.std(axis=0),
        "shape_std": np.sqrt(np.square(shape, dtype=np.float64).mean(axis=(0, 1))),
    }
    # A signal that never changes has no scale.
    return {
        name: (value if name == "level_mean" else np.where(value > 1e-6, value, 1.0)).astype(np.float32)
        for name, value in found.items()
    }


def _error(decoded: Tensor, seen: Tensor, signals: int) -> Tensor:
    """Mean square error of the levels, and of what happens around them."""
    levels = nn.functional.mse_loss(decoded[:, :signals], seen[:, :signals, 0])
    # A jolt is as rare as it is large: its error counts linearly.
    shapes = nn.functional.smooth_l1_loss(decoded[:, signals:], seen[:, signals:].flatten(1))
    return levels + _SHAPE_WEIGHT * shapes


@contextmanager
def _one_thread() -> Iterator[None]:
    """Sums in one order: equal seeds give equal weights on any number of cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
