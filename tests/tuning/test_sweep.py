"""Sweeps: what is tried, what comes out, what MLflow shows, and going on after a kill."""

import json
import multiprocessing
import signal
import statistics
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
import yaml

from tests.agents.batches import SMALL
from tests.agents.test_training import noisy_episode
from tspace_core.agents.tracking import NullTracker, Tracker
from tspace_core.config import AgentHyperparameters, settings
from tspace_core.config.hyperparameters import HYPERPARAMETERS
from tspace_core.errors import ConfigError, DivergedError, UnknownNameError, WriterBusyError
from tspace_core.storage.lake import Lake
from tspace_core.storage.replay import build_replay
from tspace_core.tuning.objectives import Report, objective_of
from tspace_core.tuning.plan import Sweep, load_sweep, with_values
from tspace_core.tuning.sweep import MakeTracker, SweepResult, run_sweep

if TYPE_CHECKING:
    from tspace_core.agents.tracking import RunTracker

PLAN: dict[str, Any] = {
    "agent": "ddpg",
    "space": {
        "actor_learning_rate": {"low": 1e-4, "high": 1e-2, "log": True},
        "noise.sigma": {"low": 0.0, "high": 1.0},
        "batch_size": {"low": 16, "high": 64},
        "actor_hidden": {"choices": [[16], [24, 16]]},
    },
    "trials": 4,
    "pruner": {"kind": "median", "startup_trials": 2},
    "objective": {"kind": "gymnasium", "environment": "Pendulum-v1", "steps": 50},
    "seed": 3,
}


def sweep(**changed: Any) -> Sweep:
    return Sweep.model_validate({**PLAN, **changed})


def sigma(hyper: AgentHyperparameters, folder: Path, tracker: "RunTracker", report: Report) -> float:
    """Less noise is better; told in two steps."""
    value = -hyper.noise.sigma
    tracker.metrics(1, {"on_the_way": value})
    report(1, value)
    return value


def values(result: SweepResult) -> list[tuple[int, str, dict[str, Any]]]:
    return [(trial.number, trial.state, dict(trial.values)) for trial in result.trials]


def test_what_is_tried_lies_in_the_space_and_the_best_is_proposed(tmp_path: Path) -> None:
    tried: list[AgentHyperparameters] = []

    def judge(hyper: AgentHyperparameters, folder: Path, tracker: "RunTracker", report: Report) -> float:
        tried.append(hyper)
        assert folder.is_dir() and not list(folder.iterdir())
        return -hyper.noise.sigma

    result = run_sweep(sweep(trials=12), "s", tmp_path, objective=judge)
    assert len(tried) == len(result.trials) == 12
    for hyper in tried:
        assert 1e-4 <= hyper.actor_learning_rate <= 1e-2 and 0 <= hyper.noise.sigma <= 1
        assert 16 <= hyper.batch_size <= 64 and isinstance(hyper.batch_size, int)
        assert hyper.model_dump()["actor_hidden"] in ((16,), (24, 16)) and hyper.seed == 3
        assert hyper.gamma == 0.99, "what is not searched is the file's"
    assert len({hyper.noise.sigma for hyper in tried}) == 12
    best = min(tried, key=lambda hyper: hyper.noise.sigma)
    assert result.best is not None and result.best.value == -best.noise.sigma
    assert result.proposal is not None
    proposed = HYPERPARAMETERS["ddpg"].model_validate(yaml.safe_load(result.proposal.read_text()))
    assert proposed.model_copy(update={"seed": 3}) == best
    assert "To use it, move it to conf/hyperparameters/" in result.proposal.read_text()


def test_the_same_seed_tries_the_same_stopped_or_not(tmp_path: Path) -> None:
    whole = run_sweep(sweep(trials=6), "s", tmp_path / "a", objective=sigma)
    run_sweep(sweep(trials=2), "s", tmp_path / "b", objective=sigma)
    parts = run_sweep(sweep(trials=6), "s", tmp_path / "b", objective=sigma)
    assert values(whole) == values(parts)
    other = run_sweep(sweep(trials=6, seed=4), "s", tmp_path / "c", objective=sigma)
    assert values(whole) != values(other)
    again = run_sweep(sweep(trials=6), "s", tmp_path / "a", objective=sigma)
    assert values(again) == values(whole), "a sweep that has ended is not done again"


