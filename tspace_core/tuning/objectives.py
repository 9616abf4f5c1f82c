"""What a trial is judged by: a return in an environment, or energy saved in the twin."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from tspace_core.config import AgentHyperparameters, load_vehicle
from tspace_core.errors import ConfigError
from tspace_core.tuning.plan import GymnasiumObjective, Sweep, TwinObjective, finite

if TYPE_CHECKING:
    from tspace_core.agents.offline_run import Trainer
    from tspace_core.agents.tracking import RunTracker
    from tspace_core.storage.lake import Lake

Report = Callable[[int, float], None]
"""Told step and value of an evaluation on the way; raises where the trial is not worth going on."""
Objective = Callable[[AgentHyperparameters, Path, "RunTracker", Report], float]
"""Trains with hyperparameters in a folder of the trial's own and gives what was reached; larger is better."""


def objective_of(
    sweep: Sweep, lake: "Lake | None", vehicle_id: str | None, trainer: "Trainer | None" = None
) -> Objective:
    """What judges the trials of a sweep.

    Raises:
        ConfigError: the objective needs a vehicle and a lake, and there is none.
        StorageError: the vehicle has no replay buffer.
    """
    found = sweep.objective
    if isinstance(found, GymnasiumObjective):
        return _in_gymnasium(sweep, found)
    if lake is None or vehicle_id is None:
        message = "the objective is the twin: name the vehicle that is trained for (--vehicle)"
        raise ConfigError(message)
    return _in_twin(sweep, found, lake, vehicle_id, trainer)


def _in_gymnasium(sweep: Sweep, wanted: GymnasiumObjective) -> Objective:
    def judge(hyper: AgentHyperparameters, folder: Path, tracker: "RunTracker", report: Report) -> float:
        from tspace_core.agents.gymnasium_run import evaluate_in, make_agent, train_in

        agent = make_agent(sweep.agent, wanted.environment, hyper, hyper.seed)
        train_in(
            wanted.environment,
            agent,
            steps=wanted.steps,
            warm_up=wanted.warm_up,
            seed=hyper.seed,
            evaluate_every=wanted.evaluate_every,
            evaluation_episodes=wanted.episodes,
            tracker=Watched(tracker, "evaluation", report),
        )
        returns = evaluate_in(wanted.environment, agent, episodes=wanted.episodes, seed=hyper.seed + 1)
        agent.save(folder / "agent", step=wanted.steps)
        return finite(float(returns.mean()), "the mean return")

    return judge


def _in_twin(
    sweep: Sweep, wanted: TwinObjective, lake: "Lake", vehicle_id: str, trainer: "Trainer | None"
) -> Objective:
    from tspace_core.storage.replay import Replay

    vehicle, replay = load_vehicle(vehicle_id), Replay.open(lake.replay(vehicle_id))

    def judge(hyper: AgentHyperparameters, folder: Path, tracker: "RunTracker", report: Report) -> float:
        from tspace_core.agents.checkpoint import CheckpointStore
        from tspace_core.agents.made_for import made_for
        from tspace_core.agents.offline_run import agent_class
        from tspace_core.agents.policy import AgentPolicy
        from tspace_core.agents.training import train_offline
        from tspace_core.evaluation.comparison import compare

        store = CheckpointStore(folder, keep=1, every=wanted.updates)
        reached = 0.0
        for part in range(1, wanted.evaluations + 1):
            updates = max(1, wanted.updates * part // wanted.evaluations)
            hyper = hyper.model_copy(update={"repeat_records": wanted.repeat_records})
            agent = agent_class(sweep.agent)(hyper, replay.layout.state_dim, replay.layout.action_dim)
            agent.made_for = made_for(replay.layout)
            (trainer or train_offline)(
                agent, replay, updates=updates, tracker=tracker, checkpoints=store, resume=True
            )
            policy = AgentPolicy.load(store.latest())
            comparison = compare(
                vehicle,
                {"policy": policy},
                wanted.drivers,
                wanted.seeds,
                wanted.cycle,
                guarded=wanted.guarded,
            )
            found = comparison.summary.candidate("policy").counted_saving_percent
            if found is None:
                message = (
                    f"no drive of {wanted.cycle} could be compared with the default map's: change the cycle"
                )
                raise ConfigError(message)
            reached = finite(found.mean, "the saving")
            tracker.metrics(updates, {"saving_percent": reached})
            if part < wanted.evaluations:
                report(updates, reached)
        return reached

    return judge


class Watched:
    """A tracker whose metric of one name is reported, too."""

    def __init__(self, tracker: "RunTracker", name: str, report: Report) -> None:
        self._tracker, self._name, self._report = tracker, name, report
        self.start, self.figure, self.finish = tracker.start, tracker.figure, tracker.finish

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Pass on, and report."""
        self._tracker.metrics(step, values)
        if self._name in values:
            self._report(step, values[self._name])
