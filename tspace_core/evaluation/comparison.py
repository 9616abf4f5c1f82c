"""Torque maps and policies against the default map: the same route, drivers and feet, in closed loop."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

import tspace_core
from tspace_core.config import Vehicle
from tspace_core.errors import TwinError
from tspace_core.evaluation.baselines import DEFAULT
from tspace_core.evaluation.drives import Candidate, Progress, drive_all
from tspace_core.evaluation.pairs import KEY, paired_differences
from tspace_core.evaluation.summary import ComparisonSummary, summarise_candidates
from tspace_core.storage.files import atomic_write, write_text
from tspace_core.twin.fleet_guard import GuardCount
from tspace_core.twin.route import Route


@dataclass(frozen=True, eq=False)
class Comparison:
    """Every drive, every paired difference, and what they say.

    Attributes:
        drives: one row a drive, columns of ``pairs.DRIVE_SCHEMA``.
        pairs: one row a drive of a candidate other than the default map; see ``pairs.paired_differences``.
        summary: candidates with intervals and verdicts.
        traces: one drive of every candidate and driver, columns of ``drives.TRACE_SCHEMA``; may be empty.
        map_changes: mean change from the default map in Nm by candidate.
    """

    drives: pl.DataFrame
    pairs: pl.DataFrame
    summary: ComparisonSummary
    traces: pl.DataFrame = field(default_factory=pl.DataFrame)
    map_changes: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)

    @classmethod
    def of_drives(
        cls,
        drives: pl.DataFrame,
        *,
        vehicle_id: str,
        cycle: str,
        traces: pl.DataFrame | None = None,
        map_changes: Mapping[str, NDArray[np.float64]] | None = None,
        descriptions: Mapping[str, str] | None = None,
        guard: Mapping[str, GuardCount] | None = None,
    ) -> "Comparison":
        """Compare drives that were already driven.

        Args:
            drives: columns of ``pairs.DRIVE_SCHEMA``, with the default map's drives among them.
            vehicle_id: of the vehicle driven.
            cycle: name of the route.
            traces: one drive of every candidate and driver, for figures.
            map_changes: mean change of the map by candidate, for figures.
            descriptions: what candidates that are no baselines are.
            guard: what the guard said to the policies; None: there was no guard.

        Raises:
            RecordError: a drive stands twice, or has no default drive to be paired with.
        """
        pairs = paired_differences(drives)
        summary = ComparisonSummary(
            vehicle_id=vehicle_id,
            cycle=cycle,
            drivers=tuple(drives["driver"].unique(maintain_order=True)),
            seeds=tuple(drives["seed"].unique(maintain_order=True)),
            candidates=summarise_candidates(drives, pairs, descriptions, guard),
            guarded=guard is not None,
            software_version=tspace_core.__version__,
        )
        return cls(
            drives, pairs, summary, pl.DataFrame() if traces is None else traces, dict(map_changes or {})
        )

    def to_frame(self) -> pl.DataFrame:
        """Every drive with its paired differences beside it (null for the default map's own)."""
        return self.drives.join(
            self.pairs, on=["candidate", *KEY], how="left", maintain_order="left", validate="1:1"
        )

    def write(self, folder: Path) -> tuple[Path, Path]:
        """Write ``drives.parquet`` (``to_frame``) and ``summary.json`` into ``folder``, each atomically."""
        frame_path, summary_path = folder / "drives.parquet", folder / "summary.json"
        with atomic_write(frame_path) as temporary:
            self.to_frame().write_parquet(temporary, compression="zstd")
        write_text(summary_path, self.summary.model_dump_json(indent=2) + "\n")
        return frame_path, summary_path


def compare(
    vehicle: Vehicle,
    candidates: Mapping[str, Candidate],
    drivers: Sequence[str],
    seeds: Sequence[int],
    cycle: str | Route,
    *,
    guarded: bool = False,
    progress: Progress | None = None,
    descriptions: Mapping[str, str] | None = None,
) -> Comparison:
    """Drive every candidate, driver and seed along the same route and compare them with the default map.

    The route is driven by place, so that the distances are equal; the trip time is an outcome. The default
    map is driven too where it is not among the candidates.

    Args:
        vehicle: with a twin.
        candidates: torque maps (in effect throughout) and policies (consulted every step) by name.
        drivers: ids of simulated drivers.
        seeds: of the drivers' feet.
        cycle: name of a cycle, or a route.
        guarded: with a guard in every vehicle, as on the road; else what is proposed takes effect.
        progress: told the share that is driven, 0 to 1, after every step.
        descriptions: what candidates that are no baselines are, for the report.

    Raises:
        AgentError: a policy returned actions of another shape, or not finite.
        TwinError: no drivers or seeds, the same one twice, no twin, or a map with other axes.
        UnknownNameError: a driver or cycle of that name does not exist.
    """
    for name, values in (("drivers", list(drivers)), ("seeds", list(seeds))):
        if not values or len(set(values)) != len(values):
            message = f"{name} {values} must be at least one, and each only once"
            raise TwinError(message)
    everyone = {DEFAULT: vehicle.default_map(), **candidates}
    driven = drive_all(vehicle, everyone, drivers, seeds, cycle, guarded=guarded, progress=progress)
    return Comparison.of_drives(
        driven.drives,
        vehicle_id=vehicle.id,
        cycle=cycle if isinstance(cycle, str) else cycle.name,
        traces=driven.traces,
        map_changes=driven.map_changes,
        descriptions=descriptions,
        guard=driven.guard if guarded else None,
    )
