"""Release of an agent for a vehicle: only one that loads and answers."""

import numpy as np

from tspace_core.agents import load_agent
from tspace_core.config import Vehicle
from tspace_core.errors import AgentError, CheckpointError
from tspace_core.objects.path import AnyPath
from tspace_core.storage.champion import Champion, release
from tspace_core.storage.lake import Lake, read_json


def release_agent(lake: Lake, vehicle: Vehicle, checkpoint: AnyPath, *, by: str) -> Champion:
    """Make a checkpoint the champion of a vehicle, after it has answered a state with an action.

    Raises:
        CheckpointError: it cannot be loaded, is damaged, of other dimensions, or its action is not finite.
    """

    def loads(folder: AnyPath) -> None:
        agent = load_agent(folder)
        try:
            action = agent.predict(np.zeros(vehicle.sampling.state_dim, np.float32))
        except AgentError as error:
            message = f"{checkpoint}: does not answer a state ({error}); release another checkpoint"
            raise CheckpointError(message) from error
        if action.shape != (vehicle.action_dim,) or not np.isfinite(action).all():
            message = f"{checkpoint}: its action is no finite one; release another checkpoint"
            raise CheckpointError(message)

    return release(lake, vehicle, checkpoint, by=by, loads=loads)


def latest_checkpoint(lake: Lake, vehicle_id: str) -> AnyPath:
    """The checkpoint of the vehicle's latest finished training run.

    Raises:
        CheckpointError: no agent was trained for it, or its checkpoint is gone.
        StorageError: the file that names it is damaged.
    """
    pointer = lake.checkpoints("ddpg", f"{vehicle_id}.json")
    if not pointer.is_file():
        message = f"no agent was trained for {vehicle_id} in {lake.root}: train one, or name a checkpoint"
        raise CheckpointError(message)
    content = read_json(pointer)
    path = lake.checkpoints("ddpg", str(content.get("run"))) / f"{int(content.get('step', 0)):08d}"
    if not path.is_dir():
        message = f"{path} is gone, though {pointer} names it: train again, or name another checkpoint"
        raise CheckpointError(message)
    return path
