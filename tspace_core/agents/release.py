"""Release of an agent for a vehicle: only one that loads and answers."""

import numpy as np

from tspace_core.agents import load_agent
from tspace_core.agents.dpg import DPG
from tspace_core.agents.made_for import require_vehicle
from tspace_core.agents.offline_run import newest_agent
from tspace_core.config import Vehicle
from tspace_core.errors import AgentError, CheckpointError
from tspace_core.objects.path import AnyPath
from tspace_core.storage.champion import Champion, Grounds, release
from tspace_core.storage.lake import Lake


def release_agent(
    lake: Lake, vehicle: Vehicle, checkpoint: AnyPath, *, by: str, grounds: Grounds | None = None
) -> Champion:
    """Make a checkpoint the champion of a vehicle, after it has answered a state with an action.

    This asks for no evaluation: ``evaluation.release_bar.approve`` does, and gives the grounds.

    Raises:
        CheckpointError: it cannot be loaded, is damaged, of other dimensions or another type of vehicle, or
            its action is not finite.
    """

    def loads(folder: AnyPath) -> None:
        load_for(folder, vehicle, checkpoint)

    return release(lake, vehicle, checkpoint, by=by, loads=loads, grounds=grounds)


def load_for(folder: AnyPath, vehicle: Vehicle, named: AnyPath | None = None) -> DPG:
    """The agent of a checkpoint, after it has answered a state of this type of vehicle with an action.

    Args:
        folder: of the checkpoint.
        vehicle: that it is to drive.
        named: what errors call it; default: the folder.

    Raises:
        CheckpointError: it cannot be loaded, is damaged, of other dimensions or another type of vehicle, or
            its action is not finite.
    """
    name = named or folder
    agent = load_agent(folder)
    require_vehicle(agent.made_for, vehicle, name)
    try:
        action = agent.predict(np.zeros(vehicle.sampling.state_dim, np.float32))
    except AgentError as error:
        message = f"{name}: does not answer a state ({error}); take another checkpoint"
        raise CheckpointError(message) from error
    if action.shape != (vehicle.action_dim,) or not np.isfinite(action).all():
        message = f"{name}: its action is no finite one; take another checkpoint"
        raise CheckpointError(message)
    return agent


def latest_checkpoint(lake: Lake, vehicle_id: str) -> AnyPath:
    """The checkpoint of the vehicle's latest finished training run, of whatever kind of agent.

    Raises:
        CheckpointError: no agent was trained for it, or the checkpoint of a kind's latest is gone.
        StorageError: a file that names one is damaged.
    """
    found = newest_agent(lake, vehicle_id)
    if found is None:
        message = f"no agent was trained for {vehicle_id} in {lake.root}: train one, or name a checkpoint"
        raise CheckpointError(message)
    return found.checkpoint
