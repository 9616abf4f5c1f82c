"""What agents are worth: driven in closed loop where the vehicle has a twin, else estimated from its logs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tspace_core.agents.offline_run import Trained, has_agent, latest_agent
from tspace_core.config import Vehicle, driver_ids, load_driver
from tspace_core.errors import AgentError, CheckpointError, StorageError
from tspace_core.storage.lake import Lake
from tspace_core.storage.replay import Replay
from tspace_pipelines.report_sections import data_section, training_section
from tspace_pipelines.report_situations import situations_section

if TYPE_CHECKING:
    from tspace_core.agents.dpg import DPG
    from tspace_core.evaluation.comparison import Comparison
    from tspace_core.evaluation.fitted_q import OffPolicyEstimate
    from tspace_core.evaluation.release_bar import Evidence
    from tspace_core.evaluation.sections import OffPolicySection, ReleaseLine

CYCLE = "truck_route"
SEEDS = (0, 1, 2, 3, 4)
STATIC_GENERATIONS = 16
_BLOCK = 4096
_DESCRIPTIONS = {
    "ddpg": "the DDPG agent trained last, consulted every step, without exploration noise",
    "rdpg": "the RDPG agent trained last, which remembers its drive, without exploration noise",
    "idql": "the IDQL agent trained last, which picks the best of the actions it draws",
}


@dataclass(frozen=True)
class ClosedLoop:
    """Drives in the twin, what they say about each agent, and the report on them.

    Attributes:
        trained: the agents that drove; the report's subject first.
        comparison: all drives.
        evidence: on each agent, the subject first.
        releases: whether each clears the release bar, in the same order.
        off_policy: what recorded trips say, as an estimate.
        report: the file.
        left_out: why kinds of agents that were trained did not drive.
    """

    trained: tuple[Trained, ...]
    comparison: "Comparison"
    evidence: "tuple[Evidence, ...]"
    releases: "tuple[ReleaseLine, ...]"
    off_policy: "OffPolicySection"
    report: Path
    left_out: Mapping[str, str]


def simulated_drivers() -> list[str]:
    """Ids of the drivers that the twin can simulate."""
    return [driver for driver in driver_ids() if load_driver(driver).style is not None]


@dataclass(frozen=True)
class Usable:
    """The latest agents of a vehicle that can be evaluated.

    Attributes:
        agents: what was trained, and the agent, by kind; at least one.
        left_out: why another kind's latest cannot, and what to do, by kind.
    """

    agents: "dict[str, tuple[Trained, DPG]]"
    left_out: dict[str, str]

    @property
    def trained(self) -> list[Trained]:
        """Without the agents themselves."""
        return [trained for trained, _ in self.agents.values()]


def usable_agents(lake: Lake, vehicle: Vehicle, warn: Callable[[str], object] = lambda line: None) -> Usable:
    """The latest trained agent of each kind that answers a state of the vehicle.

    One that is gone, damaged or of another type of vehicle costs only itself: it is left out, and without
    evidence it cannot be released.

    Args:
        lake: with the agents.
        vehicle: that they are to drive.
        warn: is told each that is left out.

    Raises:
        CheckpointError: none was trained, or none can be used; says why not.
    """
    from tspace_core.agents import AGENTS
    from tspace_core.agents.release import load_for

    found = Usable({}, {})
    for kind in AGENTS:
        if not has_agent(lake, vehicle.id, kind):
            continue
        try:
            trained = latest_agent(lake, vehicle.id, kind)
            found.agents[kind] = trained, load_for(trained.checkpoint, vehicle)
        except (AgentError, StorageError) as error:
            found.left_out[kind] = f"{error}. Train it anew: materialize {kind}_checkpoint"
            warn(f"the {kind} agent is left out: {found.left_out[kind]}")
    if not found.agents:
        if not found.left_out:
            latest_agent(lake, vehicle.id)  # says that there is none
        why = "; ".join(f"{kind}: {text}" for kind, text in found.left_out.items())
        message = f"no agent of {vehicle.id} can be evaluated. {why}"
        raise CheckpointError(message)
    return found


def evaluate_in_twin(
    lake: Lake,
    vehicle: Vehicle,
    folder: Path,
    *,
    drivers: Sequence[str] = (),
    seeds: Sequence[int] = SEEDS,
    cycle: str = CYCLE,
    static_generations: int = STATIC_GENERATIONS,
    command: str = "",
    tell: Callable[[str], object] = lambda line: None,
    warn: Callable[[str], object] = lambda line: None,
) -> ClosedLoop:
    """Drive the latest agents and the baselines in the twin, behind a guard, and write the report.

    ``report.html``, the drives and the summary go to the folder, the evidence for a release to the lake.

    Args:
        lake: with the agents and what they were trained on.
        vehicle: with a twin.
        folder: of report.html, drives.parquet and summary.json.
        drivers: simulated drivers; default: all of them.
        seeds: of the drivers' feet.
        cycle: name of the route.
        static_generations: effort of the search for the best static map; 0: none stands beside the agents.
        command: that made it, for the report.
        tell: is told how far it is, ten times.
        warn: is told which agent cannot be evaluated, and why; the others are.

    Raises:
        CheckpointError: no agent was trained, or none of them can be evaluated.
        TwinError: the drives cannot be set up.
    """
    from tspace_core.agents.policy import AgentPolicy
    from tspace_core.config.release import load_release_bar
    from tspace_core.evaluation.baselines import BEST_STATIC, baselines
    from tspace_core.evaluation.comparison import compare
    from tspace_core.evaluation.release_bar import AREA, evidence_on, judge_release, write_evidence
    from tspace_core.evaluation.report import write_report
    from tspace_core.evaluation.sections import Provenance, ReleaseLine

    usable = usable_agents(lake, vehicle, warn)
    agents = {name: trained for name, (trained, _) in usable.agents.items()}
    policies = {name: AgentPolicy(agent) for name, (_, agent) in usable.agents.items()}
    candidates = baselines(vehicle)
    if static_generations:
        from tspace_core.evaluation.best_static import best_static_map
        from tspace_core.evaluation.static_map import StaticSearch

        search = StaticSearch(limits="guard", generations=static_generations)
        best = best_static_map(
            vehicle,
            cycle,
            search=search,
            folder=lake.root / AREA / vehicle.id,
            progress=lambda generation, least: tell(
                f"best static map: generation {generation} of {search.generations}, {-least:.2f} % saved"
            ),
        )
        candidates[BEST_STATIC] = best.torque_map(vehicle)
    who = list(drivers) or simulated_drivers()
    told, count = 0, (len(candidates) + len(policies)) * len(who) * len(seeds)

    def progress(share: float) -> None:
        nonlocal told
        if int(share * 10) > told:
            told = int(share * 10)
            tell(f"{told * 10} % of {count} drives driven")

    comparison = compare(
        vehicle,
        {**candidates, **policies},
        who,
        seeds,
        cycle,
        guarded=True,
        progress=progress,
        descriptions=_DESCRIPTIONS,
    )
    order = [agents[name] for name in comparison.summary.ranking if name in agents]
    evidence = tuple(
        evidence_on(comparison.summary, lake, vehicle, trained.checkpoint, candidate=trained.agent)
        for trained in order
    )
    bar = load_release_bar()
    releases = tuple(ReleaseLine(agent=item.agent, findings=judge_release(item, bar)) for item in evidence)
    tell("fitted Q evaluation on the recorded episodes")
    off_policy = _off_policy_section(lake, vehicle, order)
    comparison.write(folder)
    report = write_report(
        folder / "report.html",
        title=f"{vehicle.id}: does the learned torque map save energy?",
        vehicle=vehicle,
        comparison=comparison,
        training=training_section(order[0]),
        data=data_section(lake, vehicle),
        situations=situations_section(lake, vehicle, order[0].checkpoint),
        off_policy=off_policy,
        releases=releases,
        provenance=Provenance(
            command=command,
            settings={
                "drivers": who,
                "seeds": list(seeds),
                "cycle": cycle,
                **{f"{trained.agent} checkpoint": f"{trained.run}/{trained.step:08d}" for trained in order},
                **{f"{name} left out": why for name, why in usable.left_out.items()},
            },
        ),
    )
    write_evidence(lake, vehicle.id, evidence)
    return ClosedLoop(tuple(order), comparison, evidence, releases, off_policy, report, usable.left_out)


def estimate_off_policy(
    lake: Lake, vehicle: Vehicle, agents: Sequence[Trained]
) -> "dict[str, OffPolicyEstimate]":
    """What the episodes that agents were trained on say about each agent, an estimate only.

    Raises:
        StorageError: the replay buffer is gone.
        AgentError: an agent does not fit the states.
        RecordError: the episodes hold nothing to estimate on.
    """
    from tspace_core.agents.policy import AgentPolicy
    from tspace_core.evaluation.fitted_q import FittedQ, estimate_policy, recorded_episodes

    found = {}
    for trained in agents:
        replay = _replay_of(lake, vehicle, trained)
        settings = FittedQ(gamma=trained.hyperparameters.gamma)
        episodes = recorded_episodes(replay, settings)
        found[trained.agent] = estimate_policy(episodes, AgentPolicy.load(trained.checkpoint), settings)
    return found


def _replay_of(lake: Lake, vehicle: Vehicle, trained: Trained) -> Replay:
    """What the agent was trained on; the latest buffer for one that learned by driving."""
    return Replay.open(lake.replay(vehicle.id), trained.summary.replay_version or "latest")


def _off_policy_section(lake: Lake, vehicle: Vehicle, agents: Sequence[Trained]) -> "OffPolicySection":
    """The report's section; a report does not fail for an estimate."""
    from tspace_core.errors import TspaceError
    from tspace_core.evaluation.sections import OffPolicySection

    try:
        estimates = estimate_off_policy(lake, vehicle, agents)
    except (TspaceError, OSError) as error:
        return OffPolicySection(note=f"Nothing could be estimated: {error}")
    return OffPolicySection(estimates=estimates, reward_kind=vehicle.reward.kind)


