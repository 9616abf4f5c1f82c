"""The bar that an agent must clear before a vehicle drives with it, and the evidence that it does.

::

    <lake>/evaluations/<vehicle>/<content>.json     evidence on one checkpoint, by the hash of its files
    <lake>/evaluations/<vehicle>.json               the agents of the newest evaluation, the best one first

Evidence is kept by content: it speaks for exactly the files that were driven. What is kept are figures, not
a verdict: the bar that holds when an agent is released is the one that counts.
"""

import json
import math
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, ValidationError

import tspace_core
from tspace_core.config import Vehicle
from tspace_core.config.release import ReleaseBar
from tspace_core.errors import ReleaseError, StorageError
from tspace_core.evaluation.baselines import DEFAULT
from tspace_core.evaluation.summary import CandidateSummary, ComparisonSummary
from tspace_core.evaluation.verdict import Verdict
from tspace_core.storage.champion import Grounds, content_sha256
from tspace_core.storage.files import write_text
from tspace_core.storage.lake import Lake, read_json

if TYPE_CHECKING:
    from tspace_core.objects.path import AnyPath

AREA = "evaluations"
QUALITY = {
    "speed_rmse": "speed_rmse_kmh",
    "acceleration": "mean_acceleration_mps2",
    "acceleration_rate": "mean_acceleration_rate_mps3",
}
"""Figures of drive quality, more being worse, and the fields of a candidate that hold them."""


class Finding(BaseModel):
    """One rule of the bar, and what was found."""

    model_config = ConfigDict(frozen=True)

    rule: str
    value: float | None
    """None: not known, which does not pass."""
    limit: float
    unit: str
    passed: bool
    sentence: str


class Evidence(BaseModel):
    """What driving a checkpoint in closed loop showed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    vehicle_id: str
    agent: str
    run: str
    step: int
    checkpoint: str
    """Where it lay; below the lake's root where it was there."""
    sha256: str
    """Of all its files, see ``storage.champion.content_sha256``."""
    reference_sha256: str
    """Of the default map that it was measured against."""
    at: datetime
    cycle: str
    drivers: tuple[str, ...]
    seeds: tuple[int, ...]
    guarded: bool
    candidate: CandidateSummary
    reference: CandidateSummary
    software_version: str

    def figures(self) -> dict[str, float]:
        """What was found in numbers, by name with its unit."""
        item = self.candidate
        counted, trip = item.counted_saving_percent, item.trip_time_percent
        found: dict[str, float | None] = {
            "saving_percent": None if counted is None else counted.mean,
            "saving_low_percent": None if counted is None else counted.low,
            "saving_high_percent": None if counted is None else counted.high,
            "trip_time_percent": None if trip is None else trip.mean,
            **{f"{name}_percent": self.quality_percent(name) for name in QUALITY},
            "guard_violations": None if item.guard is None else float(item.guard.violated),
            "guard_clipped_share": None if item.guard is None else item.guard.clipped_share,
            "share_of_best_static": None if item.against_static is None else item.against_static.share,
            "pairs": float(item.pairs),
        }
        return {name: value for name, value in found.items() if value is not None}

    def quality_percent(self, name: str) -> float | None:
        """How much worse a figure of ``QUALITY`` is than the default map's, in %."""
        own, default = (getattr(item, QUALITY[name]) for item in (self.candidate, self.reference))
        if own is None or default is None or not default > 0 or not math.isfinite(own):
            return None
        return 100.0 * (float(own) / float(default) - 1.0)


def evidence_on(
    summary: ComparisonSummary, lake: Lake, vehicle: Vehicle, checkpoint: "AnyPath", *, candidate: str
) -> Evidence:
    """The evidence of a comparison on one of its candidates.

    Args:
        summary: of the drives.
        lake: that the checkpoint lies in, if it does.
        vehicle: that was driven.
        checkpoint: folder of the agent that drove.
        candidate: name of the agent in the comparison.

    Raises:
        CheckpointError: the checkpoint is not readable.
        KeyError: there is no such candidate.
    """
    from tspace_core.agents.checkpoint import Checkpoint

    manifest = Checkpoint(checkpoint).manifest
    return Evidence(
        vehicle_id=vehicle.id,
        agent=manifest.agent,
        run=checkpoint.resolve().parent.name,
        step=manifest.step,
        checkpoint=str(checkpoint.resolve()).removeprefix(f"{lake.root}/"),
        sha256=content_sha256(checkpoint),
        reference_sha256=vehicle.default_map().sha256(),
        at=datetime.now(UTC),
        cycle=summary.cycle,
        drivers=summary.drivers,
        seeds=summary.seeds,
        guarded=summary.guarded,
        candidate=summary.candidate(candidate),
        reference=summary.candidate(DEFAULT),
        software_version=tspace_core.__version__,
    )


