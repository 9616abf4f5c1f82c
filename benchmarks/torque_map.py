"""How much agents save that learned from their own drives in the twin, beside the best static map.

::

    nohup nice python benchmarks/torque_map.py --out DIR [--json] [--agents 5] [--cycle truck_route] &

1. The best static map of the cycle, by CMA-ES (searched once, then read from conf/static_maps or ``--maps``).
2. ``--agents`` DDPG agents, one a training seed, each with 60 episodes of 15 minutes = 18,000 decisions in
   all, 20 episodes a driver, through ``train_in`` in TorqueMap-v0, each episode on a route of its own. Its
   policy is chosen by a gate on another route and other seeds. A finished agent in ``DIR`` is read again.
3. Default, -budget, random, best static map and all agents drive the same route with 3 drivers and 5 seeds
   that neither training nor gate nor search used; paired with the default map's drives.

4. With ``--headroom``: the best policy by CMA-ES that tells situations apart (``situation_policy``) drives
   along, to show what seeing the state is worth.

All agents are reported, not the best. ``--guarded`` puts a guard in front of every flash of gate and
evaluation and takes the best static map within its limits; with ``--learn-guarded`` of the training as well.
Agents of different plans need folders of their own. What a figure means: docs/evaluation.md.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import numpy as np
import torch
from interleaved import Result, off_stdout

from tspace_core.agents.ddpg import DDPG
from tspace_core.config import DDPGHyperparameters, Vehicle, load_hyperparameters, load_vehicle
from tspace_core.evaluation.baselines import BEST_STATIC, baselines
from tspace_core.evaluation.best_static import best_static_map
from tspace_core.evaluation.comparison import Comparison, compare
from tspace_core.evaluation.situation_policy import (
    SituationPolicy,
    SituationSearch,
    search_situation_policy,
)
from tspace_core.evaluation.static_map import StaticSearch
from tspace_core.evaluation.statistics import student_t_interval
from tspace_core.evaluation.summary import CandidateSummary, ComparisonSummary
from tspace_core.evaluation.twin_training import TwinTraining, percent_more, train_in_twin

DRIVERS = ("tracker", "habitual", "aggressive")
SEEDS = (0, 1, 2, 3, 4)


def log(text: str) -> None:
    """Progress, beside the answer."""
    import sys

    print(time.strftime("%H:%M:%S"), text, file=sys.stderr, flush=True)


def trained(
    vehicle: Vehicle, plan: TwinTraining, hyper: DDPGHyperparameters, seed: int, folder: Path
) -> dict[str, object]:
    """One agent, trained now or before; what is told of it."""
    told = folder / "result.json"
    if told.exists():
        found: dict[str, object] = json.loads(told.read_text(encoding="utf-8"))
        if TwinTraining.model_validate(found["plan"]) != plan:
            message = f"{told}: this agent was trained by another plan than {plan!r}; choose another --out"
            raise SystemExit(message)
        return found
    began = time.perf_counter()
    done = train_in_twin(
        vehicle,
        hyper,
        plan,
        seed=seed,
        folder=folder,
        progress=lambda step, steps, point: log(f"agent {seed}: {step} of {steps}, {point.model_dump()}"),
    )
    result: dict[str, object] = {
        "seed": seed,
        "decisions": done.decisions,
        "chosen": done.chosen,
        "gate_drives": done.gate_drives,
        "gate": [each.model_dump() for each in done.gate],
        "updates": done.summary.updates,
        "wall_s": time.perf_counter() - began,
        "plan": plan.model_dump(mode="json"),
        "hyperparameters": hyper.model_dump(mode="json"),
    }
    told.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return result


def situations(vehicle: Vehicle, cycle: str, out: Path) -> dict[str, SituationPolicy]:
    """The best policy by situations, searched now or before with the default search."""
    search, kept = SituationSearch(), out / "situations.json"
    if not kept.exists():
        found = search_situation_policy(
            vehicle,
            cycle,
            search,
            progress=lambda number, most: log(f"situations, generation {number}: {most:.3f} %"),
        )
        content = {"codes": found.codes.tolist(), "score": found.score, "drives": found.drives}
        kept.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    codes = json.loads(kept.read_text(encoding="utf-8"))["codes"]
    return {"situations": SituationPolicy(vehicle, search, np.array(codes))}


def row(found: CandidateSummary, default: CandidateSummary) -> str:
    """One line of the table."""
    counted, saving, trip = found.counted_saving_percent, found.saving_percent, found.trip_time_percent
    assert counted is not None
    assert saving is not None
    assert trip is not None
    against = found.against_static
    share = "" if against is None or against.share is None else f"{100 * against.share:.0f} %"
    error = percent_more(found.speed_rmse_kmh, default.speed_rmse_kmh)
    rate = percent_more(found.mean_acceleration_rate_mps3, default.mean_acceleration_rate_mps3)
    drivers = "  ".join(
        f"{each.counted_saving_percent.mean:+.2f}" for each in found.per_driver if each.counted_saving_percent
    )
    return (
        f"  {found.name:<14}{counted.text():<26}{saving.mean:>+7.2f}{trip.mean:>+8.2f}"
        f"{error:>+9.1f}{rate:>+9.1f}{share:>8}   {drivers}"
    )


def results(
    summary: ComparisonSummary, names: list[str], told: list[dict[str, object]], wall_s: float
) -> list[Result]:
    """The answer of ``--json``."""
    lines = []
    for found in summary.candidates[1:]:
        counted, trip = found.counted_saving_percent, found.trip_time_percent
        if counted is None or trip is None:
            continue
        lines.append(Result("counted saving", found.name, counted.mean, "%", "higher"))
        for side, value in (("lower", counted.low), ("upper", counted.high)):
            if value is not None:
                lines.append(Result(f"counted saving, {side} end of 95 %", found.name, value, "%", "higher"))
        lines.append(Result("trip time", found.name, trip.mean, "%", "lower"))
        default = summary.candidates[0]
        for what, value, reference in (
            ("speed error", found.speed_rmse_kmh, default.speed_rmse_kmh),
            ("acceleration rate", found.mean_acceleration_rate_mps3, default.mean_acceleration_rate_mps3),
        ):
            lines.append(Result(what, found.name, percent_more(value, reference), "%", "lower"))
        if found.against_static is not None and found.against_static.share is not None:
            share = 100 * found.against_static.share
            lines.append(Result("share of the best static map", found.name, share, "%", "higher"))
    counted_of = {
        each.name: each.counted_saving_percent.mean
        for each in summary.candidates
        if each.counted_saving_percent is not None
    }
    savings = [counted_of[name] for name in names if name in counted_of]
    if savings:
        for what, value in (
            ("mean", statistics.mean(savings)),
            ("least", min(savings)),
            ("most", max(savings)),
        ):
            lines.append(Result(f"counted saving over agents, {what}", "tspace", value, "%", "higher"))
        static = counted_of.get(BEST_STATIC)
        if static:
            lines.append(Result("counted saving over agents, mean", BEST_STATIC, static, "%", "higher"))
            share = 100 * statistics.mean(savings) / static
            lines.append(Result("share of the best static map, mean agent", "tspace", share, "%", "higher"))
    if told:
        training = statistics.mean(float(str(each["wall_s"])) for each in told)
        lines.append(Result("training of one agent, gate included", "tspace", training, "s", "lower"))
    lines.append(Result("all of this run", "tspace", wall_s, "s", "lower"))
    return lines


def table(comparison: Comparison, names: list[str], told: list[dict[str, object]], title: str) -> None:
    """For people."""
    summary = comparison.summary
    default = summary.candidates[0]
    print(title)
    print(f"  drivers {', '.join(summary.drivers)}; seeds {list(summary.seeds)}; guarded: {summary.guarded}")
    head = f"  {'':<14}{'counted saving %, 95 %':<26}{'saving':>7}{'time %':>8}{'error %':>9}{'rate %':>9}"
    print(f"{head}{'share':>8}   counted by driver")
    for found in summary.candidates[1:]:
        print(row(found, default))
    agents = [found for found in summary.candidates if found.name in names and found.counted_saving_percent]
    means = np.array([each.counted_saving_percent.mean for each in agents if each.counted_saving_percent])
    interval = student_t_interval(means)
    if interval is not None:
        print(f"  over {len(means)} training seeds: {interval.text('%')}, least {means.min():+.2f}")
    for each in agents:
        if each.against_static is not None:
            print(f"  {each.against_static.sentence}")
        if each.guard is not None:
            print(f"  {each.name}: {each.guard.violated} violations in {each.guard.proposals} proposals")
    for one in told:
        print(
            f"  agent {one['seed']}: {one['decisions']} decisions, {one['updates']} updates, chosen "
            f"{one['chosen']} of a gate of {one['gate_drives']} drives, {float(str(one['wall_s'])):.0f} s"
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of agents and results")
    parser.add_argument("--json", action="store_true", help="print one JSON list and nothing else")
    parser.add_argument("--vehicle", default="twin_truck")
    parser.add_argument("--cycle", default="truck_route", help="of training and evaluation")
    parser.add_argument("--agents", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0, help="of training")
    parser.add_argument("--episodes", type=int, default=60)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS), help="of the evaluation")
    parser.add_argument("--maps", type=Path, help="folder of best static maps; default: conf/static_maps")
    parser.add_argument("--guarded", action="store_true", help="choose and judge behind the guard")
    parser.add_argument("--learn-guarded", action="store_true", help="with --guarded: learn behind it, too")
    parser.add_argument("--headroom", action="store_true", help="search a policy by situations, too")
    parser.add_argument("--not-level", action="store_true", help="learn without knowing the road's height")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    began = time.perf_counter()
    vehicle = load_vehicle(arguments.vehicle)
    if arguments.learn_guarded and not arguments.guarded:
        parser.error("--learn-guarded needs --guarded: what is learned behind the guard is judged there")
    plan = TwinTraining(
        cycle=arguments.cycle,
        episodes=arguments.episodes,
        level=not arguments.not_level,
        guarded=arguments.guarded,
        learn_guarded=arguments.learn_guarded,
    )
    hyper = load_hyperparameters("ddpg", "torque_map_guarded" if arguments.learn_guarded else "torque_map")
    assert isinstance(hyper, DDPGHyperparameters)
    with off_stdout():
        best_static_map(
            vehicle,
            arguments.cycle,
            search=StaticSearch(limits="guard" if arguments.guarded else "flash"),
            folder=arguments.maps,
            progress=lambda number, least: log(f"CMA-ES generation {number}: {least:.3f} %"),
        )
        told, agents = [], {}
        for seed in range(arguments.first_seed, arguments.first_seed + arguments.agents):
            folder = arguments.out / f"agent_{seed}"
            told.append(trained(vehicle, plan, hyper, seed, folder))
            agents[f"agent_{seed}"] = DDPG.load(folder / "policy").predict
        known = baselines(vehicle, cycle=arguments.cycle, guarded=arguments.guarded, folder=arguments.maps)
        headroom = situations(vehicle, arguments.cycle, arguments.out) if arguments.headroom else {}
        comparison = compare(
            vehicle,
            {**known, **headroom, **agents},
            DRIVERS,
            arguments.seeds,
            arguments.cycle,
            guarded=arguments.guarded,
        )
        comparison.write(arguments.out / ("evaluation_guarded" if arguments.guarded else "evaluation"))
    wall_s = time.perf_counter() - began
    if arguments.json:
        lines = results(comparison.summary, list(agents), told, wall_s)
        print(json.dumps([vars(line) for line in lines]))
    else:
        title = f"{vehicle.id} on {arguments.cycle}, {wall_s:.0f} s"
        table(comparison, list(agents), told, title)


if __name__ == "__main__":
    main()
