"""What kind of vehicle an agent was made for: what states and actions mean, beyond their lengths."""

from typing import Self

from pydantic import BaseModel, ConfigDict

from tspace_core.config import Vehicle
from tspace_core.errors import CheckpointError
from tspace_core.objects.path import AnyPath
from tspace_core.records.policy import ACTION_ROWS
from tspace_core.storage.replay_manifest import ReplayLayout

LEARNING = frozenset({"reward_kind"})
"""What matters where learning goes on, not where the agent drives."""


class MadeFor(BaseModel):
    """What two vehicles must have in common so that one's agent is of use to the other.

    It is part of a checkpoint's manifest. Equal lengths of states and actions are not enough: an agent for
    other signals, another rate or other axes of the map would answer, and its answer would mean nothing.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    signals: tuple[str, ...]
    """Signals of a state, in their order."""
    window: int
    """Samples of a window."""
    rate_hz: float
    action_rows: int
    """Rows of the torque map that an action changes."""
    pedal_axis: tuple[float, ...]
    """Columns of an action, shares of full travel."""
    speed_axis_kmh: tuple[float, ...]
    """All rows of the map."""
    budget_nm: float
    """Torque of an action of 1."""
    reward_kind: str

    @classmethod
    def of(cls, source: Vehicle | ReplayLayout) -> Self:
        """Of a vehicle as its file says, or of the records in a replay buffer."""
        sampling = source if isinstance(source, ReplayLayout) else source.sampling
        table = source if isinstance(source, ReplayLayout) else source.torque_map
        reward = source.reward_kind if isinstance(source, ReplayLayout) else source.reward.kind
        return cls(
            signals=tuple(sampling.signals),
            window=sampling.window,
            rate_hz=sampling.rate_hz,
            action_rows=ACTION_ROWS,
            pedal_axis=tuple(table.pedal_axis),
            speed_axis_kmh=tuple(table.speed_axis_kmh),
            budget_nm=table.budget_nm,
            reward_kind=reward,
        )


def made_for(source: Vehicle | ReplayLayout) -> MadeFor:
    """What an agent that is trained for a vehicle, or on its replay buffer, is made for.

    Training says ``agent.made_for = made_for(replay.layout)`` once, before it saves: every checkpoint and
    all weights of the agent carry it from then on, and ``load``, ``restore`` and ``take_policy`` keep it.
    """
    return MadeFor.of(source)


def require_alike(
    found: MadeFor | None, wanted: MadeFor | None, checkpoint: AnyPath, who: str, *, learning: bool = False
) -> None:
    """Raise where an agent is of another type of vehicle; nothing is compared where one side is unknown.

    Args:
        found: what the checkpoint was made for; None: of before this was kept.
        wanted: what it is to be used for.
        checkpoint: its folder.
        who: what is to use it, for the message, such as a vehicle's id.
        learning: whether it is to learn on, that is, whether its values must mean the same, too.

    Raises:
        CheckpointError: names what differs, on both sides, and what to do.
    """
    if found is None or wanted is None:
        return
    odd = [
        name
        for name in MadeFor.model_fields
        if getattr(found, name) != getattr(wanted, name) and (learning or name not in LEARNING)
    ]
    if odd:
        parts = "; ".join(f"{name} {_said(found, name)}, {who} has {_said(wanted, name)}" for name in odd)
        message = (
            f"{checkpoint} was made for another type of vehicle: {parts}; train an agent for {who}, or name "
            "a checkpoint of its own type"
        )
        raise CheckpointError(message)


def require_vehicle(found: MadeFor | None, vehicle: Vehicle, checkpoint: AnyPath) -> None:
    """Raise unless an agent can drive a vehicle, as ``require_alike``."""
    require_alike(found, made_for(vehicle), checkpoint, vehicle.id)


def _said(side: MadeFor, name: str) -> str:
    value = getattr(side, name)
    return " ".join(f"{part}" for part in value) if isinstance(value, tuple) else str(value)
