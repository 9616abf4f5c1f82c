"""An agent that learns in the twin from its own drives alone, and is chosen by drives it never learned from.

It drives ``TorqueMap-v0`` through ``train_in``, several trucks at once, each with a driver of its own and a
new route an episode. What counts as experience are the decisions of these episodes, all drivers together.
A guard stands in front of every flash, as on the road (``guarded``): only a policy that saves behind it may
be released, and it learns from what took effect, not from what it proposed.

Afterwards the policies of the last checkpoints, and their average (the mean of their weights; Polyak and
Juditsky 1992), drive a gate: another route and other seeds, compared with the default map as in
``evaluation``. The best of them is kept. Drives of the gate are not experience, but they are drives: they are
counted, and its route and seeds must not be those of a final evaluation.
"""

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from tspace_core.agents.checkpoint import CheckpointStore
from tspace_core.agents.ddpg import DDPG
from tspace_core.agents.gymnasium_run import Progress, train_in
from tspace_core.agents.gymnasium_state import GymnasiumSummary
from tspace_core.agents.made_for import made_for
from tspace_core.agents.tracking import RunTracker
from tspace_core.config import DDPGHyperparameters, Vehicle
from tspace_core.config.base import ConfigModel
from tspace_core.evaluation.comparison import compare
from tspace_core.evaluation.summary import CandidateSummary
from tspace_core.records.reward import RewardKind
from tspace_core.twin.cycles import load_route
from tspace_core.twin.environment import TorqueMapEnv

if TYPE_CHECKING:
    import gymnasium

AVERAGE = "average"
FREE_QUALITY_PERCENT, QUALITY_WEIGHT = 8.0, 0.02
"""In the gate, each % that speed error or acceleration rate is worse beyond 8 % costs 0.02 % of energy."""

GUARDED_BRAKING = 0.92


class TwinTraining(ConfigModel):
    """How much is driven, by whom, and how the policy is chosen."""

    episodes: int = Field(default=60, ge=1, description="in all, over all drivers")
    minutes: float = Field(default=15.0, gt=0, description="of each episode, as driven")
    places: int = Field(default=6, ge=1, description="trucks at once; they take the drivers in turn")
    drivers: tuple[str, ...] = Field(default=("tracker", "habitual", "aggressive"), min_length=1)
    cycle: str = Field(default="truck_route", description="with truck_route each episode has its own route")
    reward: RewardKind = Field(default="loss", description="what is learned from, see docs/rewards.md")
    level: bool = Field(
        default=True, description="take the road's height out of the reward, which the twin knows"
    )
    traction_factor: float = Field(
        default=1.1,
        gt=0,
        description="see TorqueMapEnv; the slope of battery over wheel energy of 3 s steps with random codes",
    )
    guarded: bool = Field(
        default=True, description="choose the policy behind the guard, which vehicles on the road have"
    )
    learn_guarded: bool = Field(
        default=False,
        description="put the guard in front of every flash of the training, too; docs/results.md says what "
        "that brought",
    )
    braking_factor: float | None = Field(
        default=None,
        gt=0,
        description="see TorqueMapEnv; None: as traction_factor, and 0.92 where it learns behind the guard: "
        "the same slope of steps that give work back is 0.92 to 0.95",
    )
    warm_up_episodes: int = Field(default=6, ge=0, description="of them with random codes")
    updates_per_step: float = Field(default=1.0, ge=0)
    gate_checkpoints: int = Field(default=4, ge=1, description="of which one is kept, or their average")
    gate_every: int = Field(default=6, ge=1, description="episodes between them")
    gate_route: int = Field(default=7001, ge=1, description="seed of the gate's route; 0 is the evaluation's")
    gate_seeds: tuple[int, ...] = Field(default=(5001, 5002), min_length=1)

    def decisions(self, vehicle: Vehicle) -> int:
        """Of an episode."""
        return round(60.0 * self.minutes / (2.0 * vehicle.sampling.window_s))


