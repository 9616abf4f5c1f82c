"""A sweep as data: conf/sweeps/<name>.yaml says what is searched, how, and what is to be reached."""

import math
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from tspace_core.config import settings
from tspace_core.config.base import ConfigModel, find_named, parse, read_yaml
from tspace_core.config.hyperparameters import HYPERPARAMETERS, AgentHyperparameters
from tspace_core.errors import ConfigError

Value = bool | int | float | str | tuple[int, ...] | tuple[float, ...]


class Range(ConfigModel):
    """Numbers from ``low`` to ``high``; whole ones where both are."""

    low: int | float
    high: int | float
    log: bool = Field(default=False, description="as many values below 10 as between 10 and 100")

    @model_validator(mode="after")
    def _ascending(self) -> "Range":
        if not self.low < self.high:
            message = f"low is {self.low} and high {self.high}: low must be below high"
            raise ValueError(message)
        if self.log and self.low <= 0:
            message = f"low is {self.low}: a logarithmic range begins above 0"
            raise ValueError(message)
        return self

    @property
    def whole(self) -> bool:
        """Whether only whole numbers are meant."""
        return isinstance(self.low, int) and isinstance(self.high, int)


class Choices(ConfigModel):
    """One of a few values; a list such as the sizes of layers is one value."""

    choices: tuple[Value, ...] = Field(min_length=1)


class Pruner(ConfigModel):
    """Ends a trial whose evaluation lies below the median of the trials before, at the same step."""

    kind: Literal["median", "none"] = "median"
    startup_trials: int = Field(default=5, ge=1, description="trials that are never ended")
    warmup_steps: int = Field(default=0, ge=0, description="steps or updates before which none is ended")


class GymnasiumObjective(ConfigModel):
    """Mean return in an environment after training there."""

    kind: Literal["gymnasium"]
    environment: str = Field(description="id of any Box/Box environment, module in front where needed")
    steps: int = Field(ge=1)
    warm_up: int = Field(default=1000, ge=0)
    evaluate_every: int = Field(default=0, ge=0, description="steps between evaluations; 0: only at the end")
    episodes: int = Field(default=10, ge=1, description="of an evaluation")


class TwinObjective(ConfigModel):
    """Energy saved in the twin, in % at equal distance and trip time, after training on a replay buffer."""

    kind: Literal["twin"]
    updates: int = Field(ge=1)
    evaluations: int = Field(default=1, ge=1, description="evenly over the updates, the last at their end")
    drivers: tuple[str, ...] = Field(default=("habitual",), min_length=1)
    seeds: tuple[int, ...] = Field(default=(0, 1), min_length=1)
    cycle: str = "truck_route"
    guarded: bool = Field(default=True, description="with a guard in front of every flash, as on the road")
    repeat_records: bool = False


class Sweep(ConfigModel):
    """A search for hyperparameters."""

    agent: str
    hyperparameters: str | None = Field(default=None, description="file of those that are not searched")
    space: dict[str, Range | Choices] = Field(min_length=1)
    trials: int = Field(ge=1)
    pruner: Pruner = Pruner()
    objective: Annotated[GymnasiumObjective | TwinObjective, Field(discriminator="kind")]
    seed: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _fits_the_agent(self) -> "Sweep":
        if self.agent not in HYPERPARAMETERS:
            message = f"agent is {self.agent!r}, known: {', '.join(HYPERPARAMETERS)}"
            raise ValueError(message)
        model = HYPERPARAMETERS[self.agent]
        known = set(model.model_fields) | {f"noise.{name}" for name in ("theta", "sigma", "dt")}
        for name, space in self.space.items():
            if name not in known:
                message = (
                    f"space: {self.agent} has no hyperparameter {name!r}; it has {', '.join(sorted(known))}"
                )
                raise ValueError(message)
            edges = space.choices if isinstance(space, Choices) else (space.low, space.high)
            for value in edges:
                try:
                    with_values(model(), {name: value})
                except ValidationError as error:
                    message = f"space: {name} cannot be {value!r}: {error.errors()[0]['msg']}"
                    raise ValueError(message) from error
        return self


def with_values(hyper: AgentHyperparameters, values: dict[str, Any]) -> AgentHyperparameters:
    """The hyperparameters with some of them changed; ``noise.sigma`` names a nested one.

    Raises:
        ValidationError: a value is out of its range.
    """
    # What nobody gave is worked out anew, as it may hang on what changes.
    given = hyper.model_fields_set | {name.partition(".")[0] for name in values}
    content = hyper.model_dump(include=given)
    for name, value in values.items():
        place, _, field = name.rpartition(".")
        (content[place] if place else content)[field] = value
    return type(hyper).model_validate(content)


def load_sweep(name: str) -> Sweep:
    """The sweep of that name in conf/sweeps.

    Raises:
        UnknownNameError: there is none; lists those there are.
        ConfigError: names the file and each wrong field.
    """
    path = find_named(settings().conf_dir / "sweeps", name, "sweep")
    return parse(Sweep, read_yaml(path), path)


def finite(value: float, what: str) -> float:
    """The value, if a trial can be judged by it.

    Raises:
        ConfigError: it is not a finite number.
    """
    if not math.isfinite(value):
        message = f"{what} is {value}: no trial can be judged by it; correct the objective"
        raise ConfigError(message)
    return value
