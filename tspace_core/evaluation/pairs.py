"""Drives, and what each differs by from the default map's drive of the same driver and seed.

Two drives are comparable where both finished and cover the same distance within ``DISTANCE_TOLERANCE``. What
is not comparable is named with its reason and kept in the table, and it makes the candidate's verdict
`incomplete`: nothing is dropped in silence.

    saving  = 100 * (default - candidate) / default            of energy per distance; positive uses less
    counted = saving where the trip times agree within TRIP_TIME_TOLERANCE, else min(saving, 0)

A saving that was bought with another trip time counts as none, a loss always counts.
"""

from collections.abc import Mapping
from typing import Any

import polars as pl

from tspace_core.errors import RecordError
from tspace_core.evaluation.baselines import DEFAULT

DISTANCE_TOLERANCE = 0.001
"""Largest relative difference of two distances that count as equal."""
TRIP_TIME_TOLERANCE = 0.01
"""Largest relative difference of two trip times that count as equal."""

KEY = ("driver", "seed")
DRIVE_SCHEMA: Mapping[str, Any] = {
    "candidate": pl.String,
    "driver": pl.String,
    "seed": pl.Int64,
    "finished": pl.Boolean,
    "energy_wh": pl.Float64,
    "distance_m": pl.Float64,
    "trip_time_s": pl.Float64,
    "energy_wh_per_km": pl.Float64,
    "speed_rmse_kmh": pl.Float64,
    "mean_acceleration_mps2": pl.Float64,
    "mean_acceleration_rate_mps3": pl.Float64,
    "flashes": pl.Int64,
}
"""Columns of the table of drives; one row a candidate, driver and seed."""
_COMPARED = ("energy_wh_per_km", "trip_time_s", "distance_m")
_QUALITY = ("speed_rmse_kmh", "mean_acceleration_mps2", "mean_acceleration_rate_mps3")


def paired_differences(drives: pl.DataFrame) -> pl.DataFrame:
    """Pair every drive with the default map's drive of the same driver and seed.

    Args:
        drives: columns of ``DRIVE_SCHEMA``.

    Returns:
        One row a drive of every other candidate: ``candidate``, ``driver``, ``seed``; ``saving_percent``
        and ``counted_saving_percent`` of energy per distance, null where not comparable;
        ``trip_time_percent`` and ``distance_percent``, more than the default's being positive;
        ``<quality>_change``; ``equal_time``; ``problem``, null where the pair is comparable.

    Raises:
        RecordError: a candidate, driver and seed stands twice, or the default map's drive is missing.
    """
    twice = drives.select("candidate", *KEY).is_duplicated()
    if twice.any():
        message = f"drives stand more than once: {drives.filter(twice).select('candidate', *KEY).rows()[:4]}"
        raise RecordError(message)
    reference = drives.filter(pl.col("candidate") == DEFAULT).select(
        *KEY, pl.col("finished", *_COMPARED, *_QUALITY).name.suffix("_default")
    )
    others = drives.filter(pl.col("candidate") != DEFAULT)
    unpaired = others.join(reference, on=KEY, how="anti")
    if len(unpaired):
        lonely = unpaired.select(KEY).unique(maintain_order=True).rows()[:4]
        message = (
            f"no drive of the {DEFAULT!r} map for driver and seed {lonely}; "
            f"every candidate needs the same drivers and seeds as the {DEFAULT!r} map"
        )
        raise RecordError(message)
    pairs = others.join(reference, on=KEY, how="left", maintain_order="left").with_columns(
        (_relative("trip_time_s") * 100).alias("trip_time_percent"),
        (_relative("distance_m") * 100).alias("distance_percent"),
        (-_relative("energy_wh_per_km") * 100).alias("saving_percent"),
        *((pl.col(name) - pl.col(f"{name}_default")).alias(f"{name}_change") for name in _QUALITY),
    )
    pairs = pairs.with_columns(_problem().alias("problem"))
    comparable = pl.col("problem").is_null()
    pairs = pairs.with_columns(
        pl.when(comparable).then(pl.col("saving_percent")).alias("saving_percent"),
        (comparable & (pl.col("trip_time_percent").abs() <= TRIP_TIME_TOLERANCE * 100)).alias("equal_time"),
    ).with_columns(
        pl.when(pl.col("equal_time"))
        .then(pl.col("saving_percent"))
        .otherwise(pl.min_horizontal(pl.col("saving_percent"), pl.lit(0.0)))
        .alias("counted_saving_percent")
    )
    pairs = pairs.with_columns(
        pl.when(comparable).then(pl.col("counted_saving_percent")).alias("counted_saving_percent")
    )
    return pairs.select(
        "candidate",
        *KEY,
        "saving_percent",
        "counted_saving_percent",
        "trip_time_percent",
        "distance_percent",
        *(f"{name}_change" for name in _QUALITY),
        "equal_time",
        "problem",
    )


def _relative(name: str) -> pl.Expr:
    return (pl.col(name) - pl.col(f"{name}_default")) / pl.col(f"{name}_default")


def _problem() -> pl.Expr:
    limit = DISTANCE_TOLERANCE * 100
    return (
        pl.when(~pl.col("finished_default"))
        .then(pl.lit("the default map's drive did not finish"))
        .when(~pl.col("finished"))
        .then(pl.lit("did not finish"))
        .when(pl.col("distance_percent").abs() > limit)
        .then(
            pl.format(
                "distance differs by {} %, more than {} %",
                pl.col("distance_percent").round(3),
                pl.lit(limit),
            )
        )
        .when((pl.col("energy_wh_per_km_default") <= 0) | pl.col("saving_percent").is_nan())
        .then(pl.lit("the default map's drive used no energy, so that a share of it means nothing"))
        .otherwise(pl.lit(None, dtype=pl.String))
    )
