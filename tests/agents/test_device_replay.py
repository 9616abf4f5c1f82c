"""The buffer on the device gives what the host's gives, also after appends and evictions."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.storage.replay_episodes import coded_episode
from tspace_core.agents.device_replay import DeviceReplay, TensorBatch, TensorSequences
from tspace_core.errors import AgentError
from tspace_core.storage.replay import Replay, ReplayBatch, build_replay
from tspace_core.storage.replay_appender import ReplayAppender
from tspace_core.storage.replay_growing import GrowingReplay
from tspace_core.storage.replay_sequences import SequenceBatch
from tspace_core.storage.replay_writer import layout_of


def same(found: TensorBatch | TensorSequences, host: ReplayBatch | SequenceBatch) -> None:
    assert found._fields == host._fields
    for name, ours, theirs in zip(found._fields, found, host, strict=True):
        if theirs is None or ours is None:
            assert theirs is None
            assert ours is None
        else:
            assert ours.dtype == torch.float32
            np.testing.assert_array_equal(ours.cpu().numpy(), theirs, err_msg=name)


def check(on_device: DeviceReplay, host: Replay, device: str) -> None:
    """All records and all sequences, by number."""
    assert len(on_device) == len(host)
    numbers = np.random.default_rng(0).permutation(len(host))
    tensor = torch.from_numpy(numbers).to(device)
    same(on_device.pick(tensor), host.pick(numbers))
    for steps in (1, 7, 60):
        same(on_device.pick_sequences(tensor, steps), host.pick_sequences(numbers, steps))


def seeded(device: str, seed: int = 1) -> torch.Generator:
    return torch.Generator(device).manual_seed(seed)


@pytest.fixture
def version(tmp_path: Path) -> Replay:
    episodes = [coded_episode(n, 3 * n, end_reason=("end", "terminal")[n % 2]) for n in range(1, 12)]
    return build_replay(tmp_path / "v", episodes)


def test_a_version_on_the_device(version: Replay, device: str) -> None:
    on_device = DeviceReplay(version, device)
    check(on_device, version, device)
    assert on_device.refresh() is False
    batch = on_device.sample(500, seeded(device))
    assert batch.states.device.type == device
    again = on_device.sample(500, seeded(device))
    assert torch.equal(batch.states, again.states)
    assert not torch.equal(batch.states, on_device.sample(500, seeded(device, 2)).states)
    assert torch.equal(batch.states[:, 0], batch.rewards)
    assert len(torch.unique(batch.rewards)) > 150, "of 198 records"


def test_sequences_are_drawn_as_on_the_host(version: Replay, device: str) -> None:
    on_device = DeviceReplay(version, device)
    drawn = on_device.sample_sequences(3000, 8, seeded(device), burn_in=2, stride=5)
    assert drawn.states.shape == (3000, 11, 9)
    host = version.sample_sequences(3000, 8, np.random.default_rng(0), burn_in=2, stride=5)
    first = {float(value) for value in drawn.rewards[:, 0]}
    assert first == {float(value) for value in host.rewards[:, 0]}
    assert not torch.isnan(drawn.actions).any()
    ends = np.array([episode.length for episode in version.manifest.content.episodes])
    lengths = ends[torch.floor(drawn.rewards[:, 0]).long().cpu().numpy() - 1]
    np.testing.assert_array_equal(drawn.mask.sum(dim=1).cpu().numpy(), np.minimum(lengths, 10))


@pytest.fixture
def appender(tmp_path: Path) -> Iterator[ReplayAppender]:
    folder = tmp_path / "r" / "growing"
    layout = layout_of(coded_episode(1, 1))
    with ReplayAppender(folder, capacity_rows=150, segment_rows=64, memory_dim=2, layout=layout) as opened:
        yield opened


def test_it_follows_a_growing_buffer(appender: ReplayAppender, device: str) -> None:
    host = GrowingReplay(appender.directory)
    on_device = DeviceReplay(GrowingReplay(appender.directory), device)
    with pytest.raises(AgentError, match="holds no record yet"):
        on_device.sample(1, seeded(device))
    for number in range(1, 30):
        memory = np.full((7 + number, 2), number, np.float32)
        appender.append(coded_episode(number, 7 + number), memory=memory)
        if number % 3 == 0:
            assert on_device.refresh()
            host.refresh()
            check(on_device, host, device)
    for number in range(30, 50):  # so many that nothing is left of what it knew
        appender.append(coded_episode(number, 40))
    assert on_device.refresh()
    host.refresh()
    check(on_device, host, device)
    assert on_device.refresh() is False


def test_impossible_wishes_are_refused(version: Replay) -> None:
    on_device = DeviceReplay(version, "cpu")
    with pytest.raises(AgentError, match="stride 0: expected at least 1, 0 and 1"):
        on_device.sample_sequences(4, 3, seeded("cpu"), stride=0)
    with pytest.raises(AgentError, match=r"rows cannot be copied to nonsense.*sample on the host"):
        DeviceReplay(version, "nonsense")
