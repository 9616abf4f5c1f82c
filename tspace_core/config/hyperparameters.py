"""Hyperparameters of the agents; the defaults are those in the field."""

from pydantic import Field

from tspace_core.config.base import ConfigModel


class NoiseParameters(ConfigModel):
    """Ornstein-Uhlenbeck exploration noise: ``x += theta * (0 - x) * dt + sigma * sqrt(dt) * N(0, 1)``."""

    theta: float = Field(default=0.15, gt=0, description="pull back to zero, 1/s")
    sigma: float = Field(default=0.2, ge=0, description="strength of the noise, 1/sqrt(s)")
    dt: float = Field(default=1e-2, gt=0, description="time step of the process, s")


class DDPGHyperparameters(ConfigModel):
    """Deep deterministic policy gradient (Lillicrap et al. 2015)."""

    gamma: float = Field(default=0.99, ge=0, lt=1, description="discount a step")
    tau: float = Field(
        default=0.005, gt=0, le=1, description="share of the live weights that the targets take over"
    )
    actor_learning_rate: float = Field(default=1e-3, gt=0)
    critic_learning_rate: float = Field(default=2e-3, gt=0)
    batch_size: int = Field(default=256, ge=1)
    reward_scale: float = Field(
        default=1.0, gt=0, description="factor on the reward (Wh) before it reaches the critic"
    )
    noise: NoiseParameters = NoiseParameters()
    actor_hidden: tuple[int, ...] = Field(default=(256, 256), min_length=1)
    critic_state_hidden: tuple[int, ...] = Field(default=(16, 32), min_length=1)
    critic_action_hidden: tuple[int, ...] = Field(default=(32,), min_length=1)
    critic_joint_hidden: tuple[int, ...] = Field(default=(256, 256), min_length=1)
    updates_per_episode: int = Field(default=6, ge=0, description="updates at an episode's end, online")
    offline_updates: int = Field(default=500, ge=1, description="updates of one offline training run")
    checkpoint_every: int = Field(
        default=5, ge=1, description="updates of the online loop between checkpoints"
    )
    offline_checkpoint_every: int = Field(
        default=100, ge=1, description="offline updates between checkpoints"
    )
    checkpoints_kept: int = Field(default=10, ge=1)
    seed: int = Field(default=0, ge=0)
