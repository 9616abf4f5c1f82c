"""How windows of signals become vectors, and whose file that is."""

from pydantic import Field

from tspace_core.config.base import ConfigModel, find_named, parse, read_yaml
from tspace_core.config.settings import settings


class EmbeddingParameters(ConfigModel):
    """What an encoder of driving situations is made of and trained with."""

    encoder: str = Field(default="sequence", min_length=1, description="kind, see tspace_core.embeddings")
    dim: int = Field(default=32, ge=2, le=1024, description="length of a vector")
    training_windows: int = Field(
        default=20_000, ge=2, description="windows it learns from at most, spread over the episodes"
    )
    hidden: int = Field(default=32, ge=1, le=1024, description="sequence: channels of a convolution")
    updates: int = Field(default=600, ge=1, description="sequence: steps of training")
    batch_size: int = Field(default=128, ge=2, description="sequence: windows a step")
    learning_rate: float = Field(default=3e-3, gt=0, description="sequence: at its highest")
    next_weight: float = Field(
        default=0.5, ge=0, description="sequence: weight of the next window's error beside the own one's"
    )
    seed: int = Field(default=0, ge=0)


def load_embeddings(name: str = "embeddings") -> EmbeddingParameters:
    """The parameters of that name in conf/hyperparameters.

    Raises:
        UnknownNameError: there is no such file; lists those there are.
        ConfigError: names the file and each wrong field.
    """
    path = find_named(settings().conf_dir / "hyperparameters", name, "hyperparameters")
    return parse(EmbeddingParameters, read_yaml(path), path)
