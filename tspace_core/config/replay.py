"""What of the recorded episodes goes into a replay buffer."""

from typing import Literal

from pydantic import Field

from tspace_core.config.base import ConfigModel, find_named, parse, read_yaml
from tspace_core.config.settings import settings


class ThinParameters(ConfigModel):
    """Records that say what an earlier one has said already are not drawn for training."""

    kind: Literal["none", "exact", "near"] = Field(
        default="none",
        description="none: all are drawn; exact: no equal state, action and reward twice; near: no situation "
        "that lies close to a drawn one with the same action, by the vehicle's encoder",
    )
    distance: float = Field(
        default=0.02, ge=0, le=2, description="near: cosine distance that counts as close"
    )
    action_step: float = Field(
        default=0.125, gt=0, le=2, description="near: actions are the same if equal in steps of this"
    )
    remembered: int = Field(
        default=50_000, ge=1, description="near: situations compared with at most, the latest ones"
    )


class ReplayParameters(ConfigModel):
    """A replay buffer's file in conf/hyperparameters."""

    thin: ThinParameters = ThinParameters()


def load_replay_parameters(name: str = "replay") -> ReplayParameters:
    """The parameters of that name in conf/hyperparameters.

    Raises:
        UnknownNameError: there is no such file; lists those there are.
        ConfigError: names the file and each wrong field.
    """
    path = find_named(settings().conf_dir / "hyperparameters", name, "hyperparameters")
    return parse(ReplayParameters, read_yaml(path), path)