def judge_release(evidence: Evidence, bar: ReleaseBar) -> tuple[Finding, ...]:
    """Every rule of the bar with what was found; all must pass."""
    item = evidence.candidate
    guard = item.guard if evidence.guarded else None
    counted, trip = item.counted_saving_percent, item.trip_time_percent
    complete = item.verdict is not Verdict.INCOMPLETE
    time = None if trip is None else trip.mean
    low = counted.low if counted is not None and complete else None
    return (
        _count("drivers", len(evidence.drivers), bar.drivers, "different drivers"),
        _count("seeds", len(evidence.seeds), bar.seeds, "seeds of their feet"),
        _count("comparable drives", item.pairs, item.drives, "drives that can be compared"),
        _finding(
            "guard_violations",
            None if guard is None else float(guard.violated),
            float(bar.guard_violations),
            "",
            "impossible proposals",
            "nothing was driven behind a guard",
        ),
        _finding(
            "trip_time",
            time,
            bar.trip_time_percent,
            "%",
            "change of the mean trip time",
            "no trip times can be compared",
            magnitude=True,
        ),
        *(
            _finding(
                name,
                evidence.quality_percent(name),
                bar.quality_percent,
                "%",
                f"{name.replace('_', ' ')} worse than the default map's",
                "it is not known",
            )
            for name in QUALITY
        ),
        Finding(
            rule="saving",
            value=low,
            limit=bar.saving_percent,
            unit="%",
            passed=low is not None and low > bar.saving_percent,
            sentence=(
                "lower bound of the saving at equal distance and trip time: "
                + ("there is none" if low is None else f"{low:+.3f} %")
                + f", must be above {bar.saving_percent:g} %"
            ),
        ),
    )


def passed(findings: Sequence[Finding]) -> bool:
    """Whether every rule holds."""
    return all(finding.passed for finding in findings)


def write_evidence(lake: Lake, vehicle_id: str, evidence: Sequence[Evidence]) -> None:
    """Keep the evidence of one evaluation, and which agents it was on, the best one first."""
    for item in evidence:
        write_text(_path(lake, vehicle_id, item.sha256), item.model_dump_json(indent=1))
    newest = {"at": datetime.now(UTC).isoformat(), "agents": [item.sha256 for item in evidence]}
    write_text(_pointer(lake, vehicle_id), json.dumps(newest, indent=1))


def latest_evidence(lake: Lake, vehicle_id: str) -> tuple[Evidence, ...]:
    """The evidence of the newest evaluation, the best agent first; empty: there was none.

    Raises:
        StorageError: a file of it is damaged or gone.
    """
    path = _pointer(lake, vehicle_id)
    if not path.is_file():
        return ()
    names = read_json(path).get("agents", [])
    found = [find_evidence(lake, vehicle_id, str(name)) for name in names]
    return tuple(item for item in found if item is not None)


def find_evidence(lake: Lake, vehicle_id: str, sha256: str) -> Evidence | None:
    """The evidence on the checkpoint with these files; None: it was never evaluated.

    Raises:
        StorageError: it is damaged.
    """
    path = _path(lake, vehicle_id, sha256)
    if not path.is_file():
        return None
    try:
        return Evidence.model_validate(read_json(path))
    except ValidationError as error:
        message = f"{path} is damaged ({error}): delete it and materialize policy_evaluation again"
        raise StorageError(message) from error


def approve(lake: Lake, vehicle: Vehicle, checkpoint: "AnyPath", bar: ReleaseBar) -> Grounds:
    """The grounds on which a checkpoint may be released, by the evidence on exactly its files.

    Raises:
        ReleaseError: it was not evaluated, not against the vehicle's present default map, or is below the
            bar; says by what.
        StorageError: the evidence is damaged.
        CheckpointError: there are no such files.
    """
    found = find_evidence(lake, vehicle.id, _content(checkpoint))
    if found is None:
        message = (
            f"{checkpoint} was not evaluated for {vehicle.id}: materialize policy_evaluation, or give "
            '--without-evaluation "reason"'
        )
        raise ReleaseError(message)
    return grounds_of(found, vehicle, bar)


def grounds_of(evidence: Evidence, vehicle: Vehicle, bar: ReleaseBar) -> Grounds:
    """The grounds that evidence gives, errors as ``approve``."""
    if evidence.reference_sha256 != vehicle.default_map().sha256():
        message = (
            f"{evidence.run} step {evidence.step} was evaluated against another default map than "
            f"{vehicle.id} has now: materialize policy_evaluation again"
        )
        raise ReleaseError(message)
    below = [finding.sentence for finding in judge_release(evidence, bar) if not finding.passed]
    if below:
        message = (
            f"{evidence.agent} {evidence.run} step {evidence.step} is below the release bar: "
            f"{'; '.join(below)}. The champion stays; train another agent"
        )
        raise ReleaseError(message)
    return Grounds(evaluated=evidence.at, figures=evidence.figures())


def _content(checkpoint: "AnyPath") -> str:
    from tspace_core.agents.checkpoint import Checkpoint

    Checkpoint(checkpoint)  # says what is missing
    return content_sha256(checkpoint)


def _count(rule: str, value: int, limit: int, what: str) -> Finding:
    return Finding(
        rule=rule,
        value=value,
        limit=limit,
        unit="",
        passed=value >= limit,
        sentence=f"{what}: {value}, at least {limit}",
    )


def _finding(
    rule: str,
    value: float | None,
    limit: float,
    unit: str,
    what: str,
    unknown: str,
    *,
    magnitude: bool = False,
) -> Finding:
    if value is None or not math.isfinite(value):
        text, within = unknown, False
    else:
        within = (abs(value) if magnitude else value) <= limit
        text = f"{value:+.2f} {unit}" if unit else f"{value:g}"
    return Finding(
        rule=rule,
        value=value,
        limit=limit,
        unit=unit,
        passed=within,
        sentence=f"{what}: {text}, at most {limit:g}{' ' + unit if unit else ''}",
    )


def _path(lake: Lake, vehicle_id: str, sha256: str) -> "AnyPath":
    return lake.root / AREA / vehicle_id / f"{sha256[:16]}.json"


def _pointer(lake: Lake, vehicle_id: str) -> "AnyPath":
    return lake.root / AREA / f"{vehicle_id}.json"
