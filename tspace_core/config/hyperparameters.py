"""Hyperparameters of the agents; the defaults are those in the field."""

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from tspace_core.config.base import ConfigModel


class NoiseParameters(ConfigModel):
    """Ornstein-Uhlenbeck exploration noise: ``x += theta * (0 - x) * dt + sigma * sqrt(dt) * N(0, 1)``."""

    theta: float = Field(default=0.15, gt=0, description="pull back to zero, 1/s")
    sigma: float = Field(default=0.2, ge=0, description="strength of the noise, 1/sqrt(s)")
    dt: float = Field(default=1e-2, gt=0, description="time step of the process, s")


class AgentHyperparameters(ConfigModel):
    """What every agent has."""

    gamma: float = Field(default=0.99, ge=0, lt=1, description="discount a step")
    tau: float = Field(
        default=0.005, gt=0, le=1, description="share of the live weights that the targets take over"
    )
    actor_learning_rate: float = Field(default=1e-3, gt=0)
    critic_learning_rate: float = Field(default=2e-3, gt=0)
    batch_size: int = Field(default=256, ge=1, description="records, or sequences, of one update")
    repeat_records: bool = Field(
        default=False,
        description="offline, learn from a buffer that holds fewer records than a batch: they are drawn "
        "with replacement, so each several times",
    )
    reward_scale: float = Field(
        default=1.0, gt=0, description="factor on the reward (Wh) before it reaches the critic"
    )
    noise: NoiseParameters = NoiseParameters()
    action_bands: tuple[float, ...] = Field(
        default=(),
        description="centres of smooth bands along the pedal axis, 0 to 1, that the actor decides on; "
        "none: each cell of the action on its own",
    )
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


class DDPGHyperparameters(AgentHyperparameters):
    """Deep deterministic policy gradient (Lillicrap et al. 2015)."""

    actor_hidden: tuple[int, ...] = Field(default=(256, 256), min_length=1)
    critic_state_hidden: tuple[int, ...] = Field(default=(16, 32), min_length=1)
    critic_action_hidden: tuple[int, ...] = Field(default=(32,), min_length=1)
    critic_joint_hidden: tuple[int, ...] = Field(default=(256, 256), min_length=1)
    code_penalty: float = Field(
        default=0.0,
        ge=0,
        description="weight of the sum of squares of the actor's codes in its loss: what is not seen to be "
        "worth anything stays near zero, the default map",
    )


BURN_IN = 40
"""Records that bring an LSTM's memory, which is stored, up to date (Kapturowski et al. 2019)."""


def _burn_in(known: dict[str, Any]) -> int:
    """What suits the sequence model."""
    return int(known["context"]) - 1 if known["sequence_model"] == "transformer" else BURN_IN


class RDPGHyperparameters(AgentHyperparameters):
    """Recurrent deterministic policy gradient (Heess et al. 2015, arXiv:1512.04455)."""

    batch_size: int = Field(default=16, ge=1, description="sequences of one update")
    sequence_model: Literal["lstm", "transformer"] = "lstm"
    layers: int = Field(default=2, ge=1, description="LSTM layers, or Transformer blocks")
    width: int = Field(default=256, ge=1, description="hidden size of an LSTM layer or Transformer block")
    heads: int = Field(default=4, ge=1, description="attention heads; width is a multiple")
    context: int = Field(
        default=64, ge=1, description="steps that a Transformer sees, the present one included"
    )
    length: int = Field(
        default=200, ge=1, description="records of a sequence that are learned from: k1 = k2 of TBPTT"
    )
    burn_in: int = Field(
        default_factory=_burn_in,
        ge=0,
        description="records before them that only warm up the memory; default: 40 for an LSTM, context - 1 "
        "for a Transformer and no less: its memory is not stored, and with fewer records it would learn from "
        "a shorter past than it sees while driving",
    )
    stride: int | None = Field(
        default=None,
        ge=1,
        description="records between the beginnings of an episode's sequences; none: half of "
        "burn_in + length, less where records would be left out",
    )
    gradient_limit: float = Field(default=10.0, gt=0, description="longest gradient of a network, cut to it")
    saturation_penalty: float = Field(
        default=0.1, ge=0, description="weight of the penalty on what enters the actor's tanh beyond 2"
    )

    @property
    def sequence_stride(self) -> int:
        """The stride, or its default: sequences overlap by half, and every record is learned from."""
        if self.stride is not None:
            return self.stride
        return max(1, min((self.burn_in + self.length) // 2, self.length - self.burn_in))

    @model_validator(mode="after")
    def _heads_divide_width(self) -> Self:
        if self.sequence_model == "transformer" and self.width % self.heads:
            message = f"width is {self.width}, which {self.heads} heads cannot share; make it a multiple"
            raise ValueError(message)
        return self

    @model_validator(mode="after")
    def _burn_in_fills_the_context(self) -> Self:
        if self.sequence_model == "transformer" and self.burn_in < self.context - 1:
            message = (
                f"burn_in is {self.burn_in}, a Transformer with a context of {self.context} steps needs "
                f"{self.context - 1}: with less it learns from a shorter past than it sees while driving; "
                "leave burn_in out, or lower context"
            )
            raise ValueError(message)
        return self


class IDQLHyperparameters(AgentHyperparameters):
    """Implicit diffusion Q-learning (Hansen-Estruch et al. 2023, arXiv:2304.10573)."""

    batch_size: int = Field(default=512, ge=1)
    actor_learning_rate: float = Field(default=3e-4, gt=0)
    critic_learning_rate: float = Field(default=3e-4, gt=0)
    expectile: float = Field(default=0.7, gt=0, lt=1, description="tau of the expectile regression of V")
    value_hidden: tuple[int, ...] = Field(default=(256, 256), min_length=1, description="layers of Q and V")
    diffusion_steps: int = Field(default=5, ge=1)
    actor_width: int = Field(default=256, ge=1)
    actor_blocks: int = Field(default=3, ge=1)
    dropout: float = Field(default=0.1, ge=0, lt=1)
    actor_ema: float = Field(default=0.001, gt=0, le=1, description="step of the actor's moving average")
    samples: int = Field(default=64, ge=1, le=64, description="actions that are drawn and judged when acting")
    explore_temperature: float = Field(
        default=0.5,
        gt=0,
        description="softmax temperature of the choice among them while exploring, in deviations of "
        "their values",
    )
    offline_share: float = Field(
        default=0.5, ge=0, le=1, description="offline records of a batch in online fine-tuning"
    )


HYPERPARAMETERS: dict[str, type[AgentHyperparameters]] = {
    "ddpg": DDPGHyperparameters,
    "rdpg": RDPGHyperparameters,
    "idql": IDQLHyperparameters,
}
"""By the agent's name; a new agent is one line here."""
