"""The diffusion model adds and removes noise as its formulas say, and draws what the data holds."""

from math import exp

import numpy as np
import pytest
import torch
from torch import Tensor

from tspace_core.agents.diffusion import DiffusionActor, Dropout, Schedule, diffusion_loss, sample
from tspace_core.agents.flat import FlatAdam, FlatParameters
from tspace_core.agents.perceptron import expectile_loss


def new_actor(steps: int = 5, *, size: int = 1, seed: int = 0) -> DiffusionActor:
    return DiffusionActor(
        2, size, width=32, blocks=2, steps=steps, generator=torch.Generator().manual_seed(seed)
    )


def test_the_schedule_is_that_of_the_paper() -> None:
    schedule = Schedule(5)
    exponents = [0.02 + 0.198 * odd for odd in (1, 3, 5, 7, 9)]  # 0.1 / 5; (10 - 0.1) / (2 * 25) * (2 t - 1)
    np.testing.assert_allclose(schedule.alphas, [exp(-x) for x in exponents], rtol=1e-6)
    np.testing.assert_allclose(schedule.betas, [1 - exp(-x) for x in exponents], rtol=1e-6)
    np.testing.assert_allclose(schedule.alpha_hats, np.exp(-np.cumsum(exponents)), rtol=1e-6)
    # All steps together are the integral of beta over time: 0.1 + (10 - 0.1) / 2, whatever their number.
    for steps in (1, 5, 20):
        assert float(Schedule(steps).alpha_hats[-1]) == pytest.approx(exp(-5.05), rel=1e-5)


def test_noise_is_added_as_the_schedule_says() -> None:
    schedule = Schedule(5)
    actions, noise = torch.tensor([[0.5], [-1.0]]), torch.tensor([[2.0], [1.0]])
    noisy = schedule.noisy(actions, torch.tensor([0, 4]), noise)
    kept = [exp(-0.218), exp(-5.05)]
    expected = [kept[0] ** 0.5 * 0.5 + (1 - kept[0]) ** 0.5 * 2, -(kept[1] ** 0.5) + (1 - kept[1]) ** 0.5]
    np.testing.assert_allclose(noisy[:, 0], expected, rtol=1e-5)


def test_drawing_is_the_reverse_process_by_hand() -> None:
    actor, schedule = new_actor(3, size=2, seed=4), Schedule(3)
    generator = torch.Generator().manual_seed(1)
    states = torch.randn(4, 2, generator=generator)
    noise = torch.randn(3, 6, 2, generator=generator)
    found = sample(actor, schedule, states, noise)
    assert found.shape == (4, 6, 2)
    x = noise[0, 5]
    with torch.no_grad():
        for step in (2, 1, 0):
            alpha, hat = float(schedule.alphas[step]), float(torch.prod(schedule.alphas[: step + 1]))
            seen = actor(x[None], actor.state(states[3:]), actor.step[step], None)[0]
            x = (x - (1 - alpha) / (1 - hat) ** 0.5 * seen) / alpha**0.5
            if step:
                x = x + (1 - alpha) ** 0.5 * noise[step, 5]
            x = x.clamp(-1, 1)
    np.testing.assert_allclose(found[3, 5], x, atol=1e-5)
    own = noise[:, None].expand(-1, 4, -1, -1)
    np.testing.assert_allclose(sample(actor, schedule, states, own), found, atol=1e-6)


def fitted(steps: int, data: "Data", *, updates: int = 700) -> DiffusionActor:
    actor, schedule = new_actor(steps), Schedule(steps)
    flat, generator = FlatParameters(actor), torch.Generator().manual_seed(0)
    adam = FlatAdam(flat, 2e-3)
    for _ in range(updates):
        states, actions = data(256, generator)
        assert flat.values.grad is not None
        flat.values.grad.zero_()
        torch.autograd.backward(diffusion_loss(actor, schedule, states, actions, generator, 0.0))
        adam.step()
    return actor


class Data:
    """Actions near -0.7 or +0.7 by chance, shifted by a tenth of the first state."""

    def __call__(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        states = torch.randn(count, 2, generator=generator)
        side = 1.4 * torch.randint(2, (count, 1), generator=generator) - 0.7
        noise = 0.05 * torch.randn(count, 1, generator=generator)
        return states, side + 0.1 * states[:, :1] + noise


@pytest.mark.parametrize(("steps", "between"), [(5, 0.3), (20, 0.1)])
def test_both_modes_are_drawn_and_few_between(steps: int, between: float) -> None:
    # Five steps take away the last noise, of deviation 0.44, at once, so that even the best such model
    # leaves 13 % between modes this near each other; twenty leave next to none.
    actor = fitted(steps, Data())
    states = torch.tensor([[-1.0, 0.0], [1.0, 0.0]])
    noise = torch.randn(steps, 3000, 1, generator=torch.Generator().manual_seed(2))
    drawn = sample(actor, Schedule(steps), states, noise)[:, :, 0]
    for shift, actions in zip((-0.1, 0.1), drawn, strict=True):
        lower, upper = (actions < -0.4 + shift), (actions > 0.4 + shift)
        assert float(lower.float().mean()) > 0.3
        assert float(upper.float().mean()) > 0.3
        assert float((~lower & ~upper).float().mean()) < between
        if steps == 20:
            assert float(actions[lower].mean()) == pytest.approx(-0.7 + shift, abs=0.08)
            assert float(actions[upper].mean()) == pytest.approx(0.7 + shift, abs=0.08)


def test_the_loss_is_the_squared_error_of_the_noise() -> None:
    actor, schedule = new_actor(size=3), Schedule(5)
    with torch.no_grad():
        actor.output.weight.zero_()
        actor.output.bias.fill_(0.5)  # sees a noise of 0.5 everywhere: the loss is 3 * (1 + 0.25)
    generator = torch.Generator().manual_seed(0)
    states, actions = torch.zeros(40_000, 2), torch.zeros(40_000, 3)
    loss = diffusion_loss(actor, schedule, states, actions, generator, 0.1)
    assert float(loss.detach()) == pytest.approx(3.75, rel=0.02)


def test_dropout_drops_its_share_and_keeps_the_mean() -> None:
    global_state = torch.get_rng_state()
    drop = Dropout(0.25, torch.Generator().manual_seed(0))
    mask = drop.mask(torch.empty(200, 500))
    assert mask is not None
    assert float((mask == 0).float().mean()) == pytest.approx(0.25, abs=0.01)
    assert float(mask.mean()) == pytest.approx(1.0, abs=0.01)
    assert Dropout(0.0, torch.Generator()).mask(mask) is None
    assert torch.equal(torch.get_rng_state(), global_state)


def test_the_expectile_loss_by_hand() -> None:
    loss = expectile_loss(torch.tensor([2.0, -3.0, 0.0]), 0.7)
    assert float(loss) == pytest.approx((0.7 * 4 + 0.3 * 9) / 3)


def test_the_expectile_of_two_values_lies_towards_the_better() -> None:
    value, aims = torch.zeros(1, requires_grad=True), torch.tensor([0.0, 1.0])
    for _ in range(60):
        (slope,) = torch.autograd.grad(expectile_loss(aims - value, 0.7), value)
        value = (value - slope).detach().requires_grad_()
    assert float(value.detach()) == pytest.approx(0.7, abs=1e-3)  # 0.7 * (1 - v) = 0.3 * v
