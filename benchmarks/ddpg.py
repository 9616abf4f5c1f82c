"""DDPG updates a second against Stable-Baselines3, TorchRL, CleanRL and the matrix products alone.

::

    python benchmarks/ddpg.py [--json] [--batch 256] [--rounds 25]

An update is one step of critic and actor and one step of both targets. State 90, action 68, the same
networks for all (actor 256-256; critic 16-32 and 32, joined 256-256), float32, one thread, in turns, a fixed
batch in memory: sampling has a benchmark of its own. Ours checks and normalises the batch within the time;
the peers get ready tensors. Times are the processor's, which other work on the machine distorts less.

CleanRL cannot be imported: its update is restated here from ``ddpg_continuous_action.py`` (update the actor
in every step, as the others do; its own default is every second one). Stable-Baselines3's critic takes state
and action concatenated: its network is replaced by one that splits them again. TorchRL's is its DDPGLoss,
SoftUpdate and two Adams.

``matrix products`` are those that one update cannot do without, in the same shapes and by the same kernels
(torch's), and nothing else: what an update without any other work would reach. The FLOP limit is the number
of updates whose products would fit in the time at the rate at which this machine multiplies 1024 x 1024
matrices in the same rounds.
"""

import statistics
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import torch
from interleaved import Result, arguments, left_out, median_ratio, off_stdout, seconds_in_turns, show
from torch import Tensor, nn

from tspace_core.agents import DDPG
from tspace_core.agents.networks import Actor, Critic
from tspace_core.config import DDPGHyperparameters
from tspace_core.storage.replay import ReplayBatch

STATE_DIM, ACTION_DIM = 90, 68
HYPER = DDPGHyperparameters()
SQUARE = 1024
PRODUCTS = "matrix products"


def new_actor() -> Actor:
    return Actor(STATE_DIM, ACTION_DIM, HYPER.actor_hidden, torch.Generator().manual_seed(0))


def new_critic() -> Critic:
    hidden = (HYPER.critic_state_hidden, HYPER.critic_action_hidden, HYPER.critic_joint_hidden)
    return Critic(STATE_DIM, ACTION_DIM, hidden, torch.Generator().manual_seed(0))


def new_batch(size: int) -> ReplayBatch:
    generator = np.random.default_rng(0)
    zeros = np.zeros(size, np.float32)
    return ReplayBatch(
        states=generator.normal(40, 20, (size, STATE_DIM)).astype(np.float32),
        actions=generator.uniform(-1, 1, (size, ACTION_DIM)).astype(np.float32),
        rewards=generator.normal(size=size).astype(np.float32),
        next_states=generator.normal(40, 20, (size, STATE_DIM)).astype(np.float32),
        terminals=zeros,
        first_rows=zeros,
    )


