"""Small recurrent agents and sequences for them, shared by their tests."""

from typing import TYPE_CHECKING, Any

import numpy as np

from tspace_core.agents import RDPG
from tspace_core.agents.mixed_replay import LiveReplay
from tspace_core.config import RDPGHyperparameters
from tspace_core.storage.replay import ReplayBatch
from tspace_core.storage.replay_sequences import SequenceBatch

if TYPE_CHECKING:
    from tspace_core.agents.flat import FlatParameters

STATE_DIM, ACTION_DIM = 3, 2
KINDS = {
    "lstm": RDPGHyperparameters(width=8, layers=2, length=6, burn_in=3, batch_size=8, gamma=0.9),
    "transformer": RDPGHyperparameters(
        sequence_model="transformer",
        width=8,
        layers=2,
        heads=2,
        context=5,
        length=6,
        burn_in=4,
        batch_size=8,
        gamma=0.9,
    ),
}


def agent_of(kind: str, seed: int = 1, **changes: Any) -> RDPG:
    return RDPG(KINDS[kind].model_copy(update=changes), STATE_DIM, ACTION_DIM, seed=seed)


def strengthen(agent: RDPG, seed: int = 5) -> RDPG:
    """Weights as after some training, targets other than live ones: differences show."""
    generator = np.random.default_rng(seed)
    for name in ("actor", "critic", "target_actor", "target_critic"):
        flat: FlatParameters = getattr(agent, f"_{name}")
        for view in flat.named(flat.values.data).values():
            noise = generator.normal(size=tuple(view.shape)).astype(np.float32)
            view.add_(view.new_tensor(0.3 * noise))
    return agent


def sequences(
    agent: RDPG,
    counts: list[int],
    steps: int,
    *,
    seed: int = 0,
    begins: list[int] | None = None,
    memory: bool = False,
) -> SequenceBatch:
    """White noise; sequence i has ``counts[i]`` records, the last of every second one is terminal."""
    generator = np.random.default_rng(seed)
    size = len(counts)
    shape = (size, steps)
    mask = (np.arange(steps) < np.array(counts)[:, None]).astype(np.float32)
    states = generator.normal(size=(size, steps + 1, agent.state_dim))
    states *= np.arange(steps + 1)[:, None] <= np.array(counts)[:, None, None]
    terminals = np.zeros(shape, np.float32)
    terminals[np.arange(size), np.array(counts) - 1] = np.arange(size) % 2
    actions = generator.uniform(-1, 1, (*shape, agent.action_dim)) * mask[..., None]
    return SequenceBatch(
        states=states.astype(np.float32),
        actions=actions.astype(np.float32),
        rewards=(3 * generator.normal(size=shape) * mask).astype(np.float32),
        terminals=terminals,
        mask=mask,
        first_rows=np.zeros(shape, np.float32),
        memory=(
            generator.uniform(-0.9, 0.9, (size, agent.memory_dim)).astype(np.float32) if memory else None
        ),
        begins=None if begins is None else np.array(begins, np.float32),
    )


def driven(agent: RDPG, episodes: list[int], *, seed: int = 0) -> tuple[LiveReplay, ReplayBatch]:
    """Episodes of random states driven by a session, some actions carried out otherwise: with memories."""
    generator = np.random.default_rng(seed)
    live = LiveReplay(agent.state_dim, agent.action_dim, 10_000, agent.memory_dim)
    session = agent.session(1, explore=True, seed=seed)
    for length in episodes:
        session.begin()
        live.end_episode()
        states = generator.normal(size=(length + 1, 1, agent.state_dim)).astype(np.float32)
        reward = None
        for k in range(length):
            action = session.act(states[k], reward)
            if k % 3 == 1:
                action = generator.uniform(-1, 1, action.shape).astype(np.float32)
                session.carried_out(action)
            reward = generator.normal(size=1).astype(np.float32)
            nothing = np.zeros(1, np.float32)
            record = ReplayBatch(states[k], action, reward, states[k + 1], nothing, nothing)
            live.add(record, session.memory)
    return live, live.split(live.block(np.arange(len(live))))
