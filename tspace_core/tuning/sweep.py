"""Carries out a sweep: trial after trial, each a child run in MLflow, and goes on where it was stopped.

::

    <data_dir>/sweeps/<name>/
        study.db            Optuna's study; what a stopped sweep goes on from
        best.yaml           hyperparameters of the best trial: a proposal, to be moved to conf/ by a person
        trials/0003/        the trial's checkpoints

A trial that was going on when the process died is marked as failed and done again with the same values. A
trial whose training diverges has failed, too, but is a finding and not repeated. Values that are tried depend
on the seed, how many trials there were and how they ended, not on stops between them.
"""

import json
import logging
import shutil
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from tspace_core.config import AgentHyperparameters, load_hyperparameters
from tspace_core.errors import ConfigError, DivergedError, WriterBusyError
from tspace_core.storage.files import write_text
from tspace_core.storage.only_one import only_one
from tspace_core.tuning.objectives import Objective, objective_of
from tspace_core.tuning.plan import Choices, Range, Sweep, with_values

if TYPE_CHECKING:
    import optuna
    from matplotlib.figure import Figure

    from tspace_core.agents.offline_run import Trainer
    from tspace_core.agents.tracking import RunTracker, Status
    from tspace_core.storage.lake import Lake

_log = logging.getLogger(__name__)

MakeTracker = Callable[[str, str | None], "RunTracker"]
"""Makes the tracker of a run by its name and the id of the run above it."""
_STOPPED = "stopped"


@dataclass(frozen=True)
class TrialResult:
    """One trial."""

    number: int
    state: str
    value: float | None
    values: Mapping[str, Any]
    run_id: str | None
    reason: str | None = None


@dataclass(frozen=True)
class SweepResult:
    """A sweep that has ended."""

    name: str
    folder: Path
    run_id: str | None
    trials: list[TrialResult] = field(default_factory=list)
    best: TrialResult | None = None
    proposal: Path | None = None


def run_sweep(
    sweep: Sweep,
    name: str,
    folder: Path,
    *,
    lake: "Lake | None" = None,
    vehicle_id: str | None = None,
    tracker: MakeTracker | None = None,
    tell: Callable[[str], object] = lambda line: None,
    trainer: "Trainer | None" = None,
    objective: Objective | None = None,
) -> SweepResult:
    """Do what is left of a sweep's trials, one after the other.

    Args:
        sweep: what is searched.
        name: of the sweep, for people.
        folder: of the sweep; one that was stopped goes on.
        lake: with the replay buffer, for the objective ``twin``.
        vehicle_id: whose, for the objective ``twin``.
        tracker: makes trackers; None tracks nothing.
        tell: is told each trial.
        trainer: what carries out offline trainings; default: this process.
        objective: judges a trial; default: what the sweep says.

    Raises:
        ConfigError: the objective lacks something, or the folder is of another sweep.
        WriterBusyError: this sweep is going on in another process.
    """
    judge = objective or objective_of(sweep, lake, vehicle_id, trainer)
    base = load_hyperparameters(sweep.agent, sweep.hyperparameters)
    folder.mkdir(parents=True, exist_ok=True)
    with only_one(folder / "sweep.lock", lambda holder: _busy(folder, holder)):
        study = _study(sweep, name, folder)
        run = _Run(sweep, name, folder, study, base, judge, tell)
        parent = _parent(sweep, name, study, tracker)
        try:
            _repeat_stopped(study, tell)
            while (ended := len(_ended(study))) < sweep.trials:
                tell(f"trial {ended + 1} of {sweep.trials}")
                run.one(tracker, study.user_attrs.get("run_id"))
            result = run.result(study.user_attrs.get("run_id"))
            if parent is not None and result.best is not None:
                best = result.best
                assert best.value is not None
                parent.metrics(best.number, {"best": best.value})
        except BaseException as error:
            if parent is not None:
                parent.finish("FAILED" if isinstance(error, Exception) else "KILLED")
            raise
        if parent is not None:
            parent.finish("FINISHED")
    return result