class GateResult(BaseModel):
    """What a candidate of the gate showed there, in % of the default map's."""

    model_config = ConfigDict(frozen=True)

    name: str
    score: float
    saving_percent: float
    counted_saving_percent: float
    trip_time_percent: float
    speed_error_percent: float
    acceleration_rate_percent: float


@dataclass(frozen=True, eq=False)
class TwinTrained:
    """What came of it.

    Attributes:
        agent: with the chosen policy, in mode ``infer``.
        policy: its checkpoint.
        chosen: name of the candidate that was kept: ``step-<n>`` or ``average``.
        gate: every candidate.
        gate_drives: drives of the gate, those of the default map included.
        decisions: experience in all.
        summary: of the training.
    """

    agent: DDPG
    policy: Path
    chosen: str
    gate: tuple[GateResult, ...]
    gate_drives: int
    decisions: int
    summary: GymnasiumSummary


def place_options(vehicle: Vehicle, plan: TwinTraining) -> list[dict[str, Any]]:
    """Arguments of ``TorqueMapEnv`` for each driver of ``plan``."""
    braking = plan.braking_factor
    if braking is None:
        braking = GUARDED_BRAKING if plan.learn_guarded else plan.traction_factor
    return [
        {
            "vehicle": vehicle,
            "driver": driver,
            "cycle": plan.cycle,
            "reward": plan.reward,
            "time_limit_s": 60.0 * plan.minutes,
            "level": plan.level,
            "traction_factor": plan.traction_factor if plan.reward == "loss" else 1.0,
            "braking_factor": braking if plan.reward == "loss" else 1.0,
            "guarded": plan.learn_guarded,
        }
        for driver in plan.drivers
    ]


def twin_places(vehicle: Vehicle, plan: TwinTraining) -> Callable[[], "gymnasium.Env[Any, Any]"]:
    """Makes the environments of ``plan``: one after the other takes the next driver."""
    turn = itertools.cycle(place_options(vehicle, plan))

    def torque_map() -> "gymnasium.Env[Any, Any]":
        return TorqueMapEnv(**next(turn))

    return torque_map


class Drive(Protocol):
    """What drives and learns by a plan: ``in_this_process``, or the places of an engine (``twin_run``)."""

    def __call__(
        self,
        vehicle: Vehicle,
        plan: TwinTraining,
        agent: DDPG,
        store: CheckpointStore,
        *,
        seed: int,
        tracker: RunTracker | None,
        progress: Progress | None,
    ) -> GymnasiumSummary:
        """Train the agent, with checkpoints in ``store``."""


def in_this_process(
    vehicle: Vehicle,
    plan: TwinTraining,
    agent: DDPG,
    store: CheckpointStore,
    *,
    seed: int,
    tracker: RunTracker | None = None,
    progress: Progress | None = None,
) -> GymnasiumSummary:
    """All trucks step by step, with learning between two steps: ``train_in``."""
    per_episode = plan.decisions(vehicle)
    return train_in(
        twin_places(vehicle, plan),
        agent,
        steps=plan.episodes * per_episode,
        warm_up=plan.warm_up_episodes * per_episode,
        update_every=plan.places,
        updates_per_step=plan.updates_per_step,
        seed=seed,
        environments=plan.places,
        capacity=plan.episodes * per_episode,
        report_every=plan.places * per_episode,
        checkpoints=store,
        keep_records=False,
        tracker=tracker,
        progress=progress,
    )


