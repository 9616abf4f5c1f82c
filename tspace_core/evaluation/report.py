"""The evaluation as one HTML file that needs nothing else: no script, no font, no picture from outside."""

import platform
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import tspace_core
from tspace_core.config import Vehicle
from tspace_core.evaluation import figures
from tspace_core.evaluation.figures import Picture
from tspace_core.evaluation.pairs import DISTANCE_TOLERANCE, TRIP_TIME_TOLERANCE
from tspace_core.evaluation.quality import STEP_S
from tspace_core.evaluation.sections import (
    DataSection,
    OffPolicySection,
    Provenance,
    ReleaseLine,
    SituationsSection,
    TrainingSection,
)
from tspace_core.evaluation.statistics import Interval
from tspace_core.evaluation.verdict import Verdict
from tspace_core.storage.files import write_text

if TYPE_CHECKING:
    from jinja2 import Environment

    from tspace_core.evaluation.comparison import Comparison

TEMPLATES = Path(__file__).parent / "templates"
_LIBRARIES = ("torch", "numpy", "polars", "duckdb", "dagster", "mlflow", "matplotlib")
_BADGES: Mapping[Verdict, str] = {
    Verdict.REFERENCE: "reference",
    Verdict.SAVES: "saves energy",
    Verdict.COSTS: "costs energy",
    Verdict.UNDECIDED: "not shown",
    Verdict.OTHER_TRIP_TIME: "other trip time",
    Verdict.SAME: "no difference",
    Verdict.INCOMPLETE: "cannot be judged",
}


def write_report(
    path: Path,
    *,
    title: str,
    vehicle: Vehicle,
    comparison: "Comparison",
    training: TrainingSection | None = None,
    data: DataSection | None = None,
    situations: SituationsSection | None = None,
    off_policy: OffPolicySection | None = None,
    releases: Sequence[ReleaseLine] = (),
    provenance: Provenance | None = None,
) -> Path:
    """Write the report atomically.

    Args:
        path: of the HTML file; an existing one is replaced.
        title: heading of the page.
        vehicle: that was driven.
        comparison: its drives and verdicts.
        training: how the policy was trained, if one was.
        data: what it was trained on, if anything.
        situations: where the agent changes the map most, if situations are embedded.
        off_policy: what recorded trips say about the agents, if there are any.
        releases: whether the agents clear the release bar, the best one first.
        provenance: command and settings that made the comparison.

    Returns:
        ``path``.
    """
    write_text(
        path,
        render(
            title=title,
            vehicle=vehicle,
            comparison=comparison,
            training=training,
            data=data,
            situations=situations,
            off_policy=off_policy,
            releases=releases,
            provenance=provenance or Provenance(),
            made_at=datetime.now(UTC),
        ),
    )
    return path


def render(
    *,
    title: str,
    vehicle: Vehicle,
    comparison: "Comparison",
    training: TrainingSection | None,
    data: DataSection | None,
    situations: SituationsSection | None,
    off_policy: OffPolicySection | None = None,
    releases: Sequence[ReleaseLine] = (),
    provenance: Provenance,
    made_at: datetime,
) -> str:
    """The report as HTML; every text in it is escaped."""
    summary = comparison.summary
    return (
        environment()
        .get_template("report.html.j2")
        .render(
            title=title,
            vehicle=vehicle,
            summary=summary,
            subject=summary.subject,
            badges=_BADGES,
            pairs=comparison.pairs.to_dicts(),
            pictures=comparison_pictures(vehicle, comparison),
            training=training,
            data=data,
            situations=situations,
            off_policy=off_policy,
            releases=releases,
            provenance=provenance,
            made_at=made_at,
            versions=_versions(),
            limits={
                "distance": f"{DISTANCE_TOLERANCE:.1%}",
                "time": f"{TRIP_TIME_TOLERANCE:.0%}",
                "step_s": STEP_S,
            },
        )
    )


def environment() -> "Environment":
    """Templates of the pages with their filters; every text in them is escaped."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    made = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(number=_number, interval=_interval, bounds=_bounds, words=_words)
    # Our own renderer made these elements and matplotlib escaped the text inside.
    made.globals["inline"] = lambda picture: Markup(picture.inline_svg)  # noqa: S704
    return made


def comparison_pictures(vehicle: Vehicle, comparison: "Comparison") -> list[Picture]:
    """The figures of a comparison: savings, trip time, one drive, and what the subject does to the map."""
    summary = comparison.summary
    pictures = []
    if len(comparison.pairs):
        pictures += [figures.energy_saving(summary), figures.trip_time(comparison.pairs)]
    if len(comparison.traces):
        pictures.append(figures.speed_traces(comparison.traces, subject=summary.subject.name))
    change = comparison.map_changes.get(summary.subject.name)
    if change is not None:
        pictures.append(figures.torque_map_change(vehicle.default_map(), change, name=summary.subject.name))
    return pictures


def _versions() -> dict[str, str]:
    versions = {"tspace": tspace_core.__version__, "Python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    versions["platform"] = f"{platform.system()} {platform.machine()} ({sys.platform})"
    return versions


def _number(value: float | None, decimals: int = 2) -> str:
    """A number with thin spaces between thousands; a dash where there is none."""
    return "–" if value is None else f"{value + 0.0:,.{decimals}f}".replace(",", "\u202f")


def _interval(value: Interval | None) -> str:
    return "–" if value is None else value.text().replace("-", "\u2212")


def _bounds(value: Interval) -> str:
    return value.bounds_text().replace("-", "\u2212")


def _words(name: str) -> str:
    return name.replace("_", " ")
