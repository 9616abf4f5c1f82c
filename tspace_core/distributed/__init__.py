"""Training and driving on more than one process: engines, chosen by the settings."""

from tspace_core.distributed.engine import Engine, LocalEngine, make_engine
from tspace_core.distributed.parallel_training import train_from_rollouts
from tspace_core.distributed.rollouts import Driving, Rollout, Rollouts

__all__ = ["Driving", "Engine", "LocalEngine", "Rollout", "Rollouts", "make_engine", "train_from_rollouts"]