def train_in_twin(
    vehicle: Vehicle,
    hyper: DDPGHyperparameters,
    plan: TwinTraining,
    *,
    seed: int,
    folder: Path,
    tracker: RunTracker | None = None,
    progress: Progress | None = None,
    drive: Drive = in_this_process,
) -> TwinTrained:
    """Train a DDPG agent in the twin and choose its policy.

    Args:
        vehicle: with a twin.
        hyper: of the agent.
        plan: how much is driven, and the gate.
        seed: of weights, routes, feet, noise and batches.
        folder: new; takes ``checkpoints`` and the chosen ``policy``.
        tracker: None tracks nothing.
        progress: see ``train_in``.
        drive: how it is driven and learned.

    Raises:
        AgentError: training diverged, or the plan does not fit.
        CheckpointError: ``folder`` holds checkpoints already.
        TwinError: the vehicle has no twin.
    """
    agent = DDPG(hyper, vehicle.sampling.state_dim, vehicle.action_dim, seed=seed)
    agent.made_for = made_for(vehicle).model_copy(update={"reward_kind": plan.reward})
    store = CheckpointStore(
        folder / "checkpoints",
        keep=plan.gate_checkpoints,
        every=plan.gate_every * plan.decisions(vehicle),
    )
    summary = drive(vehicle, plan, agent, store, seed=seed, tracker=tracker, progress=progress)
    candidates = {f"step-{step}": DDPG.load(store.path(step)) for step in store.steps()}
    if len(candidates) > 1:
        candidates[AVERAGE] = averaged(candidates)
    gate = pass_gate(vehicle, candidates, plan)
    chosen = max(gate, key=lambda result: result.score).name
    policy = folder / "policy"
    candidates[chosen].save_policy(policy, step=summary.steps)
    return TwinTrained(
        agent=candidates[chosen],
        policy=policy,
        chosen=chosen,
        gate=gate,
        gate_drives=(len(candidates) + 1) * len(plan.drivers) * len(plan.gate_seeds),
        decisions=summary.steps,
        summary=summary,
    )


def averaged(agents: Mapping[str, DDPG]) -> DDPG:
    """An agent whose policy has the mean weights of these, which come from one run, in mode ``infer``."""
    first, *_ = agents.values()
    result = DDPG(first.hyper, first.state_dim, first.action_dim, seed=first.seed, mode="infer")
    tensors, parts = result.tensors(), [agent.tensors() for agent in agents.values()]
    for name in result.policy_components:
        for key, tensor in tensors[name].items():
            mean = sum(part[name][key].double() for part in parts) / len(parts)
            assert not isinstance(mean, float | int)
            tensor.copy_(mean.to(tensor.dtype))
    result.normaliser.fitted = first.normaliser.fitted
    result.made_for = first.made_for
    return result


def pass_gate(vehicle: Vehicle, candidates: Mapping[str, DDPG], plan: TwinTraining) -> tuple[GateResult, ...]:
    """Drive all candidates on the gate's route and seeds.

    Score: counted saving, less a little for drive quality that is clearly worse.
    """
    route = load_route(plan.cycle, plan.gate_route)
    policies = {name: agent.predict for name, agent in candidates.items()}
    summary = compare(vehicle, policies, plan.drivers, plan.gate_seeds, route, guarded=plan.guarded).summary
    default = summary.candidates[0]
    return tuple(gate_result(summary.candidate(name), default) for name in candidates)


def gate_result(found: CandidateSummary, default: CandidateSummary) -> GateResult:
    """Score of a candidate beside the default map."""
    saving, counted, time = found.saving_percent, found.counted_saving_percent, found.trip_time_percent
    error = percent_more(found.speed_rmse_kmh, default.speed_rmse_kmh)
    rate = percent_more(found.mean_acceleration_rate_mps3, default.mean_acceleration_rate_mps3)
    if saving is None or counted is None or time is None or found.problems:
        score = float("-inf")  # it did not arrive
    else:
        worse = sum(max(value - FREE_QUALITY_PERCENT, 0.0) for value in (error, rate))
        score = counted.mean - QUALITY_WEIGHT * worse
    return GateResult(
        name=found.name,
        score=score,
        saving_percent=float("nan") if saving is None else saving.mean,
        counted_saving_percent=float("nan") if counted is None else counted.mean,
        trip_time_percent=float("nan") if time is None else time.mean,
        speed_error_percent=error,
        acceleration_rate_percent=rate,
    )


def percent_more(value: float | None, reference: float | None) -> float:
    """How much more a value is than its reference, %; NaN where either is not known."""
    if value is None or reference is None or not np.isfinite([value, reference]).all() or reference == 0:
        return float("nan")
    return 100.0 * (value / reference - 1.0)