def test_trials_below_the_median_are_ended_early(tmp_path: Path) -> None:
    ended: list[float] = []

    def judge(hyper: AgentHyperparameters, folder: Path, tracker: "RunTracker", report: Report) -> float:
        report(1, -hyper.noise.sigma)
        ended.append(hyper.noise.sigma)
        return -hyper.noise.sigma

    result = run_sweep(sweep(trials=10), "s", tmp_path, objective=judge)
    pruned = [trial for trial in result.trials if trial.state == "pruned"]
    assert pruned and len(pruned) + len(ended) == 10
    for trial in pruned:
        before = [
            other.values["noise.sigma"]
            for other in result.trials
            if other.number < trial.number and other.state == "complete"
        ]
        assert trial.values["noise.sigma"] > statistics.median(before)
    none = run_sweep(sweep(trials=10, pruner={"kind": "none"}), "s", tmp_path / "none", objective=judge)
    assert {trial.state for trial in none.trials} == {"complete"}


def test_a_trial_works_on_one_thread_and_leaves_the_callers_alone(tmp_path: Path) -> None:
    seen: list[int] = []

    def judge(hyper: AgentHyperparameters, folder: Path, tracker: "RunTracker", report: Report) -> float:
        seen.append(torch.get_num_threads())
        return 1.0

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        run_sweep(sweep(trials=2), "s", tmp_path, objective=judge)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert seen == [1, 1]


def test_a_training_that_diverges_is_a_finding(tmp_path: Path) -> None:
    def judge(hyper: AgentHyperparameters, folder: Path, tracker: "RunTracker", report: Report) -> float:
        if hyper.noise.sigma > 0.5:
            message = "critic loss is nan"
            raise DivergedError(message)
        return 1.0

    result = run_sweep(sweep(trials=8), "s", tmp_path, objective=judge)
    failed = [trial for trial in result.trials if trial.state == "fail"]
    assert len(result.trials) == 8 and 0 < len(failed) < 8
    assert all(trial.reason == "critic loss is nan" for trial in failed)
    assert result.best is not None and result.best.values["noise.sigma"] <= 0.5


def test_where_every_trial_diverges_nothing_is_proposed(tmp_path: Path) -> None:
    def judge(hyper: AgentHyperparameters, folder: Path, tracker: "RunTracker", report: Report) -> float:
        message = "critic loss is nan"
        raise DivergedError(message)

    result = run_sweep(sweep(trials=3), "s", tmp_path, objective=judge)
    assert result.best is None and result.proposal is None and not (tmp_path / "best.yaml").exists()


def test_an_error_of_the_sweep_itself_ends_it_and_its_trial_is_repeated(tmp_path: Path) -> None:
    def wrong(hyper: AgentHyperparameters, folder: Path, tracker: "RunTracker", report: Report) -> float:
        message = "no drive could be compared"
        raise ConfigError(message)

    with pytest.raises(ConfigError, match="could be compared"):
        run_sweep(sweep(), "s", tmp_path, objective=wrong)
    told: list[str] = []
    result = run_sweep(sweep(), "s", tmp_path, objective=sigma, tell=told.append)
    assert told[0] == "trial 0 was stopped: it is done again" and len(result.trials) == 4


