"""What an agent is worth: driven in closed loop where the vehicle has a twin, else read from its logs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tspace_core.agents.offline_run import Trained, latest_agent
from tspace_core.config import Vehicle, driver_ids, load_driver
from tspace_core.storage.lake import Lake
from tspace_core.storage.replay import Replay
from tspace_pipelines.report_sections import data_section, training_section
from tspace_pipelines.report_situations import situations_section

if TYPE_CHECKING:
    from tspace_core.evaluation.comparison import Comparison

CYCLE = "truck_route"
SEEDS = (0, 1, 2, 3, 4)
_BLOCK = 4096


@dataclass(frozen=True)
class ClosedLoop:
    """Drives in the twin, and the report on them."""

    trained: Trained
    comparison: "Comparison"
    report: Path


def simulated_drivers() -> list[str]:
    """Ids of the drivers that the twin can simulate."""
    return [driver for driver in driver_ids() if load_driver(driver).style is not None]


def evaluate_in_twin(
    lake: Lake,
    vehicle: Vehicle,
    folder: Path,
    *,
    drivers: Sequence[str] = (),
    seeds: Sequence[int] = SEEDS,
    cycle: str = CYCLE,
    command: str = "",
    tell: Callable[[str], object] = lambda line: None,
) -> ClosedLoop:
    """Drive the latest agent and the baselines in the twin and write ``report.html`` and the drives.

    Args:
        lake: with the agent and what it was trained on.
        vehicle: with a twin.
        folder: of report.html, drives.parquet and summary.json.
        drivers: simulated drivers; default: all of them.
        seeds: of the drivers' feet.
        cycle: name of the route.
        command: that made it, for the report.
        tell: is told how far it is, ten times.

    Raises:
        CheckpointError: no agent was trained, or its checkpoint is damaged.
        TwinError: the drives cannot be set up.
    """
    from tspace_core.agents import DDPGPolicy
    from tspace_core.evaluation.baselines import POLICY, baselines
    from tspace_core.evaluation.comparison import compare
    from tspace_core.evaluation.report import write_report
    from tspace_core.evaluation.sections import Provenance

    trained = latest_agent(lake, vehicle.id)
    who = list(drivers) or simulated_drivers()
    told = 0

    def progress(share: float) -> None:
        nonlocal told
        if int(share * 10) > told:
            told = int(share * 10)
            tell(f"{told * 10} % of {4 * len(who) * len(seeds)} drives driven")

    comparison = compare(
        vehicle,
        {**baselines(vehicle), POLICY: DDPGPolicy.load(trained.checkpoint)},
        who,
        seeds,
        cycle,
        progress=progress,
    )
    comparison.write(folder)
    report = write_report(
        folder / "report.html",
        title=f"{vehicle.id}: does the learned torque map save energy?",
        vehicle=vehicle,
        comparison=comparison,
        training=training_section(trained),
        data=data_section(lake, vehicle),
        situations=situations_section(lake, vehicle, trained.checkpoint),
        provenance=Provenance(
            command=command,
            settings={"drivers": who, "seeds": list(seeds), "cycle": cycle, "checkpoint": trained.run},
        ),
    )
    return ClosedLoop(trained, comparison, report)


def evaluate_on_logs(lake: Lake, vehicle: Vehicle) -> dict[str, Any]:
    """What can honestly be said without driving: the data, and the critic's own opinion of it.

    The values are the critic's, discounted and scaled as in training: they say what the agent believes, not
    what a truck would use.

    Raises:
        CheckpointError: no agent was trained, or its checkpoint is damaged.
        StorageError: the replay buffer is gone.
    """
    import torch

    from tspace_core.agents import DDPG

    trained = latest_agent(lake, vehicle.id)
    replay = Replay.open(lake.replay(vehicle.id), trained.summary.replay_version)
    agent = DDPG.load(trained.checkpoint, mode="train")
    sums = dict.fromkeys(("logged", "default", "policy"), 0.0)
    above, change = 0, 0.0
    with torch.no_grad():
        for first in range(0, len(replay), _BLOCK):
            batch = replay.pick(np.arange(first, min(first + _BLOCK, len(replay))))
            states = agent.normaliser(torch.from_numpy(np.ascontiguousarray(batch.states)))
            chosen = agent.predict(np.ascontiguousarray(batch.states))
            actions = {"logged": batch.actions, "default": np.zeros_like(batch.actions), "policy": chosen}
            values = {
                name: agent.critic(states, torch.from_numpy(np.ascontiguousarray(action)))
                .squeeze(1)
                .numpy()
                .astype(np.float64)
                for name, action in actions.items()
            }
            for name, value in values.items():
                sums[name] += float(value.sum())
            above += int((values["policy"] > values["default"]).sum())
            change += float(np.abs(chosen).mean(axis=1, dtype=np.float64).sum())
    n = len(replay)
    content = replay.manifest.content
    return {
        "twin": False,
        "what_this_is": (
            f"{vehicle.id} has no twin, so nothing was driven: these are the data the agent learned from and "
            "its own critic's values. They are no proof of a saving."
        ),
        "run": trained.run,
        "records": n,
        "episodes": len(content.episodes),
        "reward_kind": content.layout.reward_kind,
        "reward_mean": content.reward.mean,
        "action_sources": vehicle.actions,
        "critic_value_of_logged_actions": sums["logged"] / n,
        "critic_value_of_default_map": sums["default"] / n,
        "critic_value_of_policy": sums["policy"] / n,
        "share_of_states_where_policy_is_valued_higher": above / n,
        "mean_change_nm": change / n * vehicle.torque_map.budget_nm,
        "overestimating": trained.summary.overestimating,
        "substitutes": vehicle.substitutes,
        "checkpoint": trained.checkpoint,
    }