def tensors(size: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    batch = new_batch(size)
    states, following = (torch.from_numpy((x - 40) / 20) for x in (batch.states, batch.next_states))
    rewards, dones = (torch.from_numpy(x)[:, None] for x in (batch.rewards, batch.terminals))
    return states, torch.from_numpy(batch.actions), rewards, following, dones


def ours(size: int) -> Callable[[], object]:
    agent = DDPG(HYPER, STATE_DIM, ACTION_DIM)
    agent.fit_normaliser(np.full(STATE_DIM, 40.0), np.full(STATE_DIM, 20.0))
    batch = new_batch(size)

    def update() -> None:
        agent.train(batch)
        agent.update_target()

    return update


class Concatenated(nn.Module):
    """The critic for peers that hand over state and action in one tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.critic = new_critic()

    def forward(self, x: Tensor) -> Tensor:
        """Values of [state | action]."""
        values: Tensor = self.critic(x[:, :STATE_DIM], x[:, STATE_DIM:])
        return values


def stable_baselines3(size: int) -> Callable[[], object]:
    import gymnasium
    import stable_baselines3
    from stable_baselines3.common.logger import Logger
    from stable_baselines3.common.type_aliases import ReplayBufferSamples

    class Spaces(gymnasium.Env[Any, Any]):  # type: ignore[misc]
        observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (STATE_DIM,), np.float32)
        action_space = gymnasium.spaces.Box(-1, 1, (ACTION_DIM,), np.float32)

    model = stable_baselines3.DDPG(
        "MlpPolicy",
        Spaces(),
        device="cpu",
        buffer_size=1,
        policy_kwargs={"net_arch": [256, 256]},
        learning_rate=HYPER.actor_learning_rate,
    )
    for critic in (model.critic, model.critic_target):
        network = Concatenated()
        critic.qf0 = network
        critic.q_networks = [network]
    model.critic.optimizer = torch.optim.Adam(model.critic.parameters(), lr=HYPER.critic_learning_rate)
    states, actions, rewards, following, dones = tensors(size)
    samples = ReplayBufferSamples(states, actions, following, dones, rewards)
    model.replay_buffer.sample = lambda *_args, **_named: samples
    model.set_logger(Logger(folder=None, output_formats=[]))
    model._current_progress_remaining = 1.0
    return lambda: model.train(gradient_steps=1, batch_size=size)


def cleanrl(size: int, device: str = "cpu") -> Callable[[], object]:
    actor, target_actor = new_actor().to(device), new_actor().to(device)
    critic, target_critic = new_critic().to(device), new_critic().to(device)
    q_optimizer = torch.optim.Adam(list(critic.parameters()), lr=HYPER.critic_learning_rate)
    actor_optimizer = torch.optim.Adam(list(actor.parameters()), lr=HYPER.actor_learning_rate)
    states, actions, rewards, following, dones = (each.to(device) for each in tensors(size))
    tau = HYPER.tau

    def update() -> None:
        with torch.no_grad():
            next_values = target_critic(following, target_actor(following))
            targets = rewards.flatten() + (1 - dones.flatten()) * HYPER.gamma * next_values.view(-1)
        loss = nn.functional.mse_loss(critic(states, actions).view(-1), targets)
        q_optimizer.zero_grad()
        torch.autograd.backward(loss)
        q_optimizer.step()
        actor_loss = -critic(states, actor(states)).mean()
        actor_optimizer.zero_grad()
        torch.autograd.backward(actor_loss)
        actor_optimizer.step()
        for live, target in ((actor, target_actor), (critic, target_critic)):
            for param, target_param in zip(live.parameters(), target.parameters(), strict=True):
                target_param.data.copy_(tau * param.data + (1 - tau) * target_param.data)

    return update


def torchrl(size: int) -> Callable[[], object]:
    from tensordict import TensorDict
    from tensordict.nn import TensorDictModule
    from torchrl.modules import ValueOperator
    from torchrl.objectives import DDPGLoss, SoftUpdate

    loss = DDPGLoss(
        TensorDictModule(new_actor(), in_keys=["observation"], out_keys=["action"]),
        ValueOperator(new_critic(), in_keys=["observation", "action"]),
        delay_actor=True,
        delay_value=True,
    )
    loss.make_value_estimator(gamma=HYPER.gamma)
    soft = SoftUpdate(loss, tau=HYPER.tau)
    actor_optimizer = torch.optim.Adam(
        list(loss.actor_network_params.flatten_keys().values()), lr=HYPER.actor_learning_rate
    )
    critic_optimizer = torch.optim.Adam(
        list(loss.value_network_params.flatten_keys().values()), lr=HYPER.critic_learning_rate
    )
    states, actions, rewards, following, dones = tensors(size)
    batch = TensorDict(
        {
            "observation": states,
            "action": actions,
            "next": {
                "observation": following,
                "reward": rewards,
                "done": dones.bool(),
                "terminated": dones.bool(),
            },
        },
        batch_size=[size],
    )

    def update() -> None:
        losses = loss(batch.copy())
        (losses["loss_actor"] + losses["loss_value"]).backward()
        critic_optimizer.step()
        actor_optimizer.step()
        critic_optimizer.zero_grad()
        actor_optimizer.zero_grad()
        soft.step()

    return update


PEERS = {"stable-baselines3": stable_baselines3, "torchrl": torchrl, "cleanrl": cleanrl}


def square_product() -> Callable[[], object]:
    a, b, out = (torch.rand(SQUARE, SQUARE) for _ in range(3))
    return lambda: torch.mm(a, b, out=out)


Kind = Literal["forward", "weights", "inputs"]
Product = tuple[Kind, int, int]
"""A layer's product: for its outputs, the gradient of its weights, or that of its inputs; its widths."""


def necessary() -> Iterator[Product]:
    """The matrix products that one update cannot do without, in order."""
    actor = list(pairwise([STATE_DIM, *HYPER.actor_hidden, ACTION_DIM]))
    state = list(pairwise([STATE_DIM, *HYPER.critic_state_hidden]))
    action = list(pairwise([ACTION_DIM, *HYPER.critic_action_hidden]))
    joint = list(pairwise([state[-1][1] + action[-1][1], *HYPER.critic_joint_hidden, 1]))
    critic = [*state, *action, *joint]

    def each(
        kind: Literal["forward", "weights", "inputs"], layers: list[tuple[int, int]]
    ) -> Iterator[Product]:
        return ((kind, *widths) for widths in layers)

    yield from each("forward", [*actor, *critic])  # the targets
    yield from each("forward", critic)
    yield from each("weights", critic)
    yield from each("inputs", [*joint, *state[1:], *action[1:]])  # back to all but the batch
    yield from each("forward", [*actor, *critic])
    # The actor's gradient needs the action's half of the joint input only.
    yield from each("inputs", [*joint[1:], (action[-1][1], joint[0][1]), *action])
    yield from each("weights", actor)
    yield from each("inputs", actor[1:])


def operations(size: int) -> int:
    """Floating point operations of the necessary products."""
    return 2 * size * sum(inputs * outputs for _, inputs, outputs in necessary())


def products_alone(size: int) -> Callable[[], object]:
    batches: dict[int, Tensor] = {}
    weights: dict[tuple[int, int], Tensor] = {}
    calls: list[tuple[Tensor, Tensor, Tensor]] = []
    for kind, inputs, outputs in necessary():
        x, gradient = (batches.setdefault(width, torch.rand(size, width)) for width in (inputs, outputs))
        weight = weights.setdefault((outputs, inputs), torch.rand(outputs, inputs))
        if kind == "forward":
            calls.append((x, weight.t(), torch.empty(size, outputs)))
        elif kind == "weights":
            calls.append((gradient.t(), x, torch.empty(outputs, inputs)))
        else:
            calls.append((gradient, weight, torch.empty(size, inputs)))

    def update() -> None:
        for a, b, out in calls:
            torch.mm(a, b, out=out)

    return update


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--batch", type=int, default=256)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with off_stdout():
        subjects = {"tspace": ours(options.batch)}
        for name, build in PEERS.items():
            try:
                subjects[name] = build(options.batch)
            except ImportError as error:
                left_out(name, error)
        subjects[PRODUCTS] = products_alone(options.batch)
        subjects["product"] = square_product()
        seconds = seconds_in_turns(subjects, rounds=options.rounds, calls=4, clock=time.process_time)
    rate = 2 * SQUARE**3 / np.array(seconds.pop("product"))
    limit = (operations(options.batch) / rate).tolist()
    what = f"DDPG updates, batch {options.batch}, one thread"
    results = [
        Result(what, name, 1 / statistics.median(times), "updates/s", "higher")
        for name, times in seconds.items()
    ]
    results.append(
        Result(f"{what}, FLOP limit", "machine", 1 / statistics.median(limit), "updates/s", "higher")
    )
    results += [
        Result(
            f"{what}, times as fast as {name}",
            "tspace",
            median_ratio(seconds[name], seconds["tspace"]),
            "x",
            "higher",
        )
        for name in (*PEERS, PRODUCTS)
        if name in seconds
    ]
    share = 100 * median_ratio(limit, seconds["tspace"])
    results.append(Result(f"{what}, share of the FLOP limit", "tspace", share, "%", "higher"))
    show(results, as_json=options.json, title="DDPG updates, processor time, medians over interleaved rounds")


if __name__ == "__main__":
    main()