def test_a_sweep_that_was_stopped_within_a_trial_tries_what_it_would_have_tried(tmp_path: Path) -> None:
    whole = run_sweep(sweep(trials=6), "s", tmp_path / "a", objective=sigma)

    def stopped(hyper: AgentHyperparameters, folder: Path, tracker: "RunTracker", report: Report) -> float:
        if folder.name == "0002":
            raise KeyboardInterrupt
        return sigma(hyper, folder, tracker, report)

    with pytest.raises(KeyboardInterrupt):
        run_sweep(sweep(trials=6), "s", tmp_path / "b", objective=stopped)
    parts = run_sweep(sweep(trials=6), "s", tmp_path / "b", objective=sigma)
    assert [trial.number for trial in parts.trials] == [0, 1, 3, 4, 5, 6], "the third was done again"
    assert [dict(trial.values) for trial in parts.trials] == [dict(trial.values) for trial in whole.trials]


def test_a_folder_of_another_sweep_is_refused(tmp_path: Path) -> None:
    run_sweep(sweep(trials=1), "s", tmp_path, objective=sigma)
    with pytest.raises(ConfigError, match="another version of the sweep s"):
        run_sweep(sweep(seed=9), "s", tmp_path, objective=sigma)


def _tracker(uri: str, spool: Path) -> MakeTracker:
    def make(run: str, parent: str | None) -> Tracker:
        return Tracker(uri, experiment="sweeps", run_name=run, parent=parent, spool=spool)

    return make


def _sweep_until_told(folder: str, uri: str, told: Connection) -> None:
    def judge(hyper: AgentHyperparameters, place: Path, tracker: "RunTracker", report: Report) -> float:
        tracker.metrics(1, {"on_the_way": 1.0})
        if place.name == "0001":
            told.send(hyper.noise.sigma)
            signal.pause()
        return -hyper.noise.sigma

    root = Path(folder)
    run_sweep(sweep(), "s", root / "sweep", objective=judge, tracker=_tracker(uri, root / "spool"))


def test_a_killed_sweep_goes_on_and_repeats_its_trial(tmp_path: Path) -> None:
    """Killed in its second trial; MLflow then shows one sweep, with a child for each trial."""
    import tspace_core.agents.tracking_client as mlflow

    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    ours, theirs = multiprocessing.Pipe()
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=_sweep_until_told, args=(str(tmp_path), uri, theirs))
    process.start()
    assert ours.poll(180)
    tried = ours.recv()
    with pytest.raises(WriterBusyError, match=rf"another process \({process.pid}\) is doing this sweep"):
        run_sweep(sweep(), "s", tmp_path / "sweep", objective=sigma)
    process.kill()
    process.join()
    result = run_sweep(
        sweep(), "s", tmp_path / "sweep", objective=sigma, tracker=_tracker(uri, tmp_path / "spool")
    )
    assert [trial.number for trial in result.trials] == [0, 2, 3, 4]
    assert result.trials[1].values["noise.sigma"] == tried
    client = mlflow.client_of(uri)
    experiment = client.get_experiment_by_name("sweeps")
    assert experiment is not None and result.run_id is not None
    runs = {run.info.run_id: run for run in client.search_runs([experiment.experiment_id])}
    parents = [key for key, run in runs.items() if "mlflow.parentRunId" not in run.data.tags]
    assert parents == [result.run_id] and runs[result.run_id].info.status == "FINISHED"
    assert result.best is not None and runs[result.run_id].data.metrics["best"] == result.best.value
    children = {run.data.tags["trial"]: run for key, run in runs.items() if key != result.run_id}
    assert sorted(children) == ["0", "1", "2", "3", "4"]
    assert all(run.data.tags["mlflow.parentRunId"] == result.run_id for run in children.values())
    assert children["1"].info.status == "KILLED"
    for trial in result.trials:
        run = children[str(trial.number)]
        assert run.info.run_id == trial.run_id and run.info.run_name == f"s-{trial.number:04d}"
        assert float(run.data.params["noise.sigma"]) == trial.values["noise.sigma"]
        if trial.state == "complete":
            assert run.info.status == "FINISHED" and run.data.metrics["objective"] == trial.value


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"agent": "ppo"}, "agent is 'ppo', known: ddpg, rdpg, idql"),
        ({"space": {}}, "space: Dictionary should have at least 1 item"),
        ({"space": {"learning": {"low": 0, "high": 1}}}, "ddpg has no hyperparameter 'learning'"),
        ({"space": {"expectile": {"low": 0.1, "high": 0.9}}}, "ddpg has no hyperparameter 'expectile'"),
        ({"space": {"tau": {"low": 0.5, "high": 0.1}}}, "low must be below high"),
        ({"space": {"tau": {"low": 0.0, "high": 0.1, "log": True}}}, "a logarithmic range begins above 0"),
        ({"space": {"gamma": {"low": 0.5, "high": 1.0}}}, "gamma cannot be 1.0: Input should be less than 1"),
        ({"space": {"batch_size": {"choices": [64, "many"]}}}, "batch_size cannot be 'many'"),
        ({"space": {"tau": {"choices": []}}}, "at least 1 item"),
        ({"space": {"tau": {"low": 0.1}}}, "is missing; add it"),
        ({"trials": 0}, "trials: Input should be greater than or equal to 1 (value seen: 0)"),
        ({"objective": {"kind": "luck"}}, "'luck' found using 'kind'"),
        ({"tries": 3}, "tries: no such field"),
    ],
)
def test_a_wrong_sweep_is_refused(
    changed: dict[str, Any], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "sweeps" / "wrong.yaml").write_text(yaml.safe_dump({**PLAN, **changed}))
    monkeypatch.setenv("TSPACE_CONF_DIR", str(tmp_path))
    settings.cache_clear()
    try:
        with pytest.raises(ConfigError) as caught:
            load_sweep("wrong")
        with pytest.raises(UnknownNameError, match=r"no sweep named 'right'.*known: wrong"):
            load_sweep("right")
    finally:
        monkeypatch.undo()
        settings.cache_clear()
    assert says in str(caught.value) and "wrong.yaml" in str(caught.value)


