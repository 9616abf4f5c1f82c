"""What is done where processes are killed; as a program: a server that forks a child a command.

A line of JSON a command: ``{"do": name of a function here, "root": lake, "at": write point to be killed at,
"size": bytes that no file may exceed}``, both may be null; answered by ``{"status": ...}``, the child's exit
code or minus the signal it died of. The server has imported everything, so that a child costs milliseconds.
"""

import json
import os
import resource
import sys
import traceback
from dataclasses import replace
from pathlib import Path

import torch

from tests.storage.faults import Faults, kill
from tests.storage.replay_episodes import coded_episode
from tspace_core.agents.checkpoint import Checkpoint, CheckpointManifest, Component, write_checkpoint
from tspace_core.config import load_vehicle
from tspace_core.errors import StorageError
from tspace_core.objects.path import AnyPath
from tspace_core.records.episode import Episode
from tspace_core.storage import episodes_table
from tspace_core.storage.files import read_version, write_text
from tspace_core.storage.folders import file_sizes
from tspace_core.storage.lake import Lake
from tspace_core.storage.online_episodes import online_key, store_online_episode
from tspace_core.storage.replay import Replay, write_replay
from tspace_core.storage.unit_log import UNITS
from tspace_core.storage.unit_of_work import UnitOfWork, finish_units

torch.set_num_threads(1)
TOLD_TO_MAKE_ROOM = 3
BEGIN_NS = 1_767_600_000 * 10**9
VEHICLE = load_vehicle("twin_truck")


def pieces(number: int) -> tuple[str, list[Episode]]:
    """Key and two pieces of an online episode."""
    key = online_key("twin_truck", BEGIN_NS, number)
    found = []
    for piece in range(2):
        episode = coded_episode(
            10 * number + piece, 5, end_reason="end_valid", log_key=key, vehicle_id="twin_truck",
            episode_id=f"{key}#{piece:04d}", action_source="agent", time_source="clock",
            signals=("velocity",), window=9,
        )  # fmt: skip
        found.append(replace(episode, times=episode.times + BEGIN_NS + piece * 10**11))
    return key, found


def produce(lake: Lake, number: int) -> None:
    """What a night leaves in one unit: episodes, a replay version, a checkpoint, a pointer to it, metrics."""
    key, episodes = pieces(number)
    checkpoint = lake.checkpoints("ddpg", "run") / f"{number:08d}"
    pointer, old = lake.root / "checkpoints" / "ddpg" / "twin_truck.json", lake.root / f"old-{number}"
    seen = read_version(pointer)[1] if pointer.is_file() else None
    with UnitOfWork(lake, name=f"night {number}") as unit:
        store_online_episode(
            lake, VEHICLE, key, episodes, training_log={"night": number}, live_map=VEHICLE.default_map(),
            writer=unit,
        )  # fmt: skip
        write_replay(lake.replay("twin_truck"), episodes, writer=unit)
        manifest = CheckpointManifest(
            agent="ddpg", step=number, state_dim=9, action_dim=68, seed=0, hyperparameters={}
        )
        actor = Component({"w": torch.full((3,), float(number))}, {"night": number})
        write_checkpoint(checkpoint, manifest, {"actor": actor}, writer=unit)
        unit.text(pointer, json.dumps({"night": number}), if_absent=seen is None, seen=seen)
        unit.metrics("night", {"night": number})
        unit.remove(old)


def begin(root: AnyPath) -> None:
    """The old state."""
    lake = Lake(root)
    for number in (1, 2):
        write_text(lake.root / f"old-{number}", "to be removed")
    produce(lake, 1)


def work(root: AnyPath) -> None:
    """From the old state to the new one."""
    produce(Lake(root), 2)


def finish(root: AnyPath) -> None:
    """What whoever comes next does."""
    finish_units(Lake(root), silent_s=-60.0)


def look(root: AnyPath) -> int:
    """As ``look_at_stores``; besides, nothing is left of any unit."""
    nights = look_at_stores(root)
    ways = [path.relative_to(root).as_posix() for path in file_sizes(root, "**/*")]  # type: ignore[arg-type]
    left = [way for way in ways if way.startswith(f"{UNITS}/") or "/." in way]
    left = [way for way in left if way not in (f"{UNITS}/.lock", f"{UNITS}/last.json")]
    assert left == []
    return nights


def look_at_stores(root: AnyPath) -> int:
    """The last night of which all is there, read and verified; everything there is of that night or before.

    Raises:
        AssertionError, TspaceError: anything is half there, damaged or left over.
    """
    lake = Lake(root)
    versions = sorted(path.name for path in lake.replay("twin_truck").iterdir() if path.name.isdigit())
    nights = len(versions)
    assert versions == [f"{number:06d}" for number in range(1, nights + 1)]
    stored = {episode.meta.episode_id: episode for episode in map(episodes_table.read, lake.episodes())}
    expected = {piece.meta.episode_id: piece for n in range(1, nights + 1) for piece in pieces(n)[1]}
    assert stored.keys() == expected.keys()
    for name, episode in expected.items():
        assert (stored[name].states == episode.states).all()
        assert stored[name].meta == episode.meta
    for number in range(1, nights + 1):
        log = lake.log_of(pieces(number)[0])
        assert json.loads(lake.training_log(log).read_text()) == {"night": number}
        assert lake.last_live_map(log).is_file()
        Replay(lake.replay("twin_truck") / f"{number:06d}").verify()
        checkpoint = Checkpoint(lake.checkpoints("ddpg", "run") / f"{number:08d}")
        checkpoint.verify()
        assert checkpoint.component("actor").tensors["w"].tolist() == [float(number)] * 3
    pointer = lake.root / "checkpoints" / "ddpg" / "twin_truck.json"
    assert json.loads(pointer.read_text()) == {"night": nights}
    ways = [path.relative_to(lake.root).as_posix() for path in file_sizes(lake.root, "**/*")]  # type: ignore[arg-type]
    metrics = [lake.root / way for way in ways if way.startswith("metrics/")]
    assert sorted(json.loads(path.read_text())["values"]["night"] for path in metrics) == [
        *range(1, nights + 1)
    ]
    assert [way for way in ways if way.startswith("old-")] == [f"old-{n}" for n in range(nights + 1, 3)]
    return nights


def serve() -> None:
    """Answer commands until the input ends."""
    for line in sys.stdin:
        command = json.loads(line)
        child = os.fork()
        if child == 0:
            code = 1
            try:
                root = Path(command["root"])
                if command["size"] is not None:
                    resource.setrlimit(resource.RLIMIT_FSIZE, (command["size"], command["size"]))
                with Faults(root, command["at"], kill).installed():
                    globals()[command["do"]](root)
                code = 0
            except StorageError as error:
                code = TOLD_TO_MAKE_ROOM if "make room" in str(error) else 1
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(code)
        status = os.waitpid(child, 0)[1]
        print(json.dumps({"status": os.waitstatus_to_exitcode(status)}), flush=True)


if __name__ == "__main__":
    serve()