def evaluate_on_logs(
    lake: Lake, vehicle: Vehicle, warn: Callable[[str], object] = lambda line: None
) -> dict[str, Any]:
    """What can honestly be said without driving: the data, fitted Q evaluation, and a critic's own opinion.

    The critic's values are discounted and scaled as in training: they say what the agent believes, not what
    a truck would use. They are given for DDPG, whose critic judges single steps.

    Args:
        lake: with the agents and what they were trained on.
        vehicle: without a twin.
        warn: is told which agent cannot be used, and why; the others are.

    Raises:
        CheckpointError: no agent was trained, or none of them can be used.
        StorageError: the replay buffer is gone.
    """
    usable = usable_agents(lake, vehicle, warn)
    agents = usable.trained
    trained = agents[0]
    replay = _replay_of(lake, vehicle, trained)
    content = replay.manifest.content
    estimates = estimate_off_policy(lake, vehicle, agents)
    return {
        "twin": False,
        "what_this_is": (
            f"{vehicle.id} has no twin, so nothing was driven: these are the data the agent learned from, an "
            "estimate by fitted Q evaluation and the critic's own values. They are no proof of a saving."
        ),
        "run": trained.run,
        "records": len(replay),
        "episodes": len(content.episodes),
        "reward_kind": content.layout.reward_kind,
        "reward_mean": content.reward.mean,
        "action_sources": vehicle.actions,
        "off_policy": {name: item.model_dump(mode="json") for name, item in estimates.items()},
        "off_policy_finding": " ".join(f"{name}: {item.sentence}" for name, item in estimates.items()),
        **(_critics_opinion(vehicle, replay, trained) if trained.agent == "ddpg" else {}),
        "overestimating": trained.summary.overestimating,
        "substitutes": vehicle.substitutes,
        "checkpoint": trained.checkpoint,
        "left_out": usable.left_out or None,
    }


def _critics_opinion(vehicle: Vehicle, replay: Replay, trained: Trained) -> dict[str, Any]:
    """Mean values by DDPG's critic of what was done, of the default map and of the policy."""
    import torch

    from tspace_core.agents import DDPG

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
                name: agent.critic(
                    states, torch.from_numpy(np.ascontiguousarray(agent.basis.project(action)))
                )
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
    return {
        "critic_value_of_logged_actions": sums["logged"] / n,
        "critic_value_of_default_map": sums["default"] / n,
        "critic_value_of_policy": sums["policy"] / n,
        "share_of_states_where_policy_is_valued_higher": above / n,
        "mean_change_nm": change / n * vehicle.torque_map.budget_nm,
    }