def _busy(folder: Path, holder: str) -> WriterBusyError:
    return WriterBusyError(
        f"{folder}: another process ({holder}) is doing this sweep; wait for it, or stop it first"
    )


def _optuna() -> Any:
    """Optuna without lines of its own."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        import optuna
    optuna.logging.disable_default_handler()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


def _study(sweep: Sweep, name: str, folder: Path) -> "optuna.Study":
    tuner = _optuna()
    chosen = sweep.pruner
    pruner = (
        tuner.pruners.MedianPruner(chosen.startup_trials, chosen.warmup_steps)
        if chosen.kind == "median"
        else tuner.pruners.NopPruner()
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        storage = tuner.storages.RDBStorage(f"sqlite:///{folder / 'study.db'}")
        study: optuna.Study = tuner.create_study(
            storage=storage, study_name=name, direction="maximize", pruner=pruner, load_if_exists=True
        )
    mine = json.dumps(sweep.model_dump(mode="json", exclude={"trials"}), sort_keys=True)
    theirs = study.user_attrs.get("sweep")
    if theirs is None:
        study.set_user_attr("sweep", mine)
    elif theirs != mine:
        message = (
            f"{folder}: holds trials of another version of the sweep {name}; only the number of trials may "
            "change: give the sweep another name, or move the folder away"
        )
        raise ConfigError(message)
    return study


def _parent(
    sweep: Sweep, name: str, study: "optuna.Study", tracker: MakeTracker | None
) -> "RunTracker | None":
    if tracker is None:
        return None
    parent = tracker(name, None)
    params = {
        "agent": sweep.agent,
        "trials": sweep.trials,
        "seed": sweep.seed,
        "space": ", ".join(sweep.space),
    }
    tags = {"sweep": name, "agent": sweep.agent, "objective": sweep.objective.kind}
    study.set_user_attr("run_id", parent.start(params, tags, resume=study.user_attrs.get("run_id")))
    return parent


def _repeat_stopped(study: "optuna.Study", tell: Callable[[str], object]) -> None:
    """What was going on when a process died has failed, and is to be done again."""
    optuna = _optuna()
    for trial in study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)):
        study._storage.set_trial_user_attr(trial._trial_id, _STOPPED, value=True)
        study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
        study.enqueue_trial(trial.params, user_attrs={"repeats": trial.number})
        tell(f"trial {trial.number} was stopped: it is done again")


def _ended(study: "optuna.Study") -> list[Any]:
    """Trials that count: those done, ended early, or failed by what they tried."""
    return [
        trial
        for trial in study.get_trials(deepcopy=False)
        if trial.state.is_finished() and _STOPPED not in trial.user_attrs
    ]


@dataclass(frozen=True)
class _Run:
    sweep: Sweep
    name: str
    folder: Path
    study: "optuna.Study"
    base: AgentHyperparameters
    judge: Objective
    tell: Callable[[str], object]

    def one(self, make: MakeTracker | None, parent: str | None) -> None:
        """Do one trial."""
        optuna = _optuna()
        # Decided by the seed and how many trials count, so that a sweep that was stopped tries what it would
        # have tried: a trial that is done again has another number, but is no further one.
        number = len(_ended(self.study))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            self.study.sampler = optuna.samplers.TPESampler(seed=_seed(self.sweep.seed, number))
        trial = self.study.ask()
        values = {name: suggest(trial, name, space) for name, space in self.sweep.space.items()}
        hyper = with_values(self.base, {"seed": self.sweep.seed, **values})
        folder = self.folder / "trials" / f"{trial.number:04d}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        held = Held(make(f"{self.name}-{trial.number:04d}", parent) if make is not None else None)
        held.start(values, {"sweep": self.name, "trial": str(trial.number)})
        if held.run_id is not None:
            trial.set_user_attr("run_id", held.run_id)

        def report(step: int, value: float) -> None:
            trial.report(value, step)
            if trial.should_prune():
                raise optuna.TrialPruned

        from tspace_core.agents.offline_run import one_thread

        state = optuna.trial.TrialState
        try:
            with one_thread():
                reached = self.judge(hyper, folder, held, report)
        except optuna.TrialPruned:
            self.study.tell(trial, state=state.PRUNED)
            held.end("KILLED", {"pruned": 1.0})
            self.tell(f"trial {trial.number} {_said(values)}: ended early")
        except DivergedError as error:
            trial.set_user_attr("reason", str(error))
            self.study.tell(trial, state=state.FAIL)
            held.end("FAILED", {})
            self.tell(f"trial {trial.number} {_said(values)}: {error}")
        except Exception:
            # The sweep itself is wrong: what was going on is done again once that is corrected.
            held.end("FAILED", {})
            raise
        except BaseException:
            held.end("KILLED", {})
            raise
        else:
            self.study.tell(trial, reached)
            held.end("FINISHED", {"objective": reached})
            self.tell(f"trial {trial.number} {_said(values)}: {reached:.6g}")

    def result(self, run_id: str | None) -> SweepResult:
        """What came out, and the proposal in the folder."""
        found = [
            TrialResult(
                trial.number,
                trial.state.name.lower(),
                trial.value,
                _values(trial, self.sweep),
                trial.user_attrs.get("run_id"),
                trial.user_attrs.get("reason"),
            )
            for trial in _ended(self.study)
        ]
        done = [item for item in found if item.value is not None and item.state == "complete"]
        if not done:
            self.tell("no trial was finished: there is nothing to propose")
            return SweepResult(self.name, self.folder, run_id, found)
        best = max(done, key=lambda item: item.value if item.value is not None else 0.0)
        proposal = self.folder / "best.yaml"
        hyper = with_values(self.base, dict(best.values)).model_dump(mode="json")
        head = (
            f"# Proposal of the sweep {self.name}: best of {len(found)} trials is {best.number}, "
            f"objective {best.value:.6g}.\n# To use it, move it to conf/hyperparameters/.\n"
        )
        write_text(proposal, head + yaml.safe_dump(hyper, sort_keys=False))
        return SweepResult(self.name, self.folder, run_id, found, best, proposal)


def _seed(seed: int, number: int) -> int:
    import numpy as np

    return int(np.random.SeedSequence([seed, number]).generate_state(1)[0])


def suggest(trial: "optuna.Trial", name: str, space: Range | Choices) -> Any:
    """A value of one hyperparameter; choices are told to Optuna by their text, which keeps lists apart."""
    if isinstance(space, Choices):
        by_text = {json.dumps(choice): choice for choice in space.choices}
        return by_text[trial.suggest_categorical(name, list(by_text))]
    if space.whole:
        return trial.suggest_int(name, int(space.low), int(space.high), log=space.log)
    return trial.suggest_float(name, space.low, space.high, log=space.log)


def _values(trial: Any, sweep: Sweep) -> dict[str, Any]:
    return {
        name: json.loads(value) if isinstance(sweep.space[name], Choices) else value
        for name, value in trial.params.items()
    }


def _said(values: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in values.items()
    )


class Held:
    """A trial's tracker: trainings within it write to one run, which ends when the trial is judged."""

    def __init__(self, tracker: "RunTracker | None") -> None:
        self._tracker = tracker
        self.run_id: str | None = None
        self._step = 0

    def start(
        self, params: Mapping[str, object], tags: Mapping[str, str], *, resume: str | None = None
    ) -> str | None:
        """Begin the run, the first time."""
        if self._tracker is not None and self.run_id is None:
            self.run_id = self._tracker.start(params, tags)
        return self.run_id

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Pass on."""
        self._step = max(self._step, step)
        if self._tracker is not None:
            self._tracker.metrics(step, values)

    def figure(self, figure: "Figure", name: str) -> None:
        """Pass on."""
        if self._tracker is not None:
            self._tracker.figure(figure, name)

    def finish(self, status: "Status" = "FINISHED") -> None:
        """A training has ended, the trial has not."""

    def end(self, status: "Status", values: Mapping[str, float]) -> None:
        """The trial has ended."""
        if self._tracker is not None and self.run_id is not None:
            if values:
                self._tracker.metrics(self._step, values)
            self._tracker.finish(status)