@pytest.mark.parametrize("name", ["ddpg_pendulum", "ddpg_twin"])
def test_the_sweeps_of_conf_can_be_read(name: str) -> None:
    found = load_sweep(name)
    assert json.loads(found.model_dump_json())["agent"] == "ddpg"


def test_the_twin_needs_a_vehicle(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="name the vehicle"):
        objective_of(load_sweep("ddpg_twin"), Lake(tmp_path), None)


class Asked(Exception):  # noqa: N818
    """The comparison of a trial was asked for."""


@pytest.mark.parametrize("guarded", [None, True, False])
def test_the_twin_judges_behind_the_guard_unless_the_sweep_says_otherwise(
    guarded: bool | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lake = Lake(tmp_path)
    build_replay(lake.replay("twin_truck"), [noisy_episode(1, 60), noisy_episode(2, 40)])

    def compared(*_: object, guarded: bool = False, **__: object) -> None:
        raise Asked(guarded)

    monkeypatch.setattr("tspace_core.evaluation.comparison.compare", compared)
    said = {} if guarded is None else {"guarded": guarded}
    plan = sweep(objective={"kind": "twin", "updates": 1, **said})
    judge = objective_of(plan, lake, "twin_truck")
    with pytest.raises(Asked) as asked:
        judge(SMALL, tmp_path / "trial", NullTracker(), lambda *_: None)
    assert asked.value.args == (guarded is not False,)


def test_nested_values() -> None:
    hyper = with_values(HYPERPARAMETERS["ddpg"](), {"noise.sigma": 0.7, "tau": 0.25})
    assert (hyper.noise.sigma, hyper.noise.theta, hyper.tau) == (0.7, 0.15, 0.25)


def test_what_hangs_on_a_value_that_changes_follows_it() -> None:
    fresh = HYPERPARAMETERS["rdpg"].model_validate({"length": 100, "sequence_model": "transformer"})
    wide = with_values(fresh, {"context": 80})
    assert (wide.length, wide.context, wide.burn_in) == (100, 80, 79)  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="burn_in is 70, a Transformer with a context of 80"):
        with_values(with_values(fresh, {"burn_in": 70}), {"context": 80})
