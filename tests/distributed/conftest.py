"""A real cluster of two nodes on this machine, one for all tests here that a process runs."""

import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.agents.batches import SMALL
from tests.agents.test_training import noisy_episode
from tests.storage.replay_episodes import STATE_DIM
from tspace_core.agents import DDPG
from tspace_core.config import EngineConfig
from tspace_core.distributed.ray_cluster import import_ray
from tspace_core.distributed.ray_engine import RayEngine
from tspace_core.storage.replay import Replay, build_replay

RAY_WARNINGS = "ignore:`use_[a-z0-9_]+` is deprecated:DeprecationWarning"
"""Ray Train copies Ray Data's options, and warns of names among them that Ray itself still has."""
STORE_BYTES = 100 << 20


class World:
    """The cluster: a head with one CPU, and nodes of one CPU that come and go."""

    def __init__(self) -> None:
        import_ray()
        from ray.cluster_utils import Cluster

        self._cluster = Cluster(
            initialize_head=True,
            head_node_args={
                "num_cpus": 1,
                "object_store_memory": STORE_BYTES,
                "include_dashboard": False,
                # A dead node is one after two seconds, not half a minute: nobody listens there any more. One
                # that is only slow has time to answer.
                "_system_config": {
                    "health_check_initial_delay_ms": 500,
                    "health_check_period_ms": 500,
                    "health_check_timeout_ms": 20_000,
                    "health_check_failure_threshold": 3,
                },
            },
        )
        self.address: str = self._cluster.address
        self.second = self.add_node()

    def add_node(self) -> Any:
        """A further node."""
        node = self._cluster.add_node(num_cpus=1, object_store_memory=STORE_BYTES)
        self._cluster.wait_for_nodes()
        return node

    def kill_courier(self) -> None:
        """What stands between the learners and the process that started them; it runs beside that process."""
        raylet = psutil.Process(self._cluster.head_node.all_processes["raylet"][0].process.pid)
        (courier,) = [one for one in raylet.children(recursive=True) if "Courier" in "".join(one.cmdline())]
        courier.kill()
        courier.wait()

    def kill_second(self) -> None:
        """The node is gone, with all that runs on it, as if its power were cut."""
        # Its workers would only notice within a second that it is gone, and learn on meanwhile.
        raylet = psutil.Process(self.second.all_processes["raylet"][0].process.pid)
        workers = raylet.children(recursive=True)
        self._cluster.remove_node(self.second, allow_graceful=False)
        for worker in workers:
            with suppress(psutil.NoSuchProcess):
                worker.kill()
        psutil.wait_procs(workers)

    def whole_again(self) -> None:
        """Two nodes, whatever a test did."""
        if self.second not in self._cluster.list_all_nodes():
            self.second = self.add_node()

    def config(self, **changes: Any) -> EngineConfig:
        """An engine on this cluster."""
        return EngineConfig(kind="ray", address=self.address, **changes)

    def close(self) -> None:
        """End all its processes."""
        self._cluster.shutdown()


@pytest.fixture(scope="package")
def world() -> Iterator[World]:
    folder = Path(tempfile.mkdtemp(prefix="ray", dir="/tmp"))  # sockets lie below it: a short path
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        patch.setenv("RAY_TMPDIR", str(folder))  # as an argument it would leave the address in /tmp/ray
        warnings.simplefilter("ignore", ResourceWarning)  # Ray leaves its children's pipes to the collector
        world = World()
        try:
            yield world
        finally:
            world.close()
            shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def engine(world: World) -> Iterator[RayEngine]:
    """Two learners, two places.

    The process leaves the cluster with the module: one that is connected uses it, whatever the settings say.
    """
    with RayEngine(world.config(start_timeout_s=300.0, connect_timeout_s=60.0)) as engine:
        yield engine
    assert not import_ray().is_initialized()


@pytest.fixture
def replay(tmp_path: Path) -> Replay:
    return build_replay(tmp_path / "replay" / "small", [noisy_episode(1, 60), noisy_episode(2, 40)])


def new_agent(seed: int = 5) -> DDPG:
    return DDPG(SMALL, STATE_DIM, 68, seed=seed)
